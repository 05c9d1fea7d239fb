#include "dsrsq/methods/pyramid.h"

#include <torch/torch.h>

#include <algorithm>

namespace dsrsq {

void PyramidConfig::visit_fields(ConfigVisitor& v) {
  v.field("beta", beta,
          "The last layer keeps 1 / beta of what a layer keeps on average beside its window.",
          at_least(1));
}

std::vector<int64_t> pyramid_capacities(int64_t layers, int64_t capacity, int64_t window,
                                        int64_t context, int64_t beta) {
  auto mean = capacity - window, room = context - window;
  std::vector<int64_t> kept(size_t(layers), mean);
  if (layers == 1 || context < 2 * mean) return kept;  // no layer could keep twice the mean
  auto last = mean / beta, first = 2 * mean - last;
  if (first >= room) {
    first = room;
    last = 2 * mean - first;
  }
  // Whole entries of the line from first to last. Rounding its step down instead, as is common,
  // would keep up to layers / 2 entries a layer more than the budget.
  auto steps = layers - 1;
  auto rest = layers * mean;
  for (int64_t l = 0; l < layers; ++l) {
    kept[size_t(l)] = (first * steps - l * (first - last)) / steps;
    rest -= kept[size_t(l)];
  }
  for (int64_t l = 0; l < layers && rest > 0; ++l) {
    if ((first * steps - l * (first - last)) % steps == 0) continue;
    ++kept[size_t(l)];
    --rest;
  }
  return kept;
}

at::Tensor PyramidMethod::capacities(int64_t layer, const EvictionMemory& memory) const {
  std::vector<int64_t> kept;
  for (size_t b = 0; b < memory.context.size(); ++b) {
    auto window = memory.window[b];
    auto of_layers = pyramid_capacities(shape_.layers, memory.budget[b], window, memory.context[b],
                                        pyramid_.beta);
    kept.push_back(of_layers[size_t(layer)] + window);
  }
  return at::tensor(kept, at::kLong).unsqueeze(1).expand({-1, shape_.key_value_heads});
}

}  // namespace dsrsq
