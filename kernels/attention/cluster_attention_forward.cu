#include "kernels/attention/cluster_attention.h"
#include "kernels/attention/cluster_attention_device.h"
#include "kernels/attention/cluster_tiles.h"
#include "kernels/attention/window_tiles.h"

namespace dsrsq::kernels {
namespace {

constexpr int kThreads = 128;  // one warpgroup: 64 queries

constexpr int kAttendBlocks = 2;  // on a multiprocessor
template <int kWidth>
using AttendTiles = ClusterTiles<kWidth, attend_rows(kWidth), kWidth == 64 ? 4 : 2>;

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

// 64 rows of an item: what a thread keeps of rows g and g + 8.
template <int kWidth>
struct AttendRows {
  static constexpr int kPlanes = kWidth / 64;
  int limit0, limit1;
  float out[kPlanes][32];
  float maximum0, maximum1, sum0, sum1;
  float score[32];
  uint32_t p[16];
};

// The queries of an item as operand tiles. Those of the next item are on their way, in registers,
// while the present one is worked on.
template <int kWidth>
class AttendQueries {
 public:
  static constexpr int kPlanes = kWidth / 64, kHalves = attend_rows(kWidth) / kTileRows;
  static constexpr int kBytes = kHalves * kPlanes * kTileBytes;

  // Rows g and g + 8 of each half, as the registers of an operand. `query`: of a row of the item.
  template <typename Query>
  __device__ void load(const __nv_bfloat16* head, Query&& query) {
    const int g = threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const int64_t row0 = query(half * kTileRows + g), row1 = query(half * kTileRows + g + 8);
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
        load_operand(registers_[half][plane], head + row0 * kWidth + 64 * plane,
                     head + row1 * kWidth + 64 * plane);
      }
    }
  }
  // Before a barrier of the block.
  __device__ void store(uint32_t tiles) const {
    const int lane = threadIdx.x % 32, matrix = lane / 8;
    const int row = threadIdx.x / 32 * 16 + (matrix & 1) * 8 + lane % 8;
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
        for (int step = 0; step < 4; ++step) {
          store_matrices(tiles + (half * kPlanes + plane) * kTileBytes +
                             swizzled(row, 2 * step + (matrix >> 1)),
                         registers_[half][plane] + 4 * step);
        }
      }
    }
    async_proxy_fence();
  }

 private:
  uint32_t registers_[kHalves][kPlanes][16];
};

// Halves of 64 rows take turns: while the matrix units are at one, the other's weights are
// computed.
template <int kWidth>
__global__ void __launch_bounds__(kThreads, kAttendBlocks)
    attend_kernel(const __grid_constant__ AttendArguments a) {
  using Tiles = AttendTiles<kWidth>;
  using Queries = AttendQueries<kWidth>;
  constexpr int kPlanes = Queries::kPlanes, kHalves = Queries::kHalves;
  extern __shared__ char shared_raw[];
  __shared__ typename Tiles::Shared shared;
  const ClusterSizes& s = a.s;
  const int lane = threadIdx.x % 32, g = threadIdx.x / 32 * 16 + lane / 4;
  const int column = 2 * (lane & 3);
  const float scale = s.scale * kLog2E;
  const unsigned slots = static_cast<unsigned>(s.slots);
  const uint32_t q_tiles = (shared_address(shared_raw) + 1023) & ~1023u;
  Tiles tiles(shared_raw + Queries::kBytes, shared, s, a.index, a.index.attend, a.keys, a.has_bias,
              a.index.attend_begin[a.first_head], a.index.attend_begin[a.end_head]);
  Queries queries;
  if (tiles.has_item()) {
    queries.load(a.q + tiles.item().head * s.queries * kWidth,
                 [&](int row) { return tiles.pair(row) / slots; });
    queries.store(q_tiles);
  }
  __syncthreads();
  // Starts the scores of a half with the tile `ahead` of the present one.
  const auto scores = [&](float(&score)[32], int half, int ahead) {
    wgmma_fence();
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      const uint64_t q = tile_descriptor(q_tiles + (half * kPlanes + plane) * kTileBytes);
      const uint64_t k = tiles.keys(plane, ahead);
#pragma unroll
      for (int step = 0; step < 4; ++step) {
        wgmma<false>(score, q + step * kColumnStep, k + step * kColumnStep, plane + step > 0);
      }
    }
    wgmma_commit();
  };
  for (; tiles.has_item(); tiles.end_item()) {
    tiles.begin_item();
    const AttendItem& item = tiles.item();
    // Of the last item once more, where there is no next.
    queries.load(a.q + tiles.next_item().head * s.queries * kWidth, [&](int row) {
      return tiles.next_item().num_tiles > 0 ? tiles.next_pair(row) / slots : 0;
    });
    AttendRows<kWidth> rows[kHalves];
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      AttendRows<kWidth>& r = rows[half];
      r.limit0 = key_limit(s, static_cast<int>(tiles.pair(64 * half + g) / slots));
      r.limit1 = key_limit(s, static_cast<int>(tiles.pair(64 * half + g + 8) / slots));
      r.maximum0 = r.maximum1 = -CUDART_INF_F;
      r.sum0 = r.sum1 = 0.f;
      zero(r.out);
#pragma unroll
      for (int i = 0; i < 16; ++i) r.p[i] = 0;
    }
    // The first half's scores are a tile ahead. ptxas serialises the products unless they have all
    // ended where the loop turns (C7514), so that is where the second half's are waited for.
    tiles.wait_tile();
    scores(rows[0].score, 0, 0);
    wgmma_wait<0>(rows[0].score);
    for (int tile = 0; tile < item.num_tiles; ++tile) {
      if (kHalves == 2) scores(rows[kHalves - 1].score, kHalves - 1, 0);
      const int left = item.keys - tile * kTileRows;
      const int* position = tiles.positions();
      const bool masked = left < kTileRows || position[kTileRows - 1] > item.oldest;
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        AttendRows<kWidth>& r = rows[half];
        if (half == 1) wgmma_wait<2>(r.score);
        float score_scale = scale;
        if (a.has_bias) {
          score_scale = 1.f;
          add_biases(r.score, scale, tiles.biases(), column);
        }
        if (masked) mask_tile(r.score, position, column, left, r.limit0, r.limit1);
        const float factor0 = softmax_row(r.score, 0, score_scale, r.maximum0, r.sum0);
        const float factor1 = softmax_row(r.score, 2, score_scale, r.maximum1, r.sum1);
        if (__any_sync(0xffffffffu, factor0 != 1.f || factor1 != 1.f)) {
#pragma unroll
          for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
            for (int i = 0; i < 32; ++i) r.out[plane][i] *= i & 2 ? factor1 : factor0;
          }
        }
        operand_from(r.p, r.score);
        add_rows<kPairRowStep>(r.out, r.p, [&](int plane) { return tiles.values(plane); });
        if (half == 0) {
          // After the last tile nobody reads them: a branch would have the compiler wait.
          if (tile + 1 < item.num_tiles) tiles.wait_tile(1);
          scores(r.score, 0, 1);
        }
      }
#pragma unroll
      for (int half = 0; half < kHalves; ++half) wgmma_wait<0>(rows[half].p);
      wgmma_wait<0>(rows[0].score);
      __syncthreads();  // all warps have finished with the tile
      tiles.next_tile();
      tiles.release(1);
    }
    queries.store(q_tiles);

    const int64_t first_row = (item.head - a.first_head) * s.pairs();
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      AttendRows<kWidth>& r = rows[half];
#pragma unroll
      for (int low = 0; low < 4; low += 2) {
        const float sum = quad_sum(low == 0 ? r.sum0 : r.sum1);
        const int place = 64 * half + g + 4 * low;
        if (place >= item.count) continue;
        const int64_t row = first_row + tiles.pair(place);
        const float inverse = sum > 0.f ? 1.f / sum : 0.f;
#pragma unroll
        for (int plane = 0; plane < kPlanes; ++plane) {
          store_row(a.partial + row * kWidth + 64 * plane, r.out[plane], low, inverse);
        }
        if ((lane & 3) == 0) {
          a.partial_lse[row] = (low == 0 ? r.maximum0 : r.maximum1) * kLn2 + logf(sum);
        }
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
  const __nv_bfloat16* rows = a.partial + static_cast<int64_t>(blockIdx.y) * s.pairs() * kWidth;
  // In the order in which they are needed.
  tiles.start(range);
  partials.prefetch(rows);
  const RowPair own(s, head, first_query);
  uint32_t qa[kPlanes][16];
  load_natural_operands(qa, a.in.q, own);
  partials.start(a.index, a.in.routes, head, kv,
                 a.partial_lse + static_cast<int64_t>(blockIdx.y) * s.pairs());
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
  constexpr int kAttendBytes = Tiles::kDynamicBytes + AttendQueries<kWidth>::kBytes;
  cudaError_t status = cudaFuncSetAttribute(
      attend_kernel<kWidth>, cudaFuncAttributeMaxDynamicSharedMemorySize, kAttendBytes);
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
        <<<attend_blocks(s, count, kAttendBlocks), kThreads, kAttendBytes, stream>>>(
            {s, index, clustered_layout(s, const_cast<void*>(in.clustered)),
             static_cast<const __nv_bfloat16*>(in.q), in.key_bias != nullptr, first, first + count,
             partial, partial_lse});
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
