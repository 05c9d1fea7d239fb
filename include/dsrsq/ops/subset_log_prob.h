// Plackett-Luce log-probabilities of ordered subsets (design D5), in one pass a row.
#pragma once

#include <ATen/core/Tensor.h>

namespace dsrsq::ops {

// log probability of each pick given the ones before it:
//   log p_j = score_j - log sum of exp(score) over what is not yet picked
// score [R, M] fp32 or double (-infinity: no candidate), candidate [R, k] int64 in [0, M), distinct
// where mask [R, k] bool -> [R, k] of the type of score. 0 where masked, and in rows that leave no
// candidate: they had no choice.
//
// Differentiable in score. Linear in M + k. Deterministic; asynchronous on CUDA, where M <= 2^20,
// double is computed in fp32 and a candidate outside its bounds stops the device. Under autocast
// score becomes fp32. Throws c10::Error naming the argument, what was expected and what was found.
at::Tensor subset_log_prob(const at::Tensor& score, const at::Tensor& candidate,
                           const at::Tensor& mask);

}  // namespace dsrsq::ops
