// Shared Attention (arXiv 2407.12866): the layers of a span attend with the probabilities of the
// layer in front of them, each with values and an output projection of its own. They have no
// queries and keys, and cache values alone: half of a layer's bytes.
//
// A decoded token's probabilities are computed once, in the source layer, and reused. Where several
// tokens are read at once they are never stored (they are rows x keys): a sharing layer gives the
// source's queries and keys to torch's fused attention with its own values, which is the same
// product and the faster one.
#pragma once

#include "dsrsq/model/config.h"
#include "dsrsq/model/method.h"

namespace dsrsq {

struct SharedAttentionConfig {
  int64_t source = -1;
  int64_t layers = 0;
  void visit_fields(ConfigVisitor& v);
  // source and layers as they are or, where they are left to the model, as in the paper's span of
  // layers 23 to 26 of 32.
  SharedAttentionConfig resolved(const TransformerConfig& model) const;
  // Throws ConfigError where the span does not lie within the model.
  void validate(const TransformerConfig& model, const ConfigLocations& locations) const;
};

class SharedAttentionMethod : public Method {
 public:
  // Throws ConfigError as validate does.
  SharedAttentionMethod(const SharedAttentionConfig& config, const TransformerConfig& model);
  std::string method_name() const override { return "shared_attention"; }
  MethodState make_state(const Batch& batch, const PassOptions& options) const override;
  bool scores_keys(int64_t layer) const override {
    return layer <= config_.source || layer > config_.source + config_.layers;
  }
  at::Tensor attend(const AttentionInput& input, MethodState& state) override;
  void end_segment(MethodState& state) override;
  bool counts_without_masks() const override { return true; }
  double token_flops() const override;

 private:
  at::Tensor attend_scored(const AttentionInput& input, MethodState& state);
  at::Tensor attend_shared(const AttentionInput& input, MethodState& state);

  SharedAttentionConfig config_;
  int64_t width_;  // D
};

}  // namespace dsrsq
