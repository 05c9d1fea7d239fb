#include "kernels/attention/cluster_attention.h"
#include "kernels/attention/cluster_attention_device.h"
#include "kernels/attention/cluster_tiles.h"
#include "kernels/attention/window_tiles.h"

namespace dsrsq::kernels {
namespace {

constexpr int kThreads = 128;  // one warpgroup: 64 queries

template <int kWidth>
constexpr int kAttendBlocks = kWidth == 64 ? 4 : 2;  // on a multiprocessor
template <int kWidth>
using AttendTiles = ClusterTiles<kWidth, kWidth == 64 ? 3 : 2>;

struct AttendArguments {
  ClusterSizes s;
  ClusterIndex index;
  Clustered keys;
  const __nv_bfloat16* q;
  bool has_bias;
  int64_t first_head;  // of this launch
  int64_t end_head;
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
__global__ void __launch_bounds__(kThreads, kAttendBlocks<kWidth>)
    attend_kernel(const __grid_constant__ AttendArguments a) {
  using Tiles = AttendTiles<kWidth>;
  constexpr int kPlanes = kWidth / 64;
  extern __shared__ char shared_raw[];
  __shared__ typename Tiles::Shared shared;
  const ClusterSizes& s = a.s;
  const int lane = threadIdx.x % 32, g = threadIdx.x / 32 * 16 + lane / 4;
  const int column = 2 * (lane & 3);
  const float scale = s.scale * kLog2E;
  const uint32_t unknown = unknown_zero();
  const unsigned slots = static_cast<unsigned>(s.slots);
  Tiles tiles(shared_raw, shared, s, a.index, a.index.attend, a.keys, a.has_bias,
              a.index.attend_begin[a.first_head], a.index.attend_begin[a.end_head]);
  for (; tiles.has_item(); tiles.end_item()) {
    tiles.begin_item();
    const AttendItem& item = tiles.item();
    const int query0 = static_cast<int>(tiles.pair(g) / slots);
    const int query1 = static_cast<int>(tiles.pair(g + 8) / slots);
    uint32_t q[kPlanes][16];
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      load_operand(q[plane], a.q + (item.head * s.queries + query0) * kWidth + 64 * plane,
                   a.q + (item.head * s.queries + query1) * kWidth + 64 * plane);
    }
    float out[kPlanes][32];
    zero(out);
    float maximum0 = -CUDART_INF_F, maximum1 = -CUDART_INF_F, sum0 = 0.f, sum1 = 0.f;
    uint32_t p[16] = {};
    for (int tile = 0; tile < item.num_tiles; ++tile) {
      tiles.wait_tile();
      wgmma_wait<0>(p);
      __syncthreads();  // all warps have finished with the tile before
      float score[32];
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) hold(q[plane], unknown);
      wgmma_fence();
      row_products(score, q, [&](int plane) { return tiles.keys(plane); });
      if (tile > 0) tiles.release(1);  // while the scores are computed
      wgmma_wait<0>();
      float score_scale = scale;
      if (a.has_bias) {
        score_scale = 1.f;
        add_biases(score, scale, tiles.biases(), column);
      }
      const int left = item.keys - tile * kTileRows;
      const int* position = tiles.positions();
      if (left < kTileRows || position[kTileRows - 1] > item.oldest) {
        mask_tile(score, position, column, left, key_limit(s, query0), key_limit(s, query1));
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
      add_rows<kPairRowStep>(out, p, [&](int plane) { return tiles.values(plane); });
      tiles.next_tile();
    }
    wgmma_wait<0>(p);
    __syncthreads();
    tiles.release(1);

    sum0 = quad_sum(sum0);
    sum1 = quad_sum(sum1);
    const int64_t first_row = (item.head - a.first_head) * s.pairs();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (g + 8 * half >= item.count) continue;
      const float sum = half == 0 ? sum0 : sum1;
      const int64_t row = first_row + tiles.pair(g + 8 * half);
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
  SlotRows<kWidth> partials(shared_raw + Tiles::kSharedBytes, s, first_query);
  partials.start(a.index, a.in.routes, head, kv,
                 a.partial_lse + static_cast<int64_t>(blockIdx.y) * s.pairs());
  const __nv_bfloat16* rows = a.partial + static_cast<int64_t>(blockIdx.y) * s.pairs() * kWidth;
  tiles.start(range);
  partials.prefetch(rows);  // behind the window's loads, which come first

  const RowPair own(s, head, first_query);
  uint32_t qa[kPlanes][16];
  load_natural_operands(qa, a.in.q, own);
  float out[kPlanes][32];
  zero(out);
  float maximum0 = -CUDART_INF_F, maximum1 = -CUDART_INF_F, sum0 = 0.f, sum1 = 0.f;
  const float scale = s.scale * kLog2E;
  uint32_t p[16];
  const uint32_t unknown = unknown_zero();
  for (int i = 0; i < range.count(); ++i) {
    tiles.wait(i);
    float score[32];
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) hold(qa[plane], unknown);
    wgmma_fence();
    row_products(score, qa,
                 [&](int plane) { return tile_descriptor(tiles.keys(i) + plane * kTileBytes); });
    wgmma_wait<0>();
    const NearMask mask(s, range.tile(i), first_query);
    const float* bias = tiles.bias(i);
    near_scores(score, mask, bias, own.column, scale, own.at0, own.at1);
    const float factor0 = softmax_row(score, 0, 1.f, maximum0, sum0);
    const float factor1 = softmax_row(score, 2, 1.f, maximum1, sum1);
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
      for (int k = 0; k < 32; ++k) out[plane][k] *= k & 2 ? factor1 : factor0;
    }
    operand_from(p, score);
    add_rows<kRowStep>(
        out, p, [&](int plane) { return tile_descriptor(tiles.values(i) + plane * kTileBytes); });
    wgmma_wait<0>(p);
    tiles.release(range, i);
  }
  sum0 = quad_sum(sum0);
  sum1 = quad_sum(sum1);
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) gather_columns(out[plane]);

  __syncthreads();  // the slots' log-sum-exp, where the window had no tile
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = own.g + 8 * half;
    const float near = half == 0 ? maximum0 : maximum1;
    float top = near;
    for (int slot = 0; slot < s.slots; ++slot) top = fmaxf(top, partials.lse(r, slot));
    const float base = top == -CUDART_INF_F ? 0.f : top;
    const float kept = exp2_fast(near - base);
    float total = (half == 0 ? sum0 : sum1) * kept;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
      for (int i = 0; i < 16; ++i) out[plane][4 * (i / 2) + 2 * half + i % 2] *= kept;
    }
    partials.add<kPlanes>(out, half, r, rows, [&](float lse) {
      const float weight = exp2_fast(lse - base);
      total += weight;
      return weight;
    });
    if (first_query + r >= s.queries) continue;
    const float inverse = total > 0.f ? 1.f / total : 0.f;
    const int64_t row = half == 0 ? own.row0 : own.row1;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      store_row(a.out + row * kWidth + 64 * plane, out[plane], 2 * half, inverse);
    }
    if (own.column == 0) a.lse[row] = base * kLn2 + logf(total);
  }
}

template <int kWidth>
cudaError_t forward(const ClusterSizes& s, const ClusterIndex& index,
                    const ClusterAttentionInputs& in, void* out, float* lse, void* workspace,
                    cudaStream_t stream) {
  using Tiles = AttendTiles<kWidth>;
  cudaError_t status = cudaFuncSetAttribute(
      attend_kernel<kWidth>, cudaFuncAttributeMaxDynamicSharedMemorySize, Tiles::kDynamicBytes);
  if (status != cudaSuccess) return status;
  const int join_bytes = WindowTiles<kWidth>::kSharedBytes + SlotRows<kWidth>::bytes(s);
  status = cudaFuncSetAttribute(join_kernel<kWidth>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                join_bytes);
  if (status != cudaSuccess) return status;
  const int64_t heads = s.batch * s.heads, at_once = cluster_attention_heads_at_once(s);
  auto* partial = static_cast<__nv_bfloat16*>(workspace);
  auto* partial_lse = reinterpret_cast<float*>(partial + at_once * s.pairs() * kWidth);
  // Of slots without a result, which are read before it is known that they have none.
  status = cudaMemsetAsync(partial_lse, 0, at_once * s.pairs() * sizeof(float), stream);
  if (status != cudaSuccess) return status;
  for (int64_t first = 0; first < heads; first += at_once) {
    const auto count = static_cast<unsigned>(at_once < heads - first ? at_once : heads - first);
    attend_kernel<kWidth>
        <<<attend_blocks(s, count, kAttendBlocks<kWidth>), kThreads, Tiles::kDynamicBytes,
           stream>>>({s, index, clustered_layout(s, const_cast<void*>(in.clustered)),
                      static_cast<const __nv_bfloat16*>(in.q), in.key_bias != nullptr, first,
                      first + count, partial, partial_lse});
    join_kernel<kWidth><<<dim3(static_cast<unsigned>((s.queries + 63) / 64), count), kThreads,
                          join_bytes, stream>>>(
        {s, index, in, first, partial, partial_lse, static_cast<__nv_bfloat16*>(out), lse});
  }
  return cudaGetLastError();
}

}  // namespace

int64_t cluster_attention_heads_at_once(const ClusterSizes& s) {
  constexpr int64_t kBudget = int64_t{400} << 20;
  const int64_t head = s.pairs() * s.width * 2;
  const int64_t fit = head > 0 ? kBudget / head : 1;
  const int64_t heads = s.batch * s.heads;
  const int64_t group = s.heads / s.kv_heads;
  if (fit <= group) return group;
  if (fit >= heads) return heads;
  const int64_t rounds = (heads + fit - 1) / fit;  // of equal size, or nearly
  const int64_t even = (heads + rounds - 1) / rounds;
  return (even + group - 1) / group * group;  // all heads of a key-value head together
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
