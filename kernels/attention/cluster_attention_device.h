// What the kernels of cluster attention share on the device.
#pragma once

#include <cuda_bf16.h>
#include <math_constants.h>

#include "kernels/attention/cluster_index.h"
#include "kernels/attention/hopper.h"

namespace dsrsq::kernels {

constexpr float kLog2E = 1.4426950408889634f;
// In place of the -infinity of a query that sees no key: finite, so that a key of bias -infinity
// gets the weight 0 and not NaN.
constexpr float kNoLogSumExp = -1e30f;
constexpr float kLn2 = 0.6931471805599453f;

// Keys and values in cluster order, a group of 8 rows of keys and one of values in turn.
struct Clustered {
  __nv_bfloat16* pairs;  // [B, H_kv, d / 64, rows / 8, {k, v}, 8, 64]
  float* bias;           // [B, H_kv, rows], log2
  int64_t bytes;
};

inline Clustered clustered_layout(const ClusterSizes& s, void* base) {
  const int64_t head_rows = s.batch * s.kv_heads * s.rows();
  Clustered c;
  c.pairs = static_cast<__nv_bfloat16*>(base);
  c.bias = reinterpret_cast<float*>(static_cast<char*>(base) + head_rows * s.width * 4);
  c.bytes = head_rows * (s.width * 4 + 4);
  return c;
}

// The key-value head that serves a query head, both counted through the batch.
__host__ __device__ __forceinline__ int64_t kv_head(const ClusterSizes& s, int64_t head) {
  const int64_t b = head / s.heads;
  return b * s.kv_heads + (head - b * s.heads) / (s.heads / s.kv_heads);
}

// The newest position that a query sees of its clusters: what is newer is in its window.
__device__ __forceinline__ int key_limit(const ClusterSizes& s, int query) {
  return static_cast<int>(s.first_query) + query - static_cast<int>(s.window);
}

// Operand registers of 64 columns of a row: two 16-byte loads whose columns match those of keys in
// cluster order. a[4 step + i], step over 16 columns, i as wgmma wants them; rows g (i even) and
// g + 8 (i odd).
__device__ __forceinline__ void load_operand(uint32_t* a, const __nv_bfloat16* row0,
                                             const __nv_bfloat16* row1) {
  const int t = threadIdx.x & 3;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const uint4 x = __ldg(reinterpret_cast<const uint4*>(row0) + half * 4 + t);
    const uint4 y = __ldg(reinterpret_cast<const uint4*>(row1) + half * 4 + t);
    a[8 * half + 0] = x.x, a[8 * half + 1] = y.x, a[8 * half + 2] = x.y, a[8 * half + 3] = y.y;
    a[8 * half + 4] = x.z, a[8 * half + 5] = y.z, a[8 * half + 6] = x.w, a[8 * half + 7] = y.w;
  }
}

// Part `half` of the accumulator of 64 columns, row g (`low` 0) or g + 8 (2), as 16 bytes of bf16:
// of the row, chunk 4 half + lane % 4. The columns of what was accumulated were transposed as
// cluster order transposes them, so a thread holds whole chunks.
__device__ __forceinline__ uint4 row_chunk(const float* d, int low, int half, float factor) {
  const float* x = d + 16 * half + low;
  return {pack(x[0] * factor, x[1] * factor), pack(x[4] * factor, x[5] * factor),
          pack(x[8] * factor, x[9] * factor), pack(x[12] * factor, x[13] * factor)};
}

// All 128 bytes of such a row.
__device__ __forceinline__ void store_row(__nv_bfloat16* row, const float* d, int low,
                                          float factor) {
  const int t = threadIdx.x & 3;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    reinterpret_cast<uint4*>(row)[half * 4 + t] = row_chunk(d, low, half, factor);
  }
}

// Adds factor times 128 bytes of bf16 to an accumulator row, in the layout of store_row.
__device__ __forceinline__ void add_chunk(float* x, const uint4& chunk, float factor) {
  x[0] = fmaf(low_half(chunk.x), factor, x[0]), x[1] = fmaf(high_half(chunk.x), factor, x[1]);
  x[4] = fmaf(low_half(chunk.y), factor, x[4]), x[5] = fmaf(high_half(chunk.y), factor, x[5]);
  x[8] = fmaf(low_half(chunk.z), factor, x[8]), x[9] = fmaf(high_half(chunk.z), factor, x[9]);
  x[12] = fmaf(low_half(chunk.w), factor, x[12]), x[13] = fmaf(high_half(chunk.w), factor, x[13]);
}

// Turns an accumulator whose columns were in natural order into the layout of store_row.
__device__ __forceinline__ void gather_columns(float* d) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      float* x = d + 16 * half + e;
      quad_transpose(x[0], x[4], x[8], x[12]);
    }
  }
}

// The A operand of 64 contraction steps from an accumulator: bf16 pairs, a[4 step + i].
__device__ __forceinline__ void operand_from(uint32_t (&a)[16], const float (&d)[32]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) a[i] = pack(d[2 * i], d[2 * i + 1]);
}

// Scores of a tile in cluster order that a row may not see: columns from `left` on, and positions
// after the limit of row g or g + 8.
__device__ __forceinline__ void mask_tile(float (&score)[32], const int* position, int column,
                                          int left, int limit0, int limit1) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const int2 at = *reinterpret_cast<const int2*>(position + 8 * i + column);
    const bool in0 = 8 * i + column < left, in1 = 8 * i + column + 1 < left;
    if (!in0 || at.x > limit0) score[4 * i + 0] = -CUDART_INF_F;
    if (!in1 || at.y > limit0) score[4 * i + 1] = -CUDART_INF_F;
    if (!in0 || at.x > limit1) score[4 * i + 2] = -CUDART_INF_F;
    if (!in1 || at.y > limit1) score[4 * i + 3] = -CUDART_INF_F;
  }
}

// Half of 64 columns of a row, from an accumulator in natural order. All lanes take part.
__device__ __forceinline__ void put_row(const float* d, __nv_bfloat16* row, bool valid) {
  uint4 x = {pack(d[0], d[1]), pack(d[4], d[5]), pack(d[8], d[9]), pack(d[12], d[13])};
  quad_transpose(x.x, x.y, x.z, x.w);
  if (valid) *(reinterpret_cast<uint4*>(row) + (threadIdx.x & 3)) = x;
}

// Division by the number of slots, exact below 2^31.
struct Divisor {
  unsigned factor;
  int shift;
  __device__ int divide(unsigned x) const {
    return static_cast<int>(static_cast<uint64_t>(x) * factor >> shift);
  }
};

inline Divisor divisor(int64_t slots) {
  int bits = 0;
  while ((int64_t{1} << bits) < slots) ++bits;
  const int shift = 31 + bits;
  return {static_cast<unsigned>(((uint64_t{1} << shift) + slots - 1) / slots), shift};
}

template <int kPlanes>
__device__ __forceinline__ void zero(float (&d)[kPlanes][32]) {
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
    for (int i = 0; i < 32; ++i) d[plane][i] = 0.f;
  }
}

// Products of 64 rows in registers with the 64 rows of tile(plane), as a group of wgmma.
template <int kPlanes, typename Tile>
__device__ __forceinline__ void row_products(float (&d)[32], const uint32_t (&a)[kPlanes][16],
                                             Tile&& tile) {
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    const uint64_t b = tile(plane);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma<false>(d, a[plane] + 4 * step, b + step * kColumnStep, plane + step > 0);
    }
  }
  wgmma_commit();
}

// Adds to 64 rows the rows of tile(plane), which lie kStep a contraction step apart, by the weights
// in registers, as a group of wgmma.
template <uint64_t kStep, int kPlanes, typename Tile>
__device__ __forceinline__ void add_rows(float (&d)[kPlanes][32], const uint32_t (&a)[16],
                                         Tile&& tile) {
  wgmma_fence();
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    const uint64_t b = tile(plane);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma<true>(d[plane], a + 4 * step, b + step * kStep, true);
    }
  }
  wgmma_commit();
}

// Products of a tile become scores in units of log2, with the bias of each key.
__device__ __forceinline__ void add_biases(float (&score)[32], float scale, const float* biases,
                                           int column) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 b = *reinterpret_cast<const float2*>(biases + 8 * i + column);
    score[4 * i + 0] = fmaf(score[4 * i + 0], scale, b.x);
    score[4 * i + 1] = fmaf(score[4 * i + 1], scale, b.y);
    score[4 * i + 2] = fmaf(score[4 * i + 2], scale, b.x);
    score[4 * i + 3] = fmaf(score[4 * i + 3], scale, b.y);
  }
}

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

}  // namespace dsrsq::kernels
