#include "kernels/attention/cluster_attention_backward.h"
#include "kernels/attention/cluster_attention_device.h"
#include "kernels/attention/query_ring.h"

namespace dsrsq::kernels {
namespace {

// A block owns 64 keys a warpgroup, and walks the queries that may see them, 64 at a time. Of
// clusters and sinks a block has two warpgroups; of the window one, and a multiprocessor two
// blocks, since few queries see a key and what a block waits for is another's time to work.
constexpr int kListGroups = 2;
static_assert(kTileRows * kListGroups == kKeyItemKeys);
template <int kWidth>
constexpr int kWindowGroups = kWidth == 64 ? 1 : 2;
constexpr int kMaxSinks = static_cast<int>(kClusterIndexMaxSinks);
constexpr int64_t kSinkChunk = 2048;  // queries of one head that a block of sinks walks

// Where one warpgroup can hold all sinks, the two take every other tile of queries.
bool sinks_are_shared(const ClusterSizes& s) { return s.sinks <= kTileRows; }

int64_t sink_chunks(const ClusterSizes& s) {
  return s.sinks > 0 ? (s.queries + kSinkChunk - 1) / kSinkChunk * (s.heads / s.kv_heads) : 0;
}
// What the sinks get comes in so many parts.
int64_t sink_parts(const ClusterSizes& s) { return sink_chunks(s) * (sinks_are_shared(s) ? 2 : 1); }

enum class KeyMode { kClusters, kSinks, kWindow };

struct KeyArguments {
  BackwardArguments b;
  KeyMode mode;
  Divisor slots;
  // Of the sinks: [B, H_kv, parts, kMaxSinks, 2, d] (dk, dv) and [B, H_kv, parts, kMaxSinks].
  float* sink_rows;
  float* sink_bias;
  int64_t chunks;
  int64_t parts;
  bool shared_sinks;
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

template <int kWidth, int kGroups>
__device__ __forceinline__ void add_queries(KeyTile<kWidth>& tile, uint32_t q, uint32_t d_out,
                                            const typename KeyShared<kWidth, kGroups>::Rows& rows,
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
template <int kThreads>
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

// Adds what the keys got in their clusters and, where they are sinks, from all later queries.
template <int kWidth>
__device__ __forceinline__ void add_earlier(const KeyArguments& a, const KeyBlock& block,
                                            KeyTile<kWidth>& tile) {
  constexpr int kPlanes = kWidth / 64;
  const ClusterSizes& s = a.b.s;
  const int t = threadIdx.x & 3;
  const float inverse = 1.f / s.scale;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int position = half == 0 ? tile.position0 : tile.position1;
    const bool valid = position != kNoKey;
    const int64_t line = block.kv * s.keys + (valid ? position : 0);
    const bool clustered = valid && position >= s.sinks && a.b.in.assignment[line] >= 0;
    uint4 x[kPlanes][2], y[kPlanes][2];  // all on their way before the first is used
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int64_t chunk = (line * kWidth + 64 * plane + 32 * i) / 8 + t;
        x[plane][i] = y[plane][i] = make_uint4(0, 0, 0, 0);
        if (clustered) x[plane][i] = static_cast<const uint4*>(a.b.grad.dk)[chunk];
        if (clustered) y[plane][i] = static_cast<const uint4*>(a.b.grad.dv)[chunk];
      }
    }
    float& d_bias = half == 0 ? tile.d_bias0 : tile.d_bias1;
    if (clustered && a.b.grad.d_key_bias != nullptr) d_bias += a.b.grad.d_key_bias[line];
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint4 &u = x[plane][i], &w = y[plane][i];
        quad_transpose(u.x, u.y, u.z, u.w);
        quad_transpose(w.x, w.y, w.z, w.w);
        add_chunk(tile.dk[plane] + 16 * i + 2 * half, u, inverse);
        add_chunk(tile.dv[plane] + 16 * i + 2 * half, w, 1.f);
      }
    }
    for (int64_t part = 0; valid && position < s.sinks && part < a.parts; ++part) {
      const int64_t row = (block.kv * a.parts + part) * kMaxSinks + position;
      const float* in = a.sink_rows + row * 2 * kWidth + 2 * t;
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          const float2 k = *reinterpret_cast<const float2*>(in + 64 * plane + 8 * i);
          const float2 v = *reinterpret_cast<const float2*>(in + kWidth + 64 * plane + 8 * i);
          tile.dk[plane][4 * i + 2 * half] += k.x * inverse;
          tile.dk[plane][4 * i + 2 * half + 1] += k.y * inverse;
          tile.dv[plane][4 * i + 2 * half] += v.x;
          tile.dv[plane][4 * i + 2 * half + 1] += v.y;
        }
      }
      d_bias += a.sink_bias[row];
    }
  }
}

// What was collected for the keys of rows g and g + 8.
template <int kWidth>
__device__ __forceinline__ void write_keys(const KeyArguments& a, const KeyBlock& block,
                                           KeyTile<kWidth>& tile, int64_t part) {
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
      const int64_t row = (block.kv * a.parts + part) * kMaxSinks + position;
      float* out = a.sink_rows + row * 2 * kWidth;
      each([&](int column, float& k0, float& k1, float& v0, float& v1) {
        *reinterpret_cast<float2*>(out + column) = make_float2(k0, k1);
        *reinterpret_cast<float2*>(out + kWidth + column) = make_float2(v0, v1);
      });
      if (t == 0) a.sink_bias[row] = d_bias;
      continue;
    }
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        put_row(tile.dk[plane] + 16 * i + 2 * half, dk + 64 * plane + 32 * i, valid);
        put_row(tile.dv[plane] + 16 * i + 2 * half, dv + 64 * plane + 32 * i, valid);
      }
    }
    if (valid && t == 0 && d_key_bias != nullptr) d_key_bias[line] = d_bias;
  }
}

template <int kWidth, int kGroups>
__global__ void __launch_bounds__(128 * kGroups, 3 - kGroups)
    key_gradient_kernel(const __grid_constant__ KeyArguments a) {
  using Shared = KeyShared<kWidth, kGroups>;
  constexpr int kThreads = Shared::kThreads, kKeyTile = kTileRows * kGroups;
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

  const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0), lane = threadIdx.x % 32;
  const bool shared_sinks = a.mode == KeyMode::kSinks && a.shared_sinks;
  const int group = shared_sinks ? 0 : warpgroup;  // of the block's keys
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
  QueryRing<kWidth, kGroups> ring(
      a.b, a.slots, limit_offset, shared + 2 * Shared::kKeyBytes,
      reinterpret_cast<typename Shared::Rows*>(shared + 2 * Shared::kKeyBytes +
                                               Shared::kStages * Shared::kStageBytes),
      full);
  const int64_t group_size = s.heads / s.kv_heads;
  const int64_t first_head = block.kv / s.kv_heads * s.heads + block.kv % s.kv_heads * group_size;
  for (int64_t member = 0; member < group_size; ++member) {
    if (a.mode == KeyMode::kSinks && member != chunk % group_size) continue;
    const QuerySource source = find_queries<kThreads>(
        a, block, first_head + member, a.mode == KeyMode::kSinks ? chunk / group_size : 0);
    const int num_tiles = source.tiles();
    if (num_tiles == 0) continue;
    ring.start(first_head + member, source);
    for (int i = 0; i < num_tiles; ++i, ring.advance()) {
      ring.wait(i);
      const auto& rows = ring.rows();
      const int last = min(kTileRows, source.count - i * kTileRows) - 1;
      const bool other = shared_sinks && i % kGroups != warpgroup;
      if (other || rows.limit[last] < oldest) continue;  // also where this warpgroup has no key
      const bool masked = last < kTileRows - 1 || rows.limit[0] < newest ||
                          (window > 0 && rows.limit[last] - oldest >= window);
      add_queries<kWidth, kGroups>(tile, ring.q(), ring.d_out(), rows, scale, masked, window,
                                   biased, has_bias, p, ds);
    }
    wgmma_wait<0>(p);
    wgmma_wait<0>(ds);
    ring.finish();
  }
  copy_wait<0>();

  tile.d_bias0 = quad_sum(tile.d_bias0);
  tile.d_bias1 = quad_sum(tile.d_bias1);
  if (a.mode == KeyMode::kWindow) add_earlier(a, block, tile);
  write_keys(a, block, tile, shared_sinks ? chunk * kGroups + warpgroup : chunk);
}

template <int kWidth, int kGroups>
cudaError_t launch(KeyArguments a, KeyMode mode, int64_t blocks, cudaStream_t stream) {
  using Shared = KeyShared<kWidth, kGroups>;
  const cudaError_t status =
      cudaFuncSetAttribute(key_gradient_kernel<kWidth, kGroups>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize, Shared::kBytes);
  if (status != cudaSuccess) return status;
  a.mode = mode;
  const dim3 grid(static_cast<unsigned>(blocks),
                  static_cast<unsigned>(a.b.s.batch * a.b.s.kv_heads));
  key_gradient_kernel<kWidth, kGroups><<<grid, Shared::kThreads, Shared::kBytes, stream>>>(a);
  return cudaGetLastError();
}

template <int kWidth>
cudaError_t key_gradients(const BackwardArguments& b, void* workspace, cudaStream_t stream) {
  const ClusterSizes& s = b.s;
  const int64_t chunks = sink_chunks(s), parts = sink_parts(s);
  KeyArguments a{
      b,     KeyMode::kClusters, divisor(s.slots), static_cast<float*>(workspace), nullptr, chunks,
      parts, sinks_are_shared(s)};
  a.sink_bias = a.sink_rows + s.batch * s.kv_heads * parts * kMaxSinks * 2 * kWidth;
  cudaError_t status =
      launch<kWidth, kListGroups>(a, KeyMode::kClusters, s.max_key_items(), stream);
  if (status != cudaSuccess) return status;
  if (chunks > 0) {
    const int64_t blocks = chunks * ((s.sinks + kKeyItemKeys - 1) / kKeyItemKeys);
    status = launch<kWidth, kListGroups>(a, KeyMode::kSinks, blocks, stream);
    if (status != cudaSuccess) return status;
  }
  // Also where there is no window: it writes every key's row.
  constexpr int64_t kKeys = kTileRows * kWindowGroups<kWidth>;
  return launch<kWidth, kWindowGroups<kWidth>>(a, KeyMode::kWindow, (s.keys + kKeys - 1) / kKeys,
                                               stream);
}

}  // namespace

int64_t key_gradient_workspace_bytes(const ClusterSizes& s) {
  return s.batch * s.kv_heads * sink_parts(s) * kMaxSinks * (2 * s.width + 1) *
         static_cast<int64_t>(sizeof(float));
}

cudaError_t launch_key_gradients(const BackwardArguments& a, void* workspace, cudaStream_t stream) {
  return a.s.width == 64 ? key_gradients<64>(a, workspace, stream)
                         : key_gradients<128>(a, workspace, stream);
}

}  // namespace dsrsq::kernels
