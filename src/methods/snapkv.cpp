#include "dsrsq/methods/snapkv.h"

#include <torch/torch.h>

#include <limits>

namespace dsrsq {

at::Tensor SnapKvMethod::score(const AttentionInput& input, const LayerState& layer,
                               const EvictionMemory& memory) {
  auto window = observation_window(input, memory);
  auto own = last_entries(memory, memory.window);
  auto attention = window_mass(input, layer, memory, window).mass;
  return mean_of_group(pooled(attention, own.logical_not()))
      .masked_fill(own, std::numeric_limits<double>::infinity());
}

}  // namespace dsrsq
