#include "dsrsq/ops/cluster_route.h"

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/matmul.h>
#include <torch/library.h>

#include <tuple>

#include "cluster_attention_checks.h"
#include "cluster_route_plain.h"
#include "dsrsq/ops/autocast.h"

namespace dsrsq::ops {
namespace {

using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, int64_t);

const c10::TypedOperatorHandle<Signature>& op() {
  static const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow("dsrsq::cluster_route", "").typed<Signature>();
  return handle;
}

at::Tensor cluster_route_autograd(const at::Tensor& queries, const at::Tensor& centroids,
                                  int64_t slots) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return op().call(queries, centroids, slots);
}

// Nothing to cast: each implementation says what it does with every type.
template <c10::DispatchKey key>
at::Tensor cluster_route_autocast(const at::Tensor& queries, const at::Tensor& centroids,
                                  int64_t slots) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  return op().call(queries, centroids, slots);
}

}  // namespace

at::Tensor cluster_route_plain(const at::Tensor& queries, const at::Tensor& centroids,
                               int64_t slots) {
  const Fp32Guard fp32(queries.device());
  const auto group = queries.size(1) / centroids.size(1);
  const at::Tensor by_head = group > 1 ? centroids.repeat_interleave(group, 1) : centroids;
  const at::Tensor scores = at::matmul(queries.to(at::kFloat), by_head.transpose(-1, -2));
  return std::get<1>(scores.topk(slots, -1)).to(at::kInt);
}

at::Tensor cluster_route(const at::Tensor& queries, const at::Tensor& centroids, int64_t slots) {
  return op().call(queries, centroids, slots);
}

void check_cluster_route(const at::Tensor& queries, const at::Tensor& centroids, int64_t slots) {
  TORCH_CHECK(queries.dim() == 4 && queries.is_floating_point(),
              "cluster_route: queries must be floating [B, H, N, d], got ", queries.scalar_type(),
              " ", queries.sizes());
  TORCH_CHECK(centroids.dim() == 4 && centroids.scalar_type() == at::kFloat &&
                  (centroids.size(0) == 1 || centroids.size(0) == queries.size(0)) &&
                  centroids.size(1) >= 1 && queries.size(1) % centroids.size(1) == 0 &&
                  centroids.size(3) == queries.size(3),
              "cluster_route: centroids must be fp32 [1 or ", queries.size(0),
              ", H_kv that divides ", queries.size(1), ", m, ", queries.size(3), "], got ",
              centroids.scalar_type(), " ", centroids.sizes());
  TORCH_CHECK(slots >= 1 && slots <= centroids.size(2),
              "cluster_route: slots must be at least 1 and at most m = ", centroids.size(2),
              ", got ", slots);
  TORCH_CHECK(queries.device() == centroids.device(), "cluster_route: queries are on ",
              queries.device(), ", centroids on ", centroids.device(), "; put them on one device");
}

TORCH_LIBRARY_IMPL(dsrsq, Autograd, m) { m.impl("cluster_route", cluster_route_autograd); }
TORCH_LIBRARY_IMPL(dsrsq, AutocastCPU, m) {
  m.impl("cluster_route", cluster_route_autocast<c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(dsrsq, AutocastCUDA, m) {
  m.impl("cluster_route", cluster_route_autocast<c10::DispatchKey::AutocastCUDA>);
}

}  // namespace dsrsq::ops
