#include "dsrsq/ops/reservoir_update.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <tuple>

#include "retrieval_checks.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;
using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using Signature = Result(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                         const MaybeTensor&, int64_t, double, const MaybeTensor&, int64_t, int64_t,
                         int64_t, int64_t);

const c10::TypedOperatorHandle<Signature>& op() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("dsrsq::reservoir_update", "")
                                 .typed<Signature>();
  return handle;
}

// A choice: below autograd the outputs are plain tensors.
Result reservoir_update_autograd(const at::Tensor& held, const at::Tensor& rank,
                                 const at::Tensor& valid, const MaybeTensor& log_weight,
                                 int64_t capacity, double decay, const MaybeTensor& sample_ids,
                                 int64_t seed, int64_t step, int64_t layers, int64_t layer) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return op().call(held, rank, valid, log_weight, capacity, decay, sample_ids, seed, step, layers,
                   layer);
}

// Priorities are double, whatever autocast says.
template <c10::DispatchKey key>
Result reservoir_update_autocast(const at::Tensor& held, const at::Tensor& rank,
                                 const at::Tensor& valid, const MaybeTensor& log_weight,
                                 int64_t capacity, double decay, const MaybeTensor& sample_ids,
                                 int64_t seed, int64_t step, int64_t layers, int64_t layer) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  return op().call(held, rank, valid, log_weight, capacity, decay, sample_ids, seed, step, layers,
                   layer);
}

// Before the dispatcher, which says nothing of use about a mix.
void check_devices(const ReservoirInputs& in, const ReservoirOptions& options) {
  const auto check = [&](const char* name, const MaybeTensor& x) {
    TORCH_CHECK(!x.has_value() || x->device() == in.held.device(), "reservoir_update: held is on ",
                in.held.device(), ", ", name, " on ", x->device(), "; put them on one device");
  };
  check("rank", in.rank);
  check("valid", in.valid);
  check("log_weight", in.log_weight);
  if (options.noise.has_value()) check("sample_ids", options.noise->sample_ids);
}

}  // namespace

ReservoirUpdate reservoir_update(const ReservoirInputs& in, const ReservoirOptions& options) {
  check_devices(in, options);
  const auto& noise = options.noise;
  auto [source, priority, accepted, slot, count] = op().call(
      in.held, in.rank, in.valid, in.log_weight, options.capacity, options.decay,
      noise ? MaybeTensor(noise->sample_ids) : std::nullopt,
      noise ? static_cast<int64_t>(noise->seed) : 0, noise ? static_cast<int64_t>(noise->step) : 0,
      noise ? noise->layers : 1, noise ? noise->layer : 0);
  return {source, priority, accepted, slot, count};
}

void check_reservoir_update(const ReservoirInputs& in, const ReservoirOptions& options) {
  TORCH_CHECK(in.held.dim() == 2 && in.held.scalar_type() == at::kDouble,
              "reservoir_update: held must be double [B, H], got ", in.held.scalar_type(), " ",
              in.held.sizes());
  const int64_t batch = in.held.size(0);
  TORCH_CHECK(in.rank.dim() == 2 && in.rank.size(0) == batch && in.rank.scalar_type() == at::kLong,
              "reservoir_update: rank must be int64 [", batch, ", E], got ", in.rank.scalar_type(),
              " ", in.rank.sizes());
  const auto expect = [&](const char* name, const at::Tensor& x, at::ScalarType type,
                          at::IntArrayRef sizes) {
    TORCH_CHECK(x.scalar_type() == type && x.sizes() == sizes, "reservoir_update: ", name,
                " must be ", type, " ", sizes, ", got ", x.scalar_type(), " ", x.sizes());
  };
  expect("valid", in.valid, at::kBool, in.rank.sizes());
  if (in.log_weight.has_value()) {
    expect("log_weight", *in.log_weight, at::kDouble, in.rank.sizes());
  }
  TORCH_CHECK(options.capacity >= 1, "reservoir_update: expected capacity >= 1, got ",
              options.capacity);
  if (!options.noise.has_value()) return;
  const auto& noise = *options.noise;
  expect("sample_ids", noise.sample_ids, at::kLong, {batch});
  TORCH_CHECK(noise.layers >= 1 && noise.layer >= 0 && noise.layer < noise.layers,
              "reservoir_update: expected 0 <= layer < layers, got ", noise.layer, " and ",
              noise.layers);
}

TORCH_LIBRARY_IMPL(dsrsq, Autograd, m) { m.impl("reservoir_update", reservoir_update_autograd); }
TORCH_LIBRARY_IMPL(dsrsq, AutocastCPU, m) {
  m.impl("reservoir_update", reservoir_update_autocast<c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(dsrsq, AutocastCUDA, m) {
  m.impl("reservoir_update", reservoir_update_autocast<c10::DispatchKey::AutocastCUDA>);
}

}  // namespace dsrsq::ops
