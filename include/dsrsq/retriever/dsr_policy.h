// The policy over a DSR's scores (policy.h): Plackett-Luce picks, and the budget head's bins where
// dsr.complexity is `learned`.
#pragma once

#include "dsrsq/retriever/dsr.h"
#include "dsrsq/retriever/policy.h"

namespace dsrsq {

class DsrPolicy : public SelectionPolicy {
 public:
  // `segment`: tokens of a segment, where a PolicyInput asks for picks in each.
  DsrPolicy(Dsr dsr, int64_t segment, int64_t seed)
      : dsr_(std::move(dsr)), segment_(segment), seed_(seed) {}

  Rollouts sample(const PolicyInput& input, int64_t draws, int64_t step,
                  int64_t group_size) const override;
  Rollouts greedy(const PolicyInput& input, const Rollouts& rollouts) const override;
  PolicyEvaluation evaluate(const PolicyInput& input, const Rollouts& rollouts) const override;
  std::vector<int64_t> budget_bins() const override { return dsr_->budget_bins(); }
  int64_t feature_width() const override;

 private:
  struct Scores {
    at::Tensor question;  // E_q of a sequence's first question [B, r]
    at::Tensor context;   // E_c [B, N, r]
    at::Tensor phi;       // [B, N], the larger of the questions' scores
    at::Tensor bins;      // logits [B, bins]; undefined where the budget is no action
  };
  Scores scores(const PolicyInput& input) const;
  // Draws from perturbed run scores [R, runs] with budget [R].
  Rollouts draw(const PolicyInput& input, const at::Tensor& phi, const at::Tensor& perturbed,
                const at::Tensor& budget, int64_t draws, int64_t group_size) const;
  int64_t runs_per_segment(const PolicyInput& input) const {
    return input.per_segment ? segment_ / dsr_->config().span : 0;
  }

  Dsr dsr_;
  int64_t segment_;
  int64_t seed_;
};

// Noise of draw `draw` of the samples, Gumbel fp64 [B, size].
at::Tensor policy_noise(int64_t seed, int64_t step, int64_t draw,
                        const std::vector<int64_t>& sample_ids, int64_t size, at::Device device);

}  // namespace dsrsq
