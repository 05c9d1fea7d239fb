#include <cuda_bf16.h>
#include <math_constants.h>

#include <climits>

#include "kernels/attention/attention_mass.h"
#include "kernels/attention/hopper.h"

namespace dsrsq::kernels {
namespace {

// A block owns 64 keys of a key-value head, 16 a warp, and walks the queries of its group, 64 at a
// time. mma.sync: the exponentials are as much work as the products, so wgmma would gain little.
constexpr int kThreads = 128;
constexpr int kTile = 64;
constexpr float kLog2E = 1.4426950408889634f;
constexpr int kBitWords = kAttentionMassMaxClusters / 32;

// Rows of a tile lie a 16-byte chunk more than their width apart: ldmatrix without bank conflicts.
__host__ __device__ inline int padded_width(int64_t width) {
  return static_cast<int>((width + 15) / 16 * 16);
}
__host__ __device__ inline int row_stride(int64_t width) { return padded_width(width) + 8; }

struct MassArguments {
  AttentionMassSizes s;
  AttentionMassInputs in;
  float* mass;
  float* squared;
};

struct MassShared {
  float lse[kTile];  // log2; infinity where the query does not count
  int position[kTile];
  unsigned bits[kTile][kBitWords];  // the clusters that a query is routed to
};

__device__ __forceinline__ void load_matrices(uint32_t (&a)[4], uint32_t shared) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(shared)
               : "memory");
}

// D[16 x 8] += A[16 x 16] B[16 x 8].
__device__ __forceinline__ void multiply(float (&d)[4], const uint32_t (&a)[4], uint32_t b0,
                                         uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Two fp32 numbers as bf16, and what the rounding lost.
__device__ __forceinline__ void split(float x, float y, uint32_t& high, uint32_t& low) {
  high = pack(x, y);
  low = pack(x - low_half(high), y - high_half(high));
}

// Up to 64 rows to a tile [64][stride], zeros beyond; of fp32 a second tile behind it has what the
// first lost.
__device__ void load_rows(__nv_bfloat16* tile, const void* matrix, ElementType type, int64_t first,
                          int count, int width) {
  const int chunks = padded_width(width) / 8, stride = row_stride(width);
  for (int i = threadIdx.x; i < kTile * chunks; i += kThreads) {
    const int row = i / chunks, column = i % chunks * 8;
    const bool valid = row < count && column < width;
    const int64_t source = (first + row) * width + column;
    auto* target = reinterpret_cast<uint4*>(tile + row * stride + column);
    if (type == ElementType::kBFloat16) {
      *target = valid ? __ldg(reinterpret_cast<const uint4*>(
                            static_cast<const __nv_bfloat16*>(matrix) + source))
                      : make_uint4(0, 0, 0, 0);
      continue;
    }
    const auto* x = reinterpret_cast<const float4*>(static_cast<const float*>(matrix) + source);
    const float4 zero = make_float4(0.f, 0.f, 0.f, 0.f);
    const float4 a = valid ? __ldg(x) : zero, b = valid ? __ldg(x + 1) : zero;
    uint4 high, low;
    split(a.x, a.y, high.x, low.x);
    split(a.z, a.w, high.y, low.y);
    split(b.x, b.y, high.z, low.z);
    split(b.z, b.w, high.w, low.w);
    *target = high;
    target[kTile * stride / 8] = low;
  }
}

// What a thread knows of its keys, rows g and g + 8 of a warp's 16.
struct MassKeys {
  int position[2];
  float bias[2];  // log2
  int cluster[2];
};

__global__ void __launch_bounds__(kThreads) mass_kernel(const __grid_constant__ MassArguments a) {
  extern __shared__ uint4 shared_raw[];
  __shared__ MassShared shared;
  const AttentionMassSizes& s = a.s;
  const int width = static_cast<int>(s.width), stride = row_stride(width);
  const int parts = a.in.type == ElementType::kFloat32 ? 2 : 1;
  auto* key_tile = reinterpret_cast<__nv_bfloat16*>(shared_raw);
  __nv_bfloat16* query_tile = key_tile + parts * kTile * stride;
  const int64_t kv = blockIdx.y, b = kv / s.kv_heads, group = s.heads / s.kv_heads;
  const int64_t first_key = int64_t{blockIdx.x} * kTile;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const bool routed = a.in.routes != nullptr;

  MassKeys keys;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t key = first_key + warp * 16 + g + 8 * half;
    const bool exists = key < s.keys;
    const int position = exists ? a.in.key_position[b * s.keys + key] : -1;
    keys.position[half] = position < 0 ? INT_MAX : position;
    keys.bias[half] =
        exists && a.in.key_bias != nullptr ? a.in.key_bias[kv * s.keys + key] * kLog2E : 0.f;
    keys.cluster[half] = exists && routed ? a.in.assignment[kv * s.keys + key] : -1;
  }
  // Of the block's keys.
  const int warp_oldest = __reduce_min_sync(0xffffffffu, min(keys.position[0], keys.position[1]));
  if (lane == 0) shared.position[warp] = warp_oldest;
  __syncthreads();
  const int oldest =
      min(min(shared.position[0], shared.position[1]), min(shared.position[2], shared.position[3]));
  const int count = static_cast<int>(min(int64_t{kTile}, s.keys - first_key));
  load_rows(key_tile, a.in.k, a.in.type, kv * s.keys + first_key, count, width);

  const int matrix = lane / 8;
  const uint32_t key_rows =
      shared_address(key_tile + (warp * 16 + (matrix & 1) * 8 + lane % 8) * stride) +
      (matrix >> 1) * 16;
  const uint32_t query_rows =
      shared_address(query_tile + ((matrix >> 1) * 8 + lane % 8) * stride) + (matrix & 1) * 16;
  const uint32_t part_bytes = kTile * stride * 2;
  const float scale = s.scale * kLog2E;
  float mass[2] = {0.f, 0.f}, squared[2] = {0.f, 0.f};
  for (int64_t member = 0; member < group; ++member) {
    const int64_t head = b * s.heads + kv % s.kv_heads * group + member;
    for (int64_t first = 0; first < s.queries; first += kTile) {
      int position = -1;
      float lse = CUDART_INF_F;
      if (threadIdx.x < kTile && first + threadIdx.x < s.queries) {
        position = a.in.query_position[b * s.queries + first + threadIdx.x];
        const float x = a.in.lse[head * s.queries + first + threadIdx.x];
        if (x != -CUDART_INF_F) lse = x * kLog2E;
      }
      // Also: the tile before has been read.
      if (!__syncthreads_or(position >= oldest)) continue;
      if (threadIdx.x < kTile) {
        shared.position[threadIdx.x] = position;
        shared.lse[threadIdx.x] = lse;
      }
      load_rows(query_tile, a.in.q, a.in.type, head * s.queries + first,
                static_cast<int>(min(int64_t{kTile}, s.queries - first)), width);
      if (routed) {
        for (int i = threadIdx.x; i < kTile * kBitWords; i += kThreads) {
          shared.bits[i / kBitWords][i % kBitWords] = 0;
        }
        __syncthreads();
        const int slots = static_cast<int>(s.slots);
        for (int i = threadIdx.x; i < kTile * slots; i += kThreads) {
          const int query = i / slots;
          if (first + query >= s.queries) break;
          const int c = a.in.routes[(head * s.queries + first) * slots + i];
          if (c >= 0) atomicOr(&shared.bits[query][c / 32], 1u << c % 32);
        }
      }
      __syncthreads();

      float score[8][4];
#pragma unroll
      for (int i = 0; i < 8; ++i) score[i][0] = score[i][1] = score[i][2] = score[i][3] = 0.f;
      // High by high, high by low, low by high.
      for (int product = 0; product < 2 * parts - 1; ++product) {
        const uint32_t k_part = key_rows + (product == 2 ? part_bytes : 0);
        const uint32_t q_part = query_rows + (product == 1 ? part_bytes : 0);
        for (int column = 0; column < width; column += 16) {
          uint32_t x[4];
          load_matrices(x, k_part + column * 2);
#pragma unroll
          for (int pair = 0; pair < 4; ++pair) {
            uint32_t y[4];
            load_matrices(y, q_part + pair * 16 * stride * 2 + column * 2);
            multiply(score[2 * pair], x, y[0], y[1]);
            multiply(score[2 * pair + 1], x, y[2], y[3]);
          }
        }
      }
      float sum[2] = {0.f, 0.f}, square[2] = {0.f, 0.f};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int half = e / 2, query = 8 * i + 2 * t + e % 2;
          const int at = shared.position[query], distance = at - keys.position[half];
          bool seen = keys.position[half] <= at;
          if (routed && seen && distance >= s.window && keys.position[half] >= s.sinks) {
            const int c = keys.cluster[half];
            seen = c >= 0 && (shared.bits[query][c / 32] >> c % 32 & 1u) != 0;
          }
          const float p =
              seen ? exp2_fast(fmaf(score[i][e], scale, keys.bias[half] - shared.lse[query])) : 0.f;
          sum[half] += p;
          square[half] = fmaf(p, p, square[half]);
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        mass[half] += sum[half];
        squared[half] += square[half];
      }
    }
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int lanes = 1; lanes <= 2; lanes *= 2) {
      mass[half] += __shfl_xor_sync(0xffffffffu, mass[half], lanes);
      squared[half] += __shfl_xor_sync(0xffffffffu, squared[half], lanes);
    }
    const int64_t key = first_key + warp * 16 + g + 8 * half;
    if (t != 0 || key >= s.keys) continue;
    a.mass[kv * s.keys + key] = mass[half];
    a.squared[kv * s.keys + key] = squared[half];
  }
}

}  // namespace

cudaError_t launch_attention_mass(const AttentionMassSizes& s, const AttentionMassInputs& in,
                                  float* mass, float* squared, cudaStream_t stream) {
  if (s.width < 8 || s.width % 8 != 0 || s.width > kAttentionMassMaxWidth ||
      (in.routes != nullptr && s.clusters > kAttentionMassMaxClusters)) {
    return cudaErrorInvalidValue;
  }
  const int parts = in.type == ElementType::kFloat32 ? 2 : 1;
  const int bytes = 2 * parts * kTile * row_stride(s.width) * 2;
  const cudaError_t status =
      cudaFuncSetAttribute(mass_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  const dim3 grid(static_cast<unsigned>((s.keys + kTile - 1) / kTile),
                  static_cast<unsigned>(s.batch * s.kv_heads));
  mass_kernel<<<grid, kThreads, bytes, stream>>>({s, in, mass, squared});
  return cudaGetLastError();
}

}  // namespace dsrsq::kernels
