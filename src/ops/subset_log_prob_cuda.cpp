#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/retrieval/subset_log_prob.h"
#include "retrieval_backend.h"

namespace dsrsq::ops {
namespace {

// As the kernels read them.
struct Arguments {
  Arguments(const at::Tensor& score_in, const at::Tensor& candidate_in, const at::Tensor& mask_in)
      : score(score_in.to(at::kFloat).contiguous()),
        candidate(candidate_in.contiguous()),
        mask(mask_in.contiguous()) {
    TORCH_CHECK(score.size(1) <= kernels::kSubsetMaxCandidates,
                "subset_log_prob: on CUDA M is at most ", kernels::kSubsetMaxCandidates,
                ", got score ", score.sizes());
  }
  kernels::SubsetLogProbSizes sizes() const {
    return {score.size(0), score.size(1), candidate.size(1)};
  }
  kernels::SubsetLogProbInputs inputs() const {
    return {score.const_data_ptr<float>(), candidate.const_data_ptr<int64_t>(),
            mask.const_data_ptr<bool>()};
  }

  at::Tensor score, candidate, mask;
};

SubsetPicksKept subset_log_prob_cuda(const at::Tensor& score, const at::Tensor& candidate,
                                     const at::Tensor& mask) {
  const c10::cuda::CUDAGuard guard(score.device());
  const Arguments a(score, candidate, mask);
  SubsetPicksKept kept;
  kept.log_prob = at::empty(candidate.sizes(), a.score.options());
  kept.lse = at::empty_like(kept.log_prob);
  if (kept.log_prob.numel() > 0 && score.numel() > 0) {
    C10_CUDA_CHECK(kernels::launch_subset_log_prob(
        a.sizes(), a.inputs(), kept.log_prob.mutable_data_ptr<float>(),
        kept.lse.mutable_data_ptr<float>(), c10::cuda::getCurrentCUDAStream().stream()));
  } else {
    kept.log_prob.zero_();
  }
  kept.log_prob = kept.log_prob.to(score.scalar_type());
  return kept;
}

at::Tensor subset_log_prob_backward_cuda(const at::Tensor& score, const at::Tensor& candidate,
                                         const at::Tensor& mask, const at::Tensor& lse,
                                         const at::Tensor& d_log_prob) {
  const c10::cuda::CUDAGuard guard(score.device());
  const Arguments a(score, candidate, mask);
  at::Tensor d_score = at::empty_like(a.score);
  const at::Tensor given = d_log_prob.to(at::kFloat).contiguous();
  if (given.numel() == 0 || score.numel() == 0) return d_score.zero_().to(score.scalar_type());
  C10_CUDA_CHECK(kernels::launch_subset_log_prob_backward(
      a.sizes(), a.inputs(), lse.const_data_ptr<float>(), given.const_data_ptr<float>(),
      d_score.mutable_data_ptr<float>(), c10::cuda::getCurrentCUDAStream().stream()));
  return d_score.to(score.scalar_type());
}

const bool kRegistered = [] {
  subset_log_prob_backend(at::kCUDA) = {subset_log_prob_cuda, subset_log_prob_backward_cuda};
  return true;
}();

}  // namespace
}  // namespace dsrsq::ops
