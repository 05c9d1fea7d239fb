#include "dsrsq/methods/h2o.h"

#include <torch/torch.h>

#include <limits>

namespace dsrsq {

void H2oMethod::observe(const AttentionInput& input, const LayerState& layer,
                        EvictionMemory& memory) {
  auto group = shape_.query_heads / shape_.key_value_heads;
  auto mass = attention_mass(input, layer, memory).mass / group;
  auto& sum = memory.scores[size_t(input.layer)];
  sum = sum.defined() ? sum + mass : mass;
}

at::Tensor H2oMethod::score(const AttentionInput& input, const LayerState& layer,
                            const EvictionMemory& memory) {
  // The last half of the budget first, whatever it was attended.
  std::vector<int64_t> recent;
  for (auto budget : memory.budget) recent.push_back(budget / 2);
  return memory.scores[size_t(input.layer)].masked_fill(last_entries(memory, recent),
                                                        std::numeric_limits<double>::infinity());
}

}  // namespace dsrsq
