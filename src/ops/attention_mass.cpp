#include "dsrsq/ops/attention_mass.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <tuple>

#include "attention_mass_checks.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;
using Result = std::tuple<at::Tensor, at::Tensor>;
using Signature = Result(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                         const at::Tensor&, const MaybeTensor&, const MaybeTensor&,
                         const MaybeTensor&, double, int64_t, int64_t, int64_t);

const c10::TypedOperatorHandle<Signature>& op() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("dsrsq::attention_mass", "")
                                 .typed<Signature>();
  return handle;
}

// What was attended is a statistic: below autograd the outputs are plain tensors.
Result attention_mass_autograd(const at::Tensor& q, const at::Tensor& k, const at::Tensor& lse,
                               const at::Tensor& query_position, const at::Tensor& key_position,
                               const MaybeTensor& key_bias, const MaybeTensor& assignment,
                               const MaybeTensor& routes, double scale, int64_t clusters,
                               int64_t window, int64_t sinks) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return op().call(q, k, lse, query_position, key_position, key_bias, assignment, routes, scale,
                   clusters, window, sinks);
}

// Queries and keys as they were multiplied in the attention itself, where both are of one type; the
// rest in fp32.
template <c10::DispatchKey key, c10::DeviceType device>
Result attention_mass_autocast(const at::Tensor& q, const at::Tensor& k, const at::Tensor& lse,
                               const at::Tensor& query_position, const at::Tensor& key_position,
                               const MaybeTensor& key_bias, const MaybeTensor& assignment,
                               const MaybeTensor& routes, double scale, int64_t clusters,
                               int64_t window, int64_t sinks) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  const auto cast = [](at::ScalarType type, const at::Tensor& x) {
    return at::autocast::cached_cast(type, x, device);
  };
  const auto type = q.scalar_type() == k.scalar_type() ? q.scalar_type() : at::kFloat;
  const MaybeTensor bias =
      key_bias.has_value() ? MaybeTensor(cast(at::kFloat, *key_bias)) : std::nullopt;
  return op().call(cast(type, q), cast(type, k), cast(at::kFloat, lse), query_position,
                   key_position, bias, assignment, routes, scale, clusters, window, sinks);
}

// Before the dispatcher, which says nothing of use about a mix.
void check_devices(const AttentionMassInputs& in) {
  const auto check = [&](const char* name, const MaybeTensor& x) {
    TORCH_CHECK(!x.has_value() || x->device() == in.q.device(), "attention_mass: q is on ",
                in.q.device(), ", ", name, " on ", x->device(), "; put them on one device");
  };
  check("k", in.k);
  check("lse", in.lse);
  check("query_position", in.query_position);
  check("key_position", in.key_position);
  check("key_bias", in.key_bias);
  check("assignment", in.assignment);
  check("routes", in.routes);
}

}  // namespace

AttentionMass attention_mass(const AttentionMassInputs& in, const AttentionMassOptions& options) {
  check_devices(in);
  auto [mass, squared] =
      op().call(in.q, in.k, in.lse, in.query_position, in.key_position, in.key_bias, in.assignment,
                in.routes, options.scale, options.clusters, options.window, options.sinks);
  return {mass, squared};
}

void check_attention_mass(const AttentionMassInputs& in, const AttentionMassOptions& options) {
  const at::Tensor &q = in.q, &k = in.k;
  TORCH_CHECK(q.dim() == 4 && q.is_floating_point(),
              "attention_mass: q must be floating [B, H, N_q, d], got ", q.scalar_type(), " ",
              q.sizes());
  TORCH_CHECK(
      k.dim() == 4 && k.size(0) == q.size(0) && k.size(1) >= 1 && q.size(1) % k.size(1) == 0 &&
          k.size(3) == q.size(3) && k.scalar_type() == q.scalar_type(),
      "attention_mass: k must be ", q.scalar_type(), " [", q.size(0), ", H_kv that divides ",
      q.size(1), ", N, ", q.size(3), "], got ", k.scalar_type(), " ", k.sizes());
  TORCH_CHECK(options.scale > 0, "attention_mass: expected scale > 0, got ", options.scale);
  const auto fp = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto expect = [&](const char* name, const at::Tensor& x, at::ScalarType type,
                          at::IntArrayRef sizes) {
    TORCH_CHECK(x.scalar_type() == type && x.sizes() == sizes, "attention_mass: ", name,
                " must be ", type, " ", sizes, ", got ", x.scalar_type(), " ", x.sizes());
  };
  expect("lse", in.lse, fp, q.sizes().slice(0, 3));
  expect("query_position", in.query_position, at::kLong, {q.size(0), q.size(2)});
  expect("key_position", in.key_position, at::kLong, {k.size(0), k.size(2)});
  const auto by_key = k.sizes().slice(0, 3);
  if (in.key_bias.has_value()) expect("key_bias", *in.key_bias, fp, by_key);
  TORCH_CHECK(in.assignment.has_value() == in.routes.has_value(),
              "attention_mass: expected assignment and routes together, got ",
              in.routes.has_value() ? "routes" : "the assignment", " alone");
  if (!in.routes.has_value()) return;
  TORCH_CHECK(options.clusters >= 1 && options.window >= 0 && options.sinks >= 0,
              "attention_mass: expected clusters >= 1, window >= 0 and sinks >= 0, got ",
              options.clusters, ", ", options.window, " and ", options.sinks);
  expect("assignment", *in.assignment, at::kInt, by_key);
  const int64_t slots = in.routes->dim() == 4 ? in.routes->size(3) : 0;
  TORCH_CHECK(slots >= 1 && slots <= options.clusters, "attention_mass: routes must be int32 [",
              q.size(0), ", ", q.size(1), ", ", q.size(2), ", 1 <= k <= m = ", options.clusters,
              "], got ", in.routes->scalar_type(), " ", in.routes->sizes());
  expect("routes", *in.routes, at::kInt, {q.size(0), q.size(1), q.size(2), slots});
}

TORCH_LIBRARY_IMPL(dsrsq, Autograd, m) { m.impl("attention_mass", attention_mass_autograd); }
TORCH_LIBRARY_IMPL(dsrsq, AutocastCPU, m) {
  m.impl("attention_mass", attention_mass_autocast<c10::DispatchKey::AutocastCPU, at::kCPU>);
}
TORCH_LIBRARY_IMPL(dsrsq, AutocastCUDA, m) {
  m.impl("attention_mass", attention_mass_autocast<c10::DispatchKey::AutocastCUDA, at::kCUDA>);
}

at::Tensor positions_or_padding(const at::Tensor& order, const at::Tensor& valid) {
  return order.masked_fill(valid.logical_not(), -1);
}

}  // namespace dsrsq::ops
