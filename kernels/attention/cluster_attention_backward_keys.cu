#include "kernels/attention/cluster_attention_backward.h"
#include "kernels/attention/cluster_attention_device.h"

namespace dsrsq::kernels {
namespace {

// A block owns 128 keys, 64 a warpgroup, and walks the queries that may see them, 64 at a time.
// (One warpgroup a block and two blocks a multiprocessor: 2 % faster where clusters are small, 13 %
// slower where they are large, since queries are gathered twice as often.)
constexpr int kGroups = 2;
constexpr int kThreads = 128 * kGroups;
constexpr int kKeyTile = 64 * kGroups;
static_assert(kKeyTile == kKeyItemKeys);
constexpr int kMaxSinks = static_cast<int>(kClusterIndexMaxSinks);
constexpr int64_t kSinkChunk = 2048;  // queries of one head that a block of sinks walks

int64_t sink_chunks(const ClusterSizes& s) {
  return s.sinks > 0 ? (s.queries + kSinkChunk - 1) / kSinkChunk * (s.heads / s.kv_heads) : 0;
}

enum class KeyMode { kClusters, kSinks, kWindow };

struct KeyArguments {
  BackwardArguments b;
  KeyMode mode;
  Divisor slots;
  // Of the sinks, from each chunk of queries: [B, H_kv, chunks, kMaxSinks, 2, d] (dk, dv) and
  // [B, H_kv, chunks, kMaxSinks].
  float* sink_rows;
  float* sink_bias;
  int64_t chunks;
};

template <int kWidth>
struct KeyShared {
  static constexpr int kPlanes = kWidth / 64;
  static constexpr int kKeyBytes = kPlanes * kGroups * kTileBytes;  // of the keys, or their values
  static constexpr int kMatrixBytes = kPlanes * kTileBytes;
  static constexpr int kStageBytes = 2 * kMatrixBytes;
  // Tiles that are loaded ahead. The warps may be a tile apart, and leave their last products
  // running (of width 128 there are no registers to): a stage is written again when the slowest is
  // done with it.
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

// The queries that a block walks: list entries, or all from `first` on.
struct QuerySource {
  const unsigned* list;  // at the first entry; null: successive queries
  int first;
  int count;
  // What names a query until it is needed: the value of a load in flight.
  __device__ unsigned entry(int i) const {
    return list != nullptr ? __ldg(list + i) : static_cast<unsigned>(first + i);
  }
  __device__ int query_of(unsigned entry, const Divisor& slots) const {
    return list != nullptr ? slots.divide(entry) : static_cast<int>(entry);
  }
  __device__ int tiles() const { return (count + kTileRows - 1) / kTileRows; }
};

template <int kWidth>
class QueryRing {
 public:
  using Shared = KeyShared<kWidth>;
  using Rows = typename Shared::Rows;
  static constexpr int kStages = Shared::kStages, kAhead = Shared::kAhead;
  static constexpr int kRowsApart = kThreads / 8, kCopies = kTileRows / kRowsApart;
  static constexpr unsigned kNoEntry = 0xffffffffu;
  __device__ QueryRing(const BackwardArguments& b, const Divisor& slots, int limit_offset,
                       char* tiles, Rows* rows, uint64_t* full)
      : b_(b),
        slots_(slots),
        limit_offset_(limit_offset),
        tiles_(tiles),
        rows_(rows),
        full_(full) {}

  // All threads have met since the last tile of the source before.
  __device__ void start(int64_t head, const QuerySource& source) {
    const int64_t column = 8 * (threadIdx.x % 8);
    q_ = static_cast<const __nv_bfloat16*>(b_.in.q) + head * b_.s.queries * kWidth + column;
    d_out_ =
        static_cast<const __nv_bfloat16*>(b_.grad.d_out) + head * b_.s.queries * kWidth + column;
    side_ = b_.rows + head * b_.s.queries;
    source_ = source;
    // Signalled tiles of the sources before decide where the ring stands.
    load_stage_ = stage_;
#pragma unroll 1
    for (int tile = 0; tile < kAhead; ++tile) {
      find(tile);
      load(tile);
    }
    find(kAhead);
    arrive<kAhead - 1>(stage_);
  }
  // Tile i is in shared memory for this warpgroup; the loads kAhead tiles ahead are on their way.
  __device__ void wait(int i) {
    arrive<kAhead - 2>(next(stage_));
    barrier_wait(&full_[stage_], phase_);
    load(i + kAhead);
    find(i + kAhead + 1);
  }
  __device__ void advance() {
    stage_ = next(stage_);
    if (stage_ == 0) phase_ ^= 1;
  }
  // The tile after the last of the source was signalled as well.
  __device__ void finish() {
    copy_wait<0>();
    __syncthreads();
    advance();
  }
  __device__ uint32_t q() const { return shared_address(tiles_) + stage_ * Shared::kStageBytes; }
  __device__ uint32_t d_out() const { return q() + Shared::kMatrixBytes; }
  __device__ const Rows& rows() const { return rows_[stage_]; }

 private:
  __device__ static int next(int stage) { return stage + 1 == kStages ? 0 : stage + 1; }
  // This thread's part of the oldest tile that was not signalled has landed.
  template <int kPending>
  __device__ void arrive(int stage) {
    copy_wait<kPending>();
    async_proxy_fence();
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&full_[stage]))
                 : "memory");
  }
  // Eight threads a row, kCopies rows a thread.
  __device__ void find(int tile) {
    const int i = tile * kTileRows + threadIdx.x / 8;
#pragma unroll
    for (int copy = 0; copy < kCopies; ++copy) {
      const int at = i + copy * kRowsApart;
      entry_[copy] = at < source_.count ? source_.entry(at) : kNoEntry;
    }
  }
  __device__ void load(int tile) {
    if (tile * kTileRows < source_.count) {
      const int chunk = threadIdx.x % 8;
      const uint32_t target = shared_address(tiles_) + load_stage_ * Shared::kStageBytes +
                              swizzled(threadIdx.x / 8, chunk);
      Rows& side = rows_[load_stage_];
#pragma unroll
      for (int copy = 0; copy < kCopies; ++copy) {
        const bool valid = entry_[copy] != kNoEntry;
        const int query = valid ? source_.query_of(entry_[copy], slots_) : 0;
        const __nv_bfloat16* q = q_ + int64_t{query} * kWidth;
        const __nv_bfloat16* d = d_out_ + int64_t{query} * kWidth;
#pragma unroll
        for (int plane = 0; plane < Shared::kPlanes; ++plane) {
          const uint32_t place = target + plane * kTileBytes + copy * kRowsApart * kTileRowBytes;
          copy_chunk(place, q + 64 * plane, valid);
          copy_chunk(place + Shared::kMatrixBytes, d + 64 * plane, valid);
        }
        if (chunk == 0) {
          const int r = copy * kRowsApart + threadIdx.x / 8;
          copy_word(&side.lse[r], &side_[query].x, valid);
          copy_word(&side.delta[r], &side_[query].y, valid);
          side.limit[r] = valid ? query + limit_offset_ : -1;
        }
      }
    }
    load_stage_ = next(load_stage_);
    copy_commit();
  }

  const BackwardArguments& b_;
  const Divisor& slots_;
  int limit_offset_;
  char* tiles_;
  Rows* rows_;
  uint64_t* full_;
  int stage_ = 0;
  uint32_t phase_ = 0;
  int load_stage_ = 0;
  const __nv_bfloat16* q_;
  const __nv_bfloat16* d_out_;
  const float2* side_;
  QuerySource source_;
  unsigned entry_[kCopies];
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
                                            float scale, bool masked, int window, bool biased,
                                            bool has_bias, uint32_t (&p)[16], uint32_t (&ds)[16]) {
  constexpr int kPlanes = kWidth / 64;
  const int column = 2 * (threadIdx.x & 3);
  float score[32], d_weight[32];
  wgmma_fence();
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    const uint64_t a = tile_descriptor(tile.k + plane * kGroups * kTileBytes);
    const uint64_t b = tile_descriptor(q + plane * kTileBytes);
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma<false>(score, a + step * kColumnStep, b + step * kColumnStep, plane + step > 0);
    }
  }
  wgmma_commit();
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    const uint64_t a = tile_descriptor(tile.v + plane * kGroups * kTileBytes);
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
      if (tile.position0 > limit.x) score[4 * i + 0] = -CUDART_INF_F;
      if (tile.position0 > limit.y) score[4 * i + 1] = -CUDART_INF_F;
      if (tile.position1 > limit.x) score[4 * i + 2] = -CUDART_INF_F;
      if (tile.position1 > limit.y) score[4 * i + 3] = -CUDART_INF_F;
    }
    if (window > 0) {  // and nothing that left the window
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int2 limit = *reinterpret_cast<const int2*>(&rows.limit[8 * i + column]);
        if (tile.position0 <= limit.x - window) score[4 * i + 0] = -CUDART_INF_F;
        if (tile.position0 <= limit.y - window) score[4 * i + 1] = -CUDART_INF_F;
        if (tile.position1 <= limit.x - window) score[4 * i + 2] = -CUDART_INF_F;
        if (tile.position1 <= limit.y - window) score[4 * i + 3] = -CUDART_INF_F;
      }
    }
  }
  float score_scale = scale;
  if (biased) {
    score_scale = 1.f;
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      score[i] = fmaf(score[i], scale, i & 2 ? tile.bias1 : tile.bias0);
    }
  }
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const float2 lse = *reinterpret_cast<const float2*>(&rows.lse[8 * i + column]);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      score[4 * i + e] = exp2_fast(fmaf(score[4 * i + e], score_scale, e & 1 ? -lse.y : -lse.x));
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
  QuerySource source{nullptr, 0, 0};
  if (a.mode == KeyMode::kWindow) {
    if (s.window == 0) return source;
    source.first = max(0, block.first - first_query);
    const int newest = block.first + block.count - 1 + static_cast<int>(s.window) - 1;
    source.count = min(static_cast<int>(s.queries), newest + 1 - first_query) - source.first;
  } else if (a.mode == KeyMode::kSinks) {
    source.first = static_cast<int>(chunk * kSinkChunk);
    source.count = static_cast<int>(min(kSinkChunk, s.queries - chunk * kSinkChunk));
  } else {
    const int* begin = a.b.index.list_begin + head * (s.clusters + 1) + block.cluster;
    source.list = a.b.index.list + head * s.pairs() + begin[0];
    const int count = begin[1] - begin[0];
    // Entries are in the order of queries: leave out the tiles before the first that sees a key.
    const int oldest = block.order[0];
    int skipped = 0;
    for (int tile = 0; tile * kTileRows < count; tile += kThreads) {
      const int last = min((tile + static_cast<int>(threadIdx.x) + 1) * kTileRows, count) - 1;
      const bool exists = (tile + static_cast<int>(threadIdx.x)) * kTileRows < count;
      const int blind =
          __syncthreads_count(exists && key_limit(s, a.slots.divide(source.list[last])) < oldest);
      skipped += blind;
      if (blind < kThreads) break;
    }
    source.list += skipped * kTileRows;
    source.count = count - skipped * kTileRows;
  }
  source.count = max(source.count, 0);
  return source;
}

// What was collected for the keys of rows g and g + 8.
template <int kWidth>
__device__ __forceinline__ void write_keys(const KeyArguments& a, const KeyBlock& block,
                                           KeyTile<kWidth>& tile, int64_t chunk) {
  constexpr int kPlanes = kWidth / 64;
  const ClusterSizes& s = a.b.s;
  const int t = threadIdx.x & 3;
  float* d_key_bias = a.b.grad.d_key_bias;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int position = half == 0 ? tile.position0 : tile.position1;
    const bool valid = position != kNoKey;
    float d_bias = half == 0 ? tile.d_bias0 : tile.d_bias1;
    const int64_t line = block.kv * s.keys + (valid ? position : 0);
    auto* dk = static_cast<__nv_bfloat16*>(a.b.grad.dk) + line * kWidth;
    auto* dv = static_cast<__nv_bfloat16*>(a.b.grad.dv) + line * kWidth;
    auto each = [&](auto&& f) {
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          float* k = &tile.dk[plane][4 * i + 2 * half];
          float* v = &tile.dv[plane][4 * i + 2 * half];
          f(64 * plane + 8 * i + 2 * t, k[0], k[1], v[0], v[1]);
        }
      }
    };
    each([&](int, float& k0, float& k1, float&, float&) { k0 *= s.scale, k1 *= s.scale; });
    if (a.mode == KeyMode::kSinks) {
      if (!valid) continue;
      const int64_t row = (block.kv * a.chunks + chunk) * kMaxSinks + position;
      float* out = a.sink_rows + row * 2 * kWidth;
      each([&](int column, float& k0, float& k1, float& v0, float& v1) {
        *reinterpret_cast<float2*>(out + column) = make_float2(k0, k1);
        *reinterpret_cast<float2*>(out + kWidth + column) = make_float2(v0, v1);
      });
      if (t == 0) a.sink_bias[row] = d_bias;
      continue;
    }
    if (a.mode == KeyMode::kWindow) {
      const bool clustered = valid && position >= s.sinks && a.b.in.assignment[line] >= 0;
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
        for (int part = 0; part < 2; ++part) {
          add_row(tile.dk[plane] + 16 * part + 2 * half, dk + 64 * plane + 32 * part, clustered);
          add_row(tile.dv[plane] + 16 * part + 2 * half, dv + 64 * plane + 32 * part, clustered);
        }
      }
      if (clustered && t == 0 && d_key_bias != nullptr) d_bias += d_key_bias[line];
      for (int64_t c = 0; valid && position < s.sinks && c < a.chunks; ++c) {
        const int64_t row = (block.kv * a.chunks + c) * kMaxSinks + position;
        const float* in = a.sink_rows + row * 2 * kWidth;
        each([&](int column, float& k0, float& k1, float& v0, float& v1) {
          const float2 x = *reinterpret_cast<const float2*>(in + column);
          const float2 y = *reinterpret_cast<const float2*>(in + kWidth + column);
          k0 += x.x, k1 += x.y, v0 += y.x, v1 += y.y;
        });
        d_bias += a.sink_bias[row];
      }
      __syncwarp();
    }
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        put_row(tile.dk[plane] + 16 * part + 2 * half, dk + 64 * plane + 32 * part, valid);
        put_row(tile.dv[plane] + 16 * part + 2 * half, dv + 64 * plane + 32 * part, valid);
      }
    }
    if (valid && t == 0 && d_key_bias != nullptr) d_key_bias[line] = d_bias;
  }
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
    // Small clusters have a kernel of their own.
    if (is_small_cluster(s, a.b.index.key_count[block.kv * s.clusters + item.cluster])) return;
    block.cluster = item.cluster;
    block.order = a.b.index.order + block.kv * s.rows() + item.begin;
    block.count = item.count;
  } else if (a.mode == KeyMode::kWindow) {
    block.first = blockIdx.x * kKeyTile;
    block.count = static_cast<int>(min(int64_t{kKeyTile}, s.keys - block.first));
  } else {
    chunk = blockIdx.x % a.chunks;
    block.first = static_cast<int>(blockIdx.x / a.chunks) * kKeyTile;
    block.count = min(kKeyTile, static_cast<int>(min(s.sinks, s.keys)) - block.first);
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
  for (int i = 0; i < 4; ++i) {
    const int row = i * (kThreads / 8) + threadIdx.x / 8, c = threadIdx.x % 8;
    const int position = block.position(row);
    const bool valid = position != kNoKey;
    const int64_t line = (block.kv * s.keys + (valid ? position : 0)) * kWidth + 8 * c;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      const uint32_t place = plane * kGroups * kTileBytes + swizzled(row, c);
      copy_chunk(keys + place, static_cast<const __nv_bfloat16*>(a.b.in.k) + line + 64 * plane,
                 valid);
      copy_chunk(keys + Shared::kKeyBytes + place,
                 static_cast<const __nv_bfloat16*>(a.b.in.v) + line + 64 * plane, valid);
    }
  }
  copy_commit();

  const int group = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0), lane = threadIdx.x % 32;
  const int g = group * 64 + threadIdx.x % 128 / 32 * 16 + lane / 4;
  KeyTile<kWidth> tile;
  tile.k = keys + group * kTileBytes;
  tile.v = tile.k + Shared::kKeyBytes;
  tile.position0 = block.position(g);
  tile.position1 = block.position(g + 8);
  // Rows without a key come to nothing of their own accord: nobody reads what they collect.
  auto bias = [&](int position) {
    if (position == kNoKey) return 0.f;
    if (a.b.in.assignment[block.kv * s.keys + position] < 0) return -CUDART_INF_F;
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
  const int window = a.mode == KeyMode::kWindow ? static_cast<int>(s.window) : 0;
  const bool biased = __syncthreads_or(tile.bias0 != 0.f || tile.bias1 != 0.f) != 0;
  const float scale = s.scale * kLog2E;
  const bool has_bias = a.b.grad.d_key_bias != nullptr;
  uint32_t p[16] = {}, ds[16] = {};

  const int limit_offset = static_cast<int>(s.first_query) -
                           (a.mode == KeyMode::kWindow ? 0 : static_cast<int>(s.window));
  QueryRing<kWidth> ring(
      a.b, a.slots, limit_offset, shared + 2 * Shared::kKeyBytes,
      reinterpret_cast<typename Shared::Rows*>(shared + 2 * Shared::kKeyBytes +
                                               Shared::kStages * Shared::kStageBytes),
      full);
  const int64_t group_size = s.heads / s.kv_heads;
  const int64_t first_head = block.kv / s.kv_heads * s.heads + block.kv % s.kv_heads * group_size;
  for (int64_t member = 0; member < group_size; ++member) {
    if (a.mode == KeyMode::kSinks && member != chunk % group_size) continue;
    const QuerySource source = find_queries(a, block, first_head + member,
                                            a.mode == KeyMode::kSinks ? chunk / group_size : 0);
    const int num_tiles = source.tiles();
    if (num_tiles == 0) continue;
    ring.start(first_head + member, source);
    for (int i = 0; i < num_tiles; ++i, ring.advance()) {
      ring.wait(i);
      const auto& rows = ring.rows();
      const int last = min(kTileRows, source.count - i * kTileRows) - 1;
      if (rows.limit[last] < oldest) continue;  // also where this warpgroup has no key
      const bool masked = last < kTileRows - 1 || rows.limit[0] < newest ||
                          (window > 0 && rows.limit[last] - oldest >= window);
      add_queries(tile, ring.q(), ring.d_out(), rows, scale, masked, window, biased, has_bias, p,
                  ds);
    }
    wgmma_wait<0>(p);
    wgmma_wait<0>(ds);
    ring.finish();
  }
  copy_wait<0>();

  tile.d_bias0 = quad_sum(tile.d_bias0);
  tile.d_bias1 = quad_sum(tile.d_bias1);
  write_keys(a, block, tile, chunk);
}

template <int kWidth>
cudaError_t key_gradients(const BackwardArguments& b, void* workspace, cudaStream_t stream) {
  const ClusterSizes& s = b.s;
  constexpr int kBytes = KeyShared<kWidth>::kBytes;
  const cudaError_t status = cudaFuncSetAttribute(
      key_gradient_kernel<kWidth>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (status != cudaSuccess) return status;
  const int64_t kv = s.batch * s.kv_heads, chunks = sink_chunks(s);
  KeyArguments a{
      b, KeyMode::kClusters, divisor(s.slots), static_cast<float*>(workspace), nullptr, chunks};
  a.sink_bias = a.sink_rows + kv * chunks * kMaxSinks * 2 * kWidth;
  auto launch = [&](KeyMode mode, int64_t blocks) {
    a.mode = mode;
    const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(kv));
    key_gradient_kernel<kWidth><<<grid, kThreads, kBytes, stream>>>(a);
  };
  launch(KeyMode::kClusters, s.max_key_items());
  if (chunks > 0) {
    launch(KeyMode::kSinks, chunks * ((s.sinks + kKeyTile - 1) / kKeyTile));
  }
  // Also where there is no window: it writes every key's row.
  launch(KeyMode::kWindow, (s.keys + kKeyTile - 1) / kKeyTile);
  return cudaGetLastError();
}

}  // namespace

int64_t key_gradient_workspace_bytes(const ClusterSizes& s) {
  return s.batch * s.kv_heads * sink_chunks(s) * kMaxSinks * (2 * s.width + 1) *
         static_cast<int64_t>(sizeof(float));
}

cudaError_t launch_key_gradients(const BackwardArguments& a, void* workspace, cudaStream_t stream) {
  return a.s.width == 64 ? key_gradients<64>(a, workspace, stream)
                         : key_gradients<128>(a, workspace, stream);
}

}  // namespace dsrsq::kernels
