#include "dsrsq/methods/selective_read.h"

#include <torch/torch.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "dsrsq/attention/dense.h"
#include "dsrsq/methods/standard.h"
#include "dsrsq/model/attention_stats.h"

namespace dsrsq {

int64_t SelectiveReadMemory::bytes() const {
  int64_t total = 0;
  for (const auto& one : page_bounds)
    if (one.defined()) total += int64_t(one.nbytes());
  return total;
}

MethodState SelectiveReadMethod::make_state(const Batch& batch, const PassOptions& options) const {
  auto state = Method::make_state(batch, options);
  auto memory = std::make_shared<SelectiveReadMemory>();
  auto shares = context_budgets(batch, options, config_.share);
  memory->context = shares.context;
  memory->budget = shares.budget;
  memory->slots = batch.context.size(1);
  memory->page_bounds.resize(size_t(shape_.layers));
  state.memory = std::move(memory);
  return state;
}

at::Tensor SelectiveReadMethod::attend(const AttentionInput& input, MethodState& state) {
  auto& layer = state.layers[size_t(input.layer)];
  auto& memory = memory_of(state);
  auto* stats = state.options.collect_stats ? &state.stats : nullptr;
  if (layer.entries() == 0) {
    auto out = attend_first_chunk(input, layer, stats);
    context_read(layer, memory, input.layer);
    return out;
  }
  layer.append(input.rotated(input.k), input.v, input.positions, input.order, input.valid, {},
               false, {}, input.padded);
  return read_chosen(input, input.rotated(input.q), layer, memory, stats);
}

SelectiveReadMemory& SelectiveReadMethod::memory_of(MethodState& state) const {
  return static_cast<SelectiveReadMemory&>(*state.memory);
}

// Behind the context, which the first chunk holds.
void SelectiveReadMethod::end_segment(MethodState& state) {
  auto& memory = memory_of(state);
  for (auto& branch : state.branches) {
    if (branch.layers[0].entries() > 0) continue;
    follow_branch(state, branch);
    branch.layers = state.layers;
    memory_of(branch).page_bounds = memory.page_bounds;
  }
}

namespace {

// The `count[b]` most important context entries of each query, best first.
struct Chosen {
  at::Tensor index;  // [B, H, T, C] int64
  at::Tensor live;   // [B, 1, 1, C] bool; false: beyond the sequence's own count
  bool even = true;  // all of `live` is true (known on the host)
};

Chosen most_important(const at::Tensor& importance, const std::vector<int64_t>& count) {
  auto [fewest, most] = std::minmax_element(count.begin(), count.end());
  Chosen chosen;
  chosen.index = std::get<1>(importance.topk(*most, -1));
  auto own = at::tensor(count, at::kLong).to(importance.device()).view({-1, 1, 1, 1});
  chosen.live = at::arange(*most, own.options()) < own;
  chosen.even = *fewest == *most;
  return chosen;
}

// One query a sequence: keys and values that are not attended are not read.
at::Tensor read_gathered(const AttentionInput& input, const at::Tensor& q, const LayerState& layer,
                         int64_t sinks, int64_t slots, const Chosen& chosen,
                         AttentionStats* stats) {
  auto batch = q.size(0), heads = q.size(1), groups = layer.keys.size(1);
  auto range = [&](int64_t begin, int64_t end) {
    return at::arange(begin, end, chosen.index.options()).expand({batch, heads, -1});
  };
  auto index = at::cat(
      {range(0, sinks), chosen.index.squeeze(2) + sinks, range(sinks + slots, layer.entries())},
      2);  // [B, H, R]
  auto entries = index.size(2);
  auto of_groups = index.reshape({batch, groups, -1, 1}).expand({-1, -1, -1, q.size(3)});
  auto gathered = [&](const at::Tensor& x) {
    return x.gather(2, of_groups).view({batch, heads, entries, q.size(3)});
  };
  at::Tensor mask;
  if (!chosen.even || layer.padded) {
    mask = layer.valid.unsqueeze(1).expand({-1, heads, -1}).gather(2, index).unsqueeze(2);
    mask.narrow(3, sinks, chosen.live.size(3)).logical_and_(chosen.live);
  }
  if (stats != nullptr)
    count_attended(
        input,
        mask.defined() ? mask.sum(-1) : at::full({batch, heads, 1}, entries, index.options()), 1,
        *stats);
  return read_entries(q, gathered(layer.keys), gathered(layer.values), mask);
}

}  // namespace

at::Tensor SelectiveReadMethod::read_chosen(const AttentionInput& input, const at::Tensor& q,
                                            const LayerState& layer, SelectiveReadMemory& memory,
                                            AttentionStats* stats) const {
  auto context_valid = layer.valid.narrow(1, sinks_, memory.slots).unsqueeze(1).unsqueeze(2);
  auto important =
      importance(q, layer, memory, input.layer)
          .masked_fill(context_valid.logical_not(), -std::numeric_limits<double>::infinity());
  auto chosen = most_important(important, reads(input.layer, memory));
  if (q.size(2) == 1) return read_gathered(input, q, layer, sinks_, memory.slots, chosen, stats);
  auto in_context = at::zeros(important.sizes(), context_valid.options())
                        .scatter_(3, chosen.index, chosen.live.expand_as(chosen.index));
  auto mask = (layer.order.unsqueeze(1).unsqueeze(2) <= input.order.unsqueeze(1).unsqueeze(-1))
                  .logical_and(layer.valid.unsqueeze(1).unsqueeze(2))
                  .expand({-1, q.size(1), -1, -1})
                  .clone();
  mask.narrow(3, sinks_, memory.slots).logical_and_(in_context);
  if (stats != nullptr) count_attended(input, mask.sum(-1), 1, *stats);
  return read_entries(q, layer.keys, layer.values, mask);
}

}  // namespace dsrsq
