#include "dsrsq/methods/squeeze.h"

#include <torch/torch.h>

#include <algorithm>
#include <limits>
#include <numeric>
#include <set>

namespace dsrsq {

void SqueezeConfig::visit_fields(ConfigVisitor& v) {
  v.field("squeezed_share", squeezed_share,
          "What the layers that change least keep, of the mean over layers.", between(0, 1));
  v.field("policy", policy,
          "Which entries a layer keeps: the first and the last, or by snapkv's scores.",
          one_of({"streaming_llm", "snapkv"}));
  v.field("sinks", sinks,
          "policy streaming_llm: first tokens of the sequence that stay; model.sinks are among "
          "them, outside the budget.",
          at_least(0));
}

std::vector<int64_t> three_means(const std::vector<double>& values) {
  std::vector<int64_t> classes(values.size(), 0);
  if (std::set<double>(values.begin(), values.end()).size() < 3) return classes;
  auto sorted = values;
  std::sort(sorted.begin(), sorted.end());
  auto spread = [&](size_t begin, size_t end) {  // sum of squares around the mean
    auto mean = std::accumulate(sorted.begin() + long(begin), sorted.begin() + long(end), 0.0) /
                double(end - begin);
    double sum = 0;
    for (size_t i = begin; i < end; ++i) sum += (sorted[i] - mean) * (sorted[i] - mean);
    return sum;
  };
  double best = std::numeric_limits<double>::infinity();
  size_t second = 1, third = 2;  // where the upper classes begin
  for (size_t i = 1; i + 1 < sorted.size(); ++i)
    for (size_t j = i + 1; j < sorted.size(); ++j)
      if (auto sum = spread(0, i) + spread(i, j) + spread(j, sorted.size()); sum < best) {
        best = sum;
        second = i;
        third = j;
      }
  for (size_t i = 0; i < values.size(); ++i)
    classes[i] = int64_t(values[i] >= sorted[second]) + int64_t(values[i] >= sorted[third]);
  return classes;
}

std::vector<int64_t> squeezed_capacities(const std::vector<double>& similarity, int64_t mean,
                                         int64_t context, double squeezed_share) {
  auto classes = three_means(similarity);
  auto layers = int64_t(classes.size());
  auto squeezed = int64_t(std::count(classes.begin(), classes.end(), 2));
  auto others = layers - squeezed;
  if (squeezed == 0) return std::vector<int64_t>(classes.size(), mean);
  auto low = int64_t(squeezed_share * double(mean));
  auto high = std::min(context, (layers * mean - squeezed * low) / others);
  low = std::min(context, (layers * mean - others * high) / squeezed);
  std::vector<int64_t> kept;
  for (auto one : classes) kept.push_back(one == 2 ? low : high);
  return kept;
}

at::Tensor SqueezeMethod::extra_sublayer(const AttentionInput& input, const at::Tensor& residual,
                                         MethodState& state) {
  auto& layer = state.layers[size_t(input.layer)];
  if (!layer.head_groups.empty()) return {};
  auto& memory = memory_of(state);
  auto type = residual.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto before = input.residual.to(type), after = residual.to(type);
  auto cosine = at::cosine_similarity(before, after, -1);  // [B, T]
  auto padding = input.valid.logical_not();
  // Of the chunk behind which entries go; with query_aware, the question's.
  memory.similarity[size_t(input.layer)] =
      cosine.masked_fill(padding, 0).sum(1) / input.valid.sum(1).clamp_min(1);
  return {};
}

at::Tensor SqueezeMethod::score(const AttentionInput& input, const LayerState& layer,
                                const EvictionMemory& memory) {
  if (own_.policy == "snapkv") return SnapKvMethod::score(input, layer, memory);
  return first_and_last(memory, own_.sinks);
}

void SqueezeMethod::compare_layers(EvictionMemory& memory) {
  auto similarity = at::stack(memory.similarity, 1).to(at::kDouble).to(at::kCPU).contiguous();
  auto layers = similarity.size(1);
  auto kept = at::empty({layers, similarity.size(0)}, at::kLong);
  for (int64_t b = 0; b < similarity.size(0); ++b) {
    const auto* own = similarity.data_ptr<double>() + b * layers;
    auto counts = squeezed_capacities({own, own + layers}, memory.budget[size_t(b)],
                                      memory.context[size_t(b)], own_.squeezed_share);
    for (int64_t l = 0; l < layers; ++l) kept[l][b] = counts[size_t(l)];
  }
  for (int64_t l = 0; l < layers; ++l)
    memory.capacity[size_t(l)] = kept[l].unsqueeze(1).expand({-1, shape_.key_value_heads});
}

}  // namespace dsrsq
