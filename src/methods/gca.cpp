#include "dsrsq/methods/gca.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "dsrsq/attention/dense.h"
#include "dsrsq/attention/window.h"
#include "dsrsq/core/error.h"
#include "dsrsq/ops/noise.h"

namespace dsrsq {

void GcaConfig::visit_fields(ConfigVisitor& v) {
  v.field("chunk", chunk, "Tokens of a chunk.", at_least(1));
  v.field("chunks_per_query", chunks_per_query, "Chunks that a chunk retrieves for the next one.",
          at_least(1));
  v.field("window", window,
          "Tokens before it that a token attends in self-attention, beside the sinks; 0: all.",
          at_least(0));
  v.field(
      "lower_layers", lower_layers,
      "Layers below the chunk encoder; those above attend what was retrieved. -1: half of them.",
      at_least(-1));
  v.field("groups", groups, "Groups of upper layers; each retrieves once, in its first layer.",
          at_least(1));
  v.field("encoder_layers", encoder_layers, "Layers of the chunk encoder.", at_least(0));
  v.field("null_slots", null_slots,
          "Slots of logit 0 and value 0 in the softmax over a chunk's tokens: 1 is the authors' "
          "zeroed landmark, 2 adds their softmax-plus-one.",
          at_least(0));
  v.field("sample", sample,
          "Training: chunks are drawn by Gumbel top-k on their scores; false: the best ones.");
  v.field("output_start", output_start,
          "zero: the sublayers add nothing at first, so that a checkpoint of another method reads "
          "as before (train.start_from, model.init). normal: as the backbone's.",
          one_of({"zero", "normal"}));
}

GcaConfig GcaConfig::resolved(const TransformerConfig& model) const {
  auto own = *this;
  if (lower_layers < 0) own.lower_layers = model.layers / 2;
  return own;
}

void GcaConfig::validate(const TransformerConfig& model, const ConfigLocations& locations) const {
  auto where = [&](const char* key) { return concat(locations.of(key), ": ", key, ": "); };
  auto lower = resolved(model).lower_layers;
  if (lower >= model.layers)
    throw ConfigError(concat(where("gca.lower_layers"),
                             "expected less than model.layers = ", model.layers, ", got ", lower));
  if ((model.layers - lower) % groups != 0)
    throw ConfigError(concat(where("gca.groups"), "expected a divisor of the ",
                             model.layers - lower, " upper layers, got ", groups));
  if (window > 0 && window < 2 * chunk)
    throw ConfigError(concat(where("gca.window"), "expected at least 2 x gca.chunk = ", 2 * chunk,
                             ", got ", window,
                             "; the chunk before is not retrieved and must be seen"));
}

int64_t GcaMemory::bytes() const {
  int64_t total = 0;
  auto add = [&](const at::Tensor& x) { total += x.defined() ? int64_t(x.nbytes()) : 0; };
  for (const auto& tensor : {landmarks, keys, values, token_valid, open_hidden}) add(tensor);
  for (const auto& one : chosen) {
    add(one.index);
    add(one.weight);
  }
  return total;
}

ChunkLayout lay_out_chunks(const at::Tensor& valid, const std::vector<int64_t>& open,
                           const std::vector<std::vector<int64_t>>& starts, int64_t chunk) {
  auto batch = valid.size(0), tokens = valid.size(1);
  auto before = *std::max_element(open.begin(), open.end());  // O
  using Columns = std::vector<int64_t>;
  struct Sequence {
    std::vector<Columns> closed;  // each chunk's tokens
    Columns last;
    std::vector<Columns> rows{1};
    Columns place_row, place_slot, open;
  };
  std::vector<Sequence> sequences;
  size_t closed = 0, rows = 1, slots = 1, still_open = 0;
  for (int64_t b = 0; b < batch; ++b) {
    Sequence s;
    for (int64_t i = 0; i < open[size_t(b)]; ++i) s.open.push_back(i);
    auto close = [&](int64_t last) {
      TORCH_CHECK(last >= 0, "lay_out_chunks: a chunk ends in front of the call's first token");
      s.closed.push_back(std::move(s.open));
      s.open.clear();
      s.last.push_back(last);
      s.rows.emplace_back();
    };
    auto present = valid[b].contiguous();
    int64_t last = -1;
    for (int64_t t = 0; t < tokens; ++t) {
      s.place_row.push_back(0);
      s.place_slot.push_back(0);
      if (!present.data_ptr<bool>()[t]) continue;
      const auto& own = starts[size_t(b)];
      if (!s.open.empty() && std::binary_search(own.begin(), own.end(), t)) close(last);
      s.place_row.back() = int64_t(s.rows.size()) - 1;
      s.place_slot.back() = int64_t(s.rows.back().size());
      s.rows.back().push_back(t);
      s.open.push_back(before + t);
      last = t;
      if (int64_t(s.open.size()) == chunk) close(t);
    }
    closed = std::max(closed, s.closed.size());
    still_open = std::max(still_open, s.open.size());
    for (size_t r = 0; r < s.rows.size(); ++r)
      if (!s.rows[r].empty()) {
        rows = std::max(rows, r + 1);
        slots = std::max(slots, s.rows[r].size());
      }
    sequences.push_back(std::move(s));
  }
  ChunkLayout layout;
  layout.closed = int64_t(closed);
  auto count = int64_t(closed);
  layout.members = at::zeros({batch, count, chunk}, at::kLong);
  layout.member_valid = at::zeros({batch, count, chunk}, at::kBool);
  layout.last = at::zeros({batch, count}, at::kLong);
  layout.tokens = at::zeros({batch, int64_t(rows), int64_t(slots)}, at::kLong);
  layout.place = at::zeros({batch, tokens}, at::kLong);
  layout.last_row = at::zeros({batch}, at::kLong);
  layout.still_open = at::zeros({batch, int64_t(still_open)}, at::kLong);
  for (int64_t b = 0; b < batch; ++b) {
    const auto& s = sequences[size_t(b)];
    auto put = [](const at::Tensor& row, const Columns& columns) {
      std::copy(columns.begin(), columns.end(), row.data_ptr<int64_t>());
    };
    for (size_t c = 0; c < s.closed.size(); ++c) {
      put(layout.members[b][int64_t(c)], s.closed[c]);
      layout.member_valid[b][int64_t(c)].narrow(0, 0, int64_t(s.closed[c].size())).fill_(true);
    }
    put(layout.last[b], s.last);
    for (size_t r = 0; r < s.rows.size() && r < rows; ++r)
      put(layout.tokens[b][int64_t(r)], s.rows[r]);
    for (int64_t t = 0; t < tokens; ++t)
      layout.place[b].data_ptr<int64_t>()[t] =
          s.place_row[size_t(t)] * int64_t(slots) + s.place_slot[size_t(t)];
    layout.last_row[b] = int64_t(s.closed.size());
    put(layout.still_open[b], s.open);
    layout.open_tokens.push_back(int64_t(s.open.size()));
  }
  return layout;
}

namespace {

// Columns of each sequence's tail whose token predicts the first token of an answer; in a tail
// without answers its last token, which will.
std::vector<std::vector<int64_t>> answer_starts(const Batch& batch) {
  auto answers = batch.labels.to(at::kCPU).ge(0).contiguous();
  auto lengths = batch.tail_valid.sum(1).to(at::kCPU);
  auto tokens = answers.size(1);
  std::vector<std::vector<int64_t>> starts;
  for (int64_t b = 0; b < batch.size(); ++b) {
    const auto* labelled = answers.data_ptr<bool>() + b * tokens;
    std::vector<int64_t> own;
    for (int64_t t = 0; t < tokens; ++t)
      if (labelled[t] && (t == 0 || !labelled[t - 1])) own.push_back(t);
    auto length = lengths.data_ptr<int64_t>()[b];
    if (own.empty() && length > 0) own.push_back(length - 1);
    starts.push_back(std::move(own));
  }
  return starts;
}

GcaMemory& memory_of(MethodState& state) { return static_cast<GcaMemory&>(*state.memory); }

at::Tensor joined(const at::Tensor& old, const at::Tensor& more, int64_t dim) {
  return old.defined() ? at::cat({old, more}, dim) : more;
}

// x [B, R, K] with room for `chunks` of them; what is added weighs nothing.
at::Tensor widened(const at::Tensor& x, int64_t chunks) {
  return at::constant_pad_nd(x, {0, chunks - x.size(2)});
}

}  // namespace

GcaMethod::GcaMethod(const GcaConfig& config, const TransformerConfig& model, int64_t seed)
    : Method(model.attention_shape()), config_(config.resolved(model)), model_(model), seed_(seed) {
  config_.validate(model, {});
  layers_ = register_module("gca", GcaLayers(config_, model, seed));
}

MethodState GcaMethod::make_state(const Batch& batch, const PassOptions& options) const {
  auto state = Method::make_state(batch, options);
  auto memory = std::make_shared<GcaMemory>();
  memory->chosen.resize(size_t(config_.groups));
  memory->open_tokens.assign(size_t(batch.size()), 0);
  memory->answer_starts = answer_starts(batch);
  memory->tail_tokens = batch.tail.size(1);
  state.memory = std::move(memory);
  return state;
}

// ---- self-attention ----

void GcaMethod::count_window(const AttentionInput& input, AttentionStats& stats) const {
  auto padding = input.valid.logical_not();
  auto visible = (input.order + 1).masked_fill(padding, 0);
  auto far = (input.order - config_.window).clamp_min(0);  // ranks behind the window
  auto attended = config_.window == 0
                      ? visible
                      : (visible - far + far.clamp_max(model_.sinks)).masked_fill(padding, 0);
  stats.add(stats.rows, input.valid.sum() * shape_.query_heads);
  stats.add(stats.sparse_rows, (attended * 2 < visible).sum() * shape_.query_heads);
  stats.add(stats.attended_pairs, attended.sum() * shape_.query_heads);
  stats.add(stats.visible_pairs, visible.sum() * shape_.query_heads);
}

at::Tensor GcaMethod::attend(const AttentionInput& input, MethodState& state) {
  TORCH_CHECK(!input.key_bias.defined() && !input.record_rows.defined(),
              "gca: no key bias and no recorded rows");
  auto& layer = state.layers[size_t(input.layer)];
  if (state.options.collect_stats) count_window(input, state.stats);
  if (config_.window == 0) return dense_attend(input, layer, nullptr);
  bool fresh = layer.entries() == 0;
  auto q = input.rotated(input.q), k = input.rotated(input.k);
  layer.append(k, input.v, input.positions, input.order, input.valid, {}, false, {}, input.padded);
  auto window = config_.window, sinks = model_.sinks;
  if (!fresh)
    return read_entries(q, layer.keys, layer.values,
                        window_mask(input.order, layer.order, layer.valid, window, sinks));
  if (!input.padded) return window_attention(q, k, input.v, window, sinks);
  // Stable: valid tokens side by side, in order, and padding behind them.
  auto compact = input.valid.logical_not().to(at::kInt).argsort(
      /*stable=*/true, /*dim=*/1, /*descending=*/false);
  auto restore = compact.argsort(/*dim=*/int64_t{1}, /*descending=*/false);
  auto packed = [&](const at::Tensor& x) { return gather_entries(x, compact, 2); };
  return gather_entries(window_attention(packed(q), packed(k), packed(input.v), window, sinks),
                        restore, 2);
}

// Keeps the sinks and the window, once a quarter of it has gathered behind it.
void GcaMethod::update_cache(const AttentionInput& input, MethodState& state) {
  auto& layer = state.layers[size_t(input.layer)];
  auto window = config_.window, sinks = model_.sinks;
  bool needless = window == 0 || at::GradMode::is_enabled();  // nothing is decoded in training
  if (needless || layer.entries() <= sinks + window + window / 4) return;
  auto rank = layer.order.masked_fill(layer.valid.logical_not(), -1);
  auto newest = std::get<1>(rank.narrow(1, sinks, layer.entries() - sinks).topk(window, 1));
  auto first = at::arange(sinks, rank.options()).expand({rank.size(0), sinks});
  layer.keep(at::cat({first, std::get<0>(newest.sort(1)) + sinks}, 1));
}

// ---- chunks ----

// In the first upper layer: the call's tokens are laid out, complete chunks encoded and stored.
void GcaMethod::close_chunks(const AttentionInput& input, GcaMemory& memory) const {
  auto tokens = input.residual.size(1);
  auto starts = memory.answer_starts;
  for (auto& own : starts)
    for (auto& column : own) column += tokens - memory.tail_tokens;  // the tail stands last
  auto valid = input.padded ? input.valid.to(at::kCPU)
                            : at::ones({input.residual.size(0), tokens}, at::kBool);
  auto& layout = memory.layout;
  layout = lay_out_chunks(valid, memory.open_tokens, starts, config_.chunk);
  for (auto* tensor : {&layout.members, &layout.member_valid, &layout.last, &layout.tokens,
                       &layout.place, &layout.last_row, &layout.still_open})
    *tensor = tensor->to(input.residual.device());
  memory.hidden = joined(memory.open_hidden, input.residual, 1);
  memory.table.assign(size_t(config_.groups), {});
  if (layout.closed == 0) return;
  auto batch = input.residual.size(0);
  auto hidden = gather_entries(memory.hidden, layout.members.view({batch, -1}), 1)
                    .reshape({batch, layout.closed, config_.chunk, -1});
  auto encoded = layers_->encode(hidden, layout.member_valid);
  memory.landmarks = joined(memory.landmarks, encoded.landmarks, 1);
  memory.keys = joined(memory.keys, encoded.keys, 1);
  memory.values = joined(memory.values, encoded.values, 1);
  memory.token_valid = joined(memory.token_valid, layout.member_valid, 1);
}

// Gumbel noise [B, C, all chunks] of the chunks that closed, by the numbers of both chunks, so that
// neither padding nor a longer batch changes it.
at::Tensor GcaMethod::noise(int64_t group, const MethodState& state, const GcaMemory& memory,
                            at::Device device) const {
  if (!state.options.training || !config_.sample) return {};
  auto all = memory.landmarks.size(1), closed = memory.layout.closed;
  auto own = at::arange(all - closed, all, at::kLong).unsqueeze(1);
  auto other = at::arange(all, at::kLong).unsqueeze(0);
  auto pair = (own * (own - 1)).floor_divide(2) + other;  // of other < own: 0, 1, 2, ...
  auto place = (pair * config_.groups + group).masked_fill(other >= own, 0);
  auto drawn = ops::noise(ops::Noise::kGumbel, uint64_t(seed_), Purpose::kPolicy,
                          uint64_t(state.options.step), state.sample_ids,
                          place.max().item<int64_t>() + 1, device);
  return drawn.index_select(1, place.view({-1}).to(device)).reshape({-1, closed, all});
}

// In the first layer of a group: row 0 goes on with what the open chunk's predecessor chose, the
// rows behind it read what the chunks that closed in this call choose.
void GcaMethod::retrieve(int64_t group, const at::Tensor& residual, const MethodState& state,
                         GcaMemory& memory) const {
  const auto& before = memory.chosen[size_t(group)];
  auto closed = memory.layout.closed;
  auto& table = memory.table[size_t(group)];
  if (closed == 0) {
    table = before;
    return;
  }
  auto hidden = gather_entries(residual, memory.layout.last, 1);
  auto query = layers_->landmark_query(group, hidden);
  auto score = at::matmul(query, memory.landmarks.transpose(1, 2))
                   .to(at::promote_types(query.scalar_type(), at::kFloat)) /
               std::sqrt(double(model_.width));
  auto all = memory.landmarks.size(1);
  auto number = at::arange(all, memory.layout.last.options());
  auto earlier = number.unsqueeze(0) < number.narrow(0, all - closed, closed).unsqueeze(1);
  auto candidate = earlier.unsqueeze(0).logical_and(memory.token_valid.any(2).unsqueeze(1));
  auto masked =
      score.masked_fill(candidate.logical_not(), -std::numeric_limits<double>::infinity());
  auto fresh = choose_chunks(masked, noise(group, state, memory, residual.device()),
                             config_.chunks_per_query);
  auto chunks = fresh.index.size(2);
  auto first = [&](const at::Tensor& old, const at::Tensor& like) {
    return old.defined() ? widened(old, chunks) : at::zeros_like(like.narrow(1, 0, 1));
  };
  table.index = at::cat({first(before.index, fresh.index), fresh.index}, 1);
  table.weight = at::cat({first(before.weight, fresh.weight), fresh.weight}, 1);
}

at::Tensor GcaMethod::read_chunks(int64_t upper, const AttentionInput& input,
                                  const at::Tensor& residual, const GcaMemory& memory) const {
  const auto& layout = memory.layout;
  auto group = upper / ((shape_.layers - config_.lower_layers) / config_.groups);
  const auto& table = memory.table[size_t(group)];
  auto batch = residual.size(0), rows = layout.tokens.size(1), slots = layout.tokens.size(2),
       all = memory.keys.size(1), chunks = table.index.size(2);
  auto index = table.index.narrow(1, 0, rows);
  auto sequence = at::arange(batch, index.options()).view({batch, 1, 1}) * all;
  auto place = (index + sequence).reshape({-1});
  auto taken = [&](const at::Tensor& x) {  // [B, C, ...] -> [B, R, K, ...]
    auto sizes = x.sizes().vec();
    auto flat = x.flatten(0, 1).index_select(0, place);
    sizes.erase(sizes.begin(), sizes.begin() + 2);
    sizes.insert(sizes.begin(), {batch, rows, chunks});
    return flat.reshape(sizes);
  };
  auto q = gather_entries(layers_->queries(upper, residual), layout.tokens.view({batch, -1}), 1)
               .reshape({batch, rows, slots, shape_.query_heads, shape_.head_width})
               .transpose(2, 3);
  auto attended = grouped_cross_attention(q, taken(memory.keys), taken(memory.values),
                                          taken(memory.token_valid),
                                          table.weight.narrow(1, 0, rows), config_.null_slots);
  auto by_slot = attended.transpose(2, 3).reshape({batch, rows * slots, -1});
  return layers_->output(upper, gather_entries(by_slot, layout.place, 1))
      .masked_fill(input.valid.logical_not().unsqueeze(-1), 0);
}

at::Tensor GcaMethod::extra_sublayer(const AttentionInput& input, const at::Tensor& residual,
                                     MethodState& state) {
  auto upper = input.layer - config_.lower_layers;
  if (upper < 0) return {};
  if (upper == 0) {
    // A copy of the state may go on from the same memory.
    if (state.memory.use_count() > 1) state.memory = std::make_shared<GcaMemory>(memory_of(state));
    close_chunks(input, memory_of(state));
  }
  auto& memory = memory_of(state);
  auto of_group = (shape_.layers - config_.lower_layers) / config_.groups;
  if (upper % of_group == 0) retrieve(upper / of_group, input.residual, state, memory);
  const auto& table = memory.table[size_t(upper / of_group)];
  if (!table.index.defined()) return {};
  if (state.options.collect_stats) {
    // A row of the table is read by as many tokens as it has.
    auto tokens = at::zeros({residual.size(0), table.index.size(1)}, table.index.options());
    auto row = memory.layout.place.floor_divide(memory.layout.tokens.size(2));
    tokens.scatter_add_(1, row, input.valid.to(at::kLong));
    auto sizes = memory.token_valid.sum(2).gather(1, table.index.flatten(1)).view_as(table.index);
    auto keys = (sizes * (table.weight > 0)).sum(2);
    state.stats.add(state.stats.attended_pairs, (keys * tokens).sum() * shape_.query_heads);
  }
  return read_chunks(upper, input, residual, memory);
}

void GcaMethod::end_segment(MethodState& state) {
  auto& memory = memory_of(state);
  const auto& layout = memory.layout;
  for (size_t g = 0; g < memory.chosen.size(); ++g) {
    auto& table = memory.table[g];
    if (!table.index.defined()) continue;
    auto row = [&](const at::Tensor& x) {
      return gather_entries(x, layout.last_row.unsqueeze(1), 1);
    };
    if (layout.closed > 0) memory.chosen[g] = {row(table.index), row(table.weight)};
  }
  memory.open_hidden = gather_entries(memory.hidden, layout.still_open, 1);
  memory.open_tokens = layout.open_tokens;
  for (auto& own : memory.answer_starts) own.clear();
  memory.tail_tokens = 0;
  memory.hidden = at::Tensor();
  memory.table.clear();
  memory.layout = {};
}

}  // namespace dsrsq
