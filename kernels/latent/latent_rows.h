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
  int splits;     // blocks of a cluster, a power of two
  int group;      // query heads that share a key-value head
  int width_log;  // c is a power of two: no division by it, nor by what follows from it
  int64_t share;  // slots of a block
};

struct Shared {
  union {
    uint4 operand[kMostSteps * kColumnTiles * 32];  // P_k of the head, where keys are rebuilt
    float part[kWarps][kRows][kMostWidth];          // each warp's sums of values' latents
  };
  float query[kRows][kMostWidth];   // what meets the keys, in log2 units
  float weight[kRows][kMostSlots];  // logits, then weights
  float age[kRows][kHeadWidth];
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
  static constexpr bool kWide = std::is_same<T, float>::value;
  // Pieces of a lane's part of two slots' keys, where they are rebuilt.
  static constexpr int kOfSlot = kMostWidth / 4 / kElements<T>;
  static_assert(2 * kOfSlot >= kPieces);
  static_assert(kRows * kHeadWidth == kThreads && kColumnTiles == kWarps);
  static_assert(kLatentMostBuckets <= kHeadWidth);

  // What goes with a slot's logits.
  struct Side {
    bool counts;
    float bias;
    int64_t order, position;
  };

 public:
  __device__ Block(const Arguments& arguments, Shared& shared)
      : a_(arguments.a),
        s_(a_.s),
        shared_(shared),
        splits_(arguments.splits),
        rank_(static_cast<int>(blockIdx.x) & (splits_ - 1)),
        kv_(blockIdx.y),
        batch_(blockIdx.z),
        width_log_(arguments.width_log),
        width_(1 << width_log_),
        row_log_(width_log_ + (kWide ? 2 : 1)),
        pass_(kThreads * kPieces * 16 >> row_log_),
        warp_(threadIdx.x / 32),
        lane_(threadIdx.x % 32) {
    const int64_t group_rows = arguments.group * s_.queries;
    first_in_group_ = int64_t{blockIdx.x / static_cast<unsigned>(splits_)} * kRows;
    rows_ = static_cast<int>(min(int64_t{kRows}, group_rows - first_in_group_));
    first_head_ = kv_ * arguments.group;
    first_row_ = (batch_ * s_.heads + first_head_) * s_.queries + first_in_group_;
    begin_ = min(s_.slots, rank_ * arguments.share);
    end_ = min(s_.slots, begin_ + arguments.share);
  }

  __device__ void run() {
    fetch(begin_);
    prepare();
    float sums[kRows][kElements<T>] = {};
    for (int64_t slot = begin_; slot < end_; slot += pass_) {
      if (s_.rotates) {
        meet_rebuilt(slot);
      } else {
        meet();
      }
      __syncthreads();
      soften();
      __syncthreads();
      add_values(sums);
      fetch(slot + pass_);
      __syncthreads();  // weights, and the operand's place, are free
    }
    finish(sums);
  }

 private:
  // ---- latents, as the threads hold them

  __device__ const uint4* row(const void* latents, int64_t slot) const {
    return reinterpret_cast<const uint4*>(static_cast<const T*>(latents) +
                                          ((batch_ * s_.slots + slot) << width_log_));
  }
  __device__ Side side_of(int64_t slot) const {
    Side side{slot < end_, 0.f, 0, 0};
    if (!side.counts) return side;
    const int64_t at = batch_ * s_.slots + slot;
    if (a_.in.valid != nullptr) side.counts = a_.in.valid[at];
    if (a_.in.key_bias != nullptr) side.bias = a_.in.key_bias[at] * kLog2E;
    if (a_.in.age_bias != nullptr) side.order = a_.in.key_order[at];
    if (s_.rotates) side.position = a_.in.positions[at];
    return side;
  }

  // What the threads need of a pass, on its way as early as can be; zeros beyond this block's
  // share.
  __device__ void fetch(int64_t first) {
    const uint4 zero = make_uint4(0, 0, 0, 0);
    if (s_.rotates) {
      fetch_tile(first, warp_);
    } else {
      const int sharing_log = row_log_ - 6, part = threadIdx.x & ((1 << sharing_log) - 1);
      const int64_t slot = first + (threadIdx.x >> sharing_log);
      const uint4* source = row(a_.in.key_latents, slot) + part;
#pragma unroll
      for (int i = 0; i < kPieces; ++i)
        keys_[i] = slot < end_ ? __ldg(source + (i << sharing_log)) : zero;
      side_[0] = side_of(slot);
    }
    const int pieces_log = row_log_ - 4, piece = threadIdx.x & ((1 << pieces_log) - 1);
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int64_t slot = first + i * (kThreads >> pieces_log) + (threadIdx.x >> pieces_log);
      values_[i] = slot < end_ ? __ldg(row(a_.in.value_latents, slot) + piece) : zero;
    }
  }

  // A lane's part of the keys of 16 slots: a quarter of rows lane / 4 and lane / 4 + 8.
  __device__ void fetch_tile(int64_t first, int tile) {
    const int pieces = width_ / (4 * kElements<T>);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int64_t slot = first + tile * 16 + lane_ / 4 + 8 * half;
      const bool exists = tile * 16 < pass_ && slot < end_;
      const uint4* source = row(a_.in.key_latents, slot) + lane_ % 4 * pieces;
#pragma unroll
      for (int i = 0; i < kOfSlot; ++i)
        if (i < pieces)
          keys_[half * kOfSlot + i] = exists ? __ldg(source + i) : make_uint4(0, 0, 0, 0);
      side_[half] = side_of(exists ? slot : end_);
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

  // All that comes from memory is asked for before any of it is waited for.
  __device__ void prepare() {
    constexpr int kMostQuads = kHeadWidth * kMostWidth / kThreads / 4;
    static_assert(kMostQuads == kMostSteps);
    float4 held[kMostQuads];  // of P_k
    const int sharing_log = 8 - width_log_, part = threadIdx.x & ((1 << sharing_log) - 1);
    const int quads = kHeadWidth / 4 >> sharing_log, steps = width_ / 16;
    const int absorbed_k = threadIdx.x >> sharing_log;
    if (s_.rotates) {
      // As right factors. A contraction may go over its columns in any order: a lane has those of
      // c / 4 neighbours, which it loads side by side (fetch_tile).
      const float* p = a_.in.key_projection + kv_ * kHeadWidth + warp_ * 8 + lane_ / 4;
      const int64_t stride = s_.kv_heads * kHeadWidth;
#pragma unroll
      for (int step = 0; step < kMostSteps; ++step) {
        if (step >= steps) continue;
        const float* x = p + (lane_ % 4 * (width_ / 4) + 4 * step) * stride;
        held[step] =
            make_float4(__ldg(x), __ldg(x + stride), __ldg(x + 2 * stride), __ldg(x + 3 * stride));
      }
    } else {
      const auto* p =
          reinterpret_cast<const float4*>(projection_row(a_.in.key_projection, absorbed_k));
#pragma unroll
      for (int i = 0; i < kMostQuads; ++i)
        if (i < quads) held[i] = __ldg(p + (i << sharing_log) + part);
    }
    const int r = threadIdx.x / kHeadWidth, column = threadIdx.x % kHeadWidth;
    float q = 0.f, age = 0.f;
    int64_t order = 0;
    if (r < rows_) {
      q = query_element(first_row_ + r, column);
      if (a_.in.age_bias != nullptr && column < s_.buckets) {
        const int64_t head = first_head_ + head_in_group(r);
        age = a_.in.age_bias[head * s_.buckets + column] * kLog2E;
      }
      if (a_.in.age_bias != nullptr && column == 0)
        order = a_.in.query_order[batch_ * s_.queries + first_in_group_ + r -
                                  head_in_group(r) * s_.queries];
    }
    if (threadIdx.x < kRows) {
      shared_.maximum[threadIdx.x] = -CUDART_INF_F;
      shared_.sum[threadIdx.x] = 0.f;
    }
    const float scale = s_.scale * kLog2E * (s_.rotates ? s_.rotary_scale : 1.f);
    // Queries that are to be absorbed wait in the place of the weights.
    (s_.rotates ? shared_.query[r] : shared_.weight[r])[column] = q * scale;
    shared_.age[r][column] = age;
    if (column == 0) shared_.order[r] = order;
    if (s_.rotates) {
      if (threadIdx.x < kPairs) shared_.turns[threadIdx.x] = s_.turns[threadIdx.x];
#pragma unroll
      for (int step = 0; step < kMostSteps; ++step)
        if (step < steps)
          shared_.operand[step * kThreads + threadIdx.x] =
              split_operand(held[step].x, held[step].y, held[step].z, held[step].w);
      __syncthreads();
      return;
    }
    __syncthreads();
    // query[r][k] = sum over columns of q P_k; some threads share a k.
    for (int row = 0; row < rows_; ++row) {
      float sum = 0.f;
#pragma unroll
      for (int i = 0; i < kMostQuads; ++i) {
        if (i >= quads) continue;
        const float4 x =
            *reinterpret_cast<const float4*>(&shared_.weight[row][((i << sharing_log) + part) * 4]);
        sum = fmaf(x.x, held[i].x, sum);
        sum = fmaf(x.y, held[i].y, sum);
        sum = fmaf(x.z, held[i].z, sum);
        sum = fmaf(x.w, held[i].w, sum);
      }
      for (int lanes = 1; lanes < 1 << sharing_log; lanes *= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, lanes);
      if (part == 0) shared_.query[row][absorbed_k] = sum;
    }
    __syncthreads();  // also: the raw queries' place is free
  }

  // Of row r of this block.
  __device__ int64_t head_in_group(int r) const {
    return s_.queries == 1 ? first_in_group_ + r : (first_in_group_ + r) / s_.queries;
  }

  // ---- logits

  __device__ void set_logit(int r, int slot, float logit, const Side& side) {
    logit += side.bias;
    if (a_.in.age_bias != nullptr) {
      const int64_t age = shared_.order[r] - side.order;
      logit += shared_.age[r][age_bucket(age, static_cast<int>(s_.buckets) - 1)];
    }
    shared_.weight[r][slot] = side.counts ? logit : -CUDART_INF_F;
  }

  __device__ void meet() {
    const int sharing_log = row_log_ - 6, part = threadIdx.x & ((1 << sharing_log) - 1);
    float logit[kRows] = {};
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      float key[kElements<T>];
      widen(keys_[i], key);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= rows_) continue;
        const float* q = &shared_.query[r][((i << sharing_log) + part) * kElements<T>];
#pragma unroll
        for (int e = 0; e < kElements<T>; e += 4) {
          const float4 x = *reinterpret_cast<const float4*>(q + e);
          logit[r] = fmaf(x.x, key[e], logit[r]);
          logit[r] = fmaf(x.y, key[e + 1], logit[r]);
          logit[r] = fmaf(x.z, key[e + 2], logit[r]);
          logit[r] = fmaf(x.w, key[e + 3], logit[r]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows_) continue;
      for (int lanes = 1; lanes < 1 << sharing_log; lanes *= 2)
        logit[r] += __shfl_xor_sync(0xffffffffu, logit[r], lanes);
      if (part == 0) set_logit(r, threadIdx.x >> sharing_log, logit[r], side_[0]);
    }
  }

  // Two neighbours of a lane's part of a key, as bf16 and (of fp32) what that loses.
  __device__ void factor(int half, int word, uint32_t& high, uint32_t& low) const {
    if constexpr (kWide) {
      const uint4& x = keys_[half * kOfSlot + word / 2];
      const uint32_t first = word % 2 == 0 ? x.x : x.z, second = word % 2 == 0 ? x.y : x.w;
      split(__uint_as_float(first), __uint_as_float(second), high, low);
    } else {
      const uint4& x = keys_[half * kOfSlot + word / 4];
      high = word % 4 == 0 ? x.x : word % 4 == 1 ? x.y : word % 4 == 2 ? x.z : x.w;
      low = 0;
    }
  }

  // A warp rebuilds and rotates the keys of 16 slots, eight pairs of columns at a time, and
  // multiplies them with the queries where they are: in registers.
  __device__ void meet_rebuilt(int64_t first) {
    const int g = lane_ / 4, t = lane_ % 4, steps = width_ / 16;
    for (int tile = warp_; tile * 16 < pass_; tile += kWarps) {
      float logit[2][kRows] = {};
      const double position[2] = {double(side_[0].position), double(side_[1].position)};
#pragma unroll 1
      for (int j = 0; j < kColumnTiles / 2; ++j) {
        float key[2][4] = {};  // columns 8 j + 2 t and the next of both halves of the head
#pragma unroll
        for (int step = 0; step < kMostSteps; ++step) {
          if (step >= steps) continue;
          uint32_t a[4], rest[4];
#pragma unroll
          for (int e = 0; e < 4; ++e) factor(e % 2, 2 * step + e / 2, a[e], rest[e]);
#pragma unroll
          for (int side = 0; side < 2; ++side) {
            const uint4 b =
                shared_.operand[(step * kColumnTiles + j + side * kColumnTiles / 2) * 32 + lane_];
            multiply(key[side], a, b.x, b.y);
            multiply(key[side], a, b.z, b.w);
            if constexpr (kWide) multiply(key[side], rest, b.x, b.y);
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
          if (t == 0) set_logit(r, tile * 16 + g + 8 * half, x, side_[half]);
        }
      }
      fetch_tile(first, tile + kWarps);
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
    const int pieces_log = row_log_ - 4;
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
      const int slot = i * (kThreads >> pieces_log) + (threadIdx.x >> pieces_log);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= rows_) continue;
        const float weight = shared_.weight[r][slot];
#pragma unroll
        for (int e = 0; e < kElements<T>; ++e) sums[r][e] = fmaf(weight, value[e], sums[r][e]);
      }
    }
  }

  // Over the threads that have the same elements: within warps, then over them.
  __device__ void gather_sums(float (&sums)[kRows][kElements<T>]) {
    const int pieces = 1 << (row_log_ - 4);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= rows_) continue;
      for (int lanes = pieces; lanes < 32; lanes *= 2) {
#pragma unroll
        for (int e = 0; e < kElements<T>; ++e)
          sums[r][e] += __shfl_xor_sync(0xffffffffu, sums[r][e], lanes);
      }
      if (lane_ >= pieces) continue;
#pragma unroll
      for (int e = 0; e < kElements<T>; e += 4)
        *reinterpret_cast<float4*>(&shared_.part[warp_][r][lane_ * kElements<T> + e]) =
            make_float4(sums[r][e], sums[r][e + 1], sums[r][e + 2], sums[r][e + 3]);
    }
    __syncthreads();
    for (int i = threadIdx.x; i < rows_ << width_log_; i += kThreads) {
      const int r = i >> width_log_, k = i & (width_ - 1);
      float sum = 0.f;
#pragma unroll
      for (int w = 0; w < kWarps; ++w) sum += shared_.part[w][r][k];
      shared_.mixed[r][k] = sum;
    }
  }

  // ---- the cluster's blocks join; block r % splits has row r

  __device__ void finish(float (&sums)[kRows][kElements<T>]) {
    constexpr int kShares = kThreads / kHeadWidth;  // threads of a column of the output
    constexpr int kMostTerms = kMostWidth / kShares;
    const cg::cluster_group cluster = cg::this_cluster();
    const int column = threadIdx.x % kHeadWidth, share = threadIdx.x / kHeadWidth;
    const int terms = width_ / kShares;
    float p[kMostTerms];  // of P_v, fetched while others are waited for
    if (rank_ < rows_) {
#pragma unroll
      for (int i = 0; i < kMostTerms; ++i)
        if (i < terms)
          p[i] = __ldg(projection_row(a_.in.value_projection, share * terms + i) + column);
    }
    gather_sums(sums);
    cluster.sync();
    const int k = threadIdx.x & (width_ - 1);
    for (int r = rank_; r < rows_; r += splits_) {
      // Every block's, asked for at once.
      float maxima[kMostSplits], parts[kMostSplits], latents[kMostSplits];
#pragma unroll
      for (int i = 0; i < kMostSplits; ++i) {
        maxima[i] = -CUDART_INF_F, parts[i] = latents[i] = 0.f;
        if (i >= splits_) continue;
        maxima[i] = *cluster.map_shared_rank(&shared_.maximum[r], i);
        parts[i] = *cluster.map_shared_rank(&shared_.sum[r], i);
        latents[i] = *cluster.map_shared_rank(&shared_.mixed[r][k], i);
      }
      float maximum = -CUDART_INF_F;
#pragma unroll
      for (int i = 0; i < kMostSplits; ++i) maximum = fmaxf(maximum, maxima[i]);
      const float shift = maximum == -CUDART_INF_F ? 0.f : maximum;
      float sum = 0.f, mixed = 0.f;
#pragma unroll
      for (int i = 0; i < kMostSplits; ++i) {
        const float part = exp2_fast(maxima[i] - shift);
        sum = fmaf(part, parts[i], sum);
        mixed = fmaf(part, latents[i], mixed);
      }
      if (static_cast<int>(threadIdx.x) < width_)
        shared_.joined[k] = sum == 0.f ? 0.f : mixed / sum;
      __syncthreads();
      float x = 0.f;
#pragma unroll
      for (int i = 0; i < kMostTerms; ++i)
        if (i < terms) x = fmaf(shared_.joined[share * terms + i], p[i], x);
      shared_.column[threadIdx.x] = x;
      __syncthreads();
      if (share == 0) {
#pragma unroll
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
  int width_log_, width_;
  int row_log_;  // of a row's bytes
  int pass_;     // slots at a time
  int warp_, lane_;
  int rows_;
  int64_t first_head_, first_in_group_, first_row_;  // first_row_: of all of q
  int64_t begin_, end_;                              // this block's slots
  uint4 keys_[2 * kOfSlot], values_[kPieces];
  Side side_[2];  // of the slots whose keys are held
};

template <typename T>
__global__ void __launch_bounds__(kThreads, std::is_same<T, float>::value ? 1 : 2)
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
  const int64_t group = s.heads / s.kv_heads;
  const int64_t row_blocks = (group * s.queries + kRows - 1) / kRows;
  const int64_t whole = row_blocks * s.kv_heads * s.batch;
  int64_t splits = 1;
  while (splits < kMostSplits && splits < passes && whole * splits < kBlocksEnough) splits *= 2;
  if (row_blocks * splits > INT_MAX) return cudaErrorInvalidValue;
  const int width_log = s.width == 32 ? 5 : s.width == 64 ? 6 : 7;
  const Arguments arguments{a, static_cast<int>(splits), static_cast<int>(group), width_log,
                            (passes + splits - 1) / splits * pass};
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
  return cudaLaunchKernelEx(&config, latent_rows_kernel<T>, arguments);
}

}  // namespace latent_rows
}  // namespace dsrsq::kernels
