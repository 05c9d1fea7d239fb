#include <cuda_bf16.h>
#include <math_constants.h>

#include <climits>

#include "kernels/attention/cluster_assign.h"

namespace dsrsq::kernels {
namespace {

// Assignment: a block scores kTokenTile keys of one head against all centroids, kClusterTile at a
// time. A thread owns 8 keys x 4 centroids, so that 12 floats from shared memory feed 32
// multiply-adds.
constexpr int kThreads = 256;
constexpr int kTokenTile = 128;
constexpr int kClusterTile = 64;
constexpr int kTokensPerThread = 8;
constexpr int kClustersPerThread = 4;
constexpr int kLanesPerToken =
    kClusterTile / kClustersPerThread;  // threads that share a key: half a warp
// Rows are padded by one float4: aligned vector loads, fewer bank conflicts while the tile is
// transposed.
constexpr int kTokenStride = kTokenTile + 4;
constexpr int kClusterStride = kClusterTile + 4;

// Sums: a block adds up the members of one cluster in one slice of the tokens.
constexpr int kSumThreads = 128;
constexpr int kSumWarps = kSumThreads / 32;
constexpr int kScanTile = 1024;  // assignments that are looked through at a time
constexpr int64_t kTokensPerSlice = 32768;
constexpr int64_t kMaxSlices = 16;
constexpr int kColumnsPerLane = kClusterAssignMaxWidth / 32;

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

// Token t of a head counts through the batch: t = b * T + position.
__device__ __forceinline__ int64_t key_row(const ClusterAssignSizes& s, int64_t head, int64_t t) {
  const int64_t b = t / s.tokens;
  return (b * s.heads + head) * s.tokens + (t - b * s.tokens);
}

// Normalises a tile of keys into shared memory, transposed to [d][kTokenStride]; a warp takes a key
// at a time.
template <typename Key>
__device__ void load_directions(const ClusterAssignSizes& s, const Key* keys, int64_t head,
                                int64_t first_token, float* tile, float* inverse_norm) {
  const int lane = threadIdx.x % 32;
  const int64_t total = s.batch * s.tokens;
  for (int row = threadIdx.x / 32; row < kTokenTile; row += kThreads / 32) {
    const int64_t t = first_token + row;
    float x[kColumnsPerLane];
    float square = 0.f;
    const Key* source = t < total ? keys + key_row(s, head, t) * s.width : nullptr;
#pragma unroll
    for (int j = 0; j < kColumnsPerLane; ++j) {
      const int column = lane + 32 * j;
      x[j] = source != nullptr && column < s.width ? to_float(source[column]) : 0.f;
      square += x[j] * x[j];
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      square += __shfl_xor_sync(0xffffffffu, square, offset);
    }
    const float scale = square > 0.f ? 1.f / sqrtf(square) : 0.f;  // a zero key has direction 0
#pragma unroll
    for (int j = 0; j < kColumnsPerLane; ++j) {
      const int column = lane + 32 * j;
      if (column < s.width) tile[column * kTokenStride + row] = x[j] * scale;
    }
    if (lane == 0 && source != nullptr) inverse_norm[head * total + t] = scale;
  }
}

// Transposes centroids [first, first + kClusterTile) of a head to [d][kClusterStride]; zeros beyond
// m.
__device__ void load_centroids(const ClusterAssignSizes& s, const float* centroids, int64_t head,
                               int first, float* tile) {
  const int width = static_cast<int>(s.width);
  const int count = min(kClusterTile, static_cast<int>(s.clusters) - first);
  const float* source = centroids + (head * s.clusters + first) * s.width;
  for (int i = threadIdx.x; i < kClusterTile * width; i += kThreads) {
    const int cluster = i / width;
    const int column = i - cluster * width;
    tile[column * kClusterStride + cluster] = cluster < count ? source[i] : 0.f;
  }
}

// The better of two candidates: higher score, then lower index. NaN scores arrive here as
// -infinity.
__device__ __forceinline__ void keep_better(float& score, int& index, float other_score,
                                            int other_index) {
  if (other_score > score || (other_score == score && other_index < index)) {
    score = other_score;
    index = other_index;
  }
}

template <typename Key>
__global__ void __launch_bounds__(kThreads, 2)
    assign_kernel(ClusterAssignSizes s, const Key* keys, const float* centroids, const float* bias,
                  const bool* valid, int64_t* assignment, int16_t* compact, float* inverse_norm) {
  extern __shared__ float4 shared_memory[];
  float* directions = reinterpret_cast<float*>(shared_memory);
  float* centroid_tile = directions + s.width * kTokenStride;
  const int64_t head = blockIdx.y;
  const int64_t first_token = static_cast<int64_t>(blockIdx.x) * kTokenTile;
  const int tx = threadIdx.x % kLanesPerToken;
  const int ty = threadIdx.x / kLanesPerToken;
  const int width = static_cast<int>(s.width);
  const int clusters = static_cast<int>(s.clusters);

  load_directions(s, keys, head, first_token, directions, inverse_norm);

  float best[kTokensPerThread];
  int best_index[kTokensPerThread];
#pragma unroll
  for (int i = 0; i < kTokensPerThread; ++i) {
    best[i] = -CUDART_INF_F;
    best_index[i] = INT_MAX;
  }
  for (int first = 0; first < clusters; first += kClusterTile) {
    __syncthreads();  // the tile of the round before is read to the end; directions are written
    load_centroids(s, centroids, head, first, centroid_tile);
    __syncthreads();
    float sum[kTokensPerThread][kClustersPerThread] = {};
    const float* a = directions + ty * kTokensPerThread;
    const float* c = centroid_tile + tx * kClustersPerThread;
#pragma unroll 4
    for (int column = 0; column < width; ++column) {
      const float4 a0 = *reinterpret_cast<const float4*>(a + column * kTokenStride);
      const float4 a1 = *reinterpret_cast<const float4*>(a + column * kTokenStride + 4);
      const float4 c0 = *reinterpret_cast<const float4*>(c + column * kClusterStride);
      const float x[kTokensPerThread] = {a0.x, a0.y, a0.z, a0.w, a1.x, a1.y, a1.z, a1.w};
      const float y[kClustersPerThread] = {c0.x, c0.y, c0.z, c0.w};
#pragma unroll
      for (int i = 0; i < kTokensPerThread; ++i) {
#pragma unroll
        for (int j = 0; j < kClustersPerThread; ++j) sum[i][j] = fmaf(x[i], y[j], sum[i][j]);
      }
    }
#pragma unroll
    for (int j = 0; j < kClustersPerThread; ++j) {
      const int cluster = first + tx * kClustersPerThread + j;
      if (cluster >= clusters) continue;
      const float offset = bias[head * clusters + cluster];
#pragma unroll
      for (int i = 0; i < kTokensPerThread; ++i) {
        const float score = sum[i][j] + offset;
        keep_better(best[i], best_index[i], score == score ? score : -CUDART_INF_F, cluster);
      }
    }
  }

  const int64_t total = s.batch * s.tokens;
#pragma unroll
  for (int i = 0; i < kTokensPerThread; ++i) {
#pragma unroll
    for (int offset = kLanesPerToken / 2; offset > 0; offset /= 2) {
      const float other = __shfl_xor_sync(0xffffffffu, best[i], offset);
      const int other_index = __shfl_xor_sync(0xffffffffu, best_index[i], offset);
      keep_better(best[i], best_index[i], other, other_index);
    }
    const int64_t t = first_token + ty * kTokensPerThread + i;
    if (tx == 0 && t < total) {
      const int cluster = valid == nullptr || valid[t] ? best_index[i] : -1;
      assignment[key_row(s, head, t)] = cluster;
      compact[head * total + t] = static_cast<int16_t>(cluster);
    }
  }
}

// Lists, in ascending order, the members of `cluster` among assignments [begin, end); end - begin
// <= kScanTile. Returns their number to all threads. Each warp looks through one contiguous part of
// the tile.
__device__ int list_members(const int16_t* compact, int64_t begin, int64_t end, int16_t cluster,
                            int* members, int* warp_counts) {
  constexpr int kPart = kScanTile / kSumWarps;
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  unsigned found[kPart / 32];
  int count = 0;
#pragma unroll
  for (int i = 0; i < kPart / 32; ++i) {
    const int64_t t = begin + warp * kPart + i * 32 + lane;
    found[i] = __ballot_sync(0xffffffffu, t < end && compact[t] == cluster);
    count += __popc(found[i]);
  }
  if (lane == 0) warp_counts[warp] = count;
  __syncthreads();
  int position = 0;
  int total = 0;
#pragma unroll
  for (int w = 0; w < kSumWarps; ++w) {
    if (w < warp) position += warp_counts[w];
    total += warp_counts[w];
  }
#pragma unroll
  for (int i = 0; i < kPart / 32; ++i) {
    if ((found[i] >> lane) & 1u) {
      members[position + __popc(found[i] & ((1u << lane) - 1u))] = warp * kPart + i * 32 + lane;
    }
    position += __popc(found[i]);
  }
  __syncthreads();
  return total;
}

template <typename Key>
__global__ void __launch_bounds__(kSumThreads)
    sum_kernel(ClusterAssignSizes s, int64_t slice_tokens, const Key* keys, const int16_t* compact,
               const float* inverse_norm, float* raw_sum, float* direction_sum, float* count) {
  __shared__ int members[kScanTile];
  __shared__ int warp_counts[kSumWarps];
  __shared__ float partial[2][kSumWarps][kClusterAssignMaxWidth];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  const int64_t cluster = blockIdx.x;
  const int64_t head = blockIdx.y;
  const int64_t total = s.batch * s.tokens;
  const int64_t slice_begin = blockIdx.z * slice_tokens;
  const int64_t slice_end = min(total, slice_begin + slice_tokens);
  compact += head * total;
  inverse_norm += head * total;

  float raw[kColumnsPerLane] = {};
  float direction[kColumnsPerLane] = {};
  int num_members = 0;
  for (int64_t begin = slice_begin; begin < slice_end; begin += kScanTile) {
    const int64_t end = min(slice_end, begin + kScanTile);
    const int listed =
        list_members(compact, begin, end, static_cast<int16_t>(cluster), members, warp_counts);
    num_members += listed;
#pragma unroll 4
    for (int i = warp; i < listed; i += kSumWarps) {
      const int64_t t = begin + members[i];
      const Key* source = keys + key_row(s, head, t) * s.width;
      const float scale = inverse_norm[t];
#pragma unroll
      for (int j = 0; j < kColumnsPerLane; ++j) {
        const int column = lane + 32 * j;
        if (column >= s.width) continue;
        const float x = to_float(source[column]);
        raw[j] += x;
        direction[j] += x * scale;
      }
    }
    // A warp that runs ahead writes `members` only behind the next barrier, which the others reach
    // from here.
  }
#pragma unroll
  for (int j = 0; j < kColumnsPerLane; ++j) {
    partial[0][warp][lane + 32 * j] = raw[j];
    partial[1][warp][lane + 32 * j] = direction[j];
  }
  __syncthreads();
  const int64_t row = (blockIdx.z * s.heads + head) * s.clusters + cluster;
  for (int column = threadIdx.x; column < s.width; column += kSumThreads) {
    float raw_total = 0.f;
    float direction_total = 0.f;
    for (int w = 0; w < kSumWarps; ++w) {
      raw_total += partial[0][w][column];
      direction_total += partial[1][w][column];
    }
    raw_sum[row * s.width + column] = raw_total;
    direction_sum[row * s.width + column] = direction_total;
  }
  if (threadIdx.x == 0) count[row] = static_cast<float>(num_members);
}

// out[i] = sum over slices, in order, of in[slice][i].
__global__ void add_slices_kernel(int64_t size, int64_t slices, const float* in, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= size) return;
  float sum = 0.f;
  for (int64_t slice = 0; slice < slices; ++slice) sum += in[slice * size + i];
  out[i] = sum;
}

int64_t align(int64_t bytes) { return (bytes + 255) / 256 * 256; }

// A function of the sizes alone, so that the order of the additions does not depend on the device.
int64_t num_slices(const ClusterAssignSizes& s) {
  const int64_t slices = (s.batch * s.tokens + kTokensPerSlice - 1) / kTokensPerSlice;
  return slices < 1 ? 1 : (slices > kMaxSlices ? kMaxSlices : slices);
}

struct Workspace {
  int16_t* compact;     // [H_kv, B * T]
  float* inverse_norm;  // [H_kv, B * T]
  // With more than one slice, [slices, H_kv, m, d] twice and [slices, H_kv, m]; otherwise the
  // outputs themselves.
  float* raw_sum;
  float* direction_sum;
  float* count;
  int64_t bytes;
};

Workspace layout(const ClusterAssignSizes& s, char* base) {
  const int64_t rows = s.heads * s.batch * s.tokens;
  const int64_t slices = num_slices(s);
  const int64_t counts = slices > 1 ? slices * s.heads * s.clusters : 0;
  int64_t offset = 0;
  auto take = [&](int64_t bytes) {
    char* start = base + offset;
    offset += align(bytes);
    return start;
  };
  Workspace w;
  w.compact = reinterpret_cast<int16_t*>(take(rows * sizeof(int16_t)));
  w.inverse_norm = reinterpret_cast<float*>(take(rows * sizeof(float)));
  w.raw_sum = reinterpret_cast<float*>(take(counts * s.width * sizeof(float)));
  w.direction_sum = reinterpret_cast<float*>(take(counts * s.width * sizeof(float)));
  w.count = reinterpret_cast<float*>(take(counts * sizeof(float)));
  w.bytes = offset;
  return w;
}

cudaError_t add_slices(int64_t size, int64_t slices, const float* in, float* out,
                       cudaStream_t stream) {
  constexpr int kBlock = 256;
  const auto blocks = static_cast<unsigned>((size + kBlock - 1) / kBlock);
  add_slices_kernel<<<blocks, kBlock, 0, stream>>>(size, slices, in, out);
  return cudaGetLastError();
}

template <typename Key>
cudaError_t launch(const ClusterAssignSizes& s, const ClusterAssignInputs& in,
                   const ClusterAssignOutputs& out, const Workspace& w, cudaStream_t stream) {
  const Key* keys = static_cast<const Key*>(in.keys);
  const int64_t total = s.batch * s.tokens;
  const int shared_bytes =
      static_cast<int>(s.width * (kTokenStride + kClusterStride) * sizeof(float));
  cudaError_t status = cudaFuncSetAttribute(
      assign_kernel<Key>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (status != cudaSuccess) return status;
  const dim3 assign_grid(static_cast<unsigned>((total + kTokenTile - 1) / kTokenTile),
                         static_cast<unsigned>(s.heads));
  assign_kernel<Key><<<assign_grid, kThreads, shared_bytes, stream>>>(
      s, keys, in.centroids, in.bias, in.valid, out.assignment, w.compact, w.inverse_norm);
  status = cudaGetLastError();
  if (status != cudaSuccess) return status;

  const int64_t slices = num_slices(s);
  const int64_t slice_tokens = (total + slices - 1) / slices;
  const bool sliced = slices > 1;
  const dim3 sum_grid(static_cast<unsigned>(s.clusters), static_cast<unsigned>(s.heads),
                      static_cast<unsigned>(slices));
  sum_kernel<Key><<<sum_grid, kSumThreads, 0, stream>>>(
      s, slice_tokens, keys, w.compact, w.inverse_norm, sliced ? w.raw_sum : out.raw_sum,
      sliced ? w.direction_sum : out.direction_sum, sliced ? w.count : out.count);
  status = cudaGetLastError();
  if (status != cudaSuccess || !sliced) return status;

  const int64_t counts = s.heads * s.clusters;
  status = add_slices(counts * s.width, slices, w.raw_sum, out.raw_sum, stream);
  if (status != cudaSuccess) return status;
  status = add_slices(counts * s.width, slices, w.direction_sum, out.direction_sum, stream);
  if (status != cudaSuccess) return status;
  return add_slices(counts, slices, w.count, out.count, stream);
}

}  // namespace

int64_t cluster_assign_workspace_bytes(const ClusterAssignSizes& sizes) {
  return layout(sizes, nullptr).bytes;
}

cudaError_t launch_cluster_assign(const ClusterAssignSizes& sizes, const ClusterAssignInputs& in,
                                  const ClusterAssignOutputs& out, void* workspace,
                                  cudaStream_t stream) {
  if (sizes.batch < 1 || sizes.heads < 1 || sizes.tokens < 1 || sizes.width < 1 ||
      sizes.width > kClusterAssignMaxWidth || sizes.clusters < 1 ||
      sizes.clusters > kClusterAssignMaxClusters) {
    return cudaErrorInvalidValue;
  }
  const Workspace w = layout(sizes, static_cast<char*>(workspace));
  switch (in.key_type) {
    case ElementType::kFloat32:
      return launch<float>(sizes, in, out, w, stream);
    case ElementType::kBFloat16:
      return launch<__nv_bfloat16>(sizes, in, out, w, stream);
  }
  return cudaErrorInvalidValue;
}

}  // namespace dsrsq::kernels
