#include "dsrsq/methods/kv_compress.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <tuple>

namespace dsrsq {

void KvCompressConfig::visit_fields(ConfigVisitor& v) {
  v.field("block", block, "Entries of a block; blocks go whole.", at_least(1));
  v.field("protected_tokens", protected_tokens,
          "Last context tokens that no head loses, at most half of the budget; fewer where blocks "
          "would otherwise not fit into it.",
          at_least(0));
}

std::vector<int64_t> cheapest_blocks(const std::vector<std::vector<float>>& sorted, int64_t block,
                                     int64_t budget) {
  struct Block {
    float cost;
    size_t head;
    int64_t entries;
  };
  std::vector<Block> blocks;
  std::vector<int64_t> kept;
  int64_t total = 0;
  for (size_t head = 0; head < sorted.size(); ++head) {
    auto length = int64_t(sorted[head].size());
    kept.push_back(length);
    total += length;
    auto entries = length % block == 0 ? block : length % block;
    for (int64_t end = entries; end <= length; end += block) {
      auto cost = sorted[head][size_t(end - 1)];
      if (!std::isfinite(cost)) break;
      blocks.push_back({cost, head, entries});
      entries = block;
    }
  }
  // Within a head costs rise, so the order among heads alone decides; of equal ones the first
  // head's.
  std::stable_sort(blocks.begin(), blocks.end(),
                   [](const Block& x, const Block& y) { return x.cost < y.cost; });
  for (const auto& one : blocks) {
    if (total <= budget) break;
    kept[one.head] -= one.entries;
    total -= one.entries;
  }
  return kept;
}

at::Tensor KvCompressMethod::score(const AttentionInput& input, const LayerState& layer,
                                   const EvictionMemory& memory) {
  auto window = observation_window(input, memory);
  auto attention = window_mass(input, layer, memory, window).squared;
  auto everything = at::ones({1, 1, 1}, input.valid.options());
  auto metric = mean_of_group(pooled(attention, everything)) *
                (double(shape_.query_heads) / double(shape_.key_value_heads));
  std::vector<int64_t> last;
  // A head may be left with block - 1 entries beside the protected ones.
  for (auto budget : memory.budget)
    last.push_back(std::max<int64_t>(
        0, std::min({own_.protected_tokens, budget / 2, budget + 1 - own_.block})));
  return metric.masked_fill(last_entries(memory, last), std::numeric_limits<double>::infinity());
}

void KvCompressMethod::compare_layers(EvictionMemory& memory) {
  auto metric = at::stack(memory.scores, 1).to(at::kFloat);  // [B, layers, H_kv, N]
  auto place = at::arange(metric.size(3), memory.context_tokens.options());
  auto padding = place >= memory.context_tokens.view({-1, 1, 1, 1});
  // Padding last, as what is protected. Sorted where the metric is; one transfer a batch.
  auto infinity = std::numeric_limits<double>::infinity();
  auto ascending = std::get<0>(metric.masked_fill(padding, infinity).sort(-1)).to(at::kCPU);
  auto sorted_metric = ascending.contiguous();
  auto layers = metric.size(1), heads = metric.size(2), slots = metric.size(3);
  auto kept = at::empty({layers, metric.size(0), heads}, at::kLong);
  auto counts_of = kept.accessor<int64_t, 3>();
  for (int64_t b = 0; b < metric.size(0); ++b) {
    auto context = memory.context[size_t(b)];
    std::vector<std::vector<float>> sorted;
    for (int64_t i = 0; i < layers * heads; ++i) {
      const auto* own = sorted_metric.data_ptr<float>() + (b * layers * heads + i) * slots;
      sorted.emplace_back(own, own + context);
    }
    auto counts = cheapest_blocks(sorted, own_.block, memory.budget[size_t(b)] * layers * heads);
    for (int64_t i = 0; i < layers * heads; ++i)
      counts_of[i / heads][b][i % heads] = counts[size_t(i)];
  }
  for (int64_t l = 0; l < layers; ++l) memory.capacity[size_t(l)] = kept[l];
}

}  // namespace dsrsq
