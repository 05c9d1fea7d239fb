// What the kernels of attention over latents share.
#pragma once

#include <math_constants.h>

#include "kernels/attention/hopper.h"
#include "kernels/latent/latent_attention.h"
#include "kernels/latent/mma.h"

namespace dsrsq::kernels {

constexpr int kHeadWidth = static_cast<int>(kLatentHeadWidth);
constexpr int kPairs = kHeadWidth / 2;
constexpr int kColumnTiles = kHeadWidth / 8;
constexpr float kLog2E = 1.4426950408889634f;
constexpr float kLn2 = 0.6931471805599453f;

struct LatentAttentionArguments {
  LatentAttentionSizes s;
  LatentAttentionInputs in;
  void* out;
  float* lse;
};

// Few query rows a key-value head: a block has up to four of them, slots are split over a cluster
// of blocks. By the latents' type.
cudaError_t launch_latent_rows_bf16(const LatentAttentionArguments& a, cudaStream_t stream);
cudaError_t launch_latent_rows_fp32(const LatentAttentionArguments& a, cudaStream_t stream);
// Many rows, all bf16: a block has 64 of them and walks all slots. By c.
cudaError_t launch_latent_tiles_32(const LatentAttentionArguments& a, cudaStream_t stream);
cudaError_t launch_latent_tiles_64(const LatentAttentionArguments& a, cudaStream_t stream);
cudaError_t launch_latent_tiles_128(const LatentAttentionArguments& a, cudaStream_t stream);

// Two fp32 numbers as bf16, and what the rounding lost.
__device__ __forceinline__ void split(float x, float y, uint32_t& high, uint32_t& low) {
  high = pack(x, y);
  low = pack(x - low_half(high), y - high_half(high));
}

// The B operand of one k-step and eight columns, of four numbers of a column.
__device__ __forceinline__ uint4 split_operand(float x0, float x1, float x2, float x3) {
  uint4 b;  // high parts, then low parts
  split(x0, x1, b.x, b.z);
  split(x2, x3, b.y, b.w);
  return b;
}

// Cosine and sine of the angle of a pair at a position. The fraction of a turn is taken in double:
// at position 10^6 an fp32 angle is off by .06.
__device__ __forceinline__ void turn(double position, double turns, float& cosine, float& sine) {
  const double angle = position * turns;
  const float fraction = static_cast<float>(angle - rint(angle));
  __sincosf(fraction * 6.283185307179586f, &sine, &cosine);
}

// floor(log2(max(1, age))), at most `last`.
__device__ __forceinline__ int age_bucket(int64_t age, int last) {
  return min(63 - __clzll(max(age, int64_t{1})), last);
}

}  // namespace dsrsq::kernels
