#include <cuda_bf16.h>

#include "kernels/dense/rotary.h"

namespace dsrsq::kernels {
namespace {

constexpr int kThreads = 256;
constexpr int kPairs = 8;  // of a thread: 16 bytes of each half

// Eight numbers in bf16, moved as one.
struct alignas(16) Eight {
  __nv_bfloat16 x[kPairs];
};

// Threads of one token stand side by side, head after head.
__global__ void rotary_kernel(RotarySizes s, const __nv_bfloat16* x, const float* cosine,
                              const float* sine, float sign, __nv_bfloat16* out, int64_t total) {
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (index >= total) return;
  const int64_t half = s.width / 2, parts = half / kPairs;
  const int64_t part = index % parts;
  const int64_t head = index / parts % s.heads;
  const int64_t row = index / parts / s.heads;  // b * T + t
  const int64_t b = row / s.tokens, t = row - b * s.tokens;
  const __nv_bfloat16* from =
      x + b * s.in_strides[0] + head * s.in_strides[1] + t * s.in_strides[2] + part * kPairs;
  __nv_bfloat16* to =
      out + b * s.out_strides[0] + head * s.out_strides[1] + t * s.out_strides[2] + part * kPairs;
  const Eight a = *reinterpret_cast<const Eight*>(from);
  const Eight c = *reinterpret_cast<const Eight*>(from + half);
  const float* cosines = cosine + row * half + part * kPairs;
  const float* sines = sine + row * half + part * kPairs;
  Eight first, second;
#pragma unroll
  for (int i = 0; i < kPairs; ++i) {
    const float cos_i = cosines[i], sin_i = sines[i] * sign;
    const float low = __bfloat162float(a.x[i]), high = __bfloat162float(c.x[i]);
    first.x[i] = __float2bfloat16(low * cos_i - high * sin_i);
    second.x[i] = __float2bfloat16(high * cos_i + low * sin_i);
  }
  *reinterpret_cast<Eight*>(to) = first;
  *reinterpret_cast<Eight*>(to + half) = second;
}

}  // namespace

cudaError_t launch_rotary(const RotarySizes& s, const void* x, const float* cosine,
                          const float* sine, float sign, void* out, cudaStream_t stream) {
  const int64_t total = s.batch * s.tokens * s.heads * (s.width / 2 / kPairs);
  if (total == 0) return cudaSuccess;
  const auto blocks = unsigned((total + kThreads - 1) / kThreads);
  rotary_kernel<<<blocks, kThreads, 0, stream>>>(s, static_cast<const __nv_bfloat16*>(x), cosine,
                                                 sine, sign, static_cast<__nv_bfloat16*>(out),
                                                 total);
  return cudaGetLastError();
}

}  // namespace dsrsq::kernels
