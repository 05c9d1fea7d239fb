#include "dsrsq/methods/eviction.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "dsrsq/attention/dense.h"
#include "dsrsq/core/error.h"
#include "dsrsq/methods/standard.h"
#include "dsrsq/model/attention_stats.h"

namespace dsrsq {

void EvictionConfig::visit_fields(ConfigVisitor& v) {
  v.field("share", share,
          "Share of the bytes of the context's keys and values that is kept, where --budget names "
          "none.",
          between(0, 1));
  v.field("query_aware", query_aware,
          "Evict behind the question, which then chooses what is kept; false: behind the context, "
          "before the question is read.");
  v.field("window", window,
          "Last tokens whose attention says what is kept; at most half of the budget is spent on "
          "keeping them.",
          at_least(1));
  v.field("kernel", kernel, "Neighbours over which scores are pooled; odd, 1: none.", at_least(1));
  v.field("pooling", pooling, "How scores of neighbours are pooled.", one_of({"max", "mean"}));
}

void EvictionConfig::validate(const ConfigLocations& locations) const {
  if (kernel % 2 == 1) return;
  throw ConfigError(concat(locations.of("eviction.kernel"),
                           ": eviction.kernel: expected an odd number, got ", kernel,
                           "; scores are pooled around each entry"));
}

ContextBudgets context_budgets(const Batch& batch, const PassOptions& options, double share) {
  ContextBudgets result;
  auto lengths = batch.context_valid.sum(1).to(at::kCPU);
  for (int64_t b = 0; b < batch.size(); ++b) {
    auto tokens = lengths.data_ptr<int64_t>()[b];
    auto asked = options.budget_share > 0 ? options.budget_share : share;
    // 29 % of 100 is 28.999... in binary.
    auto share_of = int64_t(std::floor(asked * double(tokens) + 1e-9));
    auto kept = options.budget > 0 ? options.budget : share_of;
    result.context.push_back(tokens);
    result.budget.push_back(std::min(tokens, std::max<int64_t>(1, kept)));
  }
  return result;
}

int64_t EvictionMemory::bytes() const {
  int64_t total = int64_t(context_tokens.nbytes());
  for (const auto& one : scores)
    if (one.defined()) total += int64_t(one.nbytes());
  return total;
}

const EvictionMemory& EvictionMethod::memory_of(const MethodState& state) const {
  return static_cast<const EvictionMemory&>(*state.memory);
}
EvictionMemory& EvictionMethod::memory_of(MethodState& state) const {
  return static_cast<EvictionMemory&>(*state.memory);
}

MethodState EvictionMethod::make_state(const Batch& batch, const PassOptions& options) const {
  if (config_.query_aware && batch.label_tokens() > 0)
    throw ConfigError(
        concat("eviction.query_aware: expected questions without answers, got a batch with "
               "answers, which ",
               method_name(), " would see before it evicts; set eviction.query_aware=false"));
  auto state = Method::make_state(batch, options);
  auto memory = std::make_shared<EvictionMemory>();
  memory->sample_ids = batch.sample_ids;
  auto budgets = context_budgets(batch, options, config_.share);
  memory->context = budgets.context;
  memory->budget = budgets.budget;
  for (size_t b = 0; b < memory->context.size(); ++b) {
    // Rows of a question observe for nothing; rows of the context are part of what is kept.
    auto window = std::min(config_.window, std::max<int64_t>(1, memory->budget[b] / 2));
    memory->window.push_back(config_.query_aware ? 0 : std::min(window, memory->context[b]));
  }
  memory->context_tokens = at::tensor(memory->context, at::kLong).to(batch.context.device());
  memory->slots = batch.context.size(1);
  memory->scores.resize(size_t(shape_.layers));
  memory->similarity.resize(size_t(shape_.layers));
  memory->capacity.resize(size_t(shape_.layers));
  state.memory = std::move(memory);
  return state;
}

namespace {

// bool [B, h, T, K]: what each query of the chunk may attend; undefined: everything.
at::Tensor visible(const AttentionInput& input, const HeadEntries& group) {
  if (input.order.size(1) == 1 && !group.valid.defined()) return {};
  auto mask = group.order.unsqueeze(2) <= input.order.unsqueeze(1).unsqueeze(-1);
  return group.valid.defined() ? mask.logical_and(group.valid.unsqueeze(2)) : mask;
}

at::Tensor attended_entries(const AttentionInput& input, const HeadEntries& group,
                            const at::Tensor& mask) {
  if (mask.defined()) return mask.sum(-1);
  return at::full({group.order.size(0), group.order.size(1), input.order.size(1)},
                  group.order.size(2), input.order.options());
}

// q [B, h x G, T, d] over the group's entries.
at::Tensor read_group(const at::Tensor& q, const HeadEntries& group, const at::Tensor& mask) {
  auto queries = q.size(1) / group.keys.size(1);
  auto of_queries = [queries](const at::Tensor& x) {
    return queries == 1 ? x : x.repeat_interleave(queries, 1);
  };
  auto own = mask.defined() ? of_queries(mask) : mask;
  if (!group.bias.defined()) return read_entries(q, group.keys, group.values, own);
  if (!own.defined()) own = at::ones({1, 1, 1, 1}, q.options().dtype(at::kBool));
  auto bias = of_queries(group.bias.unsqueeze(2));
  return masked_attention(q, group.keys, group.values, own, bias).out;
}

}  // namespace

at::Tensor attend_head_groups(const AttentionInput& input, LayerState& layer,
                              AttentionStats* stats) {
  auto q = input.rotated(input.q), k = input.rotated(input.k);
  auto batch = q.size(0), heads = k.size(1), rows = q.size(2), width = q.size(3);
  auto queries = q.size(1) / heads;
  auto by_head = q.view({batch, heads, queries, rows, width});
  at::Tensor out;  // [B, H_kv, G, T, d]
  for (auto& group : layer.head_groups) {
    group.append(k, input.v, input.order, input.padded ? input.valid : at::Tensor());
    auto mask = visible(input, group);
    if (stats != nullptr)
      count_attended(input, attended_entries(input, group, mask), queries, *stats);
    auto own = group.own_heads(by_head);
    auto read = read_group(own.reshape({batch, own.size(1) * queries, rows, width}), group, mask);
    if (!group.heads.defined()) return read;
    if (!out.defined()) out = at::empty(by_head.sizes(), read.options());
    out.index_copy_(1, group.heads, read.view({batch, own.size(1), queries, rows, width}));
  }
  return out.view({batch, heads * queries, rows, width});
}

at::Tensor EvictionMethod::attend(const AttentionInput& input, MethodState& state) {
  auto& layer = state.layers[size_t(input.layer)];
  auto* stats = state.options.collect_stats ? &state.stats : nullptr;
  auto& lse = memory_of(state).lse;
  lse = at::Tensor();
  if (!layer.head_groups.empty()) return attend_head_groups(input, layer, stats);
  if (layer.entries() > 0) return dense_attend(input, layer, stats);
  return attend_first_chunk(input, layer, stats, &lse);
}

bool EvictionMethod::evicts_behind(const AttentionInput& input) const {
  bool behind_context = input.segments.size() > 1;  // the context's segment is closed in its chunk
  return behind_context != config_.query_aware;
}

void EvictionMethod::update_cache(const AttentionInput& input, MethodState& state) {
  auto& layer = state.layers[size_t(input.layer)];
  auto& memory = memory_of(state);
  if (!layer.head_groups.empty() || layer.entries() < sinks_ + memory.slots) return;
  observe(input, layer, memory);
  if (evicts_behind(input)) {
    for (auto& branch : state.branches) {
      auto& own = memory_of(branch);
      auto number = size_t(input.layer);
      own.scores[number] = memory.scores[number];
      own.similarity[number] = memory.similarity[number];
      own.lse = memory.lse;
      branch.layers[number] = layer;
      evict_or_compare(input, branch.layers[number], own);
      own.lse = at::Tensor();
    }
    evict_or_compare(input, layer, memory);
  }
  memory.lse = at::Tensor();
}

void EvictionMethod::evict_or_compare(const AttentionInput& input, LayerState& layer,
                                      EvictionMemory& memory) {
  memory.evicting = true;
  auto own = score(input, layer, memory);
  if (compares_layers())
    memory.scores[size_t(input.layer)] = own;
  else
    evict(layer, own, capacities(input.layer, memory), memory);
}

void EvictionMethod::end_segment(MethodState& state) {
  auto& memory = memory_of(state);
  if (!memory.evicting) return;
  for (auto& branch : state.branches) {
    follow_branch(state, branch);
    end_segment(branch);
  }
  memory.evicting = false;
  if (compares_layers()) {
    compare_layers(memory);
    for (size_t i = 0; i < state.layers.size(); ++i)
      evict(state.layers[i], memory.scores[i], memory.capacity[i], memory);
  }
  for (auto& scores : memory.scores) scores = at::Tensor();
}

at::Tensor EvictionMethod::capacities(int64_t layer, const EvictionMemory& memory) const {
  return at::tensor(memory.budget, at::kLong).unsqueeze(1).expand({-1, shape_.key_value_heads});
}

// Cuts each group of heads with equal room out of the layer.
void EvictionMethod::evict(LayerState& layer, const at::Tensor& score, const at::Tensor& capacity,
                           const EvictionMemory& memory) const {
  auto context_valid = layer.valid.narrow(1, sinks_, memory.slots).unsqueeze(1);
  auto ranked =
      score.masked_fill(context_valid.logical_not(), -std::numeric_limits<double>::infinity())
          .argsort(/*stable=*/true, /*dim=*/-1, /*descending=*/true);
  auto room = capacity.contiguous();
  auto most = std::get<0>(room.max(0));  // [H_kv] over sequences: what a head's tensor must hold
  std::map<int64_t, std::vector<int64_t>> heads_of;
  for (int64_t h = 0; h < most.numel(); ++h) heads_of[most.data_ptr<int64_t>()[h]].push_back(h);
  std::vector<HeadEntries> groups;
  for (const auto& [entries, heads] : heads_of)
    groups.push_back(cut_out(layer, ranked, room, heads, memory));
  layer = LayerState{};
  layer.head_groups = std::move(groups);
}

HeadEntries EvictionMethod::cut_out(const LayerState& layer, const at::Tensor& ranked,
                                    const at::Tensor& capacity, const std::vector<int64_t>& heads,
                                    const EvictionMemory& memory) const {
  HeadEntries group;
  auto device = ranked.device();
  bool all = int64_t(heads.size()) == capacity.size(1);
  auto own_room = capacity.index_select(1, at::tensor(heads, at::kLong));  // [B, h]
  auto most = own_room.max().item<int64_t>();                              // on the CPU
  bool uneven = own_room.min().item<int64_t>() < most;
  if (!all) group.heads = at::tensor(heads, at::kLong).to(device);

  auto slots = memory.slots, before = sinks_, behind = layer.entries() - sinks_ - slots;
  auto best = group.own_heads(ranked).narrow(2, 0, most);
  auto rank = at::arange(most, best.options());
  auto unfilled = rank >= own_room.to(device).unsqueeze(-1);
  auto chosen = std::get<0>(best.masked_fill(unfilled, slots).sort(-1));  // reading order
  auto filled = chosen < slots;
  chosen = chosen.masked_fill(filled.logical_not(), 0);
  auto sizes = std::vector<int64_t>{chosen.size(0), chosen.size(1), -1};
  auto range = [&](int64_t begin, int64_t end) {
    return at::arange(begin, end, best.options()).expand(sizes);
  };
  auto index = at::cat(
      {range(0, before), chosen + before, range(before + slots, before + slots + behind)}, 2);
  auto of_heads = [&](const at::Tensor& x) {  // [B, K] -> [B, h, kept]
    return x.unsqueeze(1).expand({-1, index.size(1), -1}).gather(2, index);
  };
  auto entries = index.unsqueeze(-1).expand({-1, -1, -1, layer.keys.size(3)});
  group.keys = group.own_heads(layer.keys).gather(2, entries);
  group.values = group.own_heads(layer.values).gather(2, entries);
  group.order = of_heads(layer.order).to(at::kInt);
  if (uneven || (behind > 0 && layer.padded)) {
    group.valid = of_heads(layer.valid);
    group.valid.narrow(2, before, most).logical_and_(filled);
  }
  bool drops = false;
  for (int64_t b = 0; b < own_room.size(0); ++b)
    for (int64_t h = 0; h < own_room.size(1); ++h)
      drops |= own_room[b][h].item<int64_t>() < memory.context[size_t(b)];  // on the CPU
  if (!drops) return group;
  // Counted, not written: slots that are not filled point at entry 0.
  auto kept = at::zeros({chosen.size(0), chosen.size(1), slots}, chosen.options())
                  .scatter_add_(2, chosen, filled.to(at::kLong)) > 0;
  auto dropped = layer.valid.narrow(1, before, slots).unsqueeze(1).logical_and(kept.logical_not());
  after_eviction(layer, dropped, group);
  return group;
}

}  // namespace dsrsq
