// Every query attends the keys that it would attend most if it attended all: what choosing keys
// could reach if it cost nothing. A reference, not a bound: other keys can serve the answer better.
#pragma once

#include "dsrsq/methods/selective_read.h"

namespace dsrsq {

class OracleAttentionMethod : public SelectiveReadMethod {
 public:
  using SelectiveReadMethod::SelectiveReadMethod;
  std::string method_name() const override { return "oracle_attention"; }

 protected:
  at::Tensor importance(const at::Tensor& q, const LayerState& layer, SelectiveReadMemory& memory,
                        int64_t layer_number) const override;
};

}  // namespace dsrsq
