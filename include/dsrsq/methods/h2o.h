// H2O (arXiv 2306.14048): heavy hitters, the entries that all rows so far attended most, and the
// most recent ones stay, half of the budget each.
#pragma once

#include "dsrsq/methods/eviction.h"

namespace dsrsq {

// The mass is summed over every row of the prompt at once, as the method's own prefill does; the
// authors' decoding goes on evicting token by token, which here no method does (eviction.h).
class H2oMethod : public EvictionMethod {
 public:
  using EvictionMethod::EvictionMethod;
  std::string method_name() const override { return "h2o"; }

 protected:
  void observe(const AttentionInput& input, const LayerState& layer,
               EvictionMemory& memory) override;
  at::Tensor score(const AttentionInput& input, const LayerState& layer,
                   const EvictionMemory& memory) override;
};

}  // namespace dsrsq
