#include "dsrsq/model/transformer.h"

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dsrsq/core/error.h"
#include "dsrsq/model/activation_checkpoint.h"
#include "dsrsq/ops/causal_conv.h"
#include "dsrsq/ops/gather_tokens.h"
#include "dsrsq/ops/linear_cross_entropy.h"
#include "dsrsq/ops/noise.h"

namespace dsrsq {

at::Tensor TransformerImpl::weight(const std::string& name, at::IntArrayRef shape,
                                   double deviation) {
  return register_parameter(name, ops::initial_normal(name, shape, deviation, uint64_t(seed_)));
}

TransformerImpl::TransformerImpl(const TransformerConfig& config, int64_t vocabulary_size,
                                 int64_t seed, const Method* method)
    : config_(config), vocabulary_size_(vocabulary_size), seed_(seed) {
  auto width = config.width;
  auto deviation = config.initial_deviation;
  embedding_ = weight("embedding", {vocabulary_size, width}, deviation);
  output_ =
      config.tie_embeddings ? embedding_ : weight("output", {vocabulary_size, width}, deviation);
  if (config.position_embedding == "learned")
    position_table_ = weight("position_table", {config.learned_positions, width}, deviation);
  for (int64_t layer = 0; layer < config.layers; ++layer)
    blocks_.push_back(make_block(layer, method == nullptr || method->scores_keys(layer)));
  final_norm_ = register_parameter("final_norm", at::ones({width}));
  if (config.norm == "layernorm")
    final_norm_bias_ = register_parameter("final_norm_bias", at::zeros({width}));
}

TransformerImpl::Block TransformerImpl::make_block(int64_t layer, bool scores) {
  auto width = config_.width, head = config_.head_width(), inner = config_.mlp_width;
  auto queries = config_.heads * head, keys = config_.key_value_heads * head;
  auto deviation = config_.initial_deviation;
  // Output projections: the residual stream keeps its scale.
  auto residual = deviation / std::sqrt(2.0 * double(config_.layers));
  auto name = [&](const char* part) { return concat("block_", layer, "_", part); };
  auto filled = [&](bool wanted, const char* part, int64_t size, double value) {
    return wanted ? register_parameter(name(part), at::full({size}, value)) : at::Tensor();
  };
  bool shifts = config_.norm == "layernorm";
  bool of_all = config_.biases == "all", of_output = of_all || config_.biases == "attention",
       of_qkv = of_output || config_.biases == "qkv";
  Block block;
  block.attention_norm = filled(true, "attention_norm", width, 1);
  block.attention_norm_bias = filled(shifts, "attention_norm_bias", width, 0);
  if (scores) {
    block.query = weight(name("query"), {queries, width}, deviation);
    block.key = weight(name("key"), {keys, width}, deviation);
  }
  block.value = weight(name("value"), {keys, width}, deviation);
  block.output = weight(name("output"), {width, queries}, residual);
  block.query_bias = filled(scores && of_qkv, "query_bias", queries, 0);
  block.key_bias = filled(scores && of_qkv, "key_bias", keys, 0);
  block.value_bias = filled(of_qkv, "value_bias", keys, 0);
  block.output_bias = filled(of_output, "output_bias", width, 0);
  block.query_norm = filled(scores && config_.query_key_norm, "query_norm", head, 1);
  block.key_norm = filled(scores && config_.query_key_norm, "key_norm", head, 1);
  if (!scores)
    for (const char* part : {"query", "key", "query_bias", "key_bias", "query_norm", "key_norm"})
      left_out_.insert(name(part));
  if (config_.conv_width > 0) {
    auto taps =
        ops::initial_normal(name("conv"), {width, config_.conv_width}, 0.18, uint64_t(seed_));
    taps.select(1, config_.conv_width - 1) += 1;  // identity tap
    block.conv = register_parameter(name("conv"), taps);
  }
  block.mlp_norm = filled(true, "mlp_norm", width, 1);
  block.mlp_norm_bias = filled(shifts, "mlp_norm_bias", width, 0);
  if (config_.mlp == "swiglu") block.gate = weight(name("gate"), {inner, width}, deviation);
  block.up = weight(name("up"), {inner, width}, deviation);
  block.up_bias = filled(of_all, "up_bias", inner, 0);
  block.down = weight(name("down"), {width, inner}, residual);
  block.down_bias = filled(of_all, "down_bias", width, 0);
  return block;
}

at::Tensor TransformerImpl::embed(const at::Tensor& ids) const {
  return at::embedding(embedding_, ids);
}
at::Tensor TransformerImpl::table_mean() const {
  return embedding_.detach().to(at::kFloat).mean(0);
}
at::Tensor TransformerImpl::logits(const at::Tensor& hidden) const {
  return at::linear(hidden, output_).to(at::kFloat);
}
at::Tensor TransformerImpl::cross_entropy(const at::Tensor& hidden,
                                          const at::Tensor& targets) const {
  return ops::linear_cross_entropy(hidden, output_, targets);
}

namespace {
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon) {
  if (x.is_cuda() && x.scalar_type() == at::kFloat)  // torch's kernel: one pass, not seven
    return std::get<0>(at::_fused_rms_norm(x, {x.size(-1)}, weight, epsilon));
  auto wide = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
  return (wide * (wide.square().mean(-1, true) + epsilon).rsqrt()).to(x.scalar_type()) * weight;
}
}  // namespace

at::Tensor TransformerImpl::normalise(const at::Tensor& x, const at::Tensor& weight,
                                      const at::Tensor& bias) const {
  if (config_.norm == "layernorm")
    return at::layer_norm(x, {x.size(-1)}, weight, bias, config_.norm_epsilon);
  return rms_norm(x, weight, config_.norm_epsilon);
}

// Padding may stand inside a chunk, so the convolution runs over the valid tokens side by side and
// its result is put back.
at::Tensor TransformerImpl::convolve(const at::Tensor& x, const Block& block, int64_t layer,
                                     const ReaderInput& input, MethodState& state) const {
  auto width = config_.conv_width;
  auto& tail = state.conv_tails[size_t(layer)];
  if (!input.padded) {
    auto out = ops::causal_conv(x, block.conv.to(x.scalar_type()), tail);
    tail = ops::next_conv_tail(x, tail, width);
    return out;
  }
  auto compact = input.valid.logical_not().to(at::kInt).argsort(
      /*stable=*/true, /*dim=*/1, /*descending=*/false);  // stable: valid tokens first, in order
  auto restore = compact.argsort(/*dim=*/int64_t{1}, /*descending=*/false);
  auto packed = gather_entries(x, compact, 1);
  auto out =
      gather_entries(ops::causal_conv(packed, block.conv.to(x.scalar_type()), tail), restore, 1);
  auto before = tail.defined() ? tail : at::zeros({x.size(0), width - 1, x.size(2)}, x.options());
  auto all = at::cat({before.to(x.scalar_type()), packed}, 1);
  auto last = input.valid.sum(1, true) + at::arange(width - 1, input.order.options()).unsqueeze(0);
  tail = gather_entries(all, last, 1);
  return out;
}

at::Tensor TransformerImpl::mlp(const at::Tensor& x, const Block& block) const {
  auto up = at::linear(x, block.up, block.up_bias);
  auto inner = block.gate.defined() ? at::silu(at::linear(x, block.gate)) * up
                                    : at::gelu(up, config_.mlp == "gelu_tanh" ? "tanh" : "none");
  return at::linear(inner, block.down, block.down_bias);
}

namespace {
// Under autocast each product casts its input for itself; several read the same one.
at::Tensor cast_for_products(const at::Tensor& x) {
  auto device = x.device().type();
  return at::autocast::is_autocast_enabled(device) ? x.to(at::autocast::get_autocast_dtype(device))
                                                   : x;
}
}  // namespace

// One block: `attention` brings the layer and what all blocks share.
at::Tensor TransformerImpl::read_block(const ReaderInput& input, AttentionInput attention,
                                       const at::Tensor& x, Method& method,
                                       MethodState& state) const {
  auto batch = x.size(0), tokens = x.size(1), head = config_.head_width();
  auto split = [&](const at::Tensor& y, int64_t heads) {
    return y.reshape({batch, tokens, heads, head}).transpose(1, 2);
  };
  const auto& block = blocks_[size_t(attention.layer)];
  auto normed = normalise(x, block.attention_norm, block.attention_norm_bias);
  if (block.conv.defined()) normed = convolve(normed, block, attention.layer, input, state);
  normed = cast_for_products(normed);
  attention.hidden = normed;
  attention.residual = x;
  if (method.scores_keys(attention.layer)) {
    attention.q = split(at::linear(normed, block.query, block.query_bias), config_.heads);
    attention.k = split(at::linear(normed, block.key, block.key_bias), config_.key_value_heads);
    if (block.query_norm.defined()) {
      attention.q = rms_norm(attention.q, block.query_norm, config_.norm_epsilon);
      attention.k = rms_norm(attention.k, block.key_norm, config_.norm_epsilon);
    }
  }
  attention.v = split(at::linear(normed, block.value, block.value_bias), config_.key_value_heads);
  auto attended = method.attend(attention, state);
  // What is held between appending and evicting; a decoded token adds little, and would pay for it.
  if (tokens > 1 && !at::GradMode::is_enabled())
    state.peak_bytes = std::max(state.peak_bytes, method.state_bytes(state));
  auto y = x + at::linear(attended.transpose(1, 2).reshape({batch, tokens, config_.heads * head}),
                          block.output, block.output_bias);
  if (auto extra = method.extra_sublayer(attention, y, state); extra.defined()) y = y + extra;
  method.update_cache(attention, state);
  auto inner = cast_for_products(normalise(y, block.mlp_norm, block.mlp_norm_bias));
  return y + mlp(inner, block);
}

// The second time, in the backward pass, the block reads after the state that it found the first
// time, and what it leaves there is dropped. Its loss terms are outputs, as the hidden states are.
at::Tensor TransformerImpl::read_block_checkpointed(const ReaderInput& input,
                                                    const AttentionInput& attention,
                                                    const at::Tensor& x, Method& method,
                                                    MethodState& state) const {
  TORCH_CHECK(!state.memory, "activation checkpointing: ", method.method_name(),
              " keeps a memory of its own, which cannot be read twice");
  auto layer = size_t(attention.layer);
  MethodState before;
  before.options = state.options;
  before.options.replaying = true;
  before.options.collect_stats = false;
  before.sample_ids = state.sample_ids;
  before.layers.resize(state.layers.size());
  before.layers[layer] = state.layers[layer];
  before.conv_tails.resize(state.conv_tails.size());
  before.conv_tails[layer] = state.conv_tails[layer];

  auto kept = std::move(state.losses);
  state.losses.clear();
  auto body = [this, input, attention, before, &method, &state](
                  const std::vector<at::Tensor>& inputs, bool again) {
    auto own = before;
    auto& used = again ? own : state;
    auto shared = attention;
    shared.key_bias = inputs[1];
    if (again) shared.record_rows = at::Tensor();  // without gradient, and recorded already
    std::vector<at::Tensor> outputs{read_block(input, shared, inputs[0], method, used)};
    for (const auto& [name, term] : used.losses) outputs.push_back(term.sum);
    return outputs;
  };
  auto outputs = run_checkpointed(body, {x, attention.key_bias});
  size_t next = 1;
  for (const auto& [name, term] : state.losses) {
    auto& total = kept[name];
    total.sum = total.sum.defined() ? total.sum + outputs[next] : outputs[next];
    total.count += term.count;
    ++next;
  }
  state.losses = std::move(kept);
  return outputs[0];
}

at::Tensor TransformerImpl::read_chunk(const ReaderInput& input, Method& method,
                                       MethodState& state) {
  AttentionInput attention;
  if (config_.position_embedding == "rope")
    attention.rope = ops::rotary_table(input.positions, config_.head_width(), config_.rope_base,
                                       config_.rope_scaling);
  attention.valid = input.valid;
  attention.padded = input.padded;
  attention.positions = input.positions;
  attention.order = input.order;
  attention.key_bias = input.key_bias;
  attention.record_rows = input.record_rows;
  attention.record_questions = input.record_questions;
  attention.segments = input.segments;

  auto x = input.inputs;
  if (position_table_.defined()) x = x + at::embedding(position_table_, input.positions);
  bool checkpointed = state.options.activation_checkpointing && at::GradMode::is_enabled();
  for (int64_t layer = 0; layer < config_.layers; ++layer) {
    attention.layer = layer;
    x = checkpointed ? read_block_checkpointed(input, attention, x, method, state)
                     : read_block(input, attention, x, method, state);
  }
  method.end_segment(state);
  return normalise(x, final_norm_, final_norm_bias_);
}

void TransformerImpl::require_scores(const Method& method) const {
  for (size_t layer = 0; layer < blocks_.size(); ++layer)
    if (!blocks_[layer].query.defined() && method.scores_keys(int64_t(layer)))
      throw ConfigError(concat(method.method_name(), " attends with the queries and keys of layer ",
                               layer,
                               ", which these weights have not: they were trained with "
                               "shared attention; take another --checkpoint for it"));
}

at::Tensor TransformerImpl::forward(const ReaderInput& input, Method& method, MethodState& state) {
  require_scores(method);
  if (config_.position_embedding == "learned" &&
      input.positions.max().item<int64_t>() >= config_.learned_positions)
    throw ConfigError(concat("model.learned_positions: the reader's sequence reaches position ",
                             input.positions.max().item<int64_t>(), ", the table ends at ",
                             config_.learned_positions,
                             "; select fewer tokens or use position_embedding: rope"));
  state.conv_tails.resize(size_t(config_.layers));
  if (!method.one_segment_per_chunk() || input.segments.size() <= 1)
    return read_chunk(input, method, state);
  std::vector<at::Tensor> hidden;
  int64_t begin = 0;
  for (size_t i = 0; i < input.segments.size(); ++i) {
    auto length = input.segments[i];
    auto part = [&](const at::Tensor& x) { return x.defined() ? x.narrow(1, begin, length) : x; };
    ReaderInput segment = input;
    for (auto* tensor : {&segment.inputs, &segment.valid, &segment.positions, &segment.order,
                         &segment.key_bias, &segment.record_rows})
      *tensor = part(*tensor);
    segment.segments = {length};
    // A chunk's last segment stays open, so an empty one behind it closes it.
    if (i + 1 < input.segments.size()) segment.segments.push_back(0);
    hidden.push_back(read_chunk(segment, method, state));
    begin += length;
  }
  return at::cat(hidden, 1);
}

LanguageModelImpl::LanguageModelImpl(Transformer backbone, std::shared_ptr<Method> method,
                                     int32_t begin_id, const std::vector<int32_t>& prefix)
    : backbone_(register_module("backbone", std::move(backbone))),
      method_(std::move(method)),
      begin_id_(begin_id),
      prefix_(prefix) {
  TORCH_CHECK(int64_t(prefix.size()) <= backbone_->config().sinks,
              "LanguageModel: the prefix does not fit into model.sinks");
  backbone_->require_scores(*method_);
  register_module("method", method_);
}

at::Device LanguageModelImpl::device() const { return backbone_->parameters().front().device(); }

std::vector<int64_t> LanguageModelImpl::front_ids() const {
  std::vector<int64_t> ids(size_t(backbone_->config().sinks) - prefix_.size(), begin_id_);
  ids.insert(ids.end(), prefix_.begin(), prefix_.end());
  return ids;
}

LanguageModelView LanguageModelImpl::view() {
  LanguageModelView view;
  view.forward = [this](const ReaderInput& input, Method& method, MethodState& state) {
    return backbone_->forward(input, method, state);
  };
  view.logits = [this](const at::Tensor& hidden) { return backbone_->logits(hidden); };
  view.begin_id = begin_id_;
  view.front_ids = front_ids();
  view.embed = [this](const at::Tensor& ids) { return backbone_->embed(ids); };
  view.table_mean = [this] { return backbone_->table_mean(); };
  return view;
}

void LanguageModelImpl::choose_tokens(const Batch& batch, MethodState& state) {
  auto model = view();
  method_->prepare(batch, model, state);
  state.selected = method_->select(batch, model, state);
}

at::Tensor LanguageModelImpl::read(const Batch& batch, MethodState& state) {
  choose_tokens(batch, state);
  return read_selected(batch, state);
}

at::Tensor LanguageModelImpl::read_selected(const Batch& batch, MethodState& state) {
  const auto& config = backbone_->config();
  const auto& selected = state.selected;
  auto size = batch.size(), sinks = config.sinks, slots = selected.slots(),
       tail = batch.tail.size(1);
  auto longs = batch.context.options();
  std::vector<at::Tensor> inputs, valid, positions;
  ReaderInput reader;
  if (sinks > 0) {
    auto ids =
        at::tensor(front_ids(), at::kLong).to(longs.device()).unsqueeze(0).expand({size, sinks});
    inputs.push_back(backbone_->embed(ids));
    valid.push_back(at::ones({size, sinks}, batch.context_valid.options()));
    positions.push_back(at::arange(sinks, longs).unsqueeze(0).expand({size, sinks}));
    reader.segments.push_back(sinks);
  }
  if (slots > 0) {
    auto gathered = state.selected_inputs.defined() ? state.selected_inputs
                    : state.context_inputs.defined()
                        ? ops::gather_tokens(state.context_inputs, selected.index)
                        : backbone_->embed(batch.context.gather(1, selected.index));
    inputs.push_back(gathered);
    valid.push_back(selected.mask);
    positions.push_back(selected.index + sinks);
    // The sinks stand in front of the first segment of the context.
    if (reader.segments.empty()) reader.segments.push_back(0);
    reader.segments[0] += selected.lengths[0];
    reader.segments.insert(reader.segments.end(), selected.lengths.begin() + 1,
                           selected.lengths.end());
  }
  inputs.push_back(backbone_->embed(batch.tail));
  valid.push_back(batch.tail_valid);
  reader.segments.push_back(tail);
  state.context_inputs = state.selected_inputs =
      at::Tensor();  // the whole context's vectors are not part of what a method keeps

  reader.inputs = at::cat(inputs, 1);
  reader.valid = at::cat(valid, 1);
  reader.padded = !reader.valid.all().item<bool>();
  reader.order = (reader.valid.cumsum(1) - 1).clamp_min(0);
  if (config.positions == "packed" || selected.reordered) {
    reader.positions = reader.order;
  } else {
    auto after = batch.context_valid.sum(1, true) + sinks;
    positions.push_back((batch.tail_valid.cumsum(1) - 1).clamp_min(0) + after);
    reader.positions = at::cat(positions, 1);
  }
  if (state.key_bias.defined()) {
    auto before = at::zeros({size, sinks}, state.key_bias.options());
    auto after = at::zeros({size, tail}, state.key_bias.options());
    reader.key_bias = at::cat({before, state.key_bias, after}, 1);
  }
  if (state.options.training && state.options.retrieval.target != "evidence") {
    auto none = at::full({size, sinks + slots}, -1, longs);
    reader.record_rows = at::cat({none, batch.label_question}, 1);
    reader.record_questions = batch.questions.size(1);
  }
  state.next_order = reader.valid.sum(1);
  state.next_position = reader.positions.narrow(1, reader.positions.size(1) - tail, tail)
                            .masked_fill(batch.tail_valid.logical_not(), 0)
                            .amax(1) +
                        1;
  auto hidden = backbone_->forward(reader, *method_, state);
  if (state.options.keep_context_hidden) state.context_hidden = hidden.narrow(1, sinks, slots);
  return hidden.narrow(1, hidden.size(1) - tail, tail);
}

at::Tensor LanguageModelImpl::read_next(const at::Tensor& ids, const at::Tensor& valid,
                                        MethodState& state, std::optional<bool> padded) {
  ReaderInput reader;
  reader.inputs = backbone_->embed(ids.unsqueeze(1));
  reader.valid = valid.unsqueeze(1);
  reader.padded = padded ? *padded : !valid.all().item<bool>();
  reader.order = state.next_order.unsqueeze(1);
  reader.positions = state.next_position.unsqueeze(1);
  reader.segments = {1};
  auto hidden = backbone_->forward(reader, *method_, state);
  state.next_order = state.next_order + valid.to(at::kLong);
  state.next_position = state.next_position + valid.to(at::kLong);
  return hidden;
}

}  // namespace dsrsq
