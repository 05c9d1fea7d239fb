// Plackett-Luce distributions over subsets (D5): k candidates are drawn without replacement by
// taking the k largest of score + Gumbel noise (Kool et al. 2019, arXiv 1903.06059).
//
// Shapes: R rows, one draw each; M candidates a row. A candidate is a token, or a run of `dsr.span`
// tokens; a row is a sequence's whole context, or one segment of it where the retriever picks
// segment by segment.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace dsrsq {

// What a row picked, in pick order: by falling perturbed score.
struct SubsetPicks {
  at::Tensor candidate;  // [R, k] int64; 0 where masked
  at::Tensor mask;       // [R, k] bool; rows may pick different numbers
};

// The picks of rows whose candidates were `picked` (bool [R, M]) under `perturbed` [R, M].
SubsetPicks picks_in_order(const at::Tensor& perturbed, const at::Tensor& picked);

// log probability of each pick given the ones before it, [R, k]; 0 where masked. Their sum is the
// log probability of the order drawn:  log p_j = score_j - log sum of exp(score) over what is not
// yet picked. O(M + k) a row by a cumulative log-sum-exp from the end. A row that picks all its
// candidates had no choice: 0. score [R, M] fp32 or fp64, -inf: no candidate.
at::Tensor subset_log_prob(const at::Tensor& score, const SubsetPicks& picks);

// log probability that a candidate is among the `count` [R] picked of its row, [R, M], given the
// noise of the others: p = 1 - exp(-exp(score - kappa)), kappa the count-th largest perturbed score
// among the others, without gradient (D7). The expectation over noise of the row's sum of p is
// count. 0 (p = 1) where count covers all candidates; -inf for no candidate.
at::Tensor log_inclusion_probability(const at::Tensor& score, const at::Tensor& perturbed,
                                     const at::Tensor& count);

// Entropy of softmax(score), [R]; nats.
at::Tensor score_entropy(const at::Tensor& score);

// phi [B, N] -> scores of runs of `span` tokens [B, ceil(N / span)]: their log-sum-exp, so that a
// run is drawn as often as any of its tokens would be. -inf where no token is.
at::Tensor run_scores(const at::Tensor& phi, int64_t span);
// Token scores [B, N] under which select_top takes whole runs, best first, in order of run_score
// [B, runs]; the last run is cut at the budget. -inf where phi is.
at::Tensor token_order_of_runs(const at::Tensor& run_score, const at::Tensor& phi, int64_t span);
// x [B, runs] -> [B segments, runs_per_segment], filled up with `fill`; one row a sequence where
// runs_per_segment is 0.
at::Tensor candidate_rows(const at::Tensor& x, int64_t runs_per_segment, double fill);

}  // namespace dsrsq
