// The choice of tokens as a policy that reward trains (D5, D6): which tokens (Plackett-Luce,
// subset.h) and, with dsr.complexity: learned, how many (a bin of the budget).
//
// Shapes: B sequences, G draws each, R = B G rollouts (row b G + g); S rows of candidates a
// sequence (1, or its segments), M candidates a row, k picks a row.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "dsrsq/retriever/selection.h"
#include "dsrsq/retriever/subset.h"

namespace dsrsq {

// What a policy sees of a batch; without gradient. It is made once a rollout batch, since the
// reader and all that it reads stand still while the policy is updated.
struct PolicyInput {
  at::Tensor context;           // [B, N, D] what the retriever scores
  at::Tensor context_valid;     // [B, N] bool
  at::Tensor questions;         // [B, Q, T, D] embeddings
  at::Tensor question_weights;  // [B, Q, T] fp32
  at::Tensor questions_valid;   // [B, Q, T] bool
  at::Tensor table_mean;        // [D]
  std::vector<int64_t> sample_ids;
  at::Tensor
      requested_budget;      // [B] int64 tokens that the run asks for; undefined: the policy's own
  bool per_segment = false;  // picks inside each segment instead of the whole context
  double temperature = 1;    // of the draws: below 1 they come closer to the best scores
};

// G draws of each sequence of a batch.
struct Rollouts {
  int64_t draws = 1;        // G
  int64_t rows = 1;         // S
  SelectedTokens selected;  // of R sequences
  SubsetPicks picks;        // [R S, k]
  at::Tensor bin;           // [R] int64 of the budget; undefined where the budget is no action
  at::Tensor budget;        // [R] int64 tokens
  at::Tensor share;         // [R] fp64 of the context's tokens that are selected
  at::Tensor
      group_of_pick;  // [R S, k] int64: neighbouring picks form groups (leave-one-out credit)
  at::Tensor group_of_slot;  // [R, n] int64 of each selected token; -1 where masked
  int64_t groups = 0;        // the most of any rollout
};

// Under the policy's present weights, with gradient.
struct PolicyEvaluation {
  at::Tensor pick_log_prob;    // [R S, k] fp32, 0 where masked
  at::Tensor bin_log_prob;     // [R]; undefined where the budget is no action
  at::Tensor entropy;          // [B S] of the candidates' softmax, over log M
  at::Tensor bin_probability;  // [B, bins]
  at::Tensor present;   // [R, S] bool: rows that hold candidates; the others stand after the end
                        // of a context that is shorter than the batch's longest
  at::Tensor features;  // [R, S, F] fp32 without gradient: what a critic may know before row s
};

class SelectionPolicy {
 public:
  virtual ~SelectionPolicy() = default;
  // Draws by Philox noise of (kPolicy, step, sample, draw). `group_size`: picks a group.
  virtual Rollouts sample(const PolicyInput& input, int64_t draws, int64_t step,
                          int64_t group_size) const = 0;
  // Without noise, with the budgets of `rollouts` where it has budget actions (R rows), else one a
  // sequence: what a greedy baseline reads.
  virtual Rollouts greedy(const PolicyInput& input, const Rollouts& rollouts) const = 0;
  virtual PolicyEvaluation evaluate(const PolicyInput& input, const Rollouts& rollouts) const = 0;
  // Tokens of each budget bin; empty where the budget is no action.
  virtual std::vector<int64_t> budget_bins() const = 0;
  virtual int64_t feature_width() const = 0;  // F
};

}  // namespace dsrsq
