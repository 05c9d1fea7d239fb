#include "dsrsq/retriever/retrieval_loss.h"

#include <torch/torch.h>

namespace dsrsq {

namespace {
RetrievalLoss expectation(const at::Tensor& log_p, const at::Tensor& target) {
  // Tokens without weight may have log_p = -inf, and 0 x -inf is not a number.
  auto weighed = log_p.masked_fill(target <= 0, 0) * target;
  auto has_target = (target.sum(-1) > 0).to(at::kFloat);
  return {-(weighed.sum(-1) * has_target).sum(), has_target.sum()};
}
}  // namespace

at::Tensor target_distribution(const at::Tensor& target) {
  auto weight = target.to(at::kFloat);
  return weight / weight.sum(-1, true).clamp_min(1e-12);
}

RetrievalLoss softmax_retrieval_loss(const at::Tensor& phi, const at::Tensor& target) {
  return expectation(at::log_softmax(phi, -1), target);
}

RetrievalLoss inclusion_retrieval_loss(const at::Tensor& log_inclusion, const at::Tensor& target) {
  return expectation(log_inclusion, target);
}

}  // namespace dsrsq
