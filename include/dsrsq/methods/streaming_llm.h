// StreamingLLM (arXiv 2309.17453): the first tokens, on which attention rests, and the last ones
// stay; nothing in between does.
#pragma once

#include "dsrsq/methods/eviction.h"

namespace dsrsq {

struct StreamingLlmConfig {
  int64_t sinks = 4;
  void visit_fields(ConfigVisitor& v);
};

// Sinks that model.sinks holds already cost nothing of the budget. Places are not renumbered:
// within the trained range that changes nothing but distances, and all methods here read keys as
// they were rotated.
class StreamingLlmMethod : public EvictionMethod {
 public:
  StreamingLlmMethod(const EvictionConfig& config, const StreamingLlmConfig& own,
                     const TransformerConfig& model)
      : EvictionMethod(config, model), own_(own) {}
  std::string method_name() const override { return "streaming_llm"; }

 protected:
  at::Tensor score(const AttentionInput& input, const LayerState& layer,
                   const EvictionMemory& memory) override;

 private:
  StreamingLlmConfig own_;
};

}  // namespace dsrsq
