#include "dsrsq/methods/shared_attention.h"

#include <torch/torch.h>

#include <algorithm>

#include "dsrsq/attention/dense.h"
#include "dsrsq/core/error.h"

namespace dsrsq {

namespace {

// What the source layer leaves for the layers behind it, while one chunk is read.
struct SharedAttentionMemory : MethodMemory {
  at::Tensor q;              // [B, H, T, d], rotated; undefined where `probabilities` is
  at::Tensor probabilities;  // [B, H, 1, K] of a token that is read alone
  int64_t bytes() const override {
    int64_t total = 0;
    for (const auto& tensor : {q, probabilities})
      if (tensor.defined()) total += int64_t(tensor.nbytes());
    return total;
  }
};

// Another copy of the state may go on from the same memory, so it is replaced, never changed.
std::shared_ptr<MethodMemory> memory_of(const at::Tensor& q, const at::Tensor& probabilities) {
  auto memory = std::make_shared<SharedAttentionMemory>();
  memory->q = q;
  memory->probabilities = probabilities;
  return memory;
}

// bool [B, 1, T, K]: what the chunk's rows may attend of what the layer holds.
at::Tensor visible(const AttentionInput& input, const LayerState& layer) {
  return (layer.order.unsqueeze(1).unsqueeze(2) <= input.order.unsqueeze(1).unsqueeze(-1))
      .logical_and(layer.valid.unsqueeze(1).unsqueeze(2));
}

at::Tensor bias_of(const LayerState& layer) {
  return layer.bias.defined() ? layer.bias.unsqueeze(1).unsqueeze(2) : layer.bias;
}

// probabilities [B, H, 1, K] by values [B, H_kv, K, d], each head with its key-value head.
at::Tensor weigh(const at::Tensor& probabilities, const at::Tensor& values) {
  auto batch = values.size(0), heads = values.size(1), entries = values.size(2);
  auto grouped = probabilities.reshape({batch, heads, -1, entries}).to(values.scalar_type());
  return at::matmul(grouped, values).view({batch, -1, 1, values.size(3)});
}

}  // namespace

void SharedAttentionConfig::visit_fields(ConfigVisitor& v) {
  v.field("source", source,
          "Layer, from 0, whose attention probabilities are reused; -1: 11/16 of the way up.",
          at_least(-1));
  v.field("layers", layers, "Layers behind it that reuse them; 0: an eighth of all.", at_least(0));
}

SharedAttentionConfig SharedAttentionConfig::resolved(const TransformerConfig& model) const {
  auto own = *this;
  if (layers == 0) own.layers = std::max<int64_t>(1, model.layers / 8);
  if (source < 0)
    own.source =
        std::max<int64_t>(0, std::min(model.layers * 11 / 16, model.layers - own.layers - 1));
  return own;
}

void SharedAttentionConfig::validate(const TransformerConfig& model,
                                     const ConfigLocations& locations) const {
  auto own = resolved(model);
  if (own.source + own.layers < model.layers) return;
  throw ConfigError(concat(locations.of("shared_attention.layers"),
                           ": shared_attention.layers: expected shared_attention.source + layers "
                           "below model.layers = ",
                           model.layers, ", got ", own.source, " + ", own.layers));
}

SharedAttentionMethod::SharedAttentionMethod(const SharedAttentionConfig& config,
                                             const TransformerConfig& model)
    : Method(model.attention_shape()), config_(config.resolved(model)), width_(model.width) {
  config_.validate(model, {});
}

MethodState SharedAttentionMethod::make_state(const Batch& batch,
                                              const PassOptions& options) const {
  auto state = Method::make_state(batch, options);
  state.memory = memory_of({}, {});
  return state;
}

at::Tensor SharedAttentionMethod::attend(const AttentionInput& input, MethodState& state) {
  // The layers that share see the pairs of their source.
  auto counted = input.layer == config_.source ? 1 + config_.layers : scores_keys(input.layer);
  for (int64_t i = 0; state.options.collect_stats && i < counted; ++i)
    count_dense(input, state.stats);
  return scores_keys(input.layer) ? attend_scored(input, state) : attend_shared(input, state);
}

at::Tensor SharedAttentionMethod::attend_scored(const AttentionInput& input, MethodState& state) {
  auto& layer = state.layers[size_t(input.layer)];
  if (input.layer != config_.source) return dense_attend(input, layer, nullptr);
  auto q = input.rotated(input.q);
  if (q.size(2) > 1) {
    state.memory = memory_of(q, {});
    return dense_attend(input, layer, nullptr);
  }
  layer.append(input.rotated(input.k), input.v, input.positions, input.order, input.valid, {},
               false, input.key_bias, input.padded);
  auto part = masked_attention(q, layer.keys, layer.values, visible(input, layer), bias_of(layer));
  state.memory = memory_of({}, (part.logits - part.lse.unsqueeze(-1)).exp());
  return part.out;
}

at::Tensor SharedAttentionMethod::attend_shared(const AttentionInput& input, MethodState& state) {
  const auto& source = state.layers[size_t(config_.source)];
  const auto& memory = static_cast<const SharedAttentionMemory&>(*state.memory);
  auto& layer = state.layers[size_t(input.layer)];
  layer.append_values(input.v);
  if (memory.probabilities.defined()) return weigh(memory.probabilities, layer.values);
  // The source's state holds this chunk's keys already.
  bool only_chunk = source.entries() == memory.q.size(2);
  if (only_chunk && !input.padded && !source.bias.defined())
    return causal_attention(memory.q, source.keys, layer.values);
  auto mask = visible(input, source);
  if (!source.bias.defined()) return read_entries(memory.q, source.keys, layer.values, mask);
  return masked_attention(memory.q, source.keys, layer.values, mask, bias_of(source)).out;
}

// Queries and probabilities serve the chunk that they are of.
void SharedAttentionMethod::end_segment(MethodState& state) { state.memory = memory_of({}, {}); }

// Query and key projections that are left out.
double SharedAttentionMethod::token_flops() const {
  auto heads = shape_.query_heads + shape_.key_value_heads;
  return -2.0 * double(config_.layers * width_ * heads * shape_.head_width);
}

}  // namespace dsrsq
