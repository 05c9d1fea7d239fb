#include "dsrsq/ops/cluster_assign.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/library.h>

#include <tuple>

#include "cluster_assign_checks.h"

namespace dsrsq::ops {
namespace {

using Result = std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor>;
using Signature = Result(const at::Tensor&, const at::Tensor&, const at::Tensor&,
                         const std::optional<at::Tensor>&);

const c10::TypedOperatorHandle<Signature>& op() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("dsrsq::cluster_assign", "")
                                 .typed<Signature>();
  return handle;
}

// An assignment has no derivative, and centroids follow moving averages, not gradients: below
// autograd the outputs are plain tensors, so nothing downstream can wait for a gradient that never
// comes.
Result cluster_assign_autograd(const at::Tensor& keys, const at::Tensor& centroids,
                               const at::Tensor& bias, const std::optional<at::Tensor>& valid) {
  at::AutoDispatchBelowADInplaceOrView guard;
  return op().call(keys, centroids, bias, valid);
}

// fp32 throughout. Keys stay as they are: the kernels widen them while loading, and a copy would
// say nothing more.
template <c10::DispatchKey key, c10::DeviceType device>
Result cluster_assign_autocast(const at::Tensor& keys, const at::Tensor& centroids,
                               const at::Tensor& bias, const std::optional<at::Tensor>& valid) {
  c10::impl::ExcludeDispatchKeyGuard guard(key);
  return op().call(keys, at::autocast::cached_cast(at::kFloat, centroids, device),
                   at::autocast::cached_cast(at::kFloat, bias, device), valid);
}

}  // namespace

ClusterAssignment cluster_assign(const at::Tensor& keys, const at::Tensor& centroids,
                                 const at::Tensor& bias, const std::optional<at::Tensor>& valid) {
  auto [assignment, raw_sum, direction_sum, count] = op().call(keys, centroids, bias, valid);
  return {assignment, raw_sum, direction_sum, count};
}

void check_cluster_assign(const at::Tensor& keys, const at::Tensor& centroids,
                          const at::Tensor& bias, const std::optional<at::Tensor>& valid) {
  TORCH_CHECK(keys.dim() == 4 && keys.is_floating_point(),
              "cluster_assign: keys must be floating [B, H_kv, T, d], got ", keys.scalar_type(),
              " ", keys.sizes());
  TORCH_CHECK(centroids.dim() == 3 && centroids.scalar_type() == at::kFloat &&
                  centroids.size(0) == keys.size(1) && centroids.size(1) >= 1 &&
                  centroids.size(2) == keys.size(3),
              "cluster_assign: centroids must be fp32 [", keys.size(1), ", m >= 1, ", keys.size(3),
              "] for keys ", keys.sizes(), ", got ", centroids.scalar_type(), " ",
              centroids.sizes());
  TORCH_CHECK(bias.dim() == 2 && bias.scalar_type() == at::kFloat &&
                  bias.size(0) == centroids.size(0) && bias.size(1) == centroids.size(1),
              "cluster_assign: bias must be fp32 [", centroids.size(0), ", ", centroids.size(1),
              "], got ", bias.scalar_type(), " ", bias.sizes());
  TORCH_CHECK(centroids.device() == keys.device() && bias.device() == keys.device(),
              "cluster_assign: keys are on ", keys.device(), ", centroids on ", centroids.device(),
              ", bias on ", bias.device(), "; put them on one device");
  if (!valid.has_value()) return;
  TORCH_CHECK(
      valid->dim() == 2 && valid->scalar_type() == at::kBool && valid->size(0) == keys.size(0) &&
          valid->size(1) == keys.size(2) && valid->device() == keys.device(),
      "cluster_assign: valid must be bool [", keys.size(0), ", ", keys.size(2), "] on ",
      keys.device(), ", got ", valid->scalar_type(), " ", valid->sizes(), " on ", valid->device());
}

TORCH_LIBRARY_IMPL(dsrsq, Autograd, m) { m.impl("cluster_assign", cluster_assign_autograd); }
TORCH_LIBRARY_IMPL(dsrsq, AutocastCPU, m) {
  m.impl("cluster_assign", cluster_assign_autocast<c10::DispatchKey::AutocastCPU, at::kCPU>);
}
TORCH_LIBRARY_IMPL(dsrsq, AutocastCUDA, m) {
  m.impl("cluster_assign", cluster_assign_autocast<c10::DispatchKey::AutocastCUDA, at::kCUDA>);
}

}  // namespace dsrsq::ops
