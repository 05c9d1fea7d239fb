// SnapKV (arXiv 2404.14469): the attention of the last tokens says which entries matter; those and
// the last tokens themselves stay.
#pragma once

#include "dsrsq/methods/eviction.h"

namespace dsrsq {

class SnapKvMethod : public EvictionMethod {
 public:
  using EvictionMethod::EvictionMethod;
  std::string method_name() const override { return "snapkv"; }

 protected:
  // Attention of the observation window, summed over its rows, pooled over neighbours, averaged
  // over the query heads of a key-value head (section 3 of the paper; grouped heads as in kvpress).
  // The window itself stays.
  at::Tensor score(const AttentionInput& input, const LayerState& layer,
                   const EvictionMemory& memory) override;
};

}  // namespace dsrsq
