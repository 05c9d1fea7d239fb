#include "dsrsq/methods/text_stream.h"

#include <torch/torch.h>

#include <algorithm>
#include <numeric>
#include <utility>

#include "dsrsq/core/error.h"
#include "dsrsq/core/timer.h"
#include "dsrsq/model/decode.h"
#include "dsrsq/ops/causal_conv.h"
#include "text_stream_history.h"

namespace dsrsq {

namespace {

void refuse(const std::string& key, const std::string& expected, const std::string& got) {
  throw ConfigError(concat("a stream: ", key, ": expected ", expected, ", got ", got));
}

std::shared_ptr<DsrsqMethod> streamable(LanguageModel& model) {
  auto method = std::dynamic_pointer_cast<DsrsqMethod>(model->shared_method());
  if (!method)
    refuse("method", "dsrsq, whose memory has a constant size", model->method().method_name());
  const auto& config = method->config();
  if (!config.rckv.enabled)
    refuse("rckv.enabled", "true, else every key stays", "false; give a run trained with it");
  if (config.sqa.enabled && config.sqa.centroids == "kmeans")
    refuse("sqa.centroids", "codebook or segment", "kmeans, which needs the whole text");
  if (config.dsr.enabled && !config.dsr.encoder.empty())
    refuse("dsr.encoder", "none", config.dsr.encoder + ", which reads whole texts");
  return method;
}

template <typename Holder>
Holder part(DsrsqMethod& method, const char* name) {
  auto children = method.named_children();
  if (!children.contains(name)) return Holder(nullptr);
  return Holder(std::dynamic_pointer_cast<typename Holder::ContainedType>(children[name]));
}

// x [B, T, D] or [B, T]; the first `valid` ones of each row of (tail, x) end at its last token.
at::Tensor last_tokens(const at::Tensor& tail, const at::Tensor& x, const at::Tensor& valid) {
  auto all = at::cat({tail, x}, 1);
  auto index = valid.sum(1, true) + at::arange(tail.size(1), valid.options().dtype(at::kLong));
  return gather_entries(all, index, 1);
}

// Rows of x where `rows` bool [B], else those of y.
at::Tensor choose_rows(const at::Tensor& rows, const at::Tensor& x, const at::Tensor& y) {
  std::vector<int64_t> sizes(size_t(x.dim()), 1);
  sizes[0] = rows.size(0);
  return at::where(rows.view(sizes), x, y);
}

}  // namespace

TextStream::TextStream(LanguageModel model, const TextStreamOptions& options)
    : model_(std::move(model)),
      backbone_(model_->backbone().ptr()),
      method_(streamable(model_)),
      options_(options) {
  const auto& config = method_->config();
  const auto& backbone = backbone_->config();
  dsr_ = part<Dsr>(*method_, "dsr");
  rckv_ = part<Rckv>(*method_, "rckv");
  segment_ = config.rckv.segment;
  sinks_ = backbone.sinks;
  auto held = sinks_ + config.rckv.buffer_length + config.rckv.window + segment_;
  bool learned = backbone.position_embedding == "learned";
  range_ = options.position_range > 0 ? options.position_range : held;
  if (learned) range_ = std::min(range_, backbone.learned_positions);
  if (auto least = sinks_ + config.rckv.window + segment_; range_ < least)
    refuse("position_range",
           concat("at least ", least, ", model.sinks + rckv.window + rckv.segment"),
           std::to_string(range_));
  TORCH_CHECK(options.streams > 0, "TextStream: no stream");
  auto streams = size_t(options.streams);
  TORCH_CHECK(options.histories.empty() || options.histories.size() == streams,
              "TextStream: one history a stream");
  if (!options.histories.empty()) history_layout(model_);  // what it needs
  if (options_.sample_ids.empty()) {
    options_.sample_ids.resize(streams);
    std::iota(options_.sample_ids.begin(), options_.sample_ids.end(), 0);
  }
  TORCH_CHECK(options_.sample_ids.size() == streams, "TextStream: one sample id a stream");
  waiting_.resize(streams);
  fed_.assign(streams, 0);
  document_.assign(streams, 0);
  document_begin_.assign(streams, 0);
  for (size_t b = 0; b < options_.histories.size(); ++b) {  // it goes on, with a new document
    const auto& history = *options_.histories[b];
    if (history.blocks() == 0) continue;
    fed_[b] = document_begin_[b] = history.end();
    document_[b] = history.block(history.blocks() - 1).document + 1;
  }
  read_sinks();
  state_ = start_;
  follow_projections();
}

// What every document begins with, and what a new one begins from.
void TextStream::read_sinks() {
  at::NoGradGuard no_grad;
  auto size = streams();
  table_mean_ = backbone_->table_mean();
  if (dsr_ && dsr_->named_parameters(false).contains("conv")) {
    auto width = dsr_->config().conv_width;
    auto shape = {size, width - 1, backbone_->config().width};
    auto zero = at::zeros(shape, table_mean_.options());
    if (!input_tail_.defined()) input_tail_ = zero;
  }
  Batch batch;
  batch.sample_ids = options_.sample_ids;
  start_ = method_->make_state(batch, {});
  auto longs = at::TensorOptions(at::kLong).device(model_->device());
  start_.next_order = start_.next_position = at::zeros({size}, longs);
  if (sinks_ == 0) return;
  Segment sinks;
  sinks.ids = at::tensor(model_->front_ids(), at::kLong)
                  .to(model_->device())
                  .unsqueeze(0)
                  .expand({size, sinks_});
  sinks.valid = at::ones({size, sinks_}, longs.dtype(at::kBool));
  read(backbone_->embed(sinks.ids), sinks, false, start_);
}

// ---- reading ----

// Of each stream what waits; of those that have no full segment nothing where `full_only`.
TextStream::Segment TextStream::waiting(bool full_only) const {
  int64_t length = 0;
  auto taken = [&](const std::vector<int32_t>& ids) {
    return full_only && int64_t(ids.size()) < segment_ ? int64_t{0} : int64_t(ids.size());
  };
  for (const auto& ids : waiting_) length = std::max(length, taken(ids));
  Segment segment;
  segment.ids = at::zeros({streams(), length}, at::kLong);
  segment.valid = at::zeros({streams(), length}, at::kBool);
  for (int64_t b = 0; b < streams(); ++b) {
    const auto& ids = waiting_[size_t(b)];
    auto count = taken(ids);
    segment.padded = segment.padded || count < length;
    std::copy_n(ids.begin(), count, segment.ids.data_ptr<int64_t>() + b * length);
    std::fill_n(segment.valid.data_ptr<bool>() + b * length, count, true);
  }
  segment.ids = segment.ids.to(model_->device());
  segment.valid = segment.valid.to(model_->device());
  return segment;
}

// What the reader gathers for context tokens [B, T, D]; `tail` goes on.
at::Tensor TextStream::context_inputs(const Segment& segment, at::Tensor& tail) const {
  auto embedded = backbone_->embed(segment.ids);
  if (!tail.defined()) return embedded;
  auto taps = dsr_->named_parameters(false)["conv"].to(embedded.scalar_type());
  auto centred = embedded - table_mean_.to(embedded.scalar_type());
  auto before = tail.to(embedded.scalar_type());
  tail = last_tokens(before, centred, segment.valid);
  return ops::causal_conv(centred, taps, before);
}

// One chunk behind what `state` holds, numbered in a row; it closes its segment or leaves it open.
at::Tensor TextStream::read(const at::Tensor& inputs, const Segment& segment, bool closes,
                            MethodState& state) const {
  ReaderInput reader;
  reader.inputs = inputs;
  reader.valid = segment.valid;
  reader.padded = segment.padded;
  auto rank = (segment.valid.cumsum(1) - 1).clamp_min(0);
  reader.order = rank + state.next_order.unsqueeze(1);
  reader.positions = rank + state.next_position.unsqueeze(1);
  reader.segments = {inputs.size(1)};
  if (closes) reader.segments.push_back(0);
  auto hidden = backbone_->forward(reader, *method_, state);
  auto tokens = segment.valid.sum(1);
  state.next_order = state.next_order + tokens;
  state.next_position = state.next_position + tokens;
  return hidden;
}

void TextStream::read_segment(const Segment& segment) {
  auto inputs = context_inputs(segment, input_tail_);
  append_history(segment, inputs);
  make_room(state_, segment.valid.sum(1));
  state_.options.collect_stats = std::exchange(observe_, false);
  state_.stats = {};
  read(inputs, segment, true, state_);
  ++segments_;
  if (!std::exchange(state_.options.collect_stats, false)) return;
  const auto& stats = state_.stats;
  latent_mass_ = 0;
  if (stats.latent_rows.defined())
    latent_mass_ = stats.latent_mass.item<double>() /
                   std::max(1.0, stats.latent_rows.to(at::kDouble).item<double>());
  state_.stats = {};
}

void TextStream::feed(const std::vector<int32_t>& tokens) {
  TORCH_CHECK(streams() == 1, "TextStream::feed: one list a stream");
  feed(std::vector<std::vector<int32_t>>{tokens});
}

void TextStream::feed(const std::vector<std::vector<int32_t>>& tokens) {
  at::NoGradGuard no_grad;
  TORCH_CHECK(int64_t(tokens.size()) == streams(), "TextStream::feed: one list a stream");
  std::vector<size_t> taken(tokens.size(), 0);
  while (true) {
    bool full = false;
    for (size_t b = 0; b < tokens.size(); ++b) {
      auto& waiting = waiting_[b];
      auto count = std::min(size_t(segment_) - waiting.size(), tokens[b].size() - taken[b]);
      auto begin = tokens[b].begin() + int64_t(taken[b]);
      waiting.insert(waiting.end(), begin, begin + int64_t(count));
      taken[b] += count;
      fed_[b] += int64_t(count);
      full = full || int64_t(waiting.size()) == segment_;
    }
    if (!full) return;
    read_segment(waiting(true));
    for (auto& waiting : waiting_)
      if (int64_t(waiting.size()) == segment_) waiting.clear();
  }
}

// ---- positions ----

// For `tokens` [B] more of each stream.
void TextStream::make_room(MethodState& state, const at::Tensor& tokens) const {
  const auto& config = backbone_->config();
  auto shift = (state.next_position + tokens - range_).clamp_min(0);  // [B]
  if (shift.max().item<int64_t>() == 0) return;
  state.next_position = (state.next_position - shift).clamp_min(sinks_);
  if (config.position_embedding == "learned") return;
  auto moved = [&](const at::Tensor& positions) {
    return (positions - shift.unsqueeze(1)).clamp_min(sinks_);
  };
  auto table = [&](const at::Tensor& positions) {
    return ops::rotary_table(positions, config.head_width(), config.rope_base, config.rope_scaling);
  };
  for (auto& layer : state.layers) {
    auto body = layer.entries() - sinks_;
    auto before = layer.positions.narrow(1, sinks_, body), after = moved(before);
    if (config.position_embedding == "rope") {
      auto keys = layer.keys.narrow(2, sinks_, body);
      keys = ops::rotate(ops::rotate(keys, table(before), true), table(after));
      layer.keys = at::cat({layer.keys.narrow(2, 0, sinks_), keys}, 2);
    }
    layer.positions = at::cat({layer.positions.narrow(1, 0, sinks_), after}, 1);
    if (!layer.latents.empty()) layer.latents.positions = moved(layer.latents.positions);
  }
}

// ---- documents ----

void TextStream::end_document(int64_t stream) {
  at::NoGradGuard no_grad;
  auto& waiting = waiting_[size_t(stream)];
  if (!waiting.empty() && !options_.histories.empty()) {
    auto others = std::exchange(waiting_, std::vector<std::vector<int32_t>>(waiting_.size()));
    waiting_[size_t(stream)] = others[size_t(stream)];
    auto rest = this->waiting(false);
    auto inputs = context_inputs(rest, input_tail_);
    append_history(rest, inputs);
    waiting_ = std::move(others);
  }
  waiting.clear();
  ++document_[size_t(stream)];
  document_begin_[size_t(stream)] = fed_[size_t(stream)];
  reset(stream);
}

// Back to behind the sinks. Other streams of the batch keep what they hold, in the same tensors.
void TextStream::reset(int64_t stream) {
  if (input_tail_.defined()) {
    input_tail_ = input_tail_.clone();
    input_tail_.select(0, stream).zero_();
  }
  if (streams() == 1) {
    state_ = start_;
    return;
  }
  auto own = at::zeros({streams()}, at::kBool);
  own.data_ptr<bool>()[stream] = true;
  own = own.to(model_->device());
  auto column = own.unsqueeze(1);
  state_.next_order = at::where(own, start_.next_order, state_.next_order);
  state_.next_position = at::where(own, start_.next_position, state_.next_position);
  for (size_t i = 0; i < state_.layers.size(); ++i) {
    if (i < state_.conv_tails.size() && state_.conv_tails[i].defined()) {
      auto& tail = state_.conv_tails[i];
      tail = choose_rows(own, sinks_ > 0 ? start_.conv_tails[i] : at::zeros_like(tail), tail);
    }
    auto& layer = state_.layers[i];
    auto body = at::arange(layer.entries(), layer.order.options()).unsqueeze(0) >= sinks_;
    auto gone = column.logical_and(body);
    layer.valid = layer.valid.logical_and(gone.logical_not());
    layer.padded = true;
    if (layer.cluster.defined()) layer.cluster = layer.cluster.masked_fill(gone.unsqueeze(1), -1);
    auto& latents = layer.latents;
    if (latents.empty()) continue;
    latents.valid = latents.valid.logical_and(column.logical_not());
    latents.priority =
        latents.priority.masked_fill(column, -std::numeric_limits<double>::infinity());
  }
}

// ---- answers ----

StreamReply TextStream::answer(const std::vector<std::vector<int32_t>>& questions,
                               const GenerateOptions& settings) {
  at::NoGradGuard no_grad;
  TORCH_CHECK(int64_t(questions.size()) == streams(), "TextStream::answer: one question a stream");
  StreamReply reply;
  auto& generated = reply.generated;
  generated.state = state_;
  auto& state = generated.state;
  auto device = model_->device();

  Timer timer;
  if (auto rest = waiting(false); rest.ids.size(1) > 0) {
    auto tail = input_tail_;
    auto inputs = context_inputs(rest, tail);
    make_room(state, rest.valid.sum(1));
    // Without a history as training reads the last segment of a context; what a history does not
    // hold yet stays exact.
    read(inputs, rest, options_.histories.empty(), state);
  }
  generated.prefill_seconds = timer.seconds();

  Batch batch;
  size_t longest = 1;
  for (const auto& ids : questions) longest = std::max(longest, ids.size());
  auto longs = at::TensorOptions(at::kLong);
  batch.context = at::zeros({streams(), 1}, longs);  // none: what was read is in the state
  batch.sample_ids = options_.sample_ids;
  batch.tail = at::full({streams(), int64_t(longest)}, model_->begin_id(), longs);
  batch.tail_valid = at::zeros(batch.tail.sizes(), at::kBool);
  for (int64_t b = 0; b < streams(); ++b) {
    const auto& ids = questions[size_t(b)];
    std::copy(ids.begin(), ids.end(), batch.tail.data_ptr<int64_t>() + b * int64_t(longest));
    auto count = std::max<size_t>(1, ids.size());  // who asks nothing still has a row
    batch.tail_valid[b].narrow(0, 0, int64_t(count)).fill_(true);
  }
  batch.tail = batch.tail.to(device);
  batch.tail_valid = batch.tail_valid.to(device);

  timer.restart();
  Found found;
  if (!options_.histories.empty()) {
    found = search(questions, reply);
    mask_latents(found, state);
  }
  generated.select_seconds = timer.seconds();

  timer.restart();
  auto slots = found.slots(), tail = batch.tail.size(1);
  if (auto asked = slots + tail + settings.maximum_tokens; asked > range_ - sinks_)
    throw ConfigError(concat("a question of ", tail, " tokens, ", slots, " brought back and ",
                             settings.maximum_tokens, " of an answer: expected at most ",
                             range_ - sinks_, " together; raise position_range"));
  ReaderInput reader;
  reader.inputs = backbone_->embed(batch.tail);
  reader.valid = batch.tail_valid;
  auto rank = [](const at::Tensor& valid) { return (valid.cumsum(1) - 1).clamp_min(0); };
  if (slots > 0) {
    reader.inputs =
        at::cat({gather_inputs(found).to(reader.inputs.scalar_type()), reader.inputs}, 1);
    reader.valid = at::cat({found.valid, reader.valid}, 1);
  }
  make_room(state, reader.valid.sum(1) + settings.maximum_tokens);
  reader.padded = !reader.valid.all().item<bool>();
  reader.order = rank(reader.valid) + state.next_order.unsqueeze(1);
  auto next_position = state.next_position.unsqueeze(1);
  if (slots > 0 && backbone_->config().positions == "original") {
    // Where they stand for the keys that are still held.
    auto true_positions = found.order + next_position - state.next_order.unsqueeze(1);
    reader.positions = at::cat({true_positions.clamp_min(sinks_).minimum(next_position),
                                rank(batch.tail_valid) + next_position},
                               1);
    state.next_position = state.next_position + batch.tail_valid.sum(1);
  } else {
    reader.positions = rank(reader.valid) + next_position;
    state.next_position = state.next_position + reader.valid.sum(1);
  }
  state.next_order = state.next_order + reader.valid.sum(1);
  reader.segments = {slots + tail};
  auto hidden = backbone_->forward(reader, *method_, state).narrow(1, slots, tail);
  generated.prefill_seconds += timer.seconds();
  decode_answers(model_, batch, hidden, settings, generated);
  for (size_t b = 0; b < questions.size(); ++b)
    if (questions[b].empty()) generated.tokens[b].clear();
  return reply;
}

// ---- training ----

TextStream::TrainedSegment TextStream::train_segment(const at::Tensor& ids, const at::Tensor& valid,
                                                     int64_t step) {
  TORCH_CHECK(ids.size(0) == streams() && ids.size(1) <= segment_,
              "TextStream::train_segment: expected [", streams(), ", at most ", segment_,
              "] tokens, got ", ids.sizes());
  for (const auto& waiting : waiting_)
    TORCH_CHECK(waiting.empty(), "TextStream::train_segment: tokens wait");
  table_mean_ = backbone_->table_mean();
  Segment segment{ids, valid, !valid.all().item<bool>()};
  state_.options.training = true;
  state_.options.step = step;
  auto inputs = context_inputs(segment, input_tail_);
  {
    at::NoGradGuard no_grad;
    make_room(state_, valid.sum(1));
  }
  TrainedSegment trained;
  trained.hidden = read(inputs, segment, true, state_);
  trained.losses = std::exchange(state_.losses, {});
  state_.options.training = false;
  for (auto& layer : state_.layers) layer.detach();
  for (auto& tail : state_.conv_tails)
    if (tail.defined()) tail = tail.detach();
  if (input_tail_.defined()) input_tail_ = input_tail_.detach();
  auto counts = valid.sum(1).to(at::kCPU);
  for (int64_t b = 0; b < streams(); ++b) fed_[size_t(b)] += counts.data_ptr<int64_t>()[b];
  ++segments_;
  return trained;
}

void TextStream::follow_projections() {
  at::NoGradGuard no_grad;
  auto parameters = rckv_->named_parameters(false);
  auto layers = state_.layers.size();
  std::vector<at::Tensor> now;
  for (size_t i = 0; i < 2 * layers; ++i) {
    auto name = concat(i < layers ? "key_projection_" : "value_projection_", i % layers);
    now.push_back(parameters[name].detach().clone());
  }
  for (size_t i = 0; i < projections_.size(); ++i) {
    auto& latents = state_.layers[i % layers].latents;
    if (latents.empty()) continue;
    auto& z = i < layers ? latents.keys : latents.values;
    z = at::matmul(z, at::matmul(projections_[i], now[i].t()));  // rows: z^T (P_new P_old^T)^T
  }
  if (!projections_.empty()) read_sinks();  // of the weights as they are now
  projections_ = std::move(now);
}

}  // namespace dsrsq
