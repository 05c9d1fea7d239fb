#include "dsrsq/ops/retrieval_topk.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <limits>
#include <tuple>

#include "retrieval_checks.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;
using Result = std::tuple<at::Tensor, at::Tensor>;
using Signature = Result(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                         const MaybeTensor&, const MaybeTensor&, int64_t, double,
                         const MaybeTensor&, int64_t, int64_t, int64_t);

const c10::TypedOperatorHandle<Signature>& op() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("dsrsq::retrieval_topk", "")
                                 .typed<Signature>();
  return handle;
}

// A choice: below autograd the outputs are plain tensors.
Result retrieval_topk_autograd(const at::Tensor& query, const at::Tensor& rows,
                               const at::Tensor& count, const MaybeTensor& query_valid,
                               const MaybeTensor& valid, int64_t slots, double temperature,
                               const MaybeTensor& sample_ids, int64_t seed, int64_t purpose,
                               int64_t step) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return op().call(query, rows, count, query_valid, valid, slots, temperature, sample_ids, seed,
                   purpose, step);
}

// Scores are fp32 always (D22), of rows as they are stored.
template <c10::DispatchKey key, c10::DeviceType device>
Result retrieval_topk_autocast(const at::Tensor& query, const at::Tensor& rows,
                               const at::Tensor& count, const MaybeTensor& query_valid,
                               const MaybeTensor& valid, int64_t slots, double temperature,
                               const MaybeTensor& sample_ids, int64_t seed, int64_t purpose,
                               int64_t step) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  return op().call(at::autocast::cached_cast(at::kFloat, query, device), rows, count, query_valid,
                   valid, slots, temperature, sample_ids, seed, purpose, step);
}

// Before the dispatcher, which says nothing of use about a mix.
void check_devices(const RetrievalTopkInputs& in, const RetrievalTopkOptions& options) {
  const auto check = [&](const char* name, const MaybeTensor& x) {
    TORCH_CHECK(!x.has_value() || x->device() == in.query.device(), "retrieval_topk: query is on ",
                in.query.device(), ", ", name, " on ", x->device(), "; put them on one device");
  };
  check("rows", in.rows);
  check("count", in.count);
  check("query_valid", in.query_valid);
  check("valid", in.valid);
  if (options.noise.has_value()) check("sample_ids", options.noise->sample_ids);
}

}  // namespace

RetrievalTopk retrieval_topk(const RetrievalTopkInputs& in, const RetrievalTopkOptions& options) {
  check_devices(in, options);
  const auto& noise = options.noise;
  auto [index, score] =
      op().call(in.query, in.rows, in.count, in.query_valid, in.valid, options.slots,
                options.temperature, noise ? MaybeTensor(noise->sample_ids) : std::nullopt,
                noise ? static_cast<int64_t>(noise->seed) : 0,
                noise ? static_cast<int64_t>(noise->purpose) : 0,
                noise ? static_cast<int64_t>(noise->step) : 0);
  return {index, score};
}

void check_retrieval_topk(const RetrievalTopkInputs& in, const RetrievalTopkOptions& options) {
  const at::Tensor &query = in.query, &rows = in.rows;
  TORCH_CHECK(query.dim() == 3 && query.is_floating_point(),
              "retrieval_topk: query must be floating [B, Q, r], got ", query.scalar_type(), " ",
              query.sizes());
  const int64_t batch = query.size(0);
  TORCH_CHECK(rows.dim() == 3 && rows.is_floating_point() &&
                  (rows.size(0) == batch || rows.size(0) == 1) && rows.size(2) == query.size(2) &&
                  rows.size(2) >= 1,
              "retrieval_topk: rows must be floating [", batch, " or 1, N, ", query.size(2),
              "], got ", rows.scalar_type(), " ", rows.sizes());
  TORCH_CHECK(rows.size(1) <= std::numeric_limits<int32_t>::max(),
              "retrieval_topk: expected at most 2^31 - 1 rows, got ", rows.sizes());
  const auto expect = [&](const char* name, const at::Tensor& x, at::ScalarType type,
                          at::IntArrayRef sizes) {
    TORCH_CHECK(x.scalar_type() == type && x.sizes() == sizes, "retrieval_topk: ", name,
                " must be ", type, " ", sizes, ", got ", x.scalar_type(), " ", x.sizes());
  };
  expect("count", in.count, at::kLong, {batch});
  if (in.query_valid.has_value())
    expect("query_valid", *in.query_valid, at::kBool, {batch, query.size(1)});
  if (in.valid.has_value()) {
    const bool shared = in.valid->dim() == 2 && in.valid->size(0) == 1;
    expect("valid", *in.valid, at::kBool, {shared ? 1 : batch, rows.size(1)});
  }
  if (options.noise.has_value())
    expect("sample_ids", options.noise->sample_ids, at::kLong, {batch});
  TORCH_CHECK(options.slots >= 1 && options.temperature > 0,
              "retrieval_topk: expected slots >= 1 and temperature > 0, got ", options.slots,
              " and ", options.temperature);
}

TORCH_LIBRARY_IMPL(dsrsq, Autograd, m) { m.impl("retrieval_topk", retrieval_topk_autograd); }
TORCH_LIBRARY_IMPL(dsrsq, AutocastCPU, m) {
  m.impl("retrieval_topk", retrieval_topk_autocast<c10::DispatchKey::AutocastCPU, at::kCPU>);
}
TORCH_LIBRARY_IMPL(dsrsq, AutocastCUDA, m) {
  m.impl("retrieval_topk", retrieval_topk_autocast<c10::DispatchKey::AutocastCUDA, at::kCUDA>);
}

}  // namespace dsrsq::ops
