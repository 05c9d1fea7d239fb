#include <cuda_bf16.h>
#include <math_constants.h>

#include <climits>

#include "kernels/attention/cluster_assign.h"
#include "kernels/attention/cluster_route.h"

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

// Sums: a block takes a slice of the tokens, kSumChunk of them at a time, in the order of their
// clusters; its warps divide the order evenly, however large a cluster is.
constexpr int kSumThreads = 512;
constexpr int kSumWarps = kSumThreads / 32;
constexpr int kSumChunk = 2048;
constexpr int kPerSumWarp = kSumChunk / kSumWarps;
constexpr int kSumRounds = kPerSumWarp / 32;
constexpr int kSumBatch = 8;  // tokens in flight
constexpr int64_t kMaxSlices = 32;
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

struct SumShared {
  int order[kSumChunk];  // tokens of the chunk in the order of their clusters: 2^16 cluster + token
  // Of a warp's first cluster, what belongs to a cluster that began before it.
  float carried[2][kSumWarps][kClusterAssignMaxWidth];
  int scan[kSumWarps];
};

// Sorts a chunk's tokens by cluster, stably: order, and the first place of each cluster in
// begin[m + 1]. `place`: [kSumWarps][m].
__device__ void sort_chunk(const int16_t* compact, int64_t first, int64_t end, int clusters,
                           int* order, int* begin, int* place, int* scan) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  for (int i = threadIdx.x; i < kSumWarps * clusters; i += kSumThreads) place[i] = 0;
  __syncthreads();
  int cluster[kSumRounds];
  unsigned peers[kSumRounds];
  int* mine = place + warp * clusters;
#pragma unroll
  for (int r = 0; r < kSumRounds; ++r) {
    const int64_t t = first + warp * kPerSumWarp + r * 32 + lane;
    cluster[r] = t < end ? compact[t] : -1;
    peers[r] = __match_any_sync(0xffffffffu, cluster[r]);
    const bool leader = (peers[r] & ((1u << lane) - 1u)) == 0;
    if (leader && cluster[r] >= 0) mine[cluster[r]] += __popc(peers[r]);
    __syncwarp();
  }
  __syncthreads();
  // Places: cluster by cluster, in each warp by warp. A thread takes successive clusters.
  const int each = (clusters + kSumThreads - 1) / kSumThreads;
  const int c0 = static_cast<int>(threadIdx.x) * each, c1 = min(clusters, c0 + each);
  int sum = 0;
  for (int c = c0; c < c1; ++c) {
    for (int w = 0; w < kSumWarps; ++w) sum += place[w * clusters + c];
  }
  int before = sum;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, before, offset);
    if (lane >= offset) before += other;
  }
  if (lane == 31) scan[warp] = before;
  __syncthreads();
  int running = before - sum;
  for (int w = 0; w < warp; ++w) running += scan[w];
  for (int c = c0; c < c1; ++c) {
    begin[c] = running;
    for (int w = 0; w < kSumWarps; ++w) {
      const int count = place[w * clusters + c];
      place[w * clusters + c] = running;
      running += count;
    }
  }
  if (c1 == clusters && c0 < c1) begin[clusters] = running;
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kSumRounds; ++r) {
    const int rank = __popc(peers[r] & ((1u << lane) - 1u));
    const int at = cluster[r] >= 0 ? mine[cluster[r]] : 0;
    __syncwarp();
    if (cluster[r] >= 0) {
      order[at + rank] = cluster[r] << 16 | (warp * kPerSumWarp + r * 32 + lane);
      if (rank == 0) mine[cluster[r]] = at + __popc(peers[r]);
    }
    __syncwarp();
  }
  __syncthreads();
}

struct KeySums {
  float raw[kColumnsPerLane];
  float direction[kColumnsPerLane];
};

// Keys of kSumBatch tokens, loaded together.
template <typename Key>
struct KeyBatch {
  Key x[kSumBatch][kColumnsPerLane];
  float scale[kSumBatch];
  // `row`: of the chunk's first token, which has `left` tokens of its sequence from there on.
  __device__ void load(const ClusterAssignSizes& s, const Key* keys, const float* inverse_norm,
                       int64_t head, int64_t first, int64_t row, int64_t left, const int* order,
                       int from, int to) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int i = 0; i < kSumBatch; ++i) {
      const int of_chunk = order[min(from + i, to - 1)] & 0xffff;
      const int64_t t = first + of_chunk;
      // Mostly in the sequence of the chunk's first token: no division then.
      const Key* source = keys + (of_chunk < left ? row + of_chunk : key_row(s, head, t)) * s.width;
      scale[i] = inverse_norm[t];
#pragma unroll
      for (int j = 0; j < kColumnsPerLane; ++j) {
        const int column = lane + 32 * j;
        x[i][j] = column < s.width ? source[column] : Key(0.f);
      }
    }
  }
};

// Where the sums of a slice go.
struct SliceSums {
  float* raw;        // [m, d]
  float* direction;  // [m, d]
  int width;
  bool first;  // chunk of the slice: nothing is there
  __device__ void add(int cluster, const KeySums& sums) const {
#pragma unroll
    for (int j = 0; j < kColumnsPerLane; ++j) {
      const int column = threadIdx.x % 32 + 32 * j, i = cluster * width + column;
      if (column >= width) continue;
      raw[i] = first ? sums.raw[j] : raw[i] + sums.raw[j];
      direction[i] = first ? sums.direction[j] : direction[i] + sums.direction[j];
    }
  }
};

// Adds up tokens order[from, to) of the chunk that begins at `first`, in that order, cluster by
// cluster. Returns the cluster of the last, or -1 where that began before `from`.
template <typename Key>
__device__ int add_tokens(const ClusterAssignSizes& s, const Key* keys, const float* inverse_norm,
                          int64_t head, int64_t first, int from, int to, const int* begin,
                          const SliceSums& out, SumShared& shared) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t row = key_row(s, head, first), left = s.tokens - row % s.tokens;
  KeySums sums = {};
  int cluster = -1, stop = from;  // the cluster being added up, and its end
  auto finish = [&] {
    if (cluster < 0) return;
    if (begin[cluster] >= from) {
      out.add(cluster, sums);
    } else {
#pragma unroll
      for (int j = 0; j < kColumnsPerLane; ++j) {
        shared.carried[0][warp][lane + 32 * j] = sums.raw[j];
        shared.carried[1][warp][lane + 32 * j] = sums.direction[j];
      }
    }
  };
  for (int at = from; at < to; at += kSumBatch) {
    KeyBatch<Key> batch;
    batch.load(s, keys, inverse_norm, head, first, row, left, shared.order, at, to);
#pragma unroll
    for (int i = 0; i < kSumBatch; ++i) {
      if (at + i >= to) break;
      if (at + i == stop) {
        finish();
        cluster = shared.order[at + i] >> 16;
        stop = begin[cluster + 1];
        sums = {};
      }
#pragma unroll
      for (int j = 0; j < kColumnsPerLane; ++j) {
        const float x = to_float(batch.x[i][j]);
        sums.raw[j] += x;
        sums.direction[j] += x * batch.scale[i];
      }
    }
  }
  finish();
  return cluster >= 0 && begin[cluster] >= from ? cluster : -1;
}

template <typename Key>
__global__ void __launch_bounds__(kSumThreads)
    sum_kernel(ClusterAssignSizes s, int64_t slice_tokens, const Key* keys, const int16_t* compact,
               const float* inverse_norm, float* raw_sum, float* direction_sum, float* count) {
  extern __shared__ int sum_places[];  // begin [m + 1], place [kSumWarps][m]
  __shared__ SumShared shared;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int clusters = static_cast<int>(s.clusters), width = static_cast<int>(s.width);
  const int64_t head = blockIdx.x, total = s.batch * s.tokens;
  const int64_t slice_begin = blockIdx.y * slice_tokens;
  const int64_t slice_end = min(total, slice_begin + slice_tokens);
  compact += head * total;
  inverse_norm += head * total;
  const int64_t row = (blockIdx.y * s.heads + head) * s.clusters;
  SliceSums out{raw_sum + row * width, direction_sum + row * width, width, true};
  count += row;
  int* begin = sum_places;
  for (int64_t first = slice_begin; first < slice_end; first += kSumChunk) {
    const int64_t end = min(slice_end, first + kSumChunk);
    sort_chunk(compact, first, end, clusters, shared.order, begin, sum_places + clusters + 1,
               shared.scan);
    for (int c = threadIdx.x; c < clusters; c += kSumThreads) {
      const float members = static_cast<float>(begin[c + 1] - begin[c]);
      count[c] = out.first ? members : count[c] + members;
    }
    for (int c = warp; c < clusters && out.first; c += kSumWarps) {
      if (begin[c] == begin[c + 1]) out.add(c, {});
    }
    const int listed = begin[clusters];
    const int from = min(listed, warp * kPerSumWarp), to = min(listed, from + kPerSumWarp);
    const int last = add_tokens(s, keys, inverse_norm, head, first, from, to, begin, out, shared);
    out.first = false;
    __syncthreads();
    // A cluster that began with this warp and went on: the rest, warp by warp.
    for (int w = warp + 1; last >= 0 && w * kPerSumWarp < begin[last + 1]; ++w) {
      KeySums sums;
#pragma unroll
      for (int j = 0; j < kColumnsPerLane; ++j) {
        sums.raw[j] = shared.carried[0][w][lane + 32 * j];
        sums.direction[j] = shared.carried[1][w][lane + 32 * j];
      }
      out.add(last, sums);
    }
    __syncthreads();
  }
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
  const int64_t chunks = (s.batch * s.tokens + kSumChunk - 1) / kSumChunk;
  const int64_t each = (chunks + kMaxSlices - 1) / kMaxSlices;
  return chunks < 1 ? 1 : (chunks + each - 1) / each;  // none is empty
}

struct Workspace {
  int16_t* compact;     // [H_kv, B * T]
  float* inverse_norm;  // [H_kv, B * T]
  float* score;         // [H_kv, B * T]
  // With more than one slice, [slices, H_kv, m, d] twice and [slices, H_kv, m]; otherwise the
  // outputs themselves.
  float* raw_sum;
  float* direction_sum;
  float* count;
  void* nearest;  // of launch_cluster_nearest
  int64_t bytes;
};

RouteSizes nearest_sizes(const ClusterAssignSizes& s) {
  return {s.batch, s.heads, s.heads, s.tokens, s.width, s.clusters, 1, false};
}

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
  w.score = reinterpret_cast<float*>(take(rows * sizeof(float)));
  w.raw_sum = reinterpret_cast<float*>(take(counts * s.width * sizeof(float)));
  w.direction_sum = reinterpret_cast<float*>(take(counts * s.width * sizeof(float)));
  w.count = reinterpret_cast<float*>(take(counts * sizeof(float)));
  w.nearest = take(cluster_route_workspace_bytes(nearest_sizes(s)));
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
cudaError_t launch_assign(const ClusterAssignSizes& s, const ClusterAssignInputs& in,
                          const ClusterAssignOutputs& out, const Workspace& w,
                          cudaStream_t stream) {
  const int shared_bytes =
      static_cast<int>(s.width * (kTokenStride + kClusterStride) * sizeof(float));
  const cudaError_t status = cudaFuncSetAttribute(
      assign_kernel<Key>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (status != cudaSuccess) return status;
  const dim3 grid(static_cast<unsigned>((s.batch * s.tokens + kTokenTile - 1) / kTokenTile),
                  static_cast<unsigned>(s.heads));
  assign_kernel<Key><<<grid, kThreads, shared_bytes, stream>>>(
      s, static_cast<const Key*>(in.keys), in.centroids, in.bias, in.valid, out.assignment,
      w.compact, w.inverse_norm);
  return cudaGetLastError();
}

template <typename Key>
cudaError_t launch_sums(const ClusterAssignSizes& s, const ClusterAssignInputs& in,
                        const ClusterAssignOutputs& out, const Workspace& w, cudaStream_t stream) {
  const int64_t total = s.batch * s.tokens, slices = num_slices(s);
  const int64_t chunks = (total + kSumChunk - 1) / kSumChunk;
  const int64_t slice_tokens = (chunks + slices - 1) / slices * kSumChunk;
  const bool sliced = slices > 1;
  const int shared_bytes =
      static_cast<int>((s.clusters * (kSumWarps + 1) + 1) * static_cast<int64_t>(sizeof(int)));
  cudaError_t status = cudaFuncSetAttribute(
      sum_kernel<Key>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  if (status != cudaSuccess) return status;
  const dim3 grid(static_cast<unsigned>(s.heads), static_cast<unsigned>(slices));
  sum_kernel<Key><<<grid, kSumThreads, shared_bytes, stream>>>(
      s, slice_tokens, static_cast<const Key*>(in.keys), w.compact, w.inverse_norm,
      sliced ? w.raw_sum : out.raw_sum, sliced ? w.direction_sum : out.direction_sum,
      sliced ? w.count : out.count);
  status = cudaGetLastError();
  if (status != cudaSuccess || !sliced) return status;
  const int64_t counts = s.heads * s.clusters;
  status = add_slices(counts * s.width, slices, w.raw_sum, out.raw_sum, stream);
  if (status != cudaSuccess) return status;
  status = add_slices(counts * s.width, slices, w.direction_sum, out.direction_sum, stream);
  if (status != cudaSuccess) return status;
  return add_slices(counts, slices, w.count, out.count, stream);
}

template <typename Key>
cudaError_t launch(const ClusterAssignSizes& s, const ClusterAssignInputs& in,
                   const ClusterAssignOutputs& out, const Workspace& w, cudaStream_t stream) {
  const RouteSizes nearest = nearest_sizes(s);
  const bool by_matrix_units = sizeof(Key) == 2 && cluster_nearest_fits(nearest);
  const cudaError_t status =
      by_matrix_units ? launch_cluster_nearest(nearest, in.keys, in.centroids, in.bias, in.valid,
                                               {out.assignment, w.compact, w.inverse_norm, w.score},
                                               w.nearest, stream)
                      : launch_assign<Key>(s, in, out, w, stream);
  if (status != cudaSuccess) return status;
  return launch_sums<Key>(s, in, out, w, stream);
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
