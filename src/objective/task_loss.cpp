#include "dsrsq/objective/task_loss.h"

#include <torch/torch.h>

namespace dsrsq {

LossTerm task_loss(const Transformer& backbone, const at::Tensor& tail_hidden, const Batch& batch) {
  return task_loss(backbone, tail_hidden, batch.labels);
}

LossTerm task_loss(const Transformer& backbone, const at::Tensor& hidden,
                   const at::Tensor& labels) {
  auto flat = labels.reshape({-1});
  auto places = (flat >= 0).nonzero().squeeze(1);
  auto labelled = hidden.reshape({-1, hidden.size(-1)}).index_select(0, places);
  return {backbone->cross_entropy(labelled, flat.index_select(0, places)), double(places.numel())};
}

LossTerm language_loss(const Transformer& backbone, const at::Tensor& context_hidden,
                       const at::Tensor& tail_hidden, const SelectedTokens& selected,
                       const Batch& batch) {
  std::vector<at::Tensor> hidden, targets;
  // Position t of `states` predicts token t + 1 where `next` says so.
  auto add = [&](const at::Tensor& states, const at::Tensor& tokens, const at::Tensor& next) {
    auto length = tokens.size(1);
    if (length < 2) return;
    auto places = next.reshape({-1}).nonzero().squeeze(1);
    hidden.push_back(
        states.narrow(1, 0, length - 1).reshape({-1, states.size(2)}).index_select(0, places));
    targets.push_back(tokens.narrow(1, 1, length - 1).reshape({-1}).index_select(0, places));
  };
  auto slots = selected.slots(), tail = batch.tail.size(1);
  if (slots > 1) {
    // Masked slots may stand between tokens that the reader reads side by side: they go last.
    auto order = selected.mask.logical_not().to(at::kInt).argsort(/*stable=*/true, /*dim=*/1);
    auto index = selected.index.gather(1, order), mask = selected.mask.gather(1, order);
    auto follows = (index.narrow(1, 1, slots - 1) == index.narrow(1, 0, slots - 1) + 1)
                       .logical_and(mask.narrow(1, 1, slots - 1));
    add(context_hidden.gather(1, order.unsqueeze(2).expand(context_hidden.sizes())),
        batch.context.gather(1, index), follows);
  }
  if (tail > 1) {
    auto unlabelled = (batch.labels < 0).narrow(1, 0, tail - 1);
    add(tail_hidden, batch.tail, unlabelled.logical_and(batch.tail_valid.narrow(1, 1, tail - 1)));
  }
  if (hidden.empty()) return {at::zeros({}, tail_hidden.options().dtype(at::kFloat)), 0};
  auto all = at::cat(targets);
  return {backbone->cross_entropy(at::cat(hidden), all), double(all.numel())};
}

}  // namespace dsrsq
