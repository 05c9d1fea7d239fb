#include "kernels/attention/cluster_attention.h"
#include "kernels/attention/cluster_attention_device.h"
#include "kernels/attention/window_tiles.h"

namespace dsrsq::kernels {
namespace {

constexpr int kThreads = 128;  // one warpgroup: 64 queries

template <int kWidth>
struct AttendConfig {
  static constexpr int kPlanes = kWidth / 64;
  static constexpr int kStages = kWidth == 64 ? 3 : 2;
  static constexpr int kBlocks = kWidth == 64 ? 4 : 2;  // on a multiprocessor
  static constexpr int kMatrixBytes = kPlanes * kTileBytes;
  static constexpr int kStageBytes = 2 * kMatrixBytes;
  static constexpr int kPositionBytes = kTileRows * 4;
  static constexpr int kSharedBytes = 1024 + kStages * (kStageBytes + 2 * kPositionBytes);
};

struct AttendArguments {
  ClusterSizes s;
  ClusterIndex index;
  Clustered keys;
  const __nv_bfloat16* q;
  bool has_bias;
  int64_t first_head;      // of this launch
  __nv_bfloat16* partial;  // [heads of this launch, N_q k, d]
  float* partial_lse;      // [heads of this launch, N_q k]
};

// Online softmax of one row of a tile: updates maximum and sum, turns scores into weights, returns
// the factor of what was accumulated before. `low`: 0 or 2, as in store_row.
__device__ __forceinline__ float softmax_row(float (&s)[32], int low, float scale, float& maximum,
                                             float& sum) {
  float top = s[low];
#pragma unroll
  for (int i = 0; i < 8; ++i) top = fmaxf(top, fmaxf(s[4 * i + low], s[4 * i + low + 1]));
  top = fmaxf(maximum, quad_max(top) * scale);
  const float base = top == -CUDART_INF_F ? 0.f : top;
  const float factor = exp2_fast(maximum - base);
  maximum = top;
  float total = 0.f;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      const float weight = exp2_fast(fmaf(s[4 * i + low + e], scale, -base));
      s[4 * i + low + e] = weight;
      total += weight;
    }
  }
  sum = sum * factor + total;
  return factor;
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads, AttendConfig<kWidth>::kBlocks)
    attend_kernel(const __grid_constant__ AttendArguments a) {
  using Config = AttendConfig<kWidth>;
  constexpr int kPlanes = Config::kPlanes, kStages = Config::kStages;
  extern __shared__ char shared_raw[];
  __shared__ uint64_t full[kStages];
  const ClusterSizes& s = a.s;
  const int64_t head = a.first_head + blockIdx.y;
  if (static_cast<int>(blockIdx.x) >= a.index.num_items[head]) return;
  const ClusterItem item = a.index.items[head * s.max_items() + blockIdx.x];
  const int64_t kv = kv_head(s, head);
  char* shared = shared_raw + ((1024 - (shared_address(shared_raw) & 1023)) & 1023);
  int* positions = reinterpret_cast<int*>(shared + kStages * Config::kStageBytes);
  float* biases = reinterpret_cast<float*>(positions + kStages * kTileRows);

  const unsigned* list = a.index.list + head * s.pairs() + item.begin;
  const int* order = a.index.order + kv * s.rows() + item.first;
  const int lane = threadIdx.x % 32, g = threadIdx.x / 32 * 16 + lane / 4;
  const unsigned slots = static_cast<unsigned>(s.slots);
  const unsigned pair0 = list[min(g, item.count - 1)], pair1 = list[min(g + 8, item.count - 1)];
  const int newest = key_limit(s, static_cast<int>(list[item.count - 1] / slots));
  const int oldest = key_limit(s, static_cast<int>(list[0] / slots));
  const int num_keys = a.index.key_count[kv * s.clusters + item.cluster];

  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) barrier_init(&full[i], 1);
    barrier_init_fence();
  }
  // Tiles whose first key the newest query sees.
  int num_tiles = 0;
  for (int first = 0; first * kTileRows < num_keys; first += kThreads) {
    const int row = (first + static_cast<int>(threadIdx.x)) * kTileRows;
    const int seen = __syncthreads_count(row < num_keys && order[row] <= newest);
    num_tiles += seen;
    if (seen < kThreads) break;
  }
  const char* key_source =
      reinterpret_cast<const char*>(a.keys.k + (kv * kPlanes * s.rows() + item.first) * 64);
  const char* value_source =
      reinterpret_cast<const char*>(a.keys.v + (kv * kPlanes * s.rows() + item.first) * 64);
  const float* bias_source = a.keys.bias + kv * s.rows() + item.first;
  auto load = [&](int tile) {
    const int stage = tile % kStages;
    uint64_t* barrier = &full[stage];
    barrier_expect(barrier, Config::kStageBytes + Config::kPositionBytes * (a.has_bias ? 2 : 1));
    char* target = shared + stage * Config::kStageBytes;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      const int64_t offset = (plane * s.rows() + tile * kTileRows) * kTileRowBytes;
      bulk_load(target + plane * kTileBytes, key_source + offset, kTileBytes, barrier);
      bulk_load(target + Config::kMatrixBytes + plane * kTileBytes, value_source + offset,
                kTileBytes, barrier);
    }
    bulk_load(positions + stage * kTileRows, order + tile * kTileRows, Config::kPositionBytes,
              barrier);
    if (a.has_bias) {
      bulk_load(biases + stage * kTileRows, bias_source + tile * kTileRows, Config::kPositionBytes,
                barrier);
    }
  };
  if (threadIdx.x == 0) {
    for (int tile = 0; tile < min(kStages, num_tiles); ++tile) load(tile);
  }

  const int query0 = static_cast<int>(pair0 / slots), query1 = static_cast<int>(pair1 / slots);
  const int limit0 = key_limit(s, query0), limit1 = key_limit(s, query1);
  uint32_t q[kPlanes][16];
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    load_operand(q[plane], a.q + (head * s.queries + query0) * kWidth + 64 * plane,
                 a.q + (head * s.queries + query1) * kWidth + 64 * plane);
  }
  float out[kPlanes][32];
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
    for (int i = 0; i < 32; ++i) out[plane][i] = 0.f;
  }
  float maximum0 = -CUDART_INF_F, maximum1 = -CUDART_INF_F, sum0 = 0.f, sum1 = 0.f;
  const float scale = s.scale * kLog2E;
  const int column = 2 * (lane & 3);

  uint32_t p[16] = {};
  for (int tile = 0; tile < num_tiles; ++tile) {
    const int stage = tile % kStages;
    const uint32_t keys = shared_address(shared + stage * Config::kStageBytes);
    barrier_wait(&full[stage], tile / kStages & 1);
    float score[32];
    wgmma_fence();
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      const uint64_t b = tile_descriptor(keys + plane * kTileBytes);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        wgmma<false>(score, q[plane] + 4 * step, b + step * kColumnStep, plane + step > 0);
      }
    }
    wgmma_commit();
    wgmma_wait<0>(p);
    // All warps have also finished with the tile before.
    __syncthreads();
    if (threadIdx.x == 0 && tile > 0 && tile - 1 + kStages < num_tiles) load(tile - 1 + kStages);

    const int* position = positions + stage * kTileRows;
    float score_scale = scale;
    if (a.has_bias) {
      score_scale = 1.f;
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const float2 b =
            *reinterpret_cast<const float2*>(biases + stage * kTileRows + 8 * i + column);
        score[4 * i + 0] = fmaf(score[4 * i + 0], scale, b.x);
        score[4 * i + 1] = fmaf(score[4 * i + 1], scale, b.y);
        score[4 * i + 2] = fmaf(score[4 * i + 2], scale, b.x);
        score[4 * i + 3] = fmaf(score[4 * i + 3], scale, b.y);
      }
    }
    const int left = num_keys - tile * kTileRows;
    if (left < kTileRows || position[kTileRows - 1] > oldest) {
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
    const float factor0 = softmax_row(score, 0, score_scale, maximum0, sum0);
    const float factor1 = softmax_row(score, 2, score_scale, maximum1, sum1);
    if (__any_sync(0xffffffffu, factor0 != 1.f || factor1 != 1.f)) {
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
        for (int i = 0; i < 32; ++i) out[plane][i] *= i & 2 ? factor1 : factor0;
      }
    }
    operand_from(p, score);
    wgmma_fence();
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      const uint64_t b = tile_descriptor(keys + Config::kMatrixBytes + plane * kTileBytes);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        wgmma<true>(out[plane], p + 4 * step, b + step * kRowStep, true);
      }
    }
    wgmma_commit();
  }
  wgmma_wait<0>(p);

  sum0 = quad_sum(sum0);
  sum1 = quad_sum(sum1);
  const int64_t first_row = static_cast<int64_t>(blockIdx.y) * s.pairs();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    if (g + 8 * half >= item.count) continue;
    const float sum = half == 0 ? sum0 : sum1;
    const int64_t row = first_row + (half == 0 ? pair0 : pair1);
    const float inverse = sum > 0.f ? 1.f / sum : 0.f;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      store_row(a.partial + row * kWidth + 64 * plane, out[plane], 2 * half, inverse);
    }
    if ((lane & 3) == 0) {
      a.partial_lse[row] = (half == 0 ? maximum0 : maximum1) * kLn2 + logf(sum);
    }
  }
}

struct JoinArguments {
  ClusterSizes s;
  ClusterIndex index;
  ClusterAttentionInputs in;
  int64_t first_head;
  const __nv_bfloat16* partial;
  const float* partial_lse;
  __nv_bfloat16* out;
  float* lse;
};

// Window and sinks of 64 queries, then the partial results of their slots.
template <int kWidth>
__global__ void __launch_bounds__(kThreads, kWidth == 64 ? 4 : 2)
    join_kernel(const __grid_constant__ JoinArguments a) {
  using Tiles = WindowTiles<kWidth>;
  constexpr int kPlanes = kWidth / 64;
  extern __shared__ char shared_raw[];
  const ClusterSizes& s = a.s;
  const int64_t head = a.first_head + blockIdx.y;
  const int64_t kv = kv_head(s, head);
  const int first_query = blockIdx.x * kTileRows;
  Tiles tiles(shared_raw, a.in, s, kv);
  const TileRange range = window_keys(s, first_query);
  tiles.start(range);

  const int lane = threadIdx.x % 32, g = threadIdx.x / 32 * 16 + lane / 4;
  const int column = 2 * (lane & 3);
  const int last_query = static_cast<int>(s.queries) - 1;
  const int query0 = min(first_query + g, last_query), query1 = min(first_query + g + 8, last_query);
  const int at0 = static_cast<int>(s.first_query) + query0;
  const int at1 = static_cast<int>(s.first_query) + query1;
  const __nv_bfloat16* q = static_cast<const __nv_bfloat16*>(a.in.q) + head * s.queries * kWidth;
  uint32_t qa[kPlanes][16];
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
    load_natural_operand(qa[plane], q + int64_t{query0} * kWidth + 64 * plane,
                         q + int64_t{query1} * kWidth + 64 * plane);
  }
  float out[kPlanes][32];
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
    for (int i = 0; i < 32; ++i) out[plane][i] = 0.f;
  }
  float maximum0 = -CUDART_INF_F, maximum1 = -CUDART_INF_F, sum0 = 0.f, sum1 = 0.f;
  const float scale = s.scale * kLog2E;
  uint32_t p[16];
  for (int i = 0; i < range.count(); ++i) {
    tiles.wait(i);
    float score[32];
    wgmma_fence();
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      const uint64_t b = tile_descriptor(tiles.keys(i) + plane * kTileBytes);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        wgmma<false>(score, qa[plane] + 4 * step, b + step * kColumnStep, plane + step > 0);
      }
    }
    wgmma_commit();
    wgmma_wait<0>();
    const int first_key = range.tile(i) * kTileRows;
    const float* bias = tiles.bias(i);
#pragma unroll
    for (int j = 0; j < 8; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int col = 8 * j + column + (e & 1);
        const bool seen = near_key(s, first_key + col, e < 2 ? at0 : at1);
        score[4 * j + e] = seen ? fmaf(score[4 * j + e], scale, bias[col]) : -CUDART_INF_F;
      }
    }
    const float factor0 = softmax_row(score, 0, 1.f, maximum0, sum0);
    const float factor1 = softmax_row(score, 2, 1.f, maximum1, sum1);
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
      for (int k = 0; k < 32; ++k) out[plane][k] *= k & 2 ? factor1 : factor0;
    }
    operand_from(p, score);
    wgmma_fence();
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      const uint64_t b = tile_descriptor(tiles.values(i) + plane * kTileBytes);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        wgmma<true>(out[plane], p + 4 * step, b + step * kRowStep, true);
      }
    }
    wgmma_commit();
    wgmma_wait<0>(p);
    tiles.release(range, i);
  }
  sum0 = quad_sum(sum0);
  sum1 = quad_sum(sum1);
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) gather_columns(out[plane]);

  const int t = lane & 3;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int query = half == 0 ? query0 : query1;
    const int64_t first_pair =
        static_cast<int64_t>(blockIdx.y) * s.pairs() + int64_t{query} * s.slots;
    const float own = half == 0 ? maximum0 : maximum1;
    const SlotMask slots = seen_slots(s, a.index, a.in.routes, head, kv, query);
    float top = own;
    for (int slot = 0; slot < s.slots; ++slot) {
      if (slots.has(slot)) top = fmaxf(top, a.partial_lse[first_pair + slot] * kLog2E);
    }
    const float base = top == -CUDART_INF_F ? 0.f : top;
    const float kept = exp2_fast(own - base);
    float total = (half == 0 ? sum0 : sum1) * kept;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
      for (int i = 0; i < 16; ++i) out[plane][4 * (i / 2) + 2 * half + i % 2] *= kept;
    }
#pragma unroll 4
    for (int slot = 0; slot < s.slots; ++slot) {
      if (!slots.has(slot)) continue;
      const float weight = exp2_fast(a.partial_lse[first_pair + slot] * kLog2E - base);
      total += weight;
      const __nv_bfloat16* row = a.partial + (first_pair + slot) * kWidth;
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
        const uint4* chunks = reinterpret_cast<const uint4*>(row + 64 * plane);
        const uint4 x = __ldcs(chunks + t), y = __ldcs(chunks + 4 + t);
        add_chunk(out[plane] + 2 * half, x, weight);
        add_chunk(out[plane] + 16 + 2 * half, y, weight);
      }
    }
    if (first_query + g + 8 * half > last_query) continue;
    const float inverse = total > 0.f ? 1.f / total : 0.f;
    const int64_t row = head * s.queries + query;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      store_row(a.out + row * kWidth + 64 * plane, out[plane], 2 * half, inverse);
    }
    if (t == 0) a.lse[row] = top * kLn2 + logf(total);
  }
}

template <int kWidth>
cudaError_t forward(const ClusterSizes& s, const ClusterIndex& index,
                    const ClusterAttentionInputs& in, void* out, float* lse, void* workspace,
                    cudaStream_t stream) {
  using Config = AttendConfig<kWidth>;
  cudaError_t status =
      cudaFuncSetAttribute(attend_kernel<kWidth>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           Config::kSharedBytes);
  if (status != cudaSuccess) return status;
  status = cudaFuncSetAttribute(join_kernel<kWidth>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                WindowTiles<kWidth>::kSharedBytes);
  if (status != cudaSuccess) return status;
  const int64_t heads = s.batch * s.heads, at_once = cluster_attention_heads_at_once(s);
  auto* partial = static_cast<__nv_bfloat16*>(workspace);
  auto* partial_lse = reinterpret_cast<float*>(partial + at_once * s.pairs() * kWidth);
  for (int64_t first = 0; first < heads; first += at_once) {
    const auto count = static_cast<unsigned>(at_once < heads - first ? at_once : heads - first);
    attend_kernel<kWidth>
        <<<dim3(static_cast<unsigned>(s.max_items()), count), kThreads, Config::kSharedBytes,
           stream>>>({s, index, clustered_layout(s, const_cast<void*>(in.clustered)),
                      static_cast<const __nv_bfloat16*>(in.q), in.key_bias != nullptr, first,
                      partial, partial_lse});
    join_kernel<kWidth><<<dim3(static_cast<unsigned>((s.queries + 63) / 64), count), kThreads,
                          WindowTiles<kWidth>::kSharedBytes, stream>>>(
        {s, index, in, first, partial, partial_lse, static_cast<__nv_bfloat16*>(out), lse});
  }
  return cudaGetLastError();
}

}  // namespace

int64_t cluster_attention_heads_at_once(const ClusterSizes& s) {
  constexpr int64_t kBudget = int64_t{512} << 20;
  const int64_t head = s.pairs() * s.width * 2;
  const int64_t fit = head > 0 ? kBudget / head : 1;
  const int64_t heads = s.batch * s.heads;
  if (fit < 1) return 1;
  if (fit >= heads) return heads;
  const int64_t rounds = (heads + fit - 1) / fit;  // of equal size, or nearly
  return (heads + rounds - 1) / rounds;
}

int64_t cluster_attention_forward_workspace_bytes(const ClusterSizes& s) {
  return cluster_attention_heads_at_once(s) * s.pairs() * (s.width * 2 + 4);
}

cudaError_t launch_cluster_attention_forward(const ClusterSizes& s, const ClusterIndex& index,
                                             const ClusterAttentionInputs& in, void* out,
                                             float* lse, void* workspace, cudaStream_t stream) {
  if (s.width == 64) return forward<64>(s, index, in, out, lse, workspace, stream);
  if (s.width == 128) return forward<128>(s, index, in, out, lse, workspace, stream);
  return cudaErrorInvalidValue;
}

}  // namespace dsrsq::kernels
