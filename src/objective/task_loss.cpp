#include "dsrsq/objective/task_loss.h"

#include <torch/torch.h>

namespace dsrsq {

LossTerm task_loss(const Transformer& backbone, const at::Tensor& tail_hidden, const Batch& batch) {
  auto labels = batch.labels.reshape({-1});
  auto places = (labels >= 0).nonzero().squeeze(1);
  auto hidden = tail_hidden.reshape({-1, tail_hidden.size(-1)}).index_select(0, places);
  auto logits = backbone->logits(hidden);
  auto sum = at::cross_entropy_loss(logits, labels.index_select(0, places), {}, at::Reduction::Sum);
  return {sum, double(places.numel())};
}

}  // namespace dsrsq
