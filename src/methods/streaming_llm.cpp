#include "dsrsq/methods/streaming_llm.h"

#include <torch/torch.h>

namespace dsrsq {

void StreamingLlmConfig::visit_fields(ConfigVisitor& v) {
  v.field("sinks", sinks,
          "First tokens of the sequence that stay; model.sinks are among them, outside the budget.",
          at_least(0));
}

at::Tensor StreamingLlmMethod::score(const AttentionInput& input, const LayerState& layer,
                                     const EvictionMemory& memory) {
  return first_and_last(memory, own_.sinks);
}

}  // namespace dsrsq
