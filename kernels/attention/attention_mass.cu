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
static_assert(kThreads == 2 * kTile);
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

// What goes with the queries of a tile.
struct MassSide {
  float lse[kTile];  // log2; infinity where the query does not count
  int position[kTile];
};
struct MassShared {
  MassSide side[2];
  unsigned bits[kTile][kBitWords];                   // the clusters that a query is routed to
  int oldest[kThreads / 32], newest[kThreads / 32];  // keys of each warp
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

// Up to 64 rows to a tile [64][stride], zeros beyond: bf16 by cp.async; of fp32 a second tile
// behind the first has what that lost.
__device__ void load_rows(__nv_bfloat16* tile, const void* matrix, ElementType type, int64_t first,
                          int count, int width) {
  // Two threads a row.
  const int stride = row_stride(width), row = threadIdx.x / 2;
  for (int column = 8 * (threadIdx.x % 2); column < padded_width(width); column += 16) {
    const bool valid = row < count && column < width;
    const int64_t source = valid ? (first + row) * width + column : 0;
    auto* target = reinterpret_cast<uint4*>(tile + row * stride + column);
    if (type == ElementType::kBFloat16) {
      copy_chunk(shared_address(target), static_cast<const __nv_bfloat16*>(matrix) + source, valid);
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

// The keys of a thread, rows g and g + 8 of its warp's 16, and what they have got.
struct MassKeys {
  int position[2];
  float bias[2];  // log2
  int cluster[2];
  float mass[2] = {0.f, 0.f}, squared[2] = {0.f, 0.f};
};

class MassBlock {
 public:
  __device__ MassBlock(const MassArguments& a, MassShared& shared, uint4* tiles)
      : a_(a),
        s_(a.s),
        shared_(shared),
        width_(static_cast<int>(s_.width)),
        stride_(row_stride(width_)),
        parts_(a.in.type == ElementType::kFloat32 ? 2 : 1),
        keys_(reinterpret_cast<__nv_bfloat16*>(tiles)),
        kv_(blockIdx.y),
        batch_(kv_ / s_.kv_heads),
        first_key_(int64_t{blockIdx.x} * kTile),
        lane_(threadIdx.x % 32),
        warp_(threadIdx.x / 32) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t key = own_key(half), row = kv_ * s_.keys + key;
      const bool exists = key < s_.keys;
      const int position = exists ? a.in.key_position[batch_ * s_.keys + key] : -1;
      own_.position[half] = position < 0 ? INT_MAX : position;
      own_.bias[half] = exists && a.in.key_bias != nullptr ? a.in.key_bias[row] * kLog2E : 0.f;
      own_.cluster[half] = exists && a.in.routes != nullptr ? a.in.assignment[row] : -1;
    }
    const int oldest = __reduce_min_sync(0xffffffffu, min(own_.position[0], own_.position[1]));
    const int newest = __reduce_max_sync(0xffffffffu, max(own_.position[0], own_.position[1]));
    if (lane_ == 0) shared.oldest[warp_] = oldest, shared.newest[warp_] = newest;
    load_rows(keys_, a.in.k, a.in.type, kv_ * s_.keys + first_key_,
              static_cast<int>(min(int64_t{kTile}, s_.keys - first_key_)), width_);
    copy_commit();
    __syncthreads();
    oldest_ = shared.oldest[0], newest_ = shared.newest[0];
#pragma unroll
    for (int w = 1; w < kThreads / 32; ++w) {
      oldest_ = min(oldest_, shared.oldest[w]), newest_ = max(newest_, shared.newest[w]);
    }
  }

  // The next tile is on its way while one is worked on.
  __device__ void run() {
    const int64_t group = s_.heads / s_.kv_heads;
    const int64_t first_head = batch_ * s_.heads + kv_ % s_.kv_heads * group;
    Tile waiting{-1, 0, false};
    int buffer = 0;
    int position;
    float lse;
    find(first_head, 0, position, lse);
    for (int64_t head = first_head, first = 0; head < first_head + group;) {
      // Also: the tile before the one that waits has been read.
      const bool seen = __syncthreads_or(position >= oldest_) != 0;
      const bool all = seen && __syncthreads_and(threadIdx.x >= kTile || position >= newest_) != 0;
      const Tile tile{head, first, all};
      if (seen) {
        MassSide& side = shared_.side[buffer];
        if (threadIdx.x < kTile) side.position[threadIdx.x] = position, side.lse[threadIdx.x] = lse;
        load_rows(queries(buffer), a_.in.q, a_.in.type, head * s_.queries + first,
                  static_cast<int>(min(int64_t{kTile}, s_.queries - first)), width_);
        copy_commit();
      }
      first += kTile;
      if (first >= s_.queries) first = 0, ++head;
      if (head < first_head + group) find(head, first, position, lse);
      if (!seen) continue;
      if (waiting.head >= 0) {
        copy_wait<1>();
        add(waiting, buffer ^ 1);
      }
      waiting = tile;
      buffer ^= 1;
    }
    copy_wait<0>();
    __syncthreads();  // the tile before has been read
    if (waiting.head >= 0) add(waiting, buffer ^ 1);
    write();
  }

 private:
  struct Tile {
    int64_t head;
    int64_t first;
    bool all;  // every query sees every key, by position
  };

  __device__ int64_t own_key(int half) const {
    return first_key_ + warp_ * 16 + lane_ / 4 + 8 * half;
  }
  __device__ __nv_bfloat16* queries(int buffer) const {
    return keys_ + (1 + buffer) * parts_ * kTile * stride_;
  }
  // This thread's query of a tile.
  __device__ void find(int64_t head, int64_t first, int& position, float& lse) const {
    position = -1;
    lse = CUDART_INF_F;
    const int64_t query = first + threadIdx.x;
    if (threadIdx.x >= kTile || query >= s_.queries) return;
    position = __ldg(a_.in.query_position + batch_ * s_.queries + query);
    const float x = __ldg(a_.in.lse + head * s_.queries + query);
    if (x != -CUDART_INF_F) lse = x * kLog2E;
  }

  __device__ void mark_routes(const Tile& tile) {
    // Two threads a query.
    const int query = threadIdx.x / 2, words = static_cast<int>(s_.clusters + 31) / 32;
    unsigned* bits = shared_.bits[query];
    for (int i = threadIdx.x % 2; i < words; i += 2) bits[i] = 0;
    __syncwarp();
    if (tile.first + query >= s_.queries) return;
    const int slots = static_cast<int>(s_.slots);
    const int* routes = a_.in.routes + (tile.head * s_.queries + tile.first + query) * slots;
    for (int i = threadIdx.x % 2; i < slots; i += 2) {
      const int c = routes[i];
      if (c >= 0) atomicOr(&bits[c / 32], 1u << c % 32);
    }
  }

  __device__ bool sees(int half, int query, int at) const {
    const int position = own_.position[half];
    if (position > at) return false;
    if (a_.in.routes == nullptr || at - position < s_.window || position < s_.sinks) return true;
    const int c = own_.cluster[half];
    return c >= 0 && (shared_.bits[query][c / 32] >> c % 32 & 1u) != 0;
  }

  // A tile of queries that has landed for this thread.
  __device__ void add(const Tile& tile, int buffer) {
    if (a_.in.routes != nullptr) mark_routes(tile);
    __syncthreads();
    float score[8][4];
#pragma unroll
    for (int i = 0; i < 8; ++i) score[i][0] = score[i][1] = score[i][2] = score[i][3] = 0.f;
    const int matrix = lane_ / 8;
    const uint32_t key_rows =
        shared_address(keys_ + (warp_ * 16 + (matrix & 1) * 8 + lane_ % 8) * stride_) +
        (matrix >> 1) * 16;
    const uint32_t query_rows =
        shared_address(queries(buffer) + ((matrix >> 1) * 8 + lane_ % 8) * stride_) +
        (matrix & 1) * 16;
    const uint32_t part_bytes = kTile * stride_ * 2;
    // High by high, high by low, low by high.
    for (int product = 0; product < 2 * parts_ - 1; ++product) {
      const uint32_t k_part = key_rows + (product == 2 ? part_bytes : 0);
      const uint32_t q_part = query_rows + (product == 1 ? part_bytes : 0);
#pragma unroll 2
      for (int column = 0; column < width_; column += 16) {
        uint32_t x[4];
        load_matrices(x, k_part + column * 2);
#pragma unroll
        for (int pair = 0; pair < 4; ++pair) {
          uint32_t y[4];
          load_matrices(y, q_part + pair * 16 * stride_ * 2 + column * 2);
          multiply(score[2 * pair], x, y[0], y[1]);
          multiply(score[2 * pair + 1], x, y[2], y[3]);
        }
      }
    }
    const MassSide& side = shared_.side[buffer];
    const bool all = tile.all && a_.in.routes == nullptr;
    const float scale = s_.scale * kLog2E;
    float sum[2] = {0.f, 0.f}, square[2] = {0.f, 0.f};
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int query = 8 * i + 2 * (lane_ % 4);
      const float2 lse = *reinterpret_cast<const float2*>(&side.lse[query]);
      if (!all) {
        const int2 at = *reinterpret_cast<const int2*>(&side.position[query]);
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          if (!sees(e / 2, query + e % 2, e % 2 == 0 ? at.x : at.y)) score[i][e] = -CUDART_INF_F;
        }
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float p =
            exp2_fast(fmaf(score[i][e], scale, own_.bias[e / 2] - (e % 2 == 0 ? lse.x : lse.y)));
        sum[e / 2] += p;
        square[e / 2] = fmaf(p, p, square[e / 2]);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      own_.mass[half] += sum[half];
      own_.squared[half] += square[half];
    }
  }

  __device__ void write() {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float mass = own_.mass[half], squared = own_.squared[half];
#pragma unroll
      for (int lanes = 1; lanes <= 2; lanes *= 2) {
        mass += __shfl_xor_sync(0xffffffffu, mass, lanes);
        squared += __shfl_xor_sync(0xffffffffu, squared, lanes);
      }
      if (lane_ % 4 != 0 || own_key(half) >= s_.keys) continue;
      a_.mass[kv_ * s_.keys + own_key(half)] = mass;
      a_.squared[kv_ * s_.keys + own_key(half)] = squared;
    }
  }

  const MassArguments& a_;
  const AttentionMassSizes& s_;
  MassShared& shared_;
  int width_, stride_, parts_;
  __nv_bfloat16* keys_;  // and the two tiles of queries behind
  int64_t kv_, batch_, first_key_;
  int lane_, warp_;
  int oldest_, newest_;  // position of the block's keys
  MassKeys own_;
};

__global__ void __launch_bounds__(kThreads) mass_kernel(const __grid_constant__ MassArguments a) {
  extern __shared__ uint4 shared_raw[];
  __shared__ MassShared shared;
  MassBlock(a, shared, shared_raw).run();
}

}  // namespace

cudaError_t launch_attention_mass(const AttentionMassSizes& s, const AttentionMassInputs& in,
                                  float* mass, float* squared, cudaStream_t stream) {
  if (s.width < 8 || s.width % 8 != 0 || s.width > kAttentionMassMaxWidth ||
      (in.routes != nullptr && s.clusters > kAttentionMassMaxClusters)) {
    return cudaErrorInvalidValue;
  }
  const int parts = in.type == ElementType::kFloat32 ? 2 : 1;
  const int bytes = 3 * parts * kTile * row_stride(s.width) * 2;
  const cudaError_t status =
      cudaFuncSetAttribute(mass_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  const dim3 grid(static_cast<unsigned>((s.keys + kTile - 1) / kTile),
                  static_cast<unsigned>(s.batch * s.kv_heads));
  mass_kernel<<<grid, kThreads, bytes, stream>>>({s, in, mass, squared});
  return cudaGetLastError();
}

}  // namespace dsrsq::kernels
