// The kernel of latent_rows_*.cu. A block has up to four query rows of one key-value head and one
// share of the slots; the blocks of a cluster share the slots out and join their partial softmax
// through distributed shared memory, so that a decoded token is one launch a layer.
#pragma once

#include <cooperative_groups.h>

#include <climits>
#include <type_traits>

#include "kernels/latent/latent_device.h"

namespace dsrsq::kernels {
namespace latent_rows {

namespace cg = cooperative_groups;

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kRows = 4;
constexpr int kPieces = 4;       // of 16 bytes, that a thread holds of keys, and of values
constexpr int kMostSlots = 256;  // of a pass: those whose latents fill all threads' pieces
constexpr int kMostWidth = static_cast<int>(kLatentMostWidth);
constexpr int kMostSteps = kMostWidth / 16;
constexpr int kMostSplits = 8;  // of a cluster that every device of this kind can place

struct Arguments {
  LatentAttentionArguments a;
  int splits;
};

struct Shared {
  union {
    uint4 operand[kMostSteps * kColumnTiles * 32];  // P_k of the head, where keys are rebuilt
    float part[kWarps][kRows][kMostWidth];          // each warp's sums of values' latents
  };
  float query[kRows][kMostWidth];   // what meets the keys, in log2 units
  float weight[kRows][kMostSlots];  // logits, then weights
  float age[kRows][64];
  double turns[kPairs];
  int64_t order[kRows];
  // Of this block's slots; other blocks of the cluster read these.
  float mixed[kRows][kMostWidth];
  float maximum[kRows], sum[kRows];
  float kept[kRows];
  float joined[kMostWidth];
  float column[kThreads];
};

// A 16-byte piece as fp32.
template <typename T>
constexpr int kElements = 16 / sizeof(T);
__device__ __forceinline__ void widen(const uint4& x, float (&y)[4]) {
  y[0] = __uint_as_float(x.x), y[1] = __uint_as_float(x.y);
  y[2] = __uint_as_float(x.z), y[3] = __uint_as_float(x.w);
}
__device__ __forceinline__ void widen(const uint4& x, float (&y)[8]) {
  y[0] = low_half(x.x), y[1] = high_half(x.x), y[2] = low_half(x.y), y[3] = high_half(x.y);
  y[4] = low_half(x.z), y[5] = high_half(x.z), y[6] = low_half(x.w), y[7] = high_half(x.w);
}

template <typename T>
class Block {
 public:
  __device__ Block(const Arguments& arguments, Shared& shared)
      : a_(arguments.a),
        s_(a_.s),
        shared_(shared),
        splits_(arguments.splits),
        rank_(static_cast<int>(blockIdx.x) % splits_),
        kv_(blockIdx.y),
        batch_(blockIdx.z),
        width_(static_cast<int>(s_.width)),
        pass_(kThreads * kPieces * 16 / (width_ * static_cast<int>(sizeof(T)))),
        warp_(threadIdx.x / 32),
        lane_(threadIdx.x % 32) {
    const int64_t group_rows = s_.heads / s_.kv_heads * s_.queries;
    const int64_t first = int64_t{blockIdx.x / splits_} * kRows;
    rows_ = static_cast<int>(min(int64_t{kRows}, group_rows - first));
    first_head_ = kv_ * (s_.heads / s_.kv_heads);
    first_in_group_ = first;
    first_row_ = (batch_ * s_.heads + first_head_) * s_.queries + first;
    const int64_t passes = (s_.slots + pass_ - 1) / pass_;
    const int64_t share = (passes + splits_ - 1) / splits_ * pass_;
    begin_ = min(s_.slots, rank_ * share);
    end_ = min(s_.slots, begin_ + share);
  }

  __device__ void run() {
    load(begin_);
    prepare();
    float sums[kRows][kElements<T>] = {};
    for (int64_t slot = begin_; slot < end_; slot += pass_) {
      if (s_.rotates) {
        meet_rebuilt(slot);
      } else {
        meet(slot);
      }
      __syncthreads();
      soften();
      __syncthreads();
      add_values(sums);
      load(slot + pass_);
      __syncthreads();  // weights, and the operand's place, are free
    }
    gather_sums(sums);
    finish();
  }

 private:
  // ---- latents, as the threads hold them

  // Threads whose pieces make up a slot's key.
  __device__ int threads_a_slot() const {
    return width_ * static_cast<int>(sizeof(T)) / (16 * kPieces);
  }
  __device__ const uint4* row(const void* latents, int64_t slot) const {
    return reinterpret_cast<const uint4*>(static_cast<const T*>(latents) +
                                          (batch_ * s_.slots + slot) * width_);
  }
  // Zeros beyond this block's share.
  __device__ void load(int64_t first) {
    const uint4 zero = make_uint4(0, 0, 0, 0);
    const int sharing = threads_a_slot();
    const int64_t key = first + threadIdx.x / sharing;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      keys_[i] = zero;
      if (!s_.rotates && key < end_)
        keys_[i] = __ldg(row(a_.in.key_latents, key) + i * sharing + threadIdx.x % sharing);
    }
    const int pieces = width_ / kElements<T>, sets = kThreads / pieces;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int64_t slot = first + i * sets + threadIdx.x / pieces;
      values_[i] =
          slot < end_ ? __ldg(row(a_.in.value_latents, slot) + threadIdx.x % pieces) : zero;
    }
  }

  // ---- queries

  __device__ float query_element(int64_t row, int column) const {
    const int64_t at = row * kHeadWidth + column;
    return a_.in.query_type == ElementType::kBFloat16
               ? __bfloat162float(static_cast<const __nv_bfloat16*>(a_.in.q)[at])
               : static_cast<const float*>(a_.in.q)[at];
  }
  __device__ const float* projection_row(const float* projection, int k) const {
    return projection + (int64_t{k} * s_.kv_heads + kv_) * kHeadWidth;
  }

  __device__ void prepare() {
    // Queries as they came, in log2 units: absorbed ones wait in the place of the weights.
    float* raw = s_.rotates ? &shared_.query[0][0] : &shared_.weight[0][0];
    const int stride = s_.rotates ? kMostWidth : kMostSlots;
    float scale = s_.scale * kLog2E;
    if (s_.rotates) scale *= s_.rotary_scale;
    for (int i = threadIdx.x; i < rows_ * kHeadWidth; i += kThreads) {
      const int r = i / kHeadWidth, column = i % kHeadWidth;
      raw[r * stride + column] = query_element(first_row_ + r, column) * scale;
    }
    if (a_.in.age_bias != nullptr) {
      const int buckets = static_cast<int>(s_.buckets);
      for (int i = threadIdx.x; i < rows_ * buckets; i += kThreads) {
        const int64_t head = first_head_ + (first_in_group_ + i / buckets) / s_.queries;
        shared_.age[i / buckets][i % buckets] =
            a_.in.age_bias[head * buckets + i % buckets] * kLog2E;
      }
      if (static_cast<int>(threadIdx.x) < rows_)
        shared_.order[threadIdx.x] =
            a_.in.query_order[batch_ * s_.queries + (first_in_group_ + threadIdx.x) % s_.queries];
    }
    if (threadIdx.x < kRows) {
      shared_.maximum[threadIdx.x] = -CUDART_INF_F;
      shared_.sum[threadIdx.x] = 0.f;
    }
    if (s_.rotates) {
      if (threadIdx.x < kPairs) shared_.turns[threadIdx.x] = s_.turns[threadIdx.x];
      prepare_operand();
      __syncthreads();
    } else {
      absorb(raw, stride);
    }
  }

  // query[r][k] = sum over columns of q P_k; some threads share a k.
  __device__ void absorb(const float* raw, int stride) {
    constexpr int kMostQuads = kHeadWidth * kMostWidth / kThreads / 4;
    const int sharing = kThreads / width_, quads = kHeadWidth / 4 / sharing;
    const int k = threadIdx.x / sharing, part = threadIdx.x % sharing;
    const auto* p = reinterpret_cast<const float4*>(projection_row(a_.in.key_projection, k));
    float4 held[kMostQuads];
#pragma unroll
    for (int i = 0; i < kMostQuads; ++i)
      if (i < quads) held[i] = __ldg(p + i * sharing + part);
    __syncthreads();
    for (int r = 0; r < rows_; ++r) {
      float sum = 0.f;
#pragma unroll
      for (int i = 0; i < kMostQuads; ++i) {
        if (i >= quads) continue;
        const float4 q =
            *reinterpret_cast<const float4*>(raw + r * stride + (i * sharing + part) * 4);
        sum = fmaf(q.x, held[i].x,
                   fmaf(q.y, held[i].y, fmaf(q.z, held[i].z, fmaf(q.w, held[i].w, sum))));
      }
      for (int lanes = 1; lanes < sharing; lanes *= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
      if (part == 0) shared_.query[r][k] = sum;
    }
    __syncthreads();  // also: the raw queries' place is free
  }

  // P_k as right factors. A contraction may go over its columns in any order: a lane has those of
  // c / 4 neighbours, which it loads side by side (rebuild).
  __device__ void prepare_operand() {
    const int steps = width_ / 16, of_lane = width_ / 4;
    for (int i = threadIdx.x; i < steps * kColumnTiles * 32; i += kThreads) {
      const int lane = i % 32, tile = i / 32 % kColumnTiles, step = i / 32 / kColumnTiles;
      const int first = lane % 4 * of_lane + 4 * step, column = 8 * tile + lane / 4;
      float x[4];
#pragma unroll
      for (int e = 0; e < 4; ++e)
        x[e] = __ldg(projection_row(a_.in.key_projection, first + e) + column);
      shared_.operand[i] = split_operand(x[0], x[1], x[2], x[3]);
    }
  }

  // ---- logits

  __device__ void set_logit(int r, int64_t first, int slot, float logit) {
    const int64_t at = batch_ * s_.slots + first + slot;
    const bool counts = first + slot < end_ && (a_.in.valid == nullptr || a_.in.valid[at]);
    if (counts && a_.in.key_bias != nullptr) logit = fmaf(a_.in.key_bias[at], kLog2E, logit);
    if (counts && a_.in.age_bias != nullptr) {
      const int64_t age = shared_.order[r] - a_.in.key_order[at];
      logit += shared_.age[r][age_bucket(age, static_cast<int>(s_.buckets) - 1)];
    }
    shared_.weight[r][slot] = counts ? logit : -CUDART_INF_F;
  }

  __device__ void meet(int64_t first) {
    const int sharing = threads_a_slot(), part = threadIdx.x % sharing;
    float logit[kRows] = {};
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      float key[kElements<T>];
      widen(keys_[i], key);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= rows_) continue;
        const float* q = &shared_.query[r][(i * sharing + part) * kElements<T>];
#pragma unroll
        for (int e = 0; e < kElements<T>; e += 4) {
          const float4 x = *reinterpret_cast<const float4*>(q + e);
          logit[r] =
              fmaf(x.x, key[e],
                   fmaf(x.y, key[e + 1], fmaf(x.z, key[e + 2], fmaf(x.w, key[e + 3], logit[r]))));
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows_) continue;
      for (int lanes = 1; lanes < sharing; lanes *= 2)
        logit[r] += __shfl_xor_sync(0xffffffffu, logit[r], lanes);
      if (part == 0) set_logit(r, first, threadIdx.x / sharing, logit[r]);
    }
  }

  // A lane's part of a slot's key as left factors: words of two, high and (of fp32) low parts.
  template <int kWords>
  __device__ void load_key(int64_t slot, uint32_t (&high)[kWords], uint32_t (&low)[kWords]) const {
    const int pieces = width_ / 4 / kElements<T>;
    const uint4* source = row(a_.in.key_latents, slot) + lane_ % 4 * pieces;
#pragma unroll
    for (int i = 0; i < kWords * 2 / kElements<T>; ++i) {
      if (i >= pieces) continue;
      const uint4 x = slot < end_ ? __ldg(source + i) : make_uint4(0, 0, 0, 0);
      if constexpr (std::is_same<T, float>::value) {
        float y[4];
        widen(x, y);
        split(y[0], y[1], high[2 * i], low[2 * i]);
        split(y[2], y[3], high[2 * i + 1], low[2 * i + 1]);
      } else {
        high[4 * i] = x.x, high[4 * i + 1] = x.y, high[4 * i + 2] = x.z, high[4 * i + 3] = x.w;
      }
    }
  }

  // A warp rebuilds and rotates the keys of 16 slots, half a head's pairs at a time, and multiplies
  // them with the queries where they are: in registers.
  __device__ void meet_rebuilt(int64_t first) {
    constexpr int kWords = kMostSteps * 2;
    const int g = lane_ / 4, t = lane_ % 4, steps = width_ / 16;
    for (int tile = warp_; tile < pass_ / 16; tile += kWarps) {
      const int64_t slot = first + tile * 16 + g;
      uint32_t high[2][kWords], low[2][kWords];
      double position[2];
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        load_key(slot + 8 * half, high[half], low[half]);
        position[half] = slot + 8 * half < end_
                             ? double(a_.in.positions[batch_ * s_.slots + slot + 8 * half])
                             : 0.;
      }
      float logit[2][kRows] = {};
#pragma unroll 1
      for (int j = 0; j < kColumnTiles / 2; ++j) {
        float key[2][4] = {};  // columns 8 j + 2 t and the next of both halves of the head
#pragma unroll
        for (int step = 0; step < kMostSteps; ++step) {
          if (step >= steps) continue;
          const uint32_t a[4] = {high[0][2 * step], high[1][2 * step], high[0][2 * step + 1],
                                 high[1][2 * step + 1]};
#pragma unroll
          for (int side = 0; side < 2; ++side) {
            const uint4 b =
                shared_.operand[(step * kColumnTiles + j + side * kColumnTiles / 2) * 32 + lane_];
            multiply(key[side], a, b.x, b.y);
            multiply(key[side], a, b.z, b.w);
            if constexpr (std::is_same<T, float>::value) {
              const uint32_t rest[4] = {low[0][2 * step], low[1][2 * step], low[0][2 * step + 1],
                                        low[1][2 * step + 1]};
              multiply(key[side], rest, b.x, b.y);
            }
          }
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int pair = 8 * j + 2 * t + e % 2;
          float cosine, sine;
          turn(position[e / 2], shared_.turns[pair], cosine, sine);
          const float x = key[0][e] * cosine - key[1][e] * sine;
          const float y = key[1][e] * cosine + key[0][e] * sine;
#pragma unroll
          for (int r = 0; r < kRows; ++r) {
            if (r >= rows_) continue;
            logit[e / 2][r] = fmaf(x, shared_.query[r][pair],
                                   fmaf(y, shared_.query[r][pair + kPairs], logit[e / 2][r]));
          }
        }
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (r >= rows_) continue;
          float x = logit[half][r];
          x += __shfl_xor_sync(0xffffffffu, x, 1);
          x += __shfl_xor_sync(0xffffffffu, x, 2);
          if (t == 0) set_logit(r, first, tile * 16 + g + 8 * half, x);
        }
      }
    }
  }

  // ---- softmax and values

  // A warp a row: logits of the pass to weights.
  __device__ void soften() {
    if (warp_ >= rows_) return;
    constexpr int kOfLane = kMostSlots / 32;
    float* row = shared_.weight[warp_];
    float x[kOfLane];
    const float before = shared_.maximum[warp_];
    float maximum = before;
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) {
      x[i] = lane_ + 32 * i < pass_ ? row[lane_ + 32 * i] : -CUDART_INF_F;
      maximum = fmaxf(maximum, x[i]);
    }
#pragma unroll
    for (int lanes = 16; lanes >= 1; lanes /= 2)
      maximum = fmaxf(maximum, __shfl_xor_sync(0xffffffffu, maximum, lanes));
    const float shift = maximum == -CUDART_INF_F ? 0.f : maximum;
    float sum = 0.f;
#pragma unroll
    for (int i = 0; i < kOfLane; ++i) {
      const float weight = exp2_fast(x[i] - shift);
      if (lane_ + 32 * i < pass_) row[lane_ + 32 * i] = weight;
      sum += weight;
    }
#pragma unroll
    for (int lanes = 16; lanes >= 1; lanes /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
    __syncwarp();  // all have read what changes now
    if (lane_ != 0) return;
    const float kept = exp2_fast(before - shift);
    shared_.kept[warp_] = kept;
    shared_.maximum[warp_] = maximum;
    shared_.sum[warp_] = shared_.sum[warp_] * kept + sum;
  }

  __device__ void add_values(float (&sums)[kRows][kElements<T>]) {
    const int pieces = width_ / kElements<T>, sets = kThreads / pieces;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows_) continue;
#pragma unroll
      for (int e = 0; e < kElements<T>; ++e) sums[r][e] *= shared_.kept[r];
    }
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      float value[kElements<T>];
      widen(values_[i], value);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= rows_) continue;
        const float weight = shared_.weight[r][i * sets + threadIdx.x / pieces];
#pragma unroll
        for (int e = 0; e < kElements<T>; ++e) sums[r][e] = fmaf(weight, value[e], sums[r][e]);
      }
    }
  }

  // Over the threads that have the same elements: within warps, then over them.
  __device__ void gather_sums(float (&sums)[kRows][kElements<T>]) {
    const int pieces = width_ / kElements<T>;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows_) continue;
#pragma unroll
      for (int e = 0; e < kElements<T>; ++e) {
        for (int lanes = pieces; lanes < 32; lanes *= 2)
          sums[r][e] += __shfl_xor_sync(0xffffffffu, sums[r][e], lanes);
        if (lane_ < pieces) shared_.part[warp_][r][lane_ * kElements<T> + e] = sums[r][e];
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows_ * width_; i += kThreads) {
      const int r = i / width_, k = i % width_;
      float sum = 0.f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += shared_.part[w][r][k];
      shared_.mixed[r][k] = sum;
    }
  }

  // ---- the cluster's blocks join; block r % splits has row r

  __device__ void finish() {
    constexpr int kShares = kThreads / kHeadWidth;  // threads of a column of the output
    constexpr int kMostTerms = kMostWidth / kShares;
    const cg::cluster_group cluster = cg::this_cluster();
    const int column = threadIdx.x % kHeadWidth, share = threadIdx.x / kHeadWidth;
    const int terms = width_ / kShares;
    float p[kMostTerms];  // fetched while others are waited for
    if (rank_ < rows_) {
#pragma unroll
      for (int i = 0; i < kMostTerms; ++i)
        if (i < terms)
          p[i] = __ldg(projection_row(a_.in.value_projection, share * terms + i) + column);
    }
    cluster.sync();
    for (int r = rank_; r < rows_; r += splits_) {
      float maximum = -CUDART_INF_F;
      for (int i = 0; i < splits_; ++i)
        maximum = fmaxf(maximum, *cluster.map_shared_rank(&shared_.maximum[r], i));
      const float shift = maximum == -CUDART_INF_F ? 0.f : maximum;
      float sum = 0.f, mixed = 0.f;
      for (int i = 0; i < splits_; ++i) {
        const float part = exp2_fast(*cluster.map_shared_rank(&shared_.maximum[r], i) - shift);
        sum = fmaf(part, *cluster.map_shared_rank(&shared_.sum[r], i), sum);
        if (static_cast<int>(threadIdx.x) < width_)
          mixed = fmaf(part, *cluster.map_shared_rank(&shared_.mixed[r][threadIdx.x], i), mixed);
      }
      if (static_cast<int>(threadIdx.x) < width_)
        shared_.joined[threadIdx.x] = sum == 0.f ? 0.f : mixed / sum;
      __syncthreads();
      float x = 0.f;
#pragma unroll
      for (int i = 0; i < kMostTerms; ++i)
        if (i < terms) x = fmaf(shared_.joined[share * terms + i], p[i], x);
      shared_.column[threadIdx.x] = x;
      __syncthreads();
      if (share == 0) {
        for (int i = 1; i < kShares; ++i) x += shared_.column[i * kHeadWidth + column];
        const int64_t at = (first_row_ + r) * kHeadWidth + column;
        if (a_.in.query_type == ElementType::kBFloat16) {
          static_cast<__nv_bfloat16*>(a_.out)[at] = __float2bfloat16(x);
        } else {
          static_cast<float*>(a_.out)[at] = x;
        }
      }
      if (threadIdx.x == 0)
        a_.lse[first_row_ + r] = sum == 0.f ? -CUDART_INF_F : (maximum + log2f(sum)) * kLn2;
    }
    cluster.sync();  // none leaves while its memory is read
  }

  const LatentAttentionArguments& a_;
  const LatentAttentionSizes& s_;
  Shared& shared_;
  int splits_, rank_;
  int64_t kv_, batch_;
  int width_, pass_;  // pass_: slots at a time
  int warp_, lane_;
  int rows_;
  int64_t first_head_, first_in_group_, first_row_;  // first_row_: of all of q
  int64_t begin_, end_;                              // this block's slots
  uint4 keys_[kPieces], values_[kPieces];
};

template <typename T>
__global__ void __launch_bounds__(kThreads, 2)
    latent_rows_kernel(const __grid_constant__ Arguments arguments) {
  __shared__ Shared shared;
  Block<T>(arguments, shared).run();
}

template <typename T>
cudaError_t launch(const LatentAttentionArguments& a, cudaStream_t stream) {
  constexpr int64_t kBlocksEnough = 1024;  // that fill the device without splitting further
  const LatentAttentionSizes& s = a.s;
  const int64_t pass = kThreads * kPieces * 16 / (s.width * int64_t{sizeof(T)});
  const int64_t passes = (s.slots + pass - 1) / pass;
  const int64_t row_blocks = (s.heads / s.kv_heads * s.queries + kRows - 1) / kRows;
  const int64_t whole = row_blocks * s.kv_heads * s.batch;
  int64_t splits = 1;
  while (splits < kMostSplits && splits < passes && whole * splits < kBlocksEnough) splits *= 2;
  if (row_blocks * splits > INT_MAX) return cudaErrorInvalidValue;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(row_blocks * splits),
                        static_cast<unsigned>(s.kv_heads), static_cast<unsigned>(s.batch));
  config.blockDim = dim3(kThreads);
  config.stream = stream;
  cudaLaunchAttribute cluster;
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = static_cast<unsigned>(splits);
  cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, latent_rows_kernel<T>, Arguments{a, static_cast<int>(splits)});
}

}  // namespace latent_rows
}  // namespace dsrsq::kernels
