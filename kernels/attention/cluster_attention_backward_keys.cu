#include "kernels/attention/cluster_attention_backward.h"
#include "kernels/attention/cluster_attention_device.h"

namespace dsrsq::kernels {
namespace {

// A block owns 128 keys, 64 a warpgroup, and walks the queries that may see them, 64 at a time.
constexpr int kThreads = 256;
constexpr int64_t kSinkChunk = 2048;  // queries of one head that a block of sinks walks

int64_t sink_chunks(const ClusterSizes& s) {
  return s.sinks > 0 ? (s.queries + kSinkChunk - 1) / kSinkChunk * (s.heads / s.kv_heads) : 0;
}

enum class KeyMode { kClusters, kSinks, kWindow };

struct KeyArguments {
  BackwardArguments b;
  KeyMode mode;
  // Of the sinks, from each chunk of queries: [B, H_kv, chunks, 128, 2, d] (dk, dv) and
  // [B, H_kv, chunks, 128].
  float* sink_rows;
  float* sink_bias;
  int64_t chunks;
};

template <int kWidth>
struct KeyShared {
  static constexpr int kPlanes = kWidth / 64;
  static constexpr int kKeyBytes = kPlanes * 2 * kTileBytes;  // of 128 keys, or of their values
  static constexpr int kMatrixBytes = kPlanes * kTileBytes;
  static constexpr int kStageBytes = 2 * kMatrixBytes;
  // Tiles that are loaded ahead. The warpgroups may be a tile apart, and each leaves its last
  // products running (of width 128 it has no registers to): a stage is written again when the
  // slower one is done with it.
  static constexpr int kAhead = kWidth == 64 ? 3 : 2;
  static constexpr int kStages = kWidth == 64 ? 6 : 4;
  struct Rows {
    float lse[kTileRows];    // log2
    float delta[kTileRows];  // sum over columns of out d_out
    int limit[kTileRows];    // the newest key that the query may see here
  };
  static constexpr int kBytes =
      1024 + 2 * kKeyBytes + kStages * (kStageBytes + static_cast<int>(sizeof(Rows)));
};

__device__ __forceinline__ void copy_word(void* shared, const void* global, bool valid) {
  const int bytes = valid ? 4 : 0;
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)),
               "l"(global), "r"(bytes)
               : "memory");
}

// The queries that a block walks: list entries, or all from `first` on.
struct QuerySource {
  const unsigned* list;  // null: successive queries
  unsigned slots;
  int first;
  int count;
  // What names a query until it is needed: the value of a load in flight.
  __device__ unsigned entry(int i) const {
    return list != nullptr ? list[first + i] : static_cast<unsigned>(first + i);
  }
  __device__ int query_of(unsigned entry) const {
    return static_cast<int>(list != nullptr ? entry / slots : entry);
  }
  __device__ int query(int i) const { return query_of(entry(i)); }
  __device__ int tiles() const { return (count + kTileRows - 1) / kTileRows; }
};

template <int kWidth>
class QueryRing {
 public:
  using Shared = KeyShared<kWidth>;
  using Rows = typename Shared::Rows;
  static constexpr int kStages = Shared::kStages, kAhead = Shared::kAhead;
  static constexpr unsigned kNoEntry = 0xffffffffu;
  __device__ QueryRing(const BackwardArguments& b, KeyMode mode, char* tiles, Rows* rows,
                       uint64_t* full)
      : b_(b), mode_(mode), tiles_(tiles), rows_(rows), full_(full) {}

  // All threads have met since the last tile of the source before.
  __device__ void start(int64_t head, const QuerySource& source) {
    head_ = head;
    source_ = source;
    first_ = next_;
    for (int tile = 0; tile < kAhead; ++tile) {
      find(tile);
      load(tile);
    }
    find(kAhead);
    arrive<kAhead - 1>(0);
  }
  // Tile i is in shared memory for this warpgroup; the loads kAhead tiles ahead are on their way.
  __device__ void wait(int i) {
    arrive<kAhead - 2>(i + 1);
    const int n = first_ + i;
    barrier_wait(&full_[n % kStages], n / kStages & 1);
    load(i + kAhead);
    find(i + kAhead + 1);
    next_ = first_ + i + 2;  // the tile after the last has been signalled too
  }
  __device__ uint32_t q(int i) const {
    return shared_address(tiles_ + (first_ + i) % kStages * Shared::kStageBytes);
  }
  __device__ uint32_t d_out(int i) const { return q(i) + Shared::kMatrixBytes; }
  __device__ const Rows& rows(int i) const { return rows_[(first_ + i) % kStages]; }

 private:
  // This thread's part of tile i has landed.
  template <int kPending>
  __device__ void arrive(int i) {
    copy_wait<kPending>();
    async_proxy_fence();
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(
                     shared_address(&full_[(first_ + i) % kStages]))
                 : "memory");
  }
  // Eight threads a row, two rows a thread.
  __device__ int row(int half) const { return half * 32 + threadIdx.x / 8; }
  __device__ void find(int tile) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = tile * kTileRows + row(half);
      entry_[half] = i < source_.count ? source_.entry(i) : kNoEntry;
    }
  }
  __device__ void load(int tile) {
    if (tile < source_.tiles()) {
      const uint32_t target = q(tile);
      Rows& side = rows_[(first_ + tile) % kStages];
      const int chunk = threadIdx.x % 8;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = row(half);
        const int query = entry_[half] == kNoEntry ? -1 : source_.query_of(entry_[half]);
        const int64_t line = head_ * b_.s.queries + max(query, 0);
        const auto* q = static_cast<const __nv_bfloat16*>(b_.in.q) + line * kWidth + 8 * chunk;
        const auto* d =
            static_cast<const __nv_bfloat16*>(b_.grad.d_out) + line * kWidth + 8 * chunk;
#pragma unroll
        for (int plane = 0; plane < Shared::kPlanes; ++plane) {
          const uint32_t place = plane * kTileBytes + swizzled(r, chunk);
          copy_chunk(target + place, q + 64 * plane, query >= 0);
          copy_chunk(target + Shared::kMatrixBytes + place, d + 64 * plane, query >= 0);
        }
        if (chunk == 0) {
          copy_word(&side.lse[r], &b_.rows[line].x, query >= 0);
          copy_word(&side.delta[r], &b_.rows[line].y, query >= 0);
          const int at = static_cast<int>(b_.s.first_query) + query;
          side.limit[r] = query < 0                   ? -1
                          : mode_ == KeyMode::kWindow ? at
                                                      : at - static_cast<int>(b_.s.window);
        }
      }
    }
    copy_commit();
  }

  const BackwardArguments& b_;
  KeyMode mode_;
  char* tiles_;
  Rows* rows_;
  uint64_t* full_;
  int first_ = 0;  // tiles before this source
  int next_ = 0;
  int64_t head_;
  QuerySource source_;
  unsigned entry_[2];
};

// Adds the gradients from one tile of queries to 64 keys of a warpgroup.
template <int kWidth>
struct KeyTile {
  static constexpr int kPlanes = kWidth / 64;
  uint32_t k, v;  // shared memory
  int position0, position1;
  float bias0, bias1;  // log2
  float dk[kPlanes][32], dv[kPlanes][32];
  float d_bias0 = 0.f, d_bias1 = 0.f;
};

template <int kWidth>
__device__ __forceinline__ void add_queries(KeyTile<kWidth>& tile, uint32_t q, uint32_t d_out,
                                            const typename KeyShared<kWidth>::Rows& rows,
                                            float scale, bool masked, int window, bool has_bias,
                                            uint32_t (&p)[16],
                                            uint32_t (&ds)[16]) {
  constexpr int kPlanes = kWidth / 64;
  const int column = 2 * (threadIdx.x & 3);
  float score[32], d_weight[32];
  wgmma_fence();
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    const uint64_t a = tile_descriptor(tile.k + 2 * plane * kTileBytes);
    const uint64_t b = tile_descriptor(q + plane * kTileBytes);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma<false>(score, a + step * kColumnStep, b + step * kColumnStep, plane + step > 0);
    }
  }
  wgmma_commit();
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    const uint64_t a = tile_descriptor(tile.v + 2 * plane * kTileBytes);
    const uint64_t b = tile_descriptor(d_out + plane * kTileBytes);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma<false>(d_weight, a + step * kColumnStep, b + step * kColumnStep, plane + step > 0);
    }
  }
  wgmma_commit();
  wgmma_wait<1>(score);  // the scores, and with them all products of the tile before
  if (masked) {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int2 limit = *reinterpret_cast<const int2*>(&rows.limit[8 * i + column]);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int distance = (e & 1 ? limit.y : limit.x) - (e < 2 ? tile.position0 : tile.position1);
        if (static_cast<unsigned>(distance) >= static_cast<unsigned>(window)) {
          score[4 * i + e] = -CUDART_INF_F;
        }
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 lse = *reinterpret_cast<const float2*>(&rows.lse[8 * i + column]);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float base = (e < 2 ? tile.bias0 : tile.bias1) - (e & 1 ? lse.y : lse.x);
      score[4 * i + e] = exp2_fast(fmaf(score[4 * i + e], scale, base));
    }
  }
  wgmma_wait<0>(p);
  wgmma_wait<0>(ds);
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 delta = *reinterpret_cast<const float2*>(&rows.delta[8 * i + column]);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      d_weight[4 * i + e] = score[4 * i + e] * (d_weight[4 * i + e] - (e & 1 ? delta.y : delta.x));
    }
  }
  if (has_bias) {
#pragma unroll
    for (int i = 0; i < 32; ++i) (i & 2 ? tile.d_bias1 : tile.d_bias0) += d_weight[i];
  }
  operand_from(p, score);
  operand_from(ds, d_weight);
  wgmma_fence();
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    const uint64_t b = tile_descriptor(d_out + plane * kTileBytes);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma<true>(tile.dv[plane], p + 4 * step, b + step * kRowStep, true);
    }
  }
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    const uint64_t b = tile_descriptor(q + plane * kTileBytes);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma<true>(tile.dk[plane], ds + 4 * step, b + step * kRowStep, true);
    }
  }
  wgmma_commit();
  if (kWidth == 128) {  // no registers to let them run into the next tile
    wgmma_wait<0>(p);
    wgmma_wait<0>(ds);
  }
}

// What one block owns.
struct KeyBlock {
  int64_t kv;
  int cluster;       // of kClusters
  const int* order;  // positions of the rows, or null: `first` + row
  int first;
  int count;
  __device__ int position(int row) const {
    return row >= count ? kNoKey : order != nullptr ? order[row] : first + row;
  }
};

// The queries of one head that may see the block's keys.
__device__ QuerySource find_queries(const KeyArguments& a, const KeyBlock& block, int64_t head,
                                    int64_t chunk) {
  const ClusterSizes& s = a.b.s;
  const int first_query = static_cast<int>(s.first_query);
  QuerySource source{nullptr, static_cast<unsigned>(s.slots), 0, 0};
  if (a.mode == KeyMode::kWindow) {
    source.first = max(0, block.first - first_query);
    const int newest = block.first + block.count - 1 + static_cast<int>(s.window) - 1;
    source.count = min(static_cast<int>(s.queries), newest + 1 - first_query) - source.first;
  } else if (a.mode == KeyMode::kSinks) {
    source.first = static_cast<int>(chunk * kSinkChunk);
    source.count = static_cast<int>(min(kSinkChunk, s.queries - chunk * kSinkChunk));
  } else {
    const int* begin = a.b.index.list_begin + head * (s.clusters + 1) + block.cluster;
    source.list = a.b.index.list + head * s.pairs();
    source.first = begin[0];
    const int count = begin[1] - begin[0];
    // Entries are in the order of queries: leave out the tiles before the first that sees a key.
    const int oldest = block.order[0];
    int skipped = 0;
    for (int tile = 0; tile * kTileRows < count; tile += kThreads) {
      const int last = min((tile + static_cast<int>(threadIdx.x) + 1) * kTileRows, count) - 1;
      const bool exists = (tile + static_cast<int>(threadIdx.x)) * kTileRows < count;
      const int blind = __syncthreads_count(exists && key_limit(s, source.query(last)) < oldest);
      skipped += blind;
      if (blind < kThreads) break;
    }
    source.first += skipped * kTileRows;
    source.count = count - skipped * kTileRows;
  }
  source.count = max(source.count, 0);
  return source;
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads, 1)
    key_gradient_kernel(const __grid_constant__ KeyArguments a) {
  using Shared = KeyShared<kWidth>;
  constexpr int kPlanes = Shared::kPlanes;
  extern __shared__ char shared_raw[];
  __shared__ uint64_t full[Shared::kStages];
  const ClusterSizes& s = a.b.s;
  KeyBlock block{static_cast<int64_t>(blockIdx.y), 0, nullptr, 0, 0};
  int64_t chunk = 0;
  if (a.mode == KeyMode::kClusters) {
    if (static_cast<int>(blockIdx.x) >= a.b.index.num_key_items[block.kv]) return;
    const ClusterItem item = a.b.index.key_items[block.kv * s.max_key_items() + blockIdx.x];
    block.cluster = item.cluster;
    block.order = a.b.index.order + block.kv * s.rows() + item.begin;
    block.count = item.count;
  } else if (a.mode == KeyMode::kWindow) {
    block.first = blockIdx.x * kKeyTile;
    block.count = static_cast<int>(min(int64_t{kKeyTile}, s.keys - block.first));
  } else {
    chunk = blockIdx.x;
    block.count = static_cast<int>(min(s.sinks, s.keys));
  }

  if (threadIdx.x == 0) {
    for (int i = 0; i < Shared::kStages; ++i) barrier_init(&full[i], kThreads);
    barrier_init_fence();
  }
  __syncthreads();
  char* shared = shared_raw + ((1024 - (shared_address(shared_raw) & 1023)) & 1023);
  const uint32_t keys = shared_address(shared);
  // Keys and values, eight threads a row.
#pragma unroll
  for (int i = 0; i < kKeyTile / 32; ++i) {
    const int row = i * 32 + threadIdx.x / 8, c = threadIdx.x % 8;
    const int position = block.position(row);
    const bool valid = position != kNoKey;
    const int64_t line = (block.kv * s.keys + (valid ? position : 0)) * kWidth + 8 * c;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      const uint32_t place = 2 * plane * kTileBytes + swizzled(row, c);
      copy_chunk(keys + place, static_cast<const __nv_bfloat16*>(a.b.in.k) + line + 64 * plane,
                 valid);
      copy_chunk(keys + Shared::kKeyBytes + place,
                 static_cast<const __nv_bfloat16*>(a.b.in.v) + line + 64 * plane, valid);
    }
  }
  copy_commit();

  const int group = threadIdx.x / 128, lane = threadIdx.x % 32;
  const int g = group * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4;
  KeyTile<kWidth> tile;
  tile.k = keys + group * kTileBytes;
  tile.v = tile.k + Shared::kKeyBytes;
  tile.position0 = block.position(g);
  tile.position1 = block.position(g + 8);
  auto bias = [&](int position) {
    if (position == kNoKey || a.b.in.assignment[block.kv * s.keys + position] < 0) {
      return -CUDART_INF_F;
    }
    return a.b.in.key_bias == nullptr ? 0.f
                                      : a.b.in.key_bias[block.kv * s.keys + position] * kLog2E;
  };
  tile.bias0 = bias(tile.position0);
  tile.bias1 = bias(tile.position1);
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
    for (int i = 0; i < 32; ++i) tile.dk[plane][i] = tile.dv[plane][i] = 0.f;
  }
  const int rows_here = min(64, block.count - 64 * group);  // of this warpgroup
  const int oldest = rows_here > 0 ? block.position(64 * group) : kNoKey;
  const int newest = rows_here > 0 ? block.position(64 * group + rows_here - 1) : kNoKey;
  const int window = a.mode == KeyMode::kWindow ? static_cast<int>(s.window) : 0x7fffffff;
  const float scale = s.scale * kLog2E;
  const bool has_bias = a.b.grad.d_key_bias != nullptr;
  uint32_t p[16] = {}, ds[16] = {};

  QueryRing<kWidth> ring(a.b, a.mode, shared + 2 * Shared::kKeyBytes,
                         reinterpret_cast<typename Shared::Rows*>(shared + 2 * Shared::kKeyBytes +
                                                                  Shared::kStages *
                                                                      Shared::kStageBytes),
                         full);
  const int64_t group_size = s.heads / s.kv_heads;
  const int64_t first_head = block.kv / s.kv_heads * s.heads + block.kv % s.kv_heads * group_size;
  for (int64_t member = 0; member < group_size; ++member) {
    if (a.mode == KeyMode::kSinks && member != chunk % group_size) continue;
    const QuerySource source =
        find_queries(a, block, first_head + member, a.mode == KeyMode::kSinks ? chunk / group_size : 0);
    const int num_tiles = source.tiles();
    if (num_tiles == 0) continue;
    ring.start(first_head + member, source);
    for (int i = 0; i < num_tiles; ++i) {
      ring.wait(i);
      const auto& rows = ring.rows(i);
      const int last = min(kTileRows, source.count - i * kTileRows) - 1;
      if (rows.limit[last] < oldest) continue;  // also where this warpgroup has no key
      const bool masked = last < kTileRows - 1 || rows.limit[0] < newest ||
                          (a.mode == KeyMode::kWindow && rows.limit[last] - oldest >= window);
      add_queries(tile, ring.q(i), ring.d_out(i), rows, scale, masked, window, has_bias, p,
                  ds);
    }
    wgmma_wait<0>(p);
    wgmma_wait<0>(ds);
    copy_wait<0>();
    __syncthreads();
  }
  copy_wait<0>();

#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    gather_columns(tile.dk[plane]);
    gather_columns(tile.dv[plane]);
  }
  tile.d_bias0 = quad_sum(tile.d_bias0);
  tile.d_bias1 = quad_sum(tile.d_bias1);
  const int t = lane & 3;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int position = half == 0 ? tile.position0 : tile.position1;
    if (position == kNoKey) continue;
    float d_bias = half == 0 ? tile.d_bias0 : tile.d_bias1;
    const int64_t line = block.kv * s.keys + position;
    auto* dk = static_cast<__nv_bfloat16*>(a.b.grad.dk) + line * kWidth;
    auto* dv = static_cast<__nv_bfloat16*>(a.b.grad.dv) + line * kWidth;
    // The row's values, half of 64 columns at a time, in the order of store_row.
    auto each = [&](auto&& f) {
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const int column = 64 * plane + i / 4 * 32 + 8 * t + i % 4 * 2;
          f(column, tile.dk[plane][4 * i + 2 * half], tile.dk[plane][4 * i + 2 * half + 1],
            tile.dv[plane][4 * i + 2 * half], tile.dv[plane][4 * i + 2 * half + 1]);
        }
      }
    };
    each([&](int, float& k0, float& k1, float&, float&) { k0 *= s.scale, k1 *= s.scale; });
    if (a.mode == KeyMode::kSinks) {
      const int64_t row = (block.kv * a.chunks + chunk) * kKeyTile + position;
      float* out = a.sink_rows + row * 2 * kWidth;
      each([&](int column, float& k0, float& k1, float& v0, float& v1) {
        *reinterpret_cast<float2*>(out + column) = make_float2(k0, k1);
        *reinterpret_cast<float2*>(out + kWidth + column) = make_float2(v0, v1);
      });
      if (t == 0) a.sink_bias[row] = d_bias;
      continue;
    }
    if (a.mode == KeyMode::kWindow) {
      if (position < s.sinks) {
        for (int64_t c = 0; c < a.chunks; ++c) {
          const int64_t row = (block.kv * a.chunks + c) * kKeyTile + position;
          const float* in = a.sink_rows + row * 2 * kWidth;
          each([&](int column, float& k0, float& k1, float& v0, float& v1) {
            const float2 x = *reinterpret_cast<const float2*>(in + column);
            const float2 y = *reinterpret_cast<const float2*>(in + kWidth + column);
            k0 += x.x, k1 += x.y, v0 += y.x, v1 += y.y;
          });
          d_bias += a.sink_bias[row];
        }
      } else if (a.b.in.assignment[line] >= 0) {
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) {
          const auto* x = reinterpret_cast<const uint4*>(dk + 64 * plane);
          const auto* y = reinterpret_cast<const uint4*>(dv + 64 * plane);
          add_chunk(tile.dk[plane] + 2 * half, x[t], 1.f);
          add_chunk(tile.dk[plane] + 16 + 2 * half, x[4 + t], 1.f);
          add_chunk(tile.dv[plane] + 2 * half, y[t], 1.f);
          add_chunk(tile.dv[plane] + 16 + 2 * half, y[4 + t], 1.f);
        }
        if (t == 0 && a.b.grad.d_key_bias != nullptr) d_bias += a.b.grad.d_key_bias[line];
      }
    }
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      store_row(dk + 64 * plane, tile.dk[plane], 2 * half, 1.f);
      store_row(dv + 64 * plane, tile.dv[plane], 2 * half, 1.f);
    }
    if (t == 0 && a.b.grad.d_key_bias != nullptr) a.b.grad.d_key_bias[line] = d_bias;
  }
}

template <int kWidth>
cudaError_t key_gradients(const BackwardArguments& b, void* workspace, cudaStream_t stream) {
  const ClusterSizes& s = b.s;
  constexpr int kBytes = KeyShared<kWidth>::kBytes;
  const cudaError_t status = cudaFuncSetAttribute(
      key_gradient_kernel<kWidth>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  const int64_t kv = s.batch * s.kv_heads, chunks = sink_chunks(s);
  KeyArguments a{b, KeyMode::kClusters, static_cast<float*>(workspace), nullptr, chunks};
  a.sink_bias = a.sink_rows + kv * chunks * kKeyTile * 2 * kWidth;
  auto launch = [&](KeyMode mode, int64_t blocks) {
    a.mode = mode;
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(kv));
    key_gradient_kernel<kWidth><<<grid, kThreads, kBytes, stream>>>(a);
  };
  launch(KeyMode::kClusters, s.max_key_items());
  if (chunks > 0) launch(KeyMode::kSinks, chunks);
  launch(KeyMode::kWindow, (s.keys + kKeyTile - 1) / kKeyTile);
  return cudaGetLastError();
}

}  // namespace

int64_t key_gradient_workspace_bytes(const ClusterSizes& s) {
  return s.batch * s.kv_heads * sink_chunks(s) * kKeyTile * (2 * s.width + 1) *
         static_cast<int64_t>(sizeof(float));
}

cudaError_t launch_key_gradients(const BackwardArguments& a, void* workspace,
                                 cudaStream_t stream) {
  return a.s.width == 64 ? key_gradients<64>(a, workspace, stream)
                         : key_gradients<128>(a, workspace, stream);
}

}  // namespace dsrsq::kernels
