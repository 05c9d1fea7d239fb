#include <cuda_bf16.h>
#include <math_constants.h>

#include "kernels/dense/cross_entropy.h"

namespace dsrsq::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kColumns = 8;  // of a thread at a time: 16 bytes
constexpr float kLog2E = 1.4426950408889634f;

struct alignas(16) Eight {
  __nv_bfloat16 x[kColumns];
};

// The maximum and the sum of exp(x - maximum) of what was seen; sum 0: nothing.
struct Sum {
  float maximum, sum;
};

__device__ __forceinline__ Sum join(Sum a, Sum b) {
  const float maximum = fmaxf(a.maximum, b.maximum);
  if (maximum == -CUDART_INF_F) return {maximum, 0.f};
  return {maximum, a.sum * exp2f((a.maximum - maximum) * kLog2E) +
                       b.sum * exp2f((b.maximum - maximum) * kLog2E)};
}

__device__ Sum join_block(Sum own) {
  __shared__ Sum of_warps[kWarps];
  for (int offset = 16; offset > 0; offset /= 2)
    own = join(own,
               {__shfl_xor_sync(~0u, own.maximum, offset), __shfl_xor_sync(~0u, own.sum, offset)});
  if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = own;
  __syncthreads();
  Sum all = of_warps[0];
  for (int warp = 1; warp < kWarps; ++warp) all = join(all, of_warps[warp]);
  return all;
}

// A block has a row: short enough to be read again from L2.
template <bool kGradient>
__global__ void __launch_bounds__(kThreads)
    cross_entropy_kernel(CrossEntropySizes s, __nv_bfloat16* logits, const int64_t* targets,
                         float* losses) {
  const int64_t row = blockIdx.x;
  __nv_bfloat16* own = logits + row * s.stride;
  const int64_t target = targets[row];
  Sum sum{-CUDART_INF_F, 0.f};
  for (int64_t first = int64_t(threadIdx.x) * kColumns; first < s.vocabulary;
       first += int64_t(kThreads) * kColumns) {
    const Eight eight = *reinterpret_cast<const Eight*>(own + first);
    float x[kColumns];
    float maximum = -CUDART_INF_F;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      x[i] = first + i < s.vocabulary ? __bfloat162float(eight.x[i]) : -CUDART_INF_F;
      maximum = fmaxf(maximum, x[i]);
    }
    float total = 0.f;
#pragma unroll
    for (int i = 0; i < kColumns; ++i) total += exp2f((x[i] - maximum) * kLog2E);
    sum = join(sum, {maximum, total});
  }
  sum = join_block(sum);
  const float lse = sum.maximum + logf(sum.sum);
  if (threadIdx.x == 0) losses[row] = lse - __bfloat162float(own[target]);
  if (!kGradient) return;
  __syncthreads();  // the target's logit was read
  for (int64_t first = int64_t(threadIdx.x) * kColumns; first < s.stride;
       first += int64_t(kThreads) * kColumns) {
    Eight eight = *reinterpret_cast<const Eight*>(own + first);
#pragma unroll
    for (int i = 0; i < kColumns; ++i) {
      const int64_t column = first + i;
      const float probability = exp2f((__bfloat162float(eight.x[i]) - lse) * kLog2E);
      const float gradient = probability - (column == target ? 1.f : 0.f);
      eight.x[i] = __float2bfloat16(column < s.vocabulary ? gradient : 0.f);
    }
    *reinterpret_cast<Eight*>(own + first) = eight;
  }
}

}  // namespace

cudaError_t launch_cross_entropy(const CrossEntropySizes& s, void* logits, const int64_t* targets,
                                 float* losses, bool gradient, cudaStream_t stream) {
  if (s.rows == 0) return cudaSuccess;
  auto* kernel = gradient ? cross_entropy_kernel<true> : cross_entropy_kernel<false>;
  kernel<<<unsigned(s.rows), kThreads, 0, stream>>>(s, static_cast<__nv_bfloat16*>(logits), targets,
                                                    losses);
  return cudaGetLastError();
}

}  // namespace dsrsq::kernels
