// The weights of GCA, and what is computed with them. Declared in gca.h.
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "dsrsq/attention/dense.h"
#include "dsrsq/core/error.h"
#include "dsrsq/methods/gca.h"
#include "dsrsq/ops/noise.h"

namespace dsrsq {

ChosenChunks choose_chunks(const at::Tensor& score, const at::Tensor& noise, int64_t count) {
  auto perturbed = score.detach();
  if (noise.defined()) perturbed = perturbed + noise;
  auto index = std::get<1>(perturbed.topk(std::min(count, score.size(2)), 2));
  auto chosen = score.gather(2, index);
  auto candidate = chosen > -std::numeric_limits<double>::infinity();
  auto weight = at::softmax(chosen.masked_fill(candidate.logical_not(), kMaskedLogit), -1);
  return {index.masked_fill(candidate.logical_not(), 0), weight * candidate};
}

at::Tensor grouped_cross_attention(const at::Tensor& q, const at::Tensor& keys,
                                   const at::Tensor& values, const at::Tensor& valid,
                                   const at::Tensor& weight, int64_t null_slots) {
  auto batch = q.size(0), rows = q.size(1), heads = q.size(2), queries = q.size(3),
       width = q.size(4), chunks = keys.size(2), groups = keys.size(3);
  auto all = batch * rows * chunks;
  // The queries of a key-value head's group stand one below the other.
  auto of_chunk = q.reshape({batch, rows, 1, groups, heads / groups * queries, width})
                      .expand({-1, -1, chunks, -1, -1, -1})
                      .reshape({all, groups, heads / groups * queries, width});
  auto with_null = [&](const at::Tensor& x) {
    return at::constant_pad_nd(x.reshape({all, groups, x.size(4), width}), {0, 0, 0, null_slots});
  };
  // A chunk that was not chosen weighs 0, but its softmax must not be empty.
  auto readable = valid.logical_or(valid.any(-1, true).logical_not());
  auto mask = at::constant_pad_nd(readable.view({all, 1, 1, -1}), {0, null_slots}, 1);
  auto out = at::scaled_dot_product_attention(of_chunk, with_null(keys), with_null(values), mask)
                 .reshape({batch, rows, chunks, heads, queries, width});
  return (out * weight.to(out.scalar_type()).reshape({batch, rows, chunks, 1, 1, 1})).sum(2);
}

GcaLayersImpl::GcaLayersImpl(const GcaConfig& config, const TransformerConfig& model, int64_t seed)
    : config_(config), model_(model) {
  auto width = model.width, head = model.head_width(), inner = model.mlp_width;
  auto joint = model.heads * head;
  auto deviation = model.initial_deviation;
  auto matrix = [&](const std::string& name, int64_t rows, int64_t columns, double scale) {
    return register_parameter(
        name, ops::initial_normal("gca." + name, {rows, columns}, scale, uint64_t(seed)));
  };
  auto ones = [&](const std::string& name) { return register_parameter(name, at::ones({width})); };
  encoder_norm_ = ones("encoder_norm");
  landmark_ = register_parameter("landmark",
                                 ops::initial_normal("gca.landmark", {width}, 1.0, uint64_t(seed)));
  auto residual = deviation / std::sqrt(2.0 * double(std::max<int64_t>(1, config.encoder_layers)));
  for (int64_t i = 0; i < config.encoder_layers; ++i) {
    auto name = [&](const char* part) { return concat("encoder_", i, "_", part); };
    EncoderLayer layer;
    layer.attention_norm = ones(name("attention_norm"));
    layer.query = matrix(name("query"), joint, width, deviation);
    layer.key = matrix(name("key"), joint, width, deviation);
    layer.value = matrix(name("value"), joint, width, deviation);
    layer.output = matrix(name("output"), width, joint, residual);
    layer.mlp_norm = ones(name("mlp_norm"));
    layer.gate = matrix(name("gate"), inner, width, deviation);
    layer.up = matrix(name("up"), inner, width, deviation);
    layer.down = matrix(name("down"), width, inner, residual);
    encoder_.push_back(layer);
  }
  encoder_final_norm_ = ones("encoder_final_norm");
  key_ = matrix("key", model.key_value_heads * head, width, deviation);
  value_ = matrix("value", model.key_value_heads * head, width, deviation);
  for (int64_t i = 0; i < config.groups; ++i)
    group_norms_.push_back(ones(concat("group_", i, "_norm")));
  bool zero = config.output_start == "zero";
  for (int64_t i = config.lower_layers; i < model.layers; ++i) {
    auto name = [&](const char* part) { return concat("layer_", i, "_", part); };
    UpperLayer layer;
    layer.norm = ones(name("norm"));
    layer.query = matrix(name("query"), joint, width, deviation);
    layer.output = zero ? register_parameter(name("output"), at::zeros({width, joint}))
                        : matrix(name("output"), width, joint,
                                 deviation / std::sqrt(2.0 * double(model.layers)));
    upper_.push_back(layer);
  }
}

at::Tensor GcaLayersImpl::norm(const at::Tensor& x, const at::Tensor& weight) const {
  return at::rms_norm(x, {x.size(-1)}, weight, model_.norm_epsilon);
}

// x [chunks, tokens, D], mask [chunks, 1, 1, tokens] bool.
at::Tensor GcaLayersImpl::encoder_layer(const EncoderLayer& layer, const at::Tensor& x,
                                        const at::Tensor& mask,
                                        const ops::RotaryTable& rope) const {
  auto normed = norm(x, layer.attention_norm);
  auto split = [&](const at::Tensor& weight) {
    return at::linear(normed, weight)
        .view({x.size(0), x.size(1), model_.heads, model_.head_width()})
        .transpose(1, 2);
  };
  auto attended = at::scaled_dot_product_attention(ops::rotate(split(layer.query), rope),
                                                   ops::rotate(split(layer.key), rope),
                                                   split(layer.value), mask);
  auto y = x + at::linear(attended.transpose(1, 2).flatten(2), layer.output);
  auto inner = norm(y, layer.mlp_norm);
  return y + at::linear(at::silu(at::linear(inner, layer.gate)) * at::linear(inner, layer.up),
                        layer.down);
}

GcaLayersImpl::Chunks GcaLayersImpl::encode(const at::Tensor& hidden,
                                            const at::Tensor& valid) const {
  auto batch = hidden.size(0), chunks = hidden.size(1), slots = hidden.size(2),
       width = hidden.size(3), all = batch * chunks;
  auto tokens = norm(hidden.reshape({all, slots, width}), encoder_norm_);
  auto landmark = landmark_.to(tokens.scalar_type()).expand({all, 1, width});
  auto x = at::cat({tokens, landmark}, 1);
  auto mask = at::constant_pad_nd(valid.reshape({all, 1, 1, slots}), {0, 1}, 1);
  auto place = at::arange(slots + 1, valid.options().dtype(at::kLong)).unsqueeze(0);
  auto rope = ops::rotary_table(place, model_.head_width(), model_.rope_base);
  for (const auto& layer : encoder_) x = encoder_layer(layer, x, mask, rope);
  x = norm(x, encoder_final_norm_);
  auto split = [&](const at::Tensor& weight) {
    return at::linear(x.narrow(1, 0, slots), weight)
        .view({batch, chunks, slots, model_.key_value_heads, model_.head_width()})
        .transpose(2, 3)
        .contiguous();
  };
  return {x.select(1, slots).reshape({batch, chunks, width}), split(key_), split(value_)};
}

at::Tensor GcaLayersImpl::landmark_query(int64_t group, const at::Tensor& hidden) const {
  return norm(hidden, group_norms_[size_t(group)]);
}

at::Tensor GcaLayersImpl::queries(int64_t upper, const at::Tensor& residual) const {
  const auto& layer = upper_[size_t(upper)];
  return at::linear(norm(residual, layer.norm), layer.query);
}

at::Tensor GcaLayersImpl::output(int64_t upper, const at::Tensor& attended) const {
  return at::linear(attended, upper_[size_t(upper)].output);
}

// Query and output projections of the upper layers; encoder, keys and values of a token (the
// landmark is one more token a chunk). Scores of landmarks, chunks x chunks, are left out.
double GcaLayersImpl::token_flops() const {
  auto width = double(model_.width), joint = double(model_.heads * model_.head_width());
  auto keys = double(model_.key_value_heads * model_.head_width());
  auto tokens = 1 + 1 / double(config_.chunk);
  auto attended = double(config_.chunk + 1);
  auto encoder = 4 * width * joint + 3 * width * double(model_.mlp_width) + 2 * attended * joint;
  return 2 * (double(upper_.size()) * 2 * width * joint + 2 * width * keys +
              double(encoder_.size()) * tokens * encoder);
}

}  // namespace dsrsq
