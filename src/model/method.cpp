#include "dsrsq/model/method.h"

#include <torch/torch.h>

#include <cmath>

#include "dsrsq/attention/dense.h"
#include "dsrsq/attention/read_mass.h"
#include "dsrsq/model/attention_stats.h"

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

namespace {

// A bias of entries [B, K] as masked_attention takes it.
at::Tensor entry_bias(const LayerState& layer) {
  return layer.bias.defined() ? layer.bias.unsqueeze(1).unsqueeze(2) : layer.bias;
}

// The probabilities of the flagged rows alone, over what the layer holds, so that the attention of
// all others keeps its fast path.
void record_rows(const AttentionInput& input, const LayerState& layer, at::Tensor& read_mass) {
  at::NoGradGuard no_grad;
  auto rows = flagged_rows(input.record_rows.masked_fill(input.valid.logical_not(), -1));
  if (rows.count() == 0) return;
  auto query_order = input.order.gather(1, rows.index).unsqueeze(1).unsqueeze(-1);
  auto mask = (layer.order.unsqueeze(1).unsqueeze(2) <= query_order)
                  .logical_and(layer.valid.unsqueeze(1).unsqueeze(2));
  auto part = masked_attention(take_rows(input.rotated(input.q), rows), layer.keys, layer.values,
                               mask, entry_bias(layer));
  add_read_mass(read_mass, part.logits, part.lse, rows.question, input.record_questions,
                layer.order);
}

}  // namespace

at::Tensor Method::attend(const AttentionInput& input, MethodState& state) {
  auto& layer = state.layers[size_t(input.layer)];
  auto out = dense_attend(input, layer, state.options.collect_stats ? &state.stats : nullptr);
  if (input.record_rows.defined()) record_rows(input, layer, state.read_mass);
  return out;
}

int64_t Method::state_bytes(const MethodState& state) const {
  int64_t total = 0;
  for (const auto& layer : state.layers) total += layer.bytes();
  if (state.memory) total += state.memory->bytes();
  for (const auto& tail : state.conv_tails)
    if (tail.defined()) total += tail.numel() * tail.element_size();
  return total;
}

void count_dense(const AttentionInput& input, AttentionStats& stats) {
  count_attended(input, (input.order + 1).unsqueeze(1), input.q.size(1), stats);
}

at::Tensor dense_attend(const AttentionInput& input, LayerState& layer, AttentionStats* stats) {
  auto fresh = layer.entries() == 0;
  auto q = input.rotated(input.q);
  layer.append(input.rotated(input.k), input.v, input.positions, input.order, input.valid, {},
               false, input.key_bias, input.padded);
  bool plain = stats == nullptr && !layer.bias.defined();
  if (plain && fresh && !input.padded) return causal_attention(q, layer.keys, layer.values);
  // One token behind all others: it sees whatever is there.
  if (plain && q.size(2) == 1)
    return read_entries(q, layer.keys, layer.values,
                        layer.padded ? layer.valid.unsqueeze(1).unsqueeze(2) : at::Tensor());
  auto key_order = layer.order.unsqueeze(1).unsqueeze(2);
  auto query_order = input.order.unsqueeze(1).unsqueeze(-1);
  auto mask = (key_order <= query_order).logical_and(layer.valid.unsqueeze(1).unsqueeze(2));
  if (plain) return read_entries(q, layer.keys, layer.values, mask);
  if (stats != nullptr) {
    auto rows = input.valid.sum().mul(input.q.size(1));
    auto pairs =
        mask.logical_and(input.valid.unsqueeze(1).unsqueeze(-1)).sum().mul(input.q.size(1));
    stats->add(stats->rows, rows);
    stats->add(stats->sparse_rows, at::zeros_like(rows));
    stats->add(stats->attended_pairs, pairs);
    stats->add(stats->visible_pairs, pairs);
  }
  return masked_attention(q, layer.keys, layer.values, mask, entry_bias(layer)).out;
}

}  // namespace dsrsq
