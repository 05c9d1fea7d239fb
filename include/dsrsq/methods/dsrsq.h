// DSRSQ (the paper): the retriever chooses tokens, the layers attend inside top clusters, what
// leaves the exact window is compressed into a constant-size buffer. Three switches,
// {dsr,sqa,rckv}.enabled, give the ablations; they exist nowhere else, and a part that is off has
// no parameters and no state.
//
// A query attends one softmax over disjoint keys (D13): sinks, local window and routed clusters
// among the exact keys (its own segment and `rckv.window` tokens before it), and the latents of
// what left them.
#pragma once

#include <memory>
#include <optional>

#include "dsrsq/attention/dense.h"
#include "dsrsq/attention/sqa.h"
#include "dsrsq/cache/rckv.h"
#include "dsrsq/model/config.h"
#include "dsrsq/model/method.h"
#include "dsrsq/model/recordable_step.h"
#include "dsrsq/retriever/dsr.h"
#include "dsrsq/retriever/dsr_policy.h"

namespace dsrsq {

struct DsrsqConfig {
  DsrConfig dsr;
  SqaConfig sqa;
  RckvConfig rckv;
  // The buffer weighs entries by the attention that they got.
  bool counts_attention() const { return rckv.enabled && rckv.weight == "attention_rate"; }
  void visit_fields(ConfigVisitor& v);
  void validate(const TransformerConfig& model,
                const ConfigLocations& locations) const;  // throws ConfigError
};

class DsrsqMethod : public Method, public RecordableStep {
 public:
  DsrsqMethod(const DsrsqConfig& config, const TransformerConfig& model, int64_t seed);

  std::string method_name() const override { return "dsrsq"; }
  void prepare(const Batch& batch, const LanguageModelView& model, MethodState& state) override;
  SelectedTokens select(const Batch& batch, const LanguageModelView& model,
                        MethodState& state) override;
  SelectedTokens choose(const at::Tensor& score, const Batch& batch, MethodState& state) override;
  at::Tensor attend(const AttentionInput& input, MethodState& state) override;
  SelectionPolicy* policy() override { return policy_.get(); }
  LossTerms losses(const Batch& batch, MethodState& state) override;
  std::map<std::string, double> loss_counts(const Batch& batch,
                                            const PassOptions& options) const override;
  void after_step(int64_t step) override;
  int64_t calibration_sequences(const PassOptions& before, const PassOptions& now) override;
  void begin_calibration() override;
  void finish_calibration() override;
  int64_t shared_bytes() const override;
  std::map<std::string, double> scalars() const override;
  std::string step_obstacle(const MethodState& state) const override;

  const DsrsqConfig& config() const { return config_; }  // sqa.clusters: auto is a number here

 private:
  bool sqa_on(const PassOptions& options) const { return !sqa_.is_empty() && options.sqa; }
  bool rckv_on(const PassOptions& options) const { return !rckv_.is_empty() && options.rckv; }
  bool keeps_mass(const PassOptions& options) const {
    return rckv_on(options) && config_.counts_attention();
  }
  struct Choice;
  Choice choice_of(const MethodState& state, const SelectedTokens& selected) const;
  at::Tensor log_inclusion(const at::Tensor& phi, const MethodState& state,
                           const Choice& choice) const;
  LossTerm retrieval_term(const Batch& batch, const MethodState& state) const;
  // The sequence's own clusters, one segment at a time or over its prefix (sqa.centroids).
  bool segment_clusters(const PassOptions& options) const {
    return sqa_on(options) && config_.sqa.centroids == "segment";
  }
  bool prefix_clusters(const PassOptions& options) const {
    return sqa_on(options) && config_.sqa.centroids == "kmeans";
  }
  at::Tensor assign_clusters(const AttentionInput& input, MethodState& state);
  at::Tensor assign_to_prefix(const AttentionInput& input, MethodState& state) const;
  at::Tensor route_codebook(const AttentionInput& segment, const MethodState& state) const;
  at::Tensor route_own_clusters(const AttentionInput& segment, const MethodState& state) const;
  at::Tensor attend_segment(const AttentionInput& segment, const at::Tensor& cluster,
                            MethodState& state);
  bool attends_by_operator(const AttentionInput& segment, const at::Tensor& routes,
                           const MethodState& state) const;
  void count_exposure(const AttentionInput& segment, LayerState& layer) const;
  at::Tensor attend_masked(const AttentionInput& segment, const at::Tensor& q,
                           const at::Tensor& routed, const std::optional<PartialAttention>& latents,
                           MethodState& state) const;
  PartialAttention read_latents(const AttentionInput& segment, const at::Tensor& rotated_q,
                                const LatentBuffer& latents, const PassOptions& options) const;
  PartialAttention read_latents_natively(const AttentionInput& segment, const at::Tensor& rotated_q,
                                         const LatentBuffer& latents) const;
  at::Tensor slot_bias(const AttentionInput& segment, const LatentBuffer& latents) const;
  at::Tensor latent_bias(const AttentionInput& segment, const LatentBuffer& latents) const;
  void record_rows(const AttentionInput& segment, const std::vector<PartialAttention>& parts,
                   const at::Tensor& lse, MethodState& state) const;
  void count_latents(const AttentionInput& segment, const LatentBuffer& latents,
                     const at::Tensor& share, AttentionStats& stats) const;
  ops::RotaryTable rotary_table(const at::Tensor& positions) const;
  at::Tensor before_rope(const at::Tensor& keys, const at::Tensor& positions) const;
  void close_segment(const AttentionInput& segment, MethodState& state) const;
  void evict(const AttentionInput& segment, MethodState& state) const;
  void cluster_closed(LayerState& layer, const MethodState& state) const;
  void count(const AttentionInput& segment, const at::Tensor& mask, const at::Tensor& causal,
             AttentionStats& stats) const;

  DsrsqConfig config_;
  TransformerConfig model_;
  int64_t seed_;
  bool start_codebook_ = false;                // the calibration under way is to start the codebook
  std::vector<at::Tensor> compression_error_;  // a layer: of the last training pass, for logs
  bool project_anew_ = false;  // the calibration under way is to set the projections
  Dsr dsr_{nullptr};
  std::unique_ptr<DsrPolicy> policy_;  // of dsr_
  Sqa sqa_{nullptr};
  Rckv rckv_{nullptr};
};

}  // namespace dsrsq
