#include "dsrsq/methods/standard.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "dsrsq/attention/dense.h"

namespace dsrsq {

void StandardConfig::visit_fields(ConfigVisitor& v) {
  v.field("window", window,
          "Tokens that the standard transformer reads, context and question together: 4096, 8192, "
          "16384.",
          at_least(1));
  v.field("truncation", truncation, "Which part of a longer context is dropped.",
          one_of({"middle", "left"}));
  v.field("reserved", reserved,
          "Tokens of the window kept for question and answer; at most half of it is used so.",
          at_least(0));
}

SelectedTokens StandardMethod::select(const Batch& batch, const LanguageModelView& model,
                                      MethodState& state) {
  auto tokens = batch.context_valid.size(1);
  auto room = config_.window - std::min(config_.reserved, config_.window / 2);
  if (tokens <= room) return select_all(batch.context_valid, tokens);
  // By each sequence's own length: its first half and its last half of the room, or its end.
  auto place = at::arange(tokens, batch.context.options()).unsqueeze(0);
  auto length = batch.context_valid.sum(1, true);
  auto from_end = length - 1 - place;
  auto score = config_.truncation == "left" ? -from_end : -at::minimum(place * 2, from_end * 2 + 1);
  auto masked = score.to(at::kDouble).masked_fill(batch.context_valid.logical_not(), -INFINITY);
  auto selected =
      select_top(masked, at::full({batch.size()}, room, batch.context.options()), tokens, false);
  return selected;
}

at::Tensor attend_first_chunk(const AttentionInput& input, LayerState& layer, AttentionStats* stats,
                              at::Tensor* lse) {
  if (stats != nullptr) count_dense(input, *stats);
  layer.append(input.rotated(input.k), input.v, input.positions, input.order, input.valid, {},
               false, {}, input.padded);
  auto q = input.rotated(input.q);
  if (lse == nullptr) return causal_attention(q, layer.keys, layer.values);
  auto read = causal_attention_with_lse(q, layer.keys, layer.values);
  *lse = read.lse;
  return read.out;
}

bool StandardMethod::one_segment_per_chunk() const { return !at::GradMode::is_enabled(); }

at::Tensor StandardMethod::attend(const AttentionInput& input, MethodState& state) {
  auto& layer = state.layers[size_t(input.layer)];
  // A first chunk that closes its segment holds nothing behind the context (Transformer::forward).
  bool context_alone = input.segments.size() == 2 && input.segments.back() == 0;
  bool plain = !input.key_bias.defined() && !input.record_rows.defined();
  if (context_alone && plain && layer.entries() == 0)
    return attend_first_chunk(input, layer, state.options.collect_stats ? &state.stats : nullptr);
  auto& counting = state.options.collect_stats;
  auto wanted = std::exchange(counting, false);
  auto out = Method::attend(input, state);
  counting = wanted;
  if (counting) count_dense(input, state.stats);
  return out;
}

}  // namespace dsrsq
