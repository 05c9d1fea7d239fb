#include "kernels/attention/cluster_attention_backward.h"
#include "kernels/attention/cluster_attention_device.h"
#include "kernels/attention/cluster_tiles.h"
#include "kernels/attention/window_tiles.h"

namespace dsrsq::kernels {
namespace {

constexpr int kThreads = 128;

// A row of d columns by d / 8 threads, 8 or 16.
__global__ void __launch_bounds__(kThreads)
    row_kernel(int64_t rows, int lanes, const uint4* out, const uint4* d_out, const float* lse,
               float2* result) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  float sum = 0.f;
  if (i < rows * lanes) {
    const uint4 x = __ldcs(out + i), y = d_out[i];
    sum = low_half(x.x) * low_half(y.x) + high_half(x.x) * high_half(y.x);
    sum += low_half(x.y) * low_half(y.y) + high_half(x.y) * high_half(y.y);
    sum += low_half(x.z) * low_half(y.z) + high_half(x.z) * high_half(y.z);
    sum += low_half(x.w) * low_half(y.w) + high_half(x.w) * high_half(y.w);
  }
  for (int offset = lanes / 2; offset > 0; offset /= 2) {
    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
  }
  if (i < rows * lanes && i % lanes == 0) {
    result[i / lanes] = make_float2(fmaxf(lse[i / lanes] * kLog2E, kNoLogSumExp), sum);
  }
}

template <int kWidth>
constexpr int kAttendBlocks = kWidth == 64 ? 3 : 2;  // on a multiprocessor
template <int kWidth>
using AttendTiles = ClusterTiles<kWidth, kWidth == 64 ? 3 : 2>;

struct AttendArguments {
  BackwardArguments b;
  Clustered keys;
  int64_t first_head;
  int64_t end_head;
  __nv_bfloat16* partial;
};

// Scores of one tile become weights.
__device__ __forceinline__ void weights(float (&score)[32], float scale, float lse0, float lse1) {
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    score[i] = exp2_fast(fmaf(score[i], scale, i & 2 ? -lse1 : -lse0));
  }
}

// d(score) = weight (d(weight) - delta), as an operand.
__device__ __forceinline__ void score_gradient(const float (&weight)[32], float (&d_weight)[32],
                                               float delta0, float delta1,
                                               uint32_t (&operand)[16]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    d_weight[i] = weight[i] * (d_weight[i] - (i & 2 ? delta1 : delta0));
  }
  operand_from(operand, d_weight);
}

// One partial dq a pair, as the forward pass leaves partial results.
template <int kWidth>
__global__ void __launch_bounds__(kThreads, kAttendBlocks<kWidth>)
    attend_backward_kernel(const __grid_constant__ AttendArguments a) {
  using Tiles = AttendTiles<kWidth>;
  constexpr int kPlanes = kWidth / 64;
  extern __shared__ char shared_raw[];
  __shared__ typename Tiles::Shared shared;
  const ClusterSizes& s = a.b.s;
  const int lane = threadIdx.x % 32, g = threadIdx.x / 32 * 16 + lane / 4;
  const int column = 2 * (lane & 3);
  const float scale = s.scale * kLog2E;
  const uint32_t unknown = unknown_zero();
  const unsigned slots = static_cast<unsigned>(s.slots);
  const bool has_bias = a.b.in.key_bias != nullptr;
  const ClusterIndex& index = a.b.index;
  Tiles tiles(shared_raw, shared, s, index, index.large, a.keys, has_bias,
              index.large_begin[a.first_head], index.large_begin[a.end_head]);
  for (; tiles.has_item(); tiles.end_item()) {
    tiles.begin_item();
    const AttendItem& item = tiles.item();
    const int query0 = static_cast<int>(tiles.pair(g) / slots);
    const int query1 = static_cast<int>(tiles.pair(g + 8) / slots);
    const int64_t row0 = item.head * s.queries + query0, row1 = item.head * s.queries + query1;
    const auto* q_rows = static_cast<const __nv_bfloat16*>(a.b.in.q);
    const auto* d_rows = static_cast<const __nv_bfloat16*>(a.b.grad.d_out);
    uint32_t q[kPlanes][16], d_out[kPlanes][16];
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      load_operand(q[plane], q_rows + row0 * kWidth + 64 * plane,
                   q_rows + row1 * kWidth + 64 * plane);
      load_operand(d_out[plane], d_rows + row0 * kWidth + 64 * plane,
                   d_rows + row1 * kWidth + 64 * plane);
    }
    const float2 side0 = a.b.rows[row0], side1 = a.b.rows[row1];
    const float lse0 = side0.x, lse1 = side1.x, delta0 = side0.y, delta1 = side1.y;
    float dq[kPlanes][32];
    zero(dq);
    for (int tile = 0; tile < item.num_tiles; ++tile) {
      tiles.wait_tile();
      float score[32], d_weight[32];
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
        hold(q[plane], unknown);
        hold(d_out[plane], unknown);
      }
      wgmma_fence();
      row_products(score, q, [&](int plane) { return tiles.keys(plane); });
      row_products(d_weight, d_out, [&](int plane) { return tiles.values(plane); });
      __syncthreads();  // all warps have finished with the tile before
      if (tile > 0) tiles.release(1);
      wgmma_wait<1>(score);

      float score_scale = scale;
      if (has_bias) {
        score_scale = 1.f;
        add_biases(score, scale, tiles.biases(), column);
      }
      const int left = item.keys - tile * kTileRows;
      const int* position = tiles.positions();
      if (left < kTileRows || position[kTileRows - 1] > item.oldest) {
        mask_tile(score, position, column, left, key_limit(s, query0), key_limit(s, query1));
      }
      uint32_t ds[16];
      weights(score, score_scale, lse0, lse1);
      wgmma_wait<0>(d_weight);
      score_gradient(score, d_weight, delta0, delta1, ds);
      add_rows<kPairRowStep>(dq, ds, [&](int plane) { return tiles.keys(plane); });
      wgmma_wait<0>(ds);  // registers are short: other blocks fill the wait
      tiles.next_tile();
    }
    __syncthreads();
    tiles.release(1);
    const int64_t first_row = (item.head - a.first_head) * s.pairs();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (g + 8 * half >= item.count) continue;
      const int64_t row = first_row + tiles.pair(g + 8 * half);
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
        store_row(a.partial + row * kWidth + 64 * plane, dq[plane], 2 * half, s.scale);
      }
    }
  }
}

// Window and sinks of 64 queries, then the partial gradients of their slots.
template <int kWidth>
__global__ void __launch_bounds__(kThreads, kWidth == 64 ? 3 : 2)
    join_backward_kernel(const __grid_constant__ AttendArguments a) {
  using Tiles = WindowTiles<kWidth>;
  constexpr int kPlanes = kWidth / 64;
  extern __shared__ char shared_raw[];
  const ClusterSizes& s = a.b.s;
  const int64_t head = a.first_head + blockIdx.y;
  const int64_t kv = kv_head(s, head);
  const int first_query = blockIdx.x * kTileRows;
  Tiles tiles(shared_raw, a.b.in, s, kv);
  const TileRange range = window_keys(s, first_query);
  SlotRows<kWidth> partials(shared_raw + Tiles::kSharedBytes, s, first_query);
  partials.start(a.b.index, a.b.in.routes, head, kv, nullptr);
  const __nv_bfloat16* rows = a.partial + static_cast<int64_t>(blockIdx.y) * s.pairs() * kWidth;
  tiles.start(range);
  partials.prefetch(rows);  // behind the window's loads, which come first

  const RowPair own(s, head, first_query);
  uint32_t q[kPlanes][16], d_out[kPlanes][16];
  load_natural_operands(q, a.b.in.q, own);
  load_natural_operands(d_out, a.b.grad.d_out, own);
  const float2 side0 = a.b.rows[own.row0], side1 = a.b.rows[own.row1];
  const float lse0 = side0.x, lse1 = side1.x, delta0 = side0.y, delta1 = side1.y;
  const float scale = s.scale * kLog2E;
  const uint32_t unknown = unknown_zero();
  float dq[kPlanes][32];
  zero(dq);
  uint32_t ds[16];
  for (int i = 0; i < range.count(); ++i) {
    tiles.wait(i);
    float score[32], d_weight[32];
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      hold(q[plane], unknown);
      hold(d_out[plane], unknown);
    }
    wgmma_fence();
    row_products(score, q,
                 [&](int plane) { return tile_descriptor(tiles.keys(i) + plane * kTileBytes); });
    row_products(d_weight, d_out,
                 [&](int plane) { return tile_descriptor(tiles.values(i) + plane * kTileBytes); });
    wgmma_wait<1>(score);
    const NearMask mask(s, range.tile(i), first_query);
    const float* bias = tiles.bias(i);
    near_scores(score, mask, bias, own.column, scale, own.at0, own.at1);
    weights(score, 1.f, lse0, lse1);
    wgmma_wait<0>(d_weight);
    score_gradient(score, d_weight, delta0, delta1, ds);
    add_rows<kRowStep>(
        dq, ds, [&](int plane) { return tile_descriptor(tiles.keys(i) + plane * kTileBytes); });
    wgmma_wait<0>(ds);
    tiles.release(range, i);
  }
#pragma unroll
  for (int plane = 0; plane < kPlanes; ++plane) gather_columns(dq[plane]);
  __syncthreads();  // the slots' log-sum-exp, where the window had no tile
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int r = own.g + 8 * half;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
      for (int i = 0; i < 16; ++i) dq[plane][4 * (i / 2) + 2 * half + i % 2] *= s.scale;
    }
    partials.add<kPlanes>(dq, half, r, rows, [&](float) { return 1.f; });
    if (first_query + r >= s.queries) continue;
    auto* row =
        static_cast<__nv_bfloat16*>(a.b.grad.dq) + (half == 0 ? own.row0 : own.row1) * kWidth;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      store_row(row + 64 * plane, dq[plane], 2 * half, 1.f);
    }
  }
}

template <int kWidth>
cudaError_t query_gradients(const BackwardArguments& b, int64_t first, int64_t end, void* partial,
                            cudaStream_t stream) {
  using Tiles = AttendTiles<kWidth>;
  const ClusterSizes& s = b.s;
  cudaError_t status =
      cudaFuncSetAttribute(attend_backward_kernel<kWidth>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize, Tiles::kDynamicBytes);
  if (status != cudaSuccess) return status;
  const int join_bytes = WindowTiles<kWidth>::kSharedBytes + SlotRows<kWidth>::bytes(s);
  status = cudaFuncSetAttribute(join_backward_kernel<kWidth>,
                                cudaFuncAttributeMaxDynamicSharedMemorySize, join_bytes);
  if (status != cudaSuccess) return status;
  const AttendArguments a{b, clustered_layout(s, const_cast<void*>(b.in.clustered)), first, end,
                          static_cast<__nv_bfloat16*>(partial)};
  attend_backward_kernel<kWidth><<<attend_blocks(s, end - first, kAttendBlocks<kWidth>), kThreads,
                                   Tiles::kDynamicBytes, stream>>>(a);
  join_backward_kernel<kWidth>
      <<<dim3(static_cast<unsigned>((s.queries + 63) / 64), static_cast<unsigned>(end - first)),
         kThreads, join_bytes, stream>>>(a);
  return cudaGetLastError();
}

int64_t align(int64_t bytes) { return (bytes + 255) / 256 * 256; }

constexpr int64_t kCounterBytes = 256;

int64_t row_bytes(const ClusterSizes& s) { return align(s.batch * s.heads * s.queries * 8); }

}  // namespace

cudaError_t launch_query_gradients(const BackwardArguments& a, int64_t first, int64_t end,
                                   void* partial, cudaStream_t stream) {
  return a.s.width == 64 ? query_gradients<64>(a, first, end, partial, stream)
                         : query_gradients<128>(a, first, end, partial, stream);
}

int64_t cluster_attention_backward_workspace_bytes(const ClusterSizes& s) {
  const int64_t partial = cluster_attention_heads_at_once(s) * s.pairs() * s.width * 2;
  const int64_t keys = key_gradient_workspace_bytes(s);
  return row_bytes(s) + kCounterBytes + (partial > keys ? partial : keys);
}

cudaError_t launch_cluster_attention_backward(const ClusterSizes& s, const ClusterIndex& index,
                                              const ClusterAttentionInputs& in,
                                              const ClusterAttentionGradients& grad,
                                              void* workspace, cudaStream_t stream) {
  if (s.width != 64 && s.width != 128) return cudaErrorInvalidValue;
  auto* side = static_cast<float2*>(workspace);
  auto* counter = reinterpret_cast<int*>(static_cast<char*>(workspace) + row_bytes(s));
  void* scratch = static_cast<char*>(workspace) + row_bytes(s) + kCounterBytes;
  const int64_t heads = s.batch * s.heads, rows = heads * s.queries;
  const auto blocks = static_cast<unsigned>((rows * s.width / 8 + kThreads - 1) / kThreads);
  row_kernel<<<blocks, kThreads, 0, stream>>>(
      rows, static_cast<int>(s.width / 8), static_cast<const uint4*>(grad.out),
      static_cast<const uint4*>(grad.d_out), grad.lse, side);
  const BackwardArguments a{s, index, in, grad, side};
  const int64_t at_once = cluster_attention_heads_at_once(s);
  for (int64_t first = 0; first < heads; first += at_once) {
    const int64_t end = first + at_once < heads ? first + at_once : heads;
    cudaError_t status = cudaSuccess;
    if (s.width == 64) {
      status = launch_small_cluster_gradients(a, first, end, scratch, counter, stream);
    }
    if (status == cudaSuccess) status = launch_query_gradients(a, first, end, scratch, stream);
    if (status != cudaSuccess) return status;
  }
  return launch_key_gradients(a, scratch, stream);
}

}  // namespace dsrsq::kernels
