#include "dsrsq/methods/oracle_attention.h"

#include <torch/torch.h>

#include "dsrsq/attention/dense.h"

namespace dsrsq {

at::Tensor OracleAttentionMethod::importance(const at::Tensor& q, const LayerState& layer,
                                             SelectiveReadMemory& memory,
                                             int64_t layer_number) const {
  auto keys = layer.keys.narrow(2, sinks_, memory.slots);
  return at::matmul(q, expand_heads(keys, q.size(1)).transpose(2, 3));
}

}  // namespace dsrsq
