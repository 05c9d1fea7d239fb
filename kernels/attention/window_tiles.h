// Tiles of keys and values in their natural order, for the local window and the sinks.
#pragma once

#include "kernels/attention/cluster_attention.h"
#include "kernels/attention/cluster_attention_device.h"

namespace dsrsq::kernels {

// Tiles [0, head), of which only keys before `head_keys` are wanted, and [first, last].
struct TileRange {
  int head;
  int head_keys;
  int first;
  int last;
  __device__ int count() const { return head + max(0, last - first + 1); }
  __device__ int tile(int i) const { return i < head ? i : first + i - head; }
  __device__ int keys(int i, int all) const { return i < head ? min(head_keys, all) : all; }
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
  // Where the window begins behind them, sinks are all that is seen of their tiles.
  r.head_keys = r.first >= r.head ? sinks : kNoKey;
  r.first = max(r.first, r.head);
  return r;
}

// Which keys of a tile a query sees: those of its window and the sinks.
struct NearMask {
  bool all;  // every query of the block sees every key of the tile
  int window;
  int sinks;  // columns before this one are sinks
  int first;  // position of the tile's first key
  __device__ NearMask(const ClusterSizes& s, int tile, int first_query)
      : window(static_cast<int>(s.window)), first(tile * kTileRows) {
    const int oldest = static_cast<int>(s.first_query) + first_query;
    all = first + kTileRows - 1 <= oldest && first > oldest + kTileRows - 1 - window;
    sinks = static_cast<int>(s.sinks) - first;
  }
  // Of a query by position.
  __device__ bool sees(int column, int query) const {
    const int distance = query - first - column;
    return static_cast<unsigned>(distance) < static_cast<unsigned>(window) ||
           (column < sinks && distance >= 0);
  }
};

// Products of a tile become scores in units of log2; -infinity where a query does not see a key.
__device__ __forceinline__ void near_scores(float (&score)[32], const NearMask& mask,
                                            const float* bias, int column, float scale, int query0,
                                            int query1) {
  add_biases(score, scale, bias, column);
  if (mask.all) return;
#pragma unroll
  for (int j = 0; j < 8; ++j) {
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      if (!mask.sees(8 * j + column + (e & 1), e < 2 ? query0 : query1)) {
        score[4 * j + e] = -CUDART_INF_F;
      }
    }
  }
}

// The queries of rows g and g + 8 of a thread; past the last query, the last again.
struct RowPair {
  int lane, g, column;
  int query0, query1;
  int at0, at1;        // positions
  int64_t row0, row1;  // rows of [B, H, N_q]
  __device__ RowPair(const ClusterSizes& s, int64_t head, int first_query)
      : lane(threadIdx.x % 32),
        g(threadIdx.x / 32 * 16 + lane / 4),
        column(2 * (lane & 3)),
        query0(min(first_query + g, static_cast<int>(s.queries) - 1)),
        query1(min(first_query + g + 8, static_cast<int>(s.queries) - 1)),
        at0(static_cast<int>(s.first_query) + query0),
        at1(static_cast<int>(s.first_query) + query1),
        row0(head * s.queries + query0),
        row1(head * s.queries + query1) {}
};

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
      if (i < range.count()) load(range, i);
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
    if (i + kStages < range.count()) load(range, i + kStages);
    copy_commit();
  }
  __device__ uint32_t keys(int i) const {
    return shared_address(shared_ + i % kStages * kStageBytes);
  }
  __device__ uint32_t values(int i) const { return keys(i) + kMatrixBytes; }
  __device__ const float* bias(int i) const { return biases_ + i % kStages * kTileRows; }

 private:
  __device__ void load(const TileRange& range, int i) {
    const int tile = range.tile(i), count = range.keys(i, num_keys_);
    const uint32_t target = keys(i);
#pragma unroll
    for (int copy = 0; copy < kTileRows * 8 * kPlanes / kThreads; ++copy) {
      const int index = copy * kThreads + threadIdx.x;
      const int chunk = index % (8 * kPlanes), row = index / (8 * kPlanes);
      const int key = tile * kTileRows + row;
      const bool valid = key < count;
      const int64_t source = static_cast<int64_t>(valid ? key : 0) * kWidth + chunk * 8;
      const uint32_t place = chunk / 8 * kTileBytes + swizzled(row, chunk % 8);
      copy_chunk(target + place, k_ + source, valid);
      copy_chunk(target + kMatrixBytes + place, v_ + source, valid);
    }
    if (threadIdx.x < kTileRows) {
      const int key = tile * kTileRows + threadIdx.x;
      float bias = -CUDART_INF_F;
      if (key < count && assignment_[key] >= 0) {
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

template <int kPlanes>
__device__ __forceinline__ void load_natural_operands(uint32_t (&a)[kPlanes][16],
                                                      const void* matrix, const RowPair& rows) {
  const auto* x = static_cast<const __nv_bfloat16*>(matrix);
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    load_natural_operand(a[plane], x + (rows.row0 * kPlanes + plane) * 64,
                         x + (rows.row1 * kPlanes + plane) * 64);
  }
}

// The partial results of 64 queries. A slot whose pair is in no list has none.
template <int kWidth>
class SlotRows {
 public:
  static constexpr int kThreads = 128;
  static int bytes(const ClusterSizes& s) { return kTileRows * static_cast<int>(s.slots) * 4; }

  __device__ SlotRows(char* raw, const ClusterSizes& s, int first_query)
      : lse_(reinterpret_cast<float*>(raw)),
        s_(s),
        first_query_(first_query),
        slots_(static_cast<int>(s.slots)) {}

  // Has the rows of this head, `rows` as in add(), brought to the L2 cache.
  __device__ void prefetch(const __nv_bfloat16* rows) const {
    if (threadIdx.x != 0) return;
    const int queries = min(kTileRows, static_cast<int>(s_.queries) - first_query_);
    const auto* first = rows + static_cast<int64_t>(first_query_) * slots_ * kWidth;
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(first),
                 "r"(queries * slots_ * kWidth * 2)
                 : "memory");
  }
  // partial_lse: of this head, or null: then lse() is 0 where a slot has a result.
  __device__ void start(const ClusterIndex& index, const int* routes, int64_t head, int64_t kv,
                        const float* partial_lse) {
    const int queries = min(kTileRows, static_cast<int>(s_.queries) - first_query_);
    const int64_t first_pair = static_cast<int64_t>(first_query_) * slots_;
    const int* route = routes + head * s_.pairs() + first_pair;
    const int* first = index.first_position + kv * s_.clusters;
    constexpr int kBatch = 4;  // loads in flight
    for (int base = threadIdx.x; base < kTileRows * slots_; base += kBatch * kThreads) {
      int c[kBatch], oldest[kBatch];
      float x[kBatch];
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int i = base + j * kThreads;
        c[j] = i < queries * slots_ ? __ldg(route + i) : -1;
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        oldest[j] = c[j] >= 0 ? __ldg(first + c[j]) : kNoKey;
        x[j] = c[j] >= 0 && partial_lse != nullptr
                   ? __ldg(partial_lse + first_pair + base + j * kThreads)
                   : 0.f;
      }
#pragma unroll
      for (int j = 0; j < kBatch; ++j) {
        const int i = base + j * kThreads;
        if (i >= kTileRows * slots_) break;
        const bool seen = oldest[j] <= key_limit(s_, first_query_ + i / slots_);
        lse_[i] = seen ? x[j] * kLog2E : -CUDART_INF_F;
      }
    }
  }
  __device__ float lse(int r, int slot) const { return lse_[r * slots_ + slot]; }  // log2

  // Adds the rows of query r times weight(lse) to row g (half 0) or g + 8 of accumulators, in the
  // order of slots. `rows`: of this head. After a barrier of the block since start().
  template <int kPlanes, typename Weight>
  __device__ void add(float (&d)[kPlanes][32], int half, int r, const __nv_bfloat16* rows,
                      Weight&& weight) const {
    constexpr int kBatch = kPlanes == 1 ? 4 : 2;  // slots in flight
    const int t = threadIdx.x & 3;
    const auto* source = reinterpret_cast<const uint4*>(
        rows + (static_cast<int64_t>(first_query_) + r) * slots_ * kWidth);
    for (int first = 0; first < slots_; first += kBatch) {
      uint4 x[kBatch][kPlanes], y[kBatch][kPlanes];
      float l[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        l[i] = first + i < slots_ ? lse(r, first + i) : -CUDART_INF_F;
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) {
          x[i][plane] = y[i][plane] = make_uint4(0, 0, 0, 0);
          if (l[i] == -CUDART_INF_F) continue;
          x[i][plane] = __ldcs(source + (first + i) * (kWidth / 8) + plane * 8 + t);
          y[i][plane] = __ldcs(source + (first + i) * (kWidth / 8) + plane * 8 + 4 + t);
        }
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const float w = l[i] == -CUDART_INF_F ? 0.f : weight(l[i]);
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) {
          add_chunk(d[plane] + 2 * half, x[i][plane], w);
          add_chunk(d[plane] + 16 + 2 * half, y[i][plane], w);
        }
      }
    }
  }

 private:
  float* lse_;
  const ClusterSizes& s_;
  int first_query_;
  int slots_;
};

// Blocks that walk the attend items of some heads: as many as run at once, fewer if there is less.
inline unsigned attend_blocks(const ClusterSizes& s, int64_t heads, int per_multiprocessor) {
  int device = 0, multiprocessors = 132;
  if (cudaGetDevice(&device) == cudaSuccess) {
    cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  }
  const int64_t items = heads * s.max_items();
  const int64_t resident = int64_t{multiprocessors} * per_multiprocessor;
  return static_cast<unsigned>(items < resident ? items : resident);
}

}  // namespace dsrsq::kernels
