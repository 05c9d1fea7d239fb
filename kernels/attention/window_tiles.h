// Tiles of keys and values in their natural order, for the local window and the sinks.
#pragma once

#include "kernels/attention/cluster_attention.h"
#include "kernels/attention/cluster_attention_device.h"

namespace dsrsq::kernels {

// Tiles [0, head) and [first, last].
struct TileRange {
  int head;
  int first;
  int last;
  __device__ int count() const { return head + max(0, last - first + 1); }
  __device__ int tile(int i) const { return i < head ? i : first + i - head; }
};

// Tiles of keys that hold the sinks or the window of the 64 queries from `first_query`.
__device__ __forceinline__ TileRange window_keys(const ClusterSizes& s, int first_query) {
  const int oldest = static_cast<int>(s.first_query) + first_query;
  const int newest = min(static_cast<int>(s.first_query + s.queries), oldest + kTileRows) - 1;
  TileRange r;
  r.last = min(newest, static_cast<int>(s.keys) - 1) / kTileRows;
  r.first = max(0, oldest - static_cast<int>(s.window) + 1) / kTileRows;
  if (s.window == 0) r.last = r.first - 1;
  const int sinks = min(static_cast<int>(s.sinks), newest + 1);
  r.head = (sinks + kTileRows - 1) / kTileRows;
  r.first = max(r.first, r.head);
  return r;
}

// Two stages of a tile of keys, one of values and the keys' biases, for 128 threads. A key that
// nobody sees has the bias -infinity.
template <int kWidth>
class WindowTiles {
 public:
  static constexpr int kThreads = 128;
  static constexpr int kPlanes = kWidth / 64;
  static constexpr int kStages = 2;
  static constexpr int kMatrixBytes = kPlanes * kTileBytes;
  static constexpr int kStageBytes = 2 * kMatrixBytes;
  static constexpr int kSharedBytes = 1024 + kStages * (kStageBytes + kTileRows * 4);

  __device__ WindowTiles(char* raw, const ClusterAttentionInputs& in, const ClusterSizes& s,
                         int64_t kv)
      : shared_(raw + ((1024 - (shared_address(raw) & 1023)) & 1023)),
        biases_(reinterpret_cast<float*>(shared_ + kStages * kStageBytes)),
        k_(static_cast<const __nv_bfloat16*>(in.k) + kv * s.keys * kWidth),
        v_(static_cast<const __nv_bfloat16*>(in.v) + kv * s.keys * kWidth),
        assignment_(in.assignment + kv * s.keys),
        key_bias_(in.key_bias == nullptr ? nullptr : in.key_bias + kv * s.keys),
        num_keys_(static_cast<int>(s.keys)) {}

  __device__ void start(const TileRange& range) {
#pragma unroll
    for (int i = 0; i < kStages; ++i) {
      if (i < range.count()) load(i, range.tile(i));
      copy_commit();
    }
  }
  // Tile i of the range is in shared memory for all threads.
  __device__ void wait(int) {
    copy_wait<kStages - 1>();
    async_proxy_fence();
    __syncthreads();
  }
  // All of this thread's reads of tile i have ended; loads the one that takes its place.
  __device__ void release(const TileRange& range, int i) {
    __syncthreads();
    if (i + kStages < range.count()) load(i + kStages, range.tile(i + kStages));
    copy_commit();
  }
  __device__ uint32_t keys(int i) const {
    return shared_address(shared_ + i % kStages * kStageBytes);
  }
  __device__ uint32_t values(int i) const { return keys(i) + kMatrixBytes; }
  __device__ const float* bias(int i) const { return biases_ + i % kStages * kTileRows; }

 private:
  __device__ void load(int i, int tile) {
    const uint32_t target = keys(i);
#pragma unroll
    for (int copy = 0; copy < kTileRows * 8 * kPlanes / kThreads; ++copy) {
      const int index = copy * kThreads + threadIdx.x;
      const int chunk = index % (8 * kPlanes), row = index / (8 * kPlanes);
      const int key = tile * kTileRows + row;
      const bool valid = key < num_keys_;
      const int64_t source = static_cast<int64_t>(valid ? key : 0) * kWidth + chunk * 8;
      const uint32_t place = chunk / 8 * kTileBytes + swizzled(row, chunk % 8);
      copy_chunk(target + place, k_ + source, valid);
      copy_chunk(target + kMatrixBytes + place, v_ + source, valid);
    }
    if (threadIdx.x < kTileRows) {
      const int key = tile * kTileRows + threadIdx.x;
      float bias = -CUDART_INF_F;
      if (key < num_keys_ && assignment_[key] >= 0) {
        bias = key_bias_ == nullptr ? 0.f : key_bias_[key] * kLog2E;
      }
      biases_[i % kStages * kTileRows + threadIdx.x] = bias;
    }
  }

  char* shared_;
  float* biases_;
  const __nv_bfloat16* k_;
  const __nv_bfloat16* v_;
  const int* assignment_;
  const float* key_bias_;
  int num_keys_;
};

// Operand registers of 64 columns of rows g and g + 8, columns in natural order.
__device__ __forceinline__ void load_natural_operand(uint32_t* a, const __nv_bfloat16* row0,
                                                     const __nv_bfloat16* row1) {
  const auto* x = reinterpret_cast<const uint32_t*>(row0) + (threadIdx.x & 3);
  const auto* y = reinterpret_cast<const uint32_t*>(row1) + (threadIdx.x & 3);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    a[4 * step + 0] = __ldg(x + 8 * step);
    a[4 * step + 1] = __ldg(y + 8 * step);
    a[4 * step + 2] = __ldg(x + 8 * step + 4);
    a[4 * step + 3] = __ldg(y + 8 * step + 4);
  }
}

// The slots of a query that have a partial result: those whose pair is in the lists.
struct SlotMask {
  unsigned bits;
  __device__ bool has(int slot) const { return (bits >> slot & 1u) != 0; }
};

__device__ __forceinline__ SlotMask seen_slots(const ClusterSizes& s, const ClusterIndex& index,
                                               const int* routes, int64_t head, int64_t kv,
                                               int query) {
  const int* route = routes + head * s.pairs() + int64_t{query} * s.slots;
  const int* first = index.first_position + kv * s.clusters;
  const int limit = key_limit(s, query);
  const int t = threadIdx.x & 3;
  unsigned bits = 0;
  for (int slot = t; slot < s.slots; slot += 4) {
    const int c = route[slot];
    if (c >= 0 && first[c] <= limit) bits |= 1u << slot;
  }
  bits |= __shfl_xor_sync(0xffffffffu, bits, 1);
  bits |= __shfl_xor_sync(0xffffffffu, bits, 2);
  return {bits};
}

}  // namespace dsrsq::kernels
