// Plackett-Luce log-probabilities of ordered subsets (design D5).
#pragma once

#include "kernels/common.h"

namespace dsrsq::kernels {

inline constexpr int64_t kSubsetMaxCandidates = int64_t{1} << 20;  // M: a bit each in shared memory

struct SubsetLogProbSizes {
  int64_t rows;        // R
  int64_t candidates;  // M, at most kSubsetMaxCandidates
  int64_t picks;       // k
};

struct SubsetLogProbInputs {
  const float* score;        // [R, M], -infinity: no candidate
  const int64_t* candidate;  // [R, k] in [0, M), distinct where `mask`
  const bool* mask;          // [R, k]
};

// log_prob [R, k]: score of the pick minus lse; 0 where masked and in rows that leave no candidate.
// lse [R, k]: log of the sum of exp(score) over what is not yet picked at slot j; for the backward
// pass. One block a row, sums in an order given by the sizes. R, M and k at least 1.
cudaError_t launch_subset_log_prob(const SubsetLogProbSizes& sizes, const SubsetLogProbInputs& in,
                                   float* log_prob, float* lse, cudaStream_t stream);

// d_log_prob [R, k] -> d_score [R, M]. Of a pick i: d_i - sum over j <= i of d_j exp(score_i -
// lse_j); of another candidate the same sum over all j, negated.
cudaError_t launch_subset_log_prob_backward(const SubsetLogProbSizes& sizes,
                                            const SubsetLogProbInputs& in, const float* lse,
                                            const float* d_log_prob, float* d_score,
                                            cudaStream_t stream);

}  // namespace dsrsq::kernels
