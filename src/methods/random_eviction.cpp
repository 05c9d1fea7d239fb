#include "dsrsq/methods/random_eviction.h"

#include <torch/torch.h>

#include "dsrsq/ops/noise.h"

namespace dsrsq {

at::Tensor RandomEvictionMethod::score(const AttentionInput& input, const LayerState& layer,
                                       const EvictionMemory& memory) {
  std::vector<at::Tensor> heads;
  for (int64_t h = 0; h < shape_.key_value_heads; ++h) {
    auto stream = 1 + input.layer * shape_.key_value_heads + h;  // 0: the selector `random`
    heads.push_back(ops::noise(ops::Noise::kUniform, uint64_t(seed_), Purpose::kSelection,
                               uint64_t(stream), memory.sample_ids, memory.slots,
                               input.q.device()));
  }
  return at::stack(heads, 1);
}

}  // namespace dsrsq
