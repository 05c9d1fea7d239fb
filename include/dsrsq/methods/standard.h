// The standard transformer with a context window (paper section 4.2: 4K, 8K, 16K): dense causal
// attention over what fits.
#pragma once

#include "dsrsq/model/config.h"
#include "dsrsq/model/method.h"
#include "dsrsq/model/recordable_step.h"

namespace dsrsq {

struct StandardConfig {
  int64_t window = 4096;
  std::string truncation = "middle";
  int64_t reserved = 128;
  void visit_fields(ConfigVisitor& v);
};

// Appends a first chunk to an empty layer and attends it causally, without a mask: [B, H, T, d]. It
// may be padded behind its tokens only, as a chunk that holds the context alone is. `lse`, where
// given: of causal_attention_with_lse.
at::Tensor attend_first_chunk(const AttentionInput& input, LayerState& layer, AttentionStats* stats,
                              at::Tensor* lse = nullptr);

class StandardMethod : public Method, public RecordableStep {
 public:
  StandardMethod(const StandardConfig& config, const TransformerConfig& model)
      : Method(model.attention_shape()), config_(config) {}
  std::string method_name() const override { return "standard"; }
  // The context tokens that the window leaves room for beside `reserved`; what does not fit is cut
  // in the middle (the beginning and the end are kept, as LongBench does) or on the left (the end
  // is kept).
  SelectedTokens select(const Batch& batch, const LanguageModelView& model,
                        MethodState& state) override;
  at::Tensor attend(const AttentionInput& input, MethodState& state) override;
  // Outside training the context is a chunk of its own: padded at its end only, it needs no mask.
  bool one_segment_per_chunk() const override;
  bool counts_without_masks() const override { return true; }
  std::string step_obstacle(const MethodState&) const override { return {}; }

 private:
  StandardConfig config_;
};

}  // namespace dsrsq
