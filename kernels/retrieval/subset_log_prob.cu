#include <math_constants.h>

#include "kernels/retrieval/subset_log_prob.h"

namespace dsrsq::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr float kLowest = -1e30f;  // stands for -infinity: differences of scores stay numbers

// log of a sum of exponentials, as its largest term and the sum relative to it; sum 0: no term.
struct LogSum {
  float largest, sum;
};
__device__ __forceinline__ LogSum join(LogSum x, LogSum y) {
  if (y.sum == 0.f) return x;
  if (x.sum == 0.f) return y;
  const float largest = fmaxf(x.largest, y.largest);
  return {largest, x.sum * expf(x.largest - largest) + y.sum * expf(y.largest - largest)};
}
__device__ __forceinline__ LogSum shuffle_up(LogSum x, int offset) {
  return {__shfl_up_sync(0xffffffffu, x.largest, offset),
          __shfl_up_sync(0xffffffffu, x.sum, offset)};
}
__device__ __forceinline__ float log_of(LogSum x) {
  return x.sum == 0.f ? -CUDART_INF_F : x.largest + logf(x.sum);
}

// y = factor x + term.
struct Affine {
  float factor, term;
};
__device__ __forceinline__ Affine join(Affine first, Affine then) {
  return {first.factor * then.factor, fmaf(first.term, then.factor, then.term)};
}
__device__ __forceinline__ Affine shuffle_up(Affine x, int offset) {
  return {__shfl_up_sync(0xffffffffu, x.factor, offset),
          __shfl_up_sync(0xffffffffu, x.term, offset)};
}

// Inclusive scan over the block in the order of its threads. `of_warps`: kWarps in shared memory.
template <typename Element>
__device__ Element scan_block(Element own, Element* of_warps) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const Element before = shuffle_up(own, offset);
    if (lane >= offset) own = join(before, own);
  }
  __syncthreads();  // what an earlier call left has been read
  if (lane == 31) of_warps[warp] = own;
  __syncthreads();
  if (warp > 0) {
    Element before = of_warps[0];
    for (int w = 1; w < warp; ++w) before = join(before, of_warps[w]);
    own = join(before, own);
  }
  return own;
}

class Row {
 public:
  // `bits`: ceil(M / 32) words of shared memory.
  __device__ Row(const SubsetLogProbSizes& s, const SubsetLogProbInputs& in, unsigned* bits)
      : s_(s),
        score_(in.score + blockIdx.x * s.candidates),
        candidate_(in.candidate + blockIdx.x * s.picks),
        mask_(in.mask + blockIdx.x * s.picks),
        bits_(bits) {
    for (int64_t i = threadIdx.x; i < (s.candidates + 31) / 32; i += kThreads) bits[i] = 0;
    __syncthreads();
    for (int64_t j = threadIdx.x; j < s.picks; j += kThreads) {
      if (!mask_[j]) continue;
      if (candidate_[j] < 0 || candidate_[j] >= s.candidates) __trap();
      atomicOr(&bits[candidate_[j] / 32], 1u << candidate_[j] % 32);
    }
    __syncthreads();
  }

  __device__ bool picked(int64_t m) const { return (bits_[m / 32] >> m % 32 & 1u) != 0; }
  __device__ bool masked(int64_t j) const { return !mask_[j]; }
  __device__ float score(int64_t m) const { return fmaxf(score_[m], kLowest); }
  __device__ bool is_candidate(int64_t m) const { return score_[m] > kLowest; }
  __device__ int64_t candidate(int64_t j) const { return candidate_[j]; }

 private:
  const SubsetLogProbSizes& s_;
  const float* score_;
  const int64_t* candidate_;
  const bool* mask_;
  unsigned* bits_;
};

__global__ void __launch_bounds__(kThreads)
    log_prob_kernel(SubsetLogProbSizes s, SubsetLogProbInputs in, float* log_prob, float* lse) {
  extern __shared__ unsigned bits[];
  __shared__ LogSum of_warps[kWarps];
  __shared__ LogSum carried;
  const Row row(s, in, bits);
  LogSum own{0.f, 0.f};
  for (int64_t m = threadIdx.x; m < s.candidates; m += kThreads) {
    if (row.is_candidate(m) && !row.picked(m)) own = join(own, {row.score(m), 1.f});
  }
  own = scan_block(own, of_warps);
  if (threadIdx.x == kThreads - 1) carried = own;
  __syncthreads();
  // From the last pick to the first: a log-sum-exp that grows.
  LogSum after = carried;
  const bool had_choice = after.sum > 0.f;
  for (int64_t done = 0; done < s.picks; done += kThreads) {
    const int64_t j = s.picks - 1 - done - threadIdx.x;
    const bool counts = j >= 0 && !row.masked(j);
    const float score = counts ? row.score(row.candidate(j)) : 0.f;
    const LogSum upto =
        join(after, scan_block(counts ? LogSum{score, 1.f} : LogSum{0.f, 0.f}, of_warps));
    if (j >= 0) {
      const int64_t at = blockIdx.x * s.picks + j;
      const float total = log_of(upto);
      lse[at] = total;
      log_prob[at] = counts && had_choice ? score - total : 0.f;
    }
    __syncthreads();  // `carried` has been read
    if (threadIdx.x == kThreads - 1) carried = upto;
    __syncthreads();
    after = carried;
  }
}

__global__ void __launch_bounds__(kThreads)
    backward_kernel(SubsetLogProbSizes s, SubsetLogProbInputs in, const float* lse,
                    const float* d_log_prob, float* d_score) {
  extern __shared__ unsigned bits[];
  __shared__ Affine of_warps[kWarps];
  __shared__ float carried;
  const Row row(s, in, bits);
  lse += blockIdx.x * s.picks;
  d_log_prob += blockIdx.x * s.picks;
  d_score += blockIdx.x * s.candidates;
  bool own_choice = false;
  for (int64_t m = threadIdx.x; m < s.candidates; m += kThreads) {
    own_choice = own_choice || (row.is_candidate(m) && !row.picked(m));
  }
  if (!__syncthreads_or(own_choice)) {
    for (int64_t m = threadIdx.x; m < s.candidates; m += kThreads) d_score[m] = 0.f;
    return;
  }
  // sum_i = sum over j <= i of d_j exp(lse_i - lse_j), whose exponents are never positive:
  // sum_i = sum_{i - 1} exp(lse_i - lse_{i - 1}) + d_i.
  float before = 0.f;
  for (int64_t first = 0; first < s.picks; first += kThreads) {
    const int64_t i = first + threadIdx.x;
    Affine step{1.f, 0.f};
    if (i < s.picks) {
      step = {i > 0 ? expf(lse[i] - lse[i - 1]) : 0.f, row.masked(i) ? 0.f : d_log_prob[i]};
    }
    const Affine all = scan_block(step, of_warps);
    const float sum = fmaf(before, all.factor, all.term);
    if (i < s.picks && !row.masked(i)) {
      const int64_t m = row.candidate(i);
      d_score[m] = row.is_candidate(m) ? d_log_prob[i] - expf(row.score(m) - lse[i]) * sum : 0.f;
    }
    __syncthreads();  // `carried` has been read
    if (threadIdx.x == kThreads - 1) carried = sum;
    __syncthreads();
    before = carried;
  }
  const float last = lse[s.picks - 1];
  for (int64_t m = threadIdx.x; m < s.candidates; m += kThreads) {
    if (row.picked(m)) continue;
    d_score[m] = row.is_candidate(m) ? -expf(row.score(m) - last) * before : 0.f;
  }
}

template <typename Kernel>
cudaError_t reserve(Kernel* kernel, const SubsetLogProbSizes& s, int& bytes) {
  if (s.candidates > kSubsetMaxCandidates) return cudaErrorInvalidValue;
  bytes = static_cast<int>((s.candidates + 31) / 32 * 4);
  return cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
}

}  // namespace

cudaError_t launch_subset_log_prob(const SubsetLogProbSizes& s, const SubsetLogProbInputs& in,
                                   float* log_prob, float* lse, cudaStream_t stream) {
  int bytes = 0;
  const cudaError_t status = reserve(log_prob_kernel, s, bytes);
  if (status != cudaSuccess) return status;
  log_prob_kernel<<<static_cast<unsigned>(s.rows), kThreads, bytes, stream>>>(s, in, log_prob, lse);
  return cudaGetLastError();
}

cudaError_t launch_subset_log_prob_backward(const SubsetLogProbSizes& s,
                                            const SubsetLogProbInputs& in, const float* lse,
                                            const float* d_log_prob, float* d_score,
                                            cudaStream_t stream) {
  int bytes = 0;
  const cudaError_t status = reserve(backward_kernel, s, bytes);
  if (status != cudaSuccess) return status;
  backward_kernel<<<static_cast<unsigned>(s.rows), kThreads, bytes, stream>>>(s, in, lse,
                                                                              d_log_prob, d_score);
  return cudaGetLastError();
}

}  // namespace dsrsq::kernels
