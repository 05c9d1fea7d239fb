// Random entries stay: the control that an eviction method has to beat.
#pragma once

#include "dsrsq/methods/eviction.h"

namespace dsrsq {

class RandomEvictionMethod : public EvictionMethod {
 public:
  RandomEvictionMethod(const EvictionConfig& config, const TransformerConfig& model, int64_t seed)
      : EvictionMethod(config, model), seed_(seed) {}
  std::string method_name() const override { return "random_eviction"; }

 protected:
  // Uniform noise of (seed, sample, layer, head, place): other entries in every head.
  at::Tensor score(const AttentionInput& input, const LayerState& layer,
                   const EvictionMemory& memory) override;

 private:
  int64_t seed_;
};

}  // namespace dsrsq
