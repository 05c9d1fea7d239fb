// Gradients of the clusters of at most kSmallCluster keys, in one walk over their queries: the
// weights are recomputed once, and serve the queries, the keys and the values.
//
// A block takes a cluster, 128 of its keys at a time, and 128 queries after the other. One
// warpgroup gathers queries; two hold 64 keys each, with the sums of their gradients in registers.
// What the queries get from both is summed by the matrix units, through shared memory, and goes to
// the partial row of its pair; in later passes the same thread adds to it.
#include "kernels/attention/small_cluster_tiles.h"

namespace dsrsq::kernels {
namespace {

using namespace small_clusters;

// As many as a block of 168 a thread gets, in all: where the sum is greater, it waits for ever.
constexpr int kProducerRegisters = 40, kConsumerRegisters = 232;
static_assert(kProducerRegisters + kConsumers * kConsumerRegisters == 168 * (kConsumers + 1));

// What a thread keeps of a tile until the gradients of its queries are stored.
struct Pending {
  unsigned pair0, pair1;  // of rows g and g + 8
  int head;
};

// The keys of rows g and g + 8 of a warpgroup; biases in units of log2.
struct Keys {
  int position0, position1;
  float bias0, bias1;
};
struct Sums {
  float dk[32], dv[32];
  float bias0 = 0.f, bias1 = 0.f;
};

class Consumer {
 public:
  __device__ Consumer(const Arguments& a, Shared& shared, const Blocks& blocks, int group)
      : a_(a),
        s_(a.b.s),
        shared_(shared),
        blocks_(blocks),
        group_(group),
        biased_(a.b.in.key_bias != nullptr),
        column_(2 * (threadIdx.x & 3)),
        row_(threadIdx.x % kGroup / 32 * 16 + threadIdx.x % 32 / 4) {}

  __device__ void run() {
    for (uint32_t phase = 0;; phase ^= 1) {
      barrier_wait(&shared_.keys_full, phase);
      const Pass pass = shared_.pass;
      if (pass.count == 0) break;
      run_pass(pass);
    }
  }

 private:
  __device__ void run_pass(const Pass& pass) {
    const int* position = shared_.position + group_ * kTileRows;
    const int oldest = position[0], newest = position[kTileRows - 1];
    Keys keys{position[row_], position[row_ + 8], 0.f, 0.f};
    if (biased_) {
      const float* bias =
          a_.keys.bias + pass.kv * s_.rows() + pass.first + group_ * kTileRows + row_;
      keys.bias0 = keys.position0 == kNoKey ? 0.f : bias[0];
      keys.bias1 = keys.position1 == kNoKey ? 0.f : bias[8];
    }
    const uint64_t k = tile_descriptor(blocks_.keys() + group_ * kTileBytes);
    const uint64_t v = tile_descriptor(blocks_.values() + group_ * kTileBytes);
    Sums sums;
#pragma unroll
    for (int i = 0; i < 32; ++i) sums.dk[i] = sums.dv[i] = 0.f;
    uint32_t p[2][16] = {}, ds[2][16] = {};  // of 64 queries each
    before_ = {kNoPair, kNoPair, 0};
    for (int tile = 0; tile < pass.tiles; ++tile) {
      barrier_wait(&shared_.full[ring_.stage], ring_.phase);
      const Side& side = shared_.side[ring_.stage];
      const Limits limits = side.limits;
      float dq[32];
      if (limits.last < oldest) {  // or this warpgroup has no key
        wgmma_wait<0>(p[1]);
        wgmma_wait<0>(ds[1]);
        release(tile);
        query_products(dq, tile > 0);
        wgmma_wait<0>(dq);
        store_queries(dq, pass.number);
#pragma unroll
        for (int i = 0; i < 16; ++i) ds[0][i] = 0;
        store_scores(ds[0], 0);
        store_scores(ds[0], 1);
      } else {
        const uint64_t q = tile_descriptor(blocks_.queries(ring_.stage));
        const uint64_t d_out = tile_descriptor(blocks_.d_out(ring_.stage));
        float score[2][32], d_weight[2][32];
        wgmma_fence();
        products_over_columns(score[0], k, q);
        products_over_columns(d_weight[0], v, d_out);
        wgmma_wait<2>(p[1]);  // the products of the tile before have ended
        wgmma_wait<2>(ds[1]);
        release(tile);
        wgmma_fence();
        products_over_columns(score[1], k, q + kHalf);
        wgmma_wait<2>(score[0]);
        // kNoKey is newer than every limit.
        weigh(score[0], side, 0, limits.count < kQueries || limits.first < newest, keys);
        wgmma_wait<1>(d_weight[0]);
        score_gradients(score[0], d_weight[0], side, 0, p[0], ds[0], sums);
        query_products(dq, tile > 0);
        key_products(sums, p[0], ds[0], q, d_out);
        store_scores(ds[0], 0);
        wgmma_wait<1>(dq);
        store_queries(dq, pass.number);
        wgmma_fence();
        products_over_columns(d_weight[1], v, d_out + kHalf);
        wgmma_wait<2>(score[1]);
        weigh(score[1], side, 1, limits.count < kQueries || limits.middle < newest, keys);
        wgmma_wait<0>(d_weight[1]);
        wgmma_wait<0>(p[0]);
        wgmma_wait<0>(ds[0]);
        score_gradients(score[1], d_weight[1], side, 1, p[1], ds[1], sums);
        store_scores(ds[1], 1);
        key_products(sums, p[1], ds[1], q + kHalf, d_out + kHalf);
      }
      before_ = {side.pair[group_ * kTileRows + row_], side.pair[group_ * kTileRows + row_ + 8],
                 side.head};
      stage_before_ = ring_.stage;
      ring_.advance();
      ++number_;
    }
    wgmma_wait<0>(p[1]);
    wgmma_wait<0>(ds[1]);
    if (pass.tiles > 0) {
      release(1);
      float dq[32];
      query_products(dq, true);
      wgmma_wait<0>(dq);
      store_queries(dq, pass.number);
    }
    barrier_arrive(&shared_.keys_empty);
    write_keys(pass, sums, keys);
  }

  // From a block's first 64 rows to its last.
  static constexpr uint64_t kHalf = kTileBytes >> 4;

  // 64 keys (or values) by 64 queries (or gradients of their outputs).
  __device__ __forceinline__ void products_over_columns(float (&d)[32], uint64_t a,
                                                        uint64_t b) const {
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma<false>(d, a + step * kColumnStep, b + step * kColumnStep, step > 0);
    }
    wgmma_commit();
  }

  // Adds the gradients from 64 queries to those of the keys and values.
  __device__ __forceinline__ void key_products(Sums& sums, const uint32_t (&p)[16],
                                               const uint32_t (&ds)[16], uint64_t q,
                                               uint64_t d_out) const {
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma<true>(sums.dv, p + 4 * step, d_out + step * kRowStep, true);
    }
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      wgmma<true>(sums.dk, ds + 4 * step, q + step * kRowStep, true);
    }
    wgmma_commit();
  }

  // The queries of the tile before the pass's tile `tile` may be overwritten.
  __device__ void release(int tile) const {
    if (tile > 0) barrier_arrive(&shared_.empty[stage_before_]);
  }

  // Scores of 64 queries become weights.
  __device__ __forceinline__ void weigh(float (&score)[32], const Side& side, int half, bool masked,
                                        const Keys& keys) const {
    const int column = half * kTileRows + column_;
    float scale = s_.scale * kLog2E;
    if (biased_) {
#pragma unroll
      for (int i = 0; i < 32; ++i) {
        score[i] = fmaf(score[i], scale, i & 2 ? keys.bias1 : keys.bias0);
      }
      scale = 1.f;
    }
    if (masked) {
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        const int2 limit = *reinterpret_cast<const int2*>(&side.limit[8 * i + column]);
        if (keys.position0 > limit.x) score[4 * i + 0] = -CUDART_INF_F;
        if (keys.position0 > limit.y) score[4 * i + 1] = -CUDART_INF_F;
        if (keys.position1 > limit.x) score[4 * i + 2] = -CUDART_INF_F;
        if (keys.position1 > limit.y) score[4 * i + 3] = -CUDART_INF_F;
      }
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float4 rows = *reinterpret_cast<const float4*>(&side.rows[8 * i + column]);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        score[4 * i + e] = exp2_fast(fmaf(score[4 * i + e], scale, e & 1 ? -rows.z : -rows.x));
      }
    }
  }

  // Weights and their gradients become operands: weights, and gradients of scores.
  __device__ __forceinline__ void score_gradients(const float (&weight)[32], float (&d_weight)[32],
                                                  const Side& side, int half, uint32_t (&p)[16],
                                                  uint32_t (&ds)[16], Sums& sums) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const float4 rows =
          *reinterpret_cast<const float4*>(&side.rows[half * kTileRows + 8 * i + column_]);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float& x = d_weight[4 * i + e];
        x = weight[4 * i + e] * (x - (e & 1 ? rows.w : rows.y));
      }
    }
    if (biased_) {
#pragma unroll
      for (int i = 0; i < 32; ++i) (i & 2 ? sums.bias1 : sums.bias0) += d_weight[i];
    }
    operand_from(p, weight);
    operand_from(ds, d_weight);
  }

  // To shared memory, a row a key, in blocks of 64 queries; after the last says so. What was there
  // two tiles ago has been read: a warpgroup says so by what it says of the tile after that, which
  // query_products has waited for.
  __device__ __forceinline__ void store_scores(const uint32_t (&ds)[16], int half) const {
    const int lane = threadIdx.x % 32, matrix = lane / 8;
    const int row =
        group_ * kTileRows + threadIdx.x % kGroup / 32 * 16 + (matrix & 1) * 8 + lane % 8;
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      store_matrices(blocks_.scores(number_ & 1, half) + swizzled(row, 2 * step + (matrix >> 1)),
                     ds + 4 * step);
    }
    if (half == 0) return;
    async_proxy_fence();
    barrier_arrive(&shared_.scores_full[number_ & 1]);
  }

  // Starts the gradients of 64 queries of the tile before this one. Where there is none the
  // products are nobody's: a branch around them would have the compiler wait for those in flight.
  __device__ __forceinline__ void query_products(float (&dq)[32], bool exist) {
    const int buffer = products_ & 1;
    if (exist) barrier_wait(&shared_.scores_full[buffer], products_ >> 1 & 1);
    const uint64_t scores = tile_descriptor(blocks_.scores(buffer, group_));
    const uint64_t keys = tile_descriptor(blocks_.permuted_keys());
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < kKeys / 16; ++step) {
      wgmma_over_rows(dq, scores + step * kRowStep, keys + step * kRowStep, step > 0);
    }
    wgmma_commit();
    products_ += exist;
  }

  // To the rows of their pairs; later passes add to them: the same thread, so in the same order on
  // every run.
  __device__ __forceinline__ void store_queries(const float (&dq)[32], int pass) const {
    const int t = threadIdx.x & 3;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const unsigned pair = half == 0 ? before_.pair0 : before_.pair1;
      if (pair == kNoPair) continue;
      auto* row =
          reinterpret_cast<uint4*>(a_.partial + (before_.head * s_.pairs() + pair) * kWidth);
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        const uint4 chunk = row_chunk(dq, 2 * half, part, s_.scale);
        if (pass == 0) {
          row[4 * part + t] = chunk;
        } else {
          add_in_memory(row + 4 * part + t, chunk);
        }
      }
    }
  }

  __device__ void write_keys(const Pass& pass, Sums& sums, const Keys& keys) const {
    float* d_key_bias = a_.b.grad.d_key_bias;
    const float d_bias0 = quad_sum(sums.bias0), d_bias1 = quad_sum(sums.bias1);
#pragma unroll
    for (int i = 0; i < 32; ++i) sums.dk[i] *= s_.scale;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int position = half == 0 ? keys.position0 : keys.position1;
      const bool valid = position != kNoKey;
      const int64_t line = pass.kv * s_.keys + (valid ? position : 0);
      auto* dk_row = static_cast<__nv_bfloat16*>(a_.b.grad.dk) + line * kWidth;
      auto* dv_row = static_cast<__nv_bfloat16*>(a_.b.grad.dv) + line * kWidth;
#pragma unroll
      for (int part = 0; part < 2; ++part) {
        put_row(sums.dk + 16 * part + 2 * half, dk_row + 32 * part, valid);
        put_row(sums.dv + 16 * part + 2 * half, dv_row + 32 * part, valid);
      }
      if (valid && (threadIdx.x & 3) == 0 && biased_) {
        d_key_bias[line] = half == 0 ? d_bias0 : d_bias1;
      }
    }
  }

  const Arguments& a_;
  const ClusterSizes& s_;
  Shared& shared_;
  const Blocks& blocks_;
  int group_;
  bool biased_;
  int column_;
  int row_;
  Ring ring_;
  Pending before_;  // the tile before
  int stage_before_ = 0;
  int number_ = 0;    // tiles so far
  int products_ = 0;  // tiles so far whose queries have got their gradients
};

__global__ void __launch_bounds__(kThreads, 1)
    small_cluster_gradient_kernel(const __grid_constant__ Arguments a) {
  extern __shared__ char shared_raw[];
  __shared__ Shared shared;
  const Blocks blocks{shared_raw + ((1024 - (shared_address(shared_raw) & 1023)) & 1023)};
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      barrier_init(&shared.full[i], kGroup);
      barrier_init(&shared.empty[i], kConsumerThreads);
    }
    barrier_init(&shared.keys_full, kGroup);
    barrier_init(&shared.keys_empty, kConsumerThreads);
    barrier_init(&shared.scores_full[0], kConsumerThreads);
    barrier_init(&shared.scores_full[1], kConsumerThreads);
    barrier_init_fence();
  }
  __syncthreads();
  const int group = __shfl_sync(0xffffffffu, threadIdx.x / kGroup, 0);
  if (group == kConsumers) {
    give_registers<kProducerRegisters>();
    Producer(a, shared, blocks).run();
  } else {
    take_registers<kConsumerRegisters>();
    Consumer(a, shared, blocks, group).run();
  }
}

}  // namespace

cudaError_t launch_small_cluster_gradients(const BackwardArguments& b, int64_t first, int64_t end,
                                           void* partial, int* next, cudaStream_t stream) {
  if (b.s.width != kWidth) return cudaErrorInvalidValue;
  cudaError_t status = cudaFuncSetAttribute(
      small_cluster_gradient_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kDynamicBytes);
  if (status != cudaSuccess) return status;
  status = cudaMemsetAsync(next, 0, sizeof(int), stream);
  if (status != cudaSuccess) return status;
  int device = 0, multiprocessors = 0;
  status = cudaGetDevice(&device);
  if (status != cudaSuccess) return status;
  status = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (status != cudaSuccess) return status;
  const Arguments a{b,
                    clustered_layout(b.s, const_cast<void*>(b.in.clustered)),
                    divisor(b.s.slots),
                    first,
                    end,
                    static_cast<__nv_bfloat16*>(partial),
                    next};
  small_cluster_gradient_kernel<<<multiprocessors, kThreads, kDynamicBytes, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace dsrsq::kernels
