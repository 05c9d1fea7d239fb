#include "dsrsq/model/method.h"

#include <torch/torch.h>

#include <cmath>

#include "dsrsq/attention/dense.h"

namespace dsrsq {

MethodState Method::make_state(const Batch& batch, const PassOptions& options) const {
  MethodState state;
  state.options = options;
  state.sample_ids = batch.sample_ids;
  state.layers.resize(size_t(shape_.layers));
  return state;
}

at::Tensor requested_budget(const PassOptions& options, const at::Tensor& context_valid) {
  auto longs = context_valid.options().dtype(at::kLong);
  if (options.budget > 0) return at::full({context_valid.size(0)}, options.budget, longs);
  if (options.budget_share <= 0) return {};
  auto share = context_valid.sum(1).to(at::kDouble) * options.budget_share;
  return share.round().clamp_min(1).to(at::kLong);
}

SelectedTokens Method::select(const Batch& batch, const LanguageModelView& model,
                              MethodState& state) {
  return select_all(batch.context_valid, batch.context_valid.size(1));
}

SelectedTokens Method::choose(const at::Tensor& score, const Batch& batch, MethodState& state) {
  auto tokens = batch.context_valid.size(1);
  auto budget = requested_budget(state.options, batch.context_valid);
  if (!budget.defined()) budget = at::full({batch.size()}, tokens, batch.context.options());
  return select_top(score.masked_fill(batch.context_valid.logical_not(), -INFINITY), budget, tokens,
                    false);
}

at::Tensor Method::attend(const AttentionInput& input, MethodState& state) {
  return dense_attend(input, state.layers[size_t(input.layer)],
                      state.options.collect_stats ? &state.stats : nullptr);
}

int64_t Method::state_bytes(const MethodState& state) const {
  int64_t total = 0;
  for (const auto& layer : state.layers) total += layer.bytes();
  if (state.memory) total += state.memory->bytes();
  for (const auto& tail : state.conv_tails)
    if (tail.defined()) total += tail.numel() * tail.element_size();
  return total;
}

at::Tensor dense_attend(const AttentionInput& input, LayerState& layer, AttentionStats* stats) {
  auto fresh = layer.entries() == 0;
  auto q = input.rotated(input.q);
  layer.append(input.rotated(input.k), input.v, input.positions, input.order, input.valid, {},
               false);
  if (fresh && !input.padded && stats == nullptr)
    return causal_attention(q, layer.keys, layer.values);
  auto key_order = layer.order.unsqueeze(1).unsqueeze(2);
  auto query_order = input.order.unsqueeze(1).unsqueeze(-1);
  auto mask = (key_order <= query_order).logical_and(layer.valid.unsqueeze(1).unsqueeze(2));
  if (stats != nullptr) {
    auto rows = input.valid.sum().mul(input.q.size(1));
    auto pairs =
        mask.logical_and(input.valid.unsqueeze(1).unsqueeze(-1)).sum().mul(input.q.size(1));
    stats->add(stats->rows, rows);
    stats->add(stats->sparse_rows, at::zeros_like(rows));
    stats->add(stats->attended_pairs, pairs);
    stats->add(stats->visible_pairs, pairs);
  }
  return masked_attention(q, layer.keys, layer.values, mask).out;
}

}  // namespace dsrsq
