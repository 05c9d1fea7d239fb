#include "dsrsq/ops/reference.h"

#include <ATen/ATen.h>

#include <limits>

namespace dsrsq::ops::reference {

ClusterAssignment cluster_assign(const at::Tensor& keys, const at::Tensor& centroids,
                                 const at::Tensor& bias, const std::optional<at::Tensor>& valid) {
  at::NoGradGuard no_grad;
  const int64_t m = centroids.size(1);
  const at::Tensor k = keys.to(at::kDouble);
  const at::Tensor norm = k.square().sum(-1, true).sqrt();
  const at::Tensor direction = at::where(norm > 0, k / norm, at::zeros_like(k));
  at::Tensor score = at::einsum("bhtd,hmd->bhtm", {direction, centroids.to(at::kDouble)});
  score = score + bias.to(at::kDouble).unsqueeze(0).unsqueeze(2);
  score = score.masked_fill(score.isnan(), -std::numeric_limits<double>::infinity());

  // The lowest index among the best: argmax alone does not promise which of several it returns.
  const at::Tensor index = at::arange(m, keys.options().dtype(at::kLong));
  const at::Tensor is_best = score == score.amax(-1, true);
  at::Tensor assignment = at::where(is_best, index, at::full_like(index, m)).amin(-1);
  if (valid.has_value()) {
    assignment = assignment.masked_fill(valid->logical_not().unsqueeze(1), -1);
  }
  const at::Tensor member = (assignment.unsqueeze(-1) == index).to(at::kDouble);  // [B, H_kv, T, m]
  return {assignment, at::einsum("bhtm,bhtd->hmd", {member, k}),
          at::einsum("bhtm,bhtd->hmd", {member, direction}), at::einsum("bhtm->hm", {member})};
}

}  // namespace dsrsq::ops::reference
