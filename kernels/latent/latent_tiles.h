// The kernel of latent_tiles_*.cu: 64 query rows of a key-value head a block, 16 a warp, against 64
// slots at a time, in bf16 with fp32 sums. Two groups of four warps take turns at the tiles of
// slots and join at the end. mma.sync: rebuilt keys leave registers rotated, and exponentials are
// as much work as the products.
#pragma once

#include "kernels/latent/latent_device.h"

namespace dsrsq::kernels {
namespace latent_tiles {

constexpr int kGroups = 2, kGroupThreads = 128, kThreads = kGroups * kGroupThreads;
constexpr int kTile = 64;  // rows, and slots
static_assert(kGroupThreads == 2 * kTile);
constexpr int kSteps = kHeadWidth / 16;  // of a contraction over a head

// Rows of a tile lie a 16-byte chunk more than their width apart: ldmatrix without bank conflicts.
constexpr int kRebuiltStride = kHeadWidth + 8;

// Of a group of warps.
template <int kWidth>
struct Part {
  static constexpr int kStride = kWidth + 8;
  __nv_bfloat16 keys[2][kTile * kStride];  // in the end: sums of the second group
  __nv_bfloat16 values[2][kTile * kStride];
  float bias[2][kTile];     // log2; -infinity where a slot does not count
  int64_t order[2][kTile];  // of the slots
  int64_t position[2][kTile];
  __nv_bfloat16 rebuilt[kTile * kRebuiltStride];  // keys, where they are rebuilt
};
template <int kWidth>
struct Shared {
  Part<kWidth> parts[kGroups];
  double turns[kPairs];
  uint4 operand[kWidth / 16 * kColumnTiles * 32];  // P_k of the head as right factors
};

template <int kWidth>
class Block {
  static constexpr int kStride = Part<kWidth>::kStride;
  static constexpr int kWidthSteps = kWidth / 16, kWidthTiles = kWidth / 8;

 public:
  __device__ Block(const LatentAttentionArguments& a, Shared<kWidth>& shared)
      : a_(a),
        s_(a.s),
        group_(threadIdx.x / kGroupThreads),
        thread_(threadIdx.x % kGroupThreads),
        shared_(shared),
        part_(shared.parts[group_]),
        kv_(blockIdx.y),
        batch_(blockIdx.z),
        warp_(thread_ / 32),
        lane_(threadIdx.x % 32),
        group_rows_(s_.heads / s_.kv_heads * s_.queries),
        first_head_(kv_ * (s_.heads / s_.kv_heads)) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      row_[half] = int64_t{blockIdx.x} * kTile + warp_ * 16 + lane_ / 4 + 8 * half;
      const int64_t row = min(row_[half], group_rows_ - 1);
      age_[half] = nullptr;
      order_[half] = 0;
      if (a.in.age_bias == nullptr) continue;
      age_[half] = a.in.age_bias + (first_head_ + row / s_.queries) * s_.buckets;
      order_[half] = a.in.query_order[batch_ * s_.queries + row % s_.queries];
    }
  }

  __device__ void run() {
    fetch(group_ * kTile, 0);
    if (s_.rotates) prepare_operand();
    uint32_t query[kWidthSteps > kSteps ? kWidthSteps : kSteps][4];
    load_queries(query);
    const float scale = s_.rotates ? s_.scale * s_.rotary_scale * kLog2E : 1.f;
    float maximum[2] = {-CUDART_INF_F, -CUDART_INF_F}, sum[2] = {0.f, 0.f};
    float mixed[kWidthTiles][4] = {};
    __syncthreads();  // the operand is there
    int buffer = 0;
    for (int64_t first = group_ * kTile; first < s_.slots; first += kGroups * kTile, buffer ^= 1) {
      copy_wait<0>();
      synchronize();  // the tile is here, and the one before has been read
      if (first + kGroups * kTile < s_.slots) fetch(first + kGroups * kTile, buffer ^ 1);
      float logit[8][4] = {};
      if (s_.rotates) {
        rebuild(buffer);
        synchronize();
        meet<kSteps, kRebuiltStride>(query, part_.rebuilt, logit);
      } else {
        meet<kWidthSteps, kStride>(query, part_.keys[buffer], logit);
      }
      add_biases(buffer, scale, logit);
      soften(logit, maximum, sum, mixed);
      add_values(buffer, logit, mixed);
    }
    copy_wait<0>();  // of a group without slots
    join(maximum, sum, mixed);
    if (group_ == 0) finish(maximum, sum, mixed);
  }

 private:
  // Among the threads of this group.
  __device__ void synchronize() const {
    asm volatile("bar.sync %0, %1;" ::"r"(group_ + 1), "n"(kGroupThreads) : "memory");
  }
  __device__ const float* projection_row(const float* projection, int k) const {
    return projection + (int64_t{k} * s_.kv_heads + kv_) * kHeadWidth;
  }
  __device__ int64_t query_row(int half) const {
    return (batch_ * s_.heads + first_head_) * s_.queries + row_[half];
  }

  // Latents of 64 slots by cp.async, and what goes with them; zeros and no weight beyond the last.
  __device__ void fetch(int64_t first, int buffer) {
    constexpr int kChunks = kWidth / 8;
    const auto* keys = static_cast<const __nv_bfloat16*>(a_.in.key_latents);
    const auto* values = static_cast<const __nv_bfloat16*>(a_.in.value_latents);
    for (int i = thread_; i < kTile * kChunks; i += kGroupThreads) {
      const int slot = i / kChunks, chunk = i % kChunks;
      const bool exists = first + slot < s_.slots;
      const int64_t source =
          exists ? (batch_ * s_.slots + first + slot) * kWidth + chunk * 8 : int64_t{0};
      const int target = slot * kStride + chunk * 8;
      copy_chunk(shared_address(part_.keys[buffer] + target), keys + source, exists);
      copy_chunk(shared_address(part_.values[buffer] + target), values + source, exists);
    }
    copy_commit();
    if (thread_ >= kTile) return;
    const int slot = thread_;
    const int64_t at = batch_ * s_.slots + first + slot;
    const bool exists = first + slot < s_.slots;
    const bool counts = exists && (a_.in.valid == nullptr || a_.in.valid[at]);
    float bias = -CUDART_INF_F;
    if (counts) bias = a_.in.key_bias != nullptr ? a_.in.key_bias[at] * kLog2E : 0.f;
    part_.bias[buffer][slot] = bias;
    part_.order[buffer][slot] = exists && a_.in.age_bias != nullptr ? a_.in.key_order[at] : 0;
    part_.position[buffer][slot] = exists && s_.rotates ? a_.in.positions[at] : 0;
  }

  // ---- queries as left factors

  __device__ uint32_t query_pair(int half, int column) const {
    if (row_[half] >= group_rows_) return 0;
    const auto* q = static_cast<const __nv_bfloat16*>(a_.in.q) + query_row(half) * kHeadWidth;
    return __ldg(reinterpret_cast<const unsigned*>(q + column));
  }

  template <int kCount>
  __device__ void load_queries(uint32_t (&query)[kCount][4]) const {
    const int t = lane_ % 4;
    uint32_t q[kSteps][4];
#pragma unroll
    for (int step = 0; step < kSteps; ++step)
#pragma unroll
      for (int e = 0; e < 4; ++e) q[step][e] = query_pair(e % 2, 16 * step + 8 * (e / 2) + 2 * t);
    if (s_.rotates) {
#pragma unroll
      for (int step = 0; step < kSteps; ++step)
#pragma unroll
        for (int e = 0; e < 4; ++e) query[step][e] = q[step][e];
      return;
    }
    // q P_k^T, in log2 units, 16 columns at a time: sums become left factors where they are.
#pragma unroll
    for (int step = 0; step < kWidthSteps; ++step) {
      float sums[2][4] = {};
#pragma unroll
      for (int side = 0; side < 2; ++side) {
        const int k = 16 * step + 8 * side + lane_ / 4;
        const float* p = projection_row(a_.in.key_projection, k) + 2 * t;
#pragma unroll
        for (int i = 0; i < kSteps; ++i) {
          const float2 x = __ldg(reinterpret_cast<const float2*>(p + 16 * i));
          const float2 y = __ldg(reinterpret_cast<const float2*>(p + 16 * i + 8));
          const uint4 b = split_operand(x.x, x.y, y.x, y.y);
          multiply(sums[side], q[i], b.x, b.y);
          multiply(sums[side], q[i], b.z, b.w);
        }
      }
      const float scale = s_.scale * kLog2E;
      query[step][0] = pack(sums[0][0] * scale, sums[0][1] * scale);
      query[step][1] = pack(sums[0][2] * scale, sums[0][3] * scale);
      query[step][2] = pack(sums[1][0] * scale, sums[1][1] * scale);
      query[step][3] = pack(sums[1][2] * scale, sums[1][3] * scale);
    }
  }

  // ---- keys

  __device__ void prepare_operand() {
    for (int i = threadIdx.x; i < kWidthSteps * kColumnTiles * 32; i += kThreads) {
      const int lane = i % 32, tile = i / 32 % kColumnTiles, step = i / 32 / kColumnTiles;
      const int first = 16 * step + 2 * (lane % 4), column = 8 * tile + lane / 4;
      const auto at = [&](int k) {
        return __ldg(projection_row(a_.in.key_projection, k) + column);
      };
      shared_.operand[i] = split_operand(at(first), at(first + 1), at(first + 8), at(first + 9));
    }
    if (threadIdx.x < kPairs) shared_.turns[threadIdx.x] = s_.turns[threadIdx.x];
  }

  // A warp's 16 slots: z P_k, rotated.
  __device__ void rebuild(int buffer) {
    const int g = lane_ / 4, t = lane_ % 4, matrix = lane_ / 8;
    const uint32_t rows =
        shared_address(part_.keys[buffer] + (warp_ * 16 + (matrix & 1) * 8 + lane_ % 8) * kStride +
                       (matrix >> 1) * 8);
    uint32_t a[kWidthSteps][4];
#pragma unroll
    for (int step = 0; step < kWidthSteps; ++step) load_matrices(a[step], rows + step * 32);
    double position[2];
#pragma unroll
    for (int half = 0; half < 2; ++half)
      position[half] = double(part_.position[buffer][warp_ * 16 + g + 8 * half]);
#pragma unroll 1
    for (int j = 0; j < kColumnTiles / 2; ++j) {
      float key[2][4] = {};
#pragma unroll
      for (int step = 0; step < kWidthSteps; ++step)
#pragma unroll
        for (int side = 0; side < 2; ++side) {
          const uint4 b =
              shared_.operand[(step * kColumnTiles + j + side * kColumnTiles / 2) * 32 + lane_];
          multiply(key[side], a[step], b.x, b.y);
          multiply(key[side], a[step], b.z, b.w);
        }
      float x[4], y[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float cosine, sine;
        turn(position[e / 2], shared_.turns[8 * j + 2 * t + e % 2], cosine, sine);
        x[e] = key[0][e] * cosine - key[1][e] * sine;
        y[e] = key[1][e] * cosine + key[0][e] * sine;
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        __nv_bfloat16* row =
            part_.rebuilt + (warp_ * 16 + g + 8 * half) * kRebuiltStride + 8 * j + 2 * t;
        *reinterpret_cast<uint32_t*>(row) = pack(x[2 * half], x[2 * half + 1]);
        *reinterpret_cast<uint32_t*>(row + kPairs) = pack(y[2 * half], y[2 * half + 1]);
      }
    }
  }

  template <int kCount, int kRowStride, int kHeld>
  __device__ void meet(const uint32_t (&query)[kHeld][4], const __nv_bfloat16* keys,
                       float (&logit)[8][4]) const {
    const int matrix = lane_ / 8;
    const uint32_t rows =
        shared_address(keys + ((matrix >> 1) * 8 + lane_ % 8) * kRowStride + (matrix & 1) * 8);
#pragma unroll
    for (int step = 0; step < kCount; ++step)
#pragma unroll
      for (int pair = 0; pair < 4; ++pair) {
        uint32_t y[4];
        load_matrices(y, rows + (pair * 16 * kRowStride + step * 16) * 2);
        multiply(logit[2 * pair], query[step], y[0], y[1]);
        multiply(logit[2 * pair + 1], query[step], y[2], y[3]);
      }
  }

  // ---- softmax and values. An entry e of a tile of eight slots: row half e / 2, slot 2 t + e % 2.

  __device__ void add_biases(int buffer, float scale, float (&logit)[8][4]) const {
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const int slot = 8 * i + 2 * (lane_ % 4);
      const float2 bias = *reinterpret_cast<const float2*>(&part_.bias[buffer][slot]);
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float own = e % 2 == 0 ? bias.x : bias.y;
        if (a_.in.age_bias != nullptr) {
          const int64_t age = order_[e / 2] - part_.order[buffer][slot + e % 2];
          own = fmaf(__ldg(age_[e / 2] + age_bucket(age, static_cast<int>(s_.buckets) - 1)), kLog2E,
                     own);
        }
        logit[i][e] = fmaf(logit[i][e], scale, own);
      }
    }
  }

  __device__ void soften(float (&logit)[8][4], float (&maximum)[2], float (&sum)[2],
                         float (&mixed)[kWidthTiles][4]) const {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float highest = maximum[half];
#pragma unroll
      for (int i = 0; i < 8; ++i)
        highest = fmaxf(highest, fmaxf(logit[i][2 * half], logit[i][2 * half + 1]));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
      const float shift = highest == -CUDART_INF_F ? 0.f : highest;
      const float kept = exp2_fast(maximum[half] - shift);
      maximum[half] = highest;
      float weights = 0.f;
#pragma unroll
      for (int i = 0; i < 8; ++i)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e) {
          logit[i][e] = exp2_fast(logit[i][e] - shift);
          weights += logit[i][e];
        }
      sum[half] = fmaf(sum[half], kept, weights);  // of this lane's slots
#pragma unroll
      for (int j = 0; j < kWidthTiles; ++j)
        mixed[j][2 * half] *= kept, mixed[j][2 * half + 1] *= kept;
    }
  }

  __device__ void add_values(int buffer, const float (&weight)[8][4],
                             float (&mixed)[kWidthTiles][4]) const {
    const int matrix = lane_ / 8;
    const uint32_t rows = shared_address(
        part_.values[buffer] + ((matrix & 1) * 8 + lane_ % 8) * kStride + (matrix >> 1) * 8);
#pragma unroll
    for (int step = 0; step < kTile / 16; ++step) {
      const uint32_t a[4] = {pack(weight[2 * step][0], weight[2 * step][1]),
                             pack(weight[2 * step][2], weight[2 * step][3]),
                             pack(weight[2 * step + 1][0], weight[2 * step + 1][1]),
                             pack(weight[2 * step + 1][2], weight[2 * step + 1][3])};
#pragma unroll
      for (int pair = 0; pair < kWidthTiles / 2; ++pair) {
        uint32_t y[4];
        load_transposed(y, rows + (step * 16 * kStride + pair * 16) * 2);
        multiply(mixed[2 * pair], a, y[0], y[1]);
        multiply(mixed[2 * pair + 1], a, y[2], y[3]);
      }
    }
  }

  // The second group's sums, by thread, through the place of its keys.
  __device__ void join(float (&maximum)[2], float (&sum)[2], float (&mixed)[kWidthTiles][4]) {
    static_assert(sizeof(part_.keys) == (kWidthTiles * 4 + 4) * kGroupThreads * sizeof(float));
    float* place = reinterpret_cast<float*>(shared_.parts[1].keys) + thread_;
    const auto at = [&](int i) -> float& { return place[i * kGroupThreads]; };
    constexpr int kSums = kWidthTiles * 4;
    if (group_ == 1) {
      synchronize();  // all have read the last tile
#pragma unroll
      for (int i = 0; i < kSums; ++i) at(i) = mixed[i / 4][i % 4];
#pragma unroll
      for (int half = 0; half < 2; ++half)
        at(kSums + half) = maximum[half], at(kSums + 2 + half) = sum[half];
    }
    __syncthreads();
    if (group_ == 1) return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float other = at(kSums + half), highest = fmaxf(maximum[half], other);
      const float shift = highest == -CUDART_INF_F ? 0.f : highest;
      const float own_part = exp2_fast(maximum[half] - shift);
      const float other_part = exp2_fast(other - shift);
      maximum[half] = highest;
      sum[half] = sum[half] * own_part + at(kSums + 2 + half) * other_part;
#pragma unroll
      for (int j = 0; j < kWidthTiles; ++j)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; ++e)
          mixed[j][e] = mixed[j][e] * own_part + at(4 * j + e) * other_part;
    }
  }

  // What was summed of the latents, expanded by P_v: both factors as sums of two bf16 numbers.
  __device__ void finish(float (&maximum)[2], float (&sum)[2],
                         const float (&mixed)[kWidthTiles][4]) const {
    const int g = lane_ / 4, t = lane_ % 4;
    float factor[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 1);
      sum[half] += __shfl_xor_sync(0xffffffffu, sum[half], 2);
      factor[half] = sum[half] == 0.f ? 0.f : 1.f / sum[half];
      if (t == 0 && row_[half] < group_rows_)
        a_.lse[query_row(half)] =
            sum[half] == 0.f ? -CUDART_INF_F : (maximum[half] + log2f(sum[half])) * kLn2;
    }
    float out[kColumnTiles][4] = {};
#pragma unroll
    for (int step = 0; step < kWidthSteps; ++step) {
      uint32_t high[4], low[4];
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const float* x = mixed[2 * step + e / 2] + 2 * (e % 2);
        split(x[0] * factor[e % 2], x[1] * factor[e % 2], high[e], low[e]);
      }
      const auto at = [&](int k, int column) {
        return __ldg(projection_row(a_.in.value_projection, 16 * step + 2 * t + k) + column);
      };
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j) {
        const int column = 8 * j + g;
        const uint4 b = split_operand(at(0, column), at(1, column), at(8, column), at(9, column));
        multiply(out[j], high, b.x, b.y);
        multiply(out[j], high, b.z, b.w);
        multiply(out[j], low, b.x, b.y);
      }
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (row_[half] >= group_rows_) continue;
      auto* row = static_cast<__nv_bfloat16*>(a_.out) + query_row(half) * kHeadWidth + 2 * t;
#pragma unroll
      for (int j = 0; j < kColumnTiles; ++j)
        *reinterpret_cast<uint32_t*>(row + 8 * j) = pack(out[j][2 * half], out[j][2 * half + 1]);
    }
  }

  const LatentAttentionArguments& a_;
  const LatentAttentionSizes& s_;
  int group_, thread_;  // of warps, and in it
  Shared<kWidth>& shared_;
  Part<kWidth>& part_;
  int64_t kv_, batch_;
  int warp_, lane_;
  int64_t group_rows_, first_head_;
  int64_t row_[2];  // of the key-value head's rows; two a lane, eight apart
  const float* age_[2];
  int64_t order_[2];
};

template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    latent_tiles_kernel(const __grid_constant__ LatentAttentionArguments a) {
  extern __shared__ uint4 raw[];
  Block<kWidth>(a, *reinterpret_cast<Shared<kWidth>*>(raw)).run();
}

template <int kWidth>
cudaError_t launch(const LatentAttentionArguments& a, cudaStream_t stream) {
  const LatentAttentionSizes& s = a.s;
  const int bytes = static_cast<int>(sizeof(Shared<kWidth>));
  const cudaError_t status = cudaFuncSetAttribute(
      latent_tiles_kernel<kWidth>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  const int64_t rows = s.heads / s.kv_heads * s.queries;
  const dim3 grid(static_cast<unsigned>((rows + kTile - 1) / kTile),
                  static_cast<unsigned>(s.kv_heads), static_cast<unsigned>(s.batch));
  latent_tiles_kernel<kWidth><<<grid, kThreads, bytes, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace latent_tiles
}  // namespace dsrsq::kernels
