#include "kernels/attention/cluster_attention_device.h"
#include "kernels/attention/cluster_index.h"

namespace dsrsq::kernels {
namespace {

// A counting sort in three steps: each block counts its elements by cluster, one block a head turns
// counts into places, each block puts its elements there in their order.
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kPerThread = 8;
constexpr int kBlockElements = kThreads * kPerThread;
constexpr int kScanThreads = 1024;

int64_t num_blocks(int64_t elements) { return (elements + kBlockElements - 1) / kBlockElements; }

// What is sorted: element i of a head belongs to cluster(i), or to none if negative.
struct KeySource {
  const int* assignment;
  int64_t keys;
  int sinks;
  __device__ int64_t size() const { return keys; }
  __device__ int cluster(int64_t head, int64_t i) const {
    return i < sinks ? -1 : assignment[head * keys + i];
  }
};

struct PairSource {
  const int* routes;
  const int* first_position;
  Divisor slots;
  ClusterSizes s;
  __device__ int64_t size() const { return s.pairs(); }
  __device__ int cluster(int64_t head, int64_t i) const {
    const int c = routes[head * s.pairs() + i];
    if (c < 0) return -1;
    const int query = slots.divide(static_cast<unsigned>(i));
    return first_position[kv_head(s, head) * s.clusters + c] <= key_limit(s, query) ? c : -1;
  }
};

// Element r of a thread: a warp owns 32 kPerThread successive elements, a round 32 of them.
__device__ __forceinline__ int64_t element(int r) {
  const int warp = threadIdx.x / 32;
  return static_cast<int64_t>(blockIdx.x) * kBlockElements + warp * 32 * kPerThread + r * 32 +
         threadIdx.x % 32;
}

template <typename Source>
__global__ void __launch_bounds__(kThreads, 4)
    count_kernel(Source source, int clusters, int* counts) {
  extern __shared__ int histogram[];
  for (int c = threadIdx.x; c < clusters; c += kThreads) histogram[c] = 0;
  __syncthreads();
  const int64_t head = blockIdx.y;
#pragma unroll
  for (int r = 0; r < kPerThread; ++r) {
    const int64_t i = element(r);
    const int c = i < source.size() ? source.cluster(head, i) : -1;
    if (c >= 0) atomicAdd(&histogram[c], 1);
  }
  __syncthreads();
  int* row = counts + (head * gridDim.x + blockIdx.x) * clusters;
  for (int c = threadIdx.x; c < clusters; c += kThreads) row[c] = histogram[c];
}

// Exclusive prefix sum over the block; `value` of all threads.
__device__ int block_scan(int value, int* warp_sums) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int sum = value;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int other = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += other;
  }
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    int total = lane < static_cast<int>(blockDim.x) / 32 ? warp_sums[lane] : 0;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, total, offset);
      if (lane >= offset) total += other;
    }
    warp_sums[lane] = total;
  }
  __syncthreads();
  const int before = warp > 0 ? warp_sums[warp - 1] : 0;
  __syncthreads();
  return before + sum - value;
}

struct ScanOutputs {
  int* begin;  // [heads, stride]
  int begin_stride;
  int* count;  // [heads, m] or null
  ClusterItem* items;
  int* num_items;
  int64_t max_items;
  int tile;
  int alignment;
  // Of lists: sizes of the clusters, and the number of items of large ones; else null.
  const int* key_count;
  int* num_large;
};

// counts [blocks][m] of a head become the places of each block's first element of each cluster.
// `lanes`: a power of two >= m; the blocks are divided among kScanThreads / lanes segments.
__global__ void __launch_bounds__(kScanThreads)
    scan_kernel(ClusterSizes s, int* counts, int blocks, int lanes, ScanOutputs out) {
  __shared__ int partial[kScanThreads];
  __shared__ int start[kScanThreads + 1];
  __shared__ int total_of[kScanThreads];
  __shared__ int large_of[kScanThreads];
  __shared__ int warp_sums[32];
  const int64_t head = blockIdx.x;
  const int clusters = static_cast<int>(s.clusters);
  counts += head * blocks * clusters;
  const int c = threadIdx.x % lanes, segment = threadIdx.x / lanes;
  const int segments = kScanThreads / lanes;
  const int per_segment = (blocks + segments - 1) / segments;
  const int first = segment * per_segment, last = min(blocks, first + per_segment);
  int sum = 0;
  if (c < clusters) {
#pragma unroll 8
    for (int b = first; b < last; ++b) sum += counts[static_cast<int64_t>(b) * clusters + c];
  }
  partial[threadIdx.x] = sum;
  __syncthreads();
  int total = 0;
  if (segment == 0) {
    for (int other = 0; other < segments; ++other) total += partial[other * lanes + c];
  }
  const int padded = (total + out.alignment - 1) / out.alignment * out.alignment;
  const int place = block_scan(padded, warp_sums);
  const int tiles = (total + out.tile - 1) / out.tile;
  const int first_item = block_scan(tiles, warp_sums);
  const bool large = out.key_count != nullptr && segment == 0 && c < clusters &&
                     !is_small_cluster(s, out.key_count[kv_head(s, head) * clusters + c]);
  const int first_large = block_scan(large ? tiles : 0, warp_sums);
  if (segment == 0) {
    start[c] = place;
    total_of[c] = total;
    large_of[c] = large ? first_large : -1;
    if (c == clusters - 1 && out.num_large != nullptr) {
      out.num_large[head] = first_large + (large ? tiles : 0);
    }
    if (c < clusters) {
      out.begin[head * out.begin_stride + c] = place;
      if (out.count != nullptr) out.count[head * clusters + c] = total;
      if (c == clusters - 1) {
        if (out.begin_stride > clusters)
          out.begin[head * out.begin_stride + clusters] = place + total;
        out.num_items[head] = first_item + tiles;
      }
    }
  }
  __syncthreads();
  if (c < clusters) {
    int running = start[c];
    for (int other = 0; other < segment; ++other) running += partial[other * lanes + c];
    constexpr int kBatch = 8;  // loads in flight
    for (int b = first; b < last; b += kBatch) {
      int* cells = counts + static_cast<int64_t>(b) * clusters + c;
      int count[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) count[i] = b + i < last ? cells[i * clusters] : 0;
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        if (b + i < last) cells[i * clusters] = running;
        running += count[i];
      }
    }
  }
  __syncthreads();
  if (segment == 0) partial[c] = first_item;
  __syncthreads();
  const int lane = threadIdx.x % 32;
  for (int cluster = threadIdx.x / 32; cluster < clusters; cluster += kScanThreads / 32) {
    const int size = total_of[cluster];
    ClusterItem* items = out.items + head * out.max_items + partial[cluster];
    for (int t = lane; t * out.tile < size; t += 32) {
      items[t] = {start[cluster] + t * out.tile, min(out.tile, size - t * out.tile), cluster,
                  large_of[cluster] < 0 ? -1 : large_of[cluster] + t};
    }
  }
}

constexpr int kElementBits = 12;
static_assert(1 << kElementBits == kBlockElements);

// Sorts the block's elements in shared memory first, so that those of a cluster are written side by
// side.
template <typename Source>
__global__ void __launch_bounds__(kThreads, 3)
    scatter_kernel(Source source, int clusters, const int* places, int64_t stride, unsigned* out) {
  extern __shared__ int warp_place[];  // [kWarps][clusters], then what to add to a sorted place [m]
  __shared__ unsigned sorted[kBlockElements];  // cluster, element of the block
  __shared__ int warp_sums[32];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t head = blockIdx.y;
  int* mine = warp_place + warp * clusters;
  int* shift = warp_place + kWarps * clusters;
  for (int i = threadIdx.x; i < kWarps * clusters; i += kThreads) warp_place[i] = 0;
  __syncthreads();
  int cluster[kPerThread];
#pragma unroll
  for (int r = 0; r < kPerThread; ++r) {
    const int64_t i = element(r);
    cluster[r] = i < source.size() ? source.cluster(head, i) : -1;
  }
  // Of a round: how many of the warp's elements have this one's cluster, and how many of them come
  // before it.
  unsigned peers[kPerThread / 2];  // 16 bits a round
#pragma unroll
  for (int r = 0; r < kPerThread; ++r) {
    const unsigned mask = __match_any_sync(0xffffffffu, cluster[r]);
    const unsigned rank = __popc(mask & ((1u << lane) - 1u)), count = __popc(mask);
    if (rank == 0 && cluster[r] >= 0) mine[cluster[r]] += count;
    const unsigned both = rank << 8 | count;
    peers[r / 2] = r % 2 == 0 ? both : peers[r / 2] | both << 16;
    __syncwarp();
  }
  __syncthreads();
  // A thread takes successive clusters.
  const int each = (clusters + kThreads - 1) / kThreads;
  const int c0 = min(clusters, static_cast<int>(threadIdx.x) * each);
  const int c1 = min(clusters, c0 + each);
  int count = 0;
  for (int c = c0; c < c1; ++c) {
    for (int w = 0; w < kWarps; ++w) count += warp_place[w * clusters + c];
  }
  int running = block_scan(count, warp_sums);
  const int* row = places + (head * gridDim.x + blockIdx.x) * clusters;
  for (int c = c0; c < c1; ++c) {
    shift[c] = row[c] - running;
    for (int w = 0; w < kWarps; ++w) {
      const int of_warp = warp_place[w * clusters + c];
      warp_place[w * clusters + c] = running;
      running += of_warp;
    }
  }
  if (threadIdx.x == kThreads - 1) warp_sums[0] = running;  // elements that belong to a cluster
  __syncthreads();
#pragma unroll
  for (int r = 0; r < kPerThread; ++r) {
    const unsigned both = peers[r / 2] >> 16 * (r % 2) & 0xffffu;
    const int rank = static_cast<int>(both >> 8), count = static_cast<int>(both & 0xffu);
    const int place = cluster[r] >= 0 ? mine[cluster[r]] : 0;
    __syncwarp();
    if (cluster[r] >= 0) {
      const int of_block = warp * 32 * kPerThread + r * 32 + lane;
      sorted[place + rank] = static_cast<unsigned>(cluster[r] << kElementBits | of_block);
      if (rank == 0) mine[cluster[r]] = place + count;
    }
    __syncwarp();
  }
  __syncthreads();
  const int listed = warp_sums[0];
  const unsigned first = blockIdx.x * static_cast<unsigned>(kBlockElements);
  for (int i = threadIdx.x; i < listed; i += kThreads) {
    const unsigned entry = sorted[i];
    out[head * stride + shift[entry >> kElementBits] + i] = first + (entry & (kBlockElements - 1));
  }
}

__global__ void first_position_kernel(ClusterSizes s, ClusterIndex index) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= s.batch * s.kv_heads * s.clusters) return;
  const int64_t head = i / s.clusters;
  index.first_position[i] =
      index.key_count[i] > 0 ? index.order[head * s.rows() + index.key_begin[i]] : kNoKey;
}

// What the attention kernels would otherwise look up one after the other.
__device__ AttendItem attend_item(const ClusterSizes& s, const ClusterIndex& index, int64_t head,
                                  int cluster, int begin, int count) {
  const int64_t kv = kv_head(s, head);
  const unsigned* list = index.list + head * s.pairs() + begin;
  const unsigned slots = static_cast<unsigned>(s.slots);
  const int newest = key_limit(s, static_cast<int>(list[count - 1] / slots));
  const int first = index.key_begin[kv * s.clusters + cluster];
  const int keys = index.key_count[kv * s.clusters + cluster];
  const int* order = index.order + kv * s.rows() + first;
  int seen = 1, tiles = (keys + kTileRows - 1) / kTileRows;  // tile `seen` - 1 is seen
  while (seen < tiles) {
    const int middle = (seen + tiles) / 2;
    if (order[middle * kTileRows] <= newest) {
      seen = middle + 1;
    } else {
      tiles = middle;
    }
  }
  const int oldest = key_limit(s, static_cast<int>(list[0] / slots));
  return {static_cast<int>(head), begin, count, first, keys, seen, oldest, static_cast<int>(kv)};
}

// The items of a head, behind those of the heads before it.
__global__ void __launch_bounds__(256) attend_items_kernel(ClusterSizes s, ClusterIndex index) {
  const int64_t head = blockIdx.y;
  int base = 0, large_base = 0;
  for (int64_t other = 0; other < head; ++other) {
    base += index.num_items[other];
    large_base += index.num_large[other];
  }
  const int num_items = index.num_items[head];
  const int i = static_cast<int>(blockIdx.x) * 256 + static_cast<int>(threadIdx.x);
  if (i == 0) {
    index.attend_begin[head] = base;
    index.large_begin[head] = large_base;
    if (head == s.batch * s.heads - 1) {
      index.attend_begin[head + 1] = base + num_items;
      index.large_begin[head + 1] = large_base + index.num_large[head];
    }
  }
  if (i >= num_items) return;
  const ClusterItem item = index.items[head * s.max_items() + i];
  const AttendItem attend = attend_item(s, index, head, item.cluster, item.begin, item.count);
  index.attend[base + i] = attend;
  if (item.large >= 0) index.large[large_base + item.large] = attend;
}

// Eight threads a row of 64 columns.
constexpr int kPermuteThreads = 256;
constexpr int kPermuteRows = kPermuteThreads / 8 * 2;

__global__ void __launch_bounds__(kPermuteThreads)
    permute_kernel(ClusterSizes s, ClusterIndex index, const uint4* k, const uint4* v,
                   const float* key_bias, Clustered out) {
  const int64_t head = blockIdx.y;
  const int chunk = threadIdx.x % 8;
  const int planes = static_cast<int>(s.width / 64);
  int position[2];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row =
        static_cast<int64_t>(blockIdx.x) * kPermuteRows + half * 32 + threadIdx.x / 8;
    position[half] = row < s.rows() ? index.order[head * s.rows() + row] : kNoKey;
  }
  for (int plane = 0; plane < planes; ++plane) {
    uint4 x[2], y[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      x[half] = y[half] = make_uint4(0, 0, 0, 0);
      if (position[half] == kNoKey) continue;
      const int64_t source = ((head * s.keys + position[half]) * planes + plane) * 8 + chunk;
      x[half] = k[source];
      y[half] = v[source];
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      quad_transpose(x[half].x, x[half].y, x[half].z, x[half].w);
      quad_transpose(y[half].x, y[half].y, y[half].z, y[half].w);
      const int64_t row =
          static_cast<int64_t>(blockIdx.x) * kPermuteRows + half * 32 + threadIdx.x / 8;
      if (row >= s.rows()) continue;
      const int64_t group = (head * planes + plane) * s.rows() / 8 + row / 8;
      const int64_t target = group * 128 + (row & 7) * 8 + (chunk ^ (row & 7));
      reinterpret_cast<uint4*>(out.pairs)[target] = x[half];
      reinterpret_cast<uint4*>(out.pairs)[target + 64] = y[half];
    }
  }
  if (key_bias == nullptr || chunk != 0) return;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t row =
        static_cast<int64_t>(blockIdx.x) * kPermuteRows + half * 32 + threadIdx.x / 8;
    if (row >= s.rows()) continue;
    out.bias[head * s.rows() + row] =
        position[half] == kNoKey ? 0.f : key_bias[head * s.keys + position[half]] * kLog2E;
  }
}

int64_t align(int64_t bytes) { return (bytes + 255) / 256 * 256; }

template <typename Source>
cudaError_t sort(const ClusterSizes& s, const Source& source, int64_t heads, int64_t elements,
                 int* counts, unsigned* out, int64_t stride, const ScanOutputs& scan,
                 cudaStream_t stream) {
  const int clusters = static_cast<int>(s.clusters);
  const auto blocks = static_cast<unsigned>(num_blocks(elements));
  const dim3 grid(blocks, static_cast<unsigned>(heads));
  count_kernel<<<grid, kThreads, clusters * sizeof(int), stream>>>(source, clusters, counts);
  int lanes = 32;
  while (lanes < clusters) lanes *= 2;
  scan_kernel<<<static_cast<unsigned>(heads), kScanThreads, 0, stream>>>(
      s, counts, static_cast<int>(blocks), lanes, scan);
  const int shared = (kWarps + 1) * clusters * static_cast<int>(sizeof(int));
  const cudaError_t status = cudaFuncSetAttribute(
      scatter_kernel<Source>, cudaFuncAttributeMaxDynamicSharedMemorySize, shared);
  if (status != cudaSuccess) return status;
  scatter_kernel<<<grid, kThreads, shared, stream>>>(source, clusters, counts, stride, out);
  return cudaGetLastError();
}

}  // namespace

ClusterIndex cluster_index_layout(const ClusterSizes& s, void* base) {
  int64_t offset = 0;
  auto take = [&](int64_t bytes) {
    char* start = static_cast<char*>(base) + offset;
    offset += align(bytes);
    return static_cast<void*>(start);
  };
  const int64_t kv = s.batch * s.kv_heads, all = s.batch * s.heads;
  constexpr int64_t kInt = sizeof(int), kItem = sizeof(ClusterItem);
  ClusterIndex index;
  index.order = static_cast<int*>(take(kv * s.rows() * kInt));
  index.key_begin = static_cast<int*>(take(kv * s.clusters * kInt));
  index.key_count = static_cast<int*>(take(kv * s.clusters * kInt));
  index.first_position = static_cast<int*>(take(kv * s.clusters * kInt));
  index.list = static_cast<unsigned*>(take(all * s.pairs() * kInt));
  index.list_begin = static_cast<int*>(take(all * (s.clusters + 1) * kInt));
  index.items = static_cast<ClusterItem*>(take(all * s.max_items() * kItem));
  index.num_items = static_cast<int*>(take(all * kInt));
  index.attend = static_cast<AttendItem*>(take(all * s.max_items() * sizeof(AttendItem)));
  index.attend_begin = static_cast<int*>(take((all + 1) * kInt));
  index.large = static_cast<AttendItem*>(take(all * s.max_items() * sizeof(AttendItem)));
  index.large_begin = static_cast<int*>(take((all + 1) * kInt));
  index.num_large = static_cast<int*>(take(all * kInt));
  index.key_items = static_cast<ClusterItem*>(take(kv * s.max_key_items() * kItem));
  index.num_key_items = static_cast<int*>(take(kv * kInt));
  index.bytes = offset;
  return index;
}

int64_t cluster_index_workspace_bytes(const ClusterSizes& s) {
  const int64_t keys = s.batch * s.kv_heads * num_blocks(s.keys);
  const int64_t pairs = s.batch * s.heads * num_blocks(s.pairs());
  return (keys > pairs ? keys : pairs) * s.clusters * static_cast<int64_t>(sizeof(int));
}

cudaError_t launch_cluster_index(const ClusterSizes& s, const int* assignment, const int* routes,
                                 const ClusterIndex& index, void* workspace, cudaStream_t stream) {
  int* counts = static_cast<int*>(workspace);
  const int clusters = static_cast<int>(s.clusters);
  const int64_t kv = s.batch * s.kv_heads, all = s.batch * s.heads;
  cudaError_t status =
      cudaMemsetAsync(index.order, 0x7f, kv * s.rows() * sizeof(int), stream);  // kNoKey
  if (status != cudaSuccess) return status;
  status =
      sort(s, KeySource{assignment, s.keys, static_cast<int>(s.sinks)}, kv, s.keys, counts,
           reinterpret_cast<unsigned*>(index.order), s.rows(),
           ScanOutputs{index.key_begin, clusters, index.key_count, index.key_items,
                       index.num_key_items, s.max_key_items(), kKeyItemKeys, 8, nullptr, nullptr},
           stream);
  if (status != cudaSuccess) return status;
  first_position_kernel<<<static_cast<unsigned>((kv * s.clusters + 255) / 256), 256, 0, stream>>>(
      s, index);
  status = sort(s, PairSource{routes, index.first_position, divisor(s.slots), s}, all, s.pairs(),
                counts, index.list, s.pairs(),
                ScanOutputs{index.list_begin, clusters + 1, nullptr, index.items, index.num_items,
                            s.max_items(), kQueryTile, 1, index.key_count, index.num_large},
                stream);
  if (status != cudaSuccess) return status;
  attend_items_kernel<<<dim3(static_cast<unsigned>((s.max_items() + 255) / 256),
                             static_cast<unsigned>(all)),
                        256, 0, stream>>>(s, index);
  return cudaGetLastError();
}

int64_t clustered_bytes(const ClusterSizes& s) { return clustered_layout(s, nullptr).bytes; }

cudaError_t launch_cluster_permute(const ClusterSizes& s, const ClusterIndex& index, const void* k,
                                   const void* v, const float* key_bias, void* clustered,
                                   cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>((s.rows() + kPermuteRows - 1) / kPermuteRows),
                  static_cast<unsigned>(s.batch * s.kv_heads));
  permute_kernel<<<grid, kPermuteThreads, 0, stream>>>(s, index, static_cast<const uint4*>(k),
                                                       static_cast<const uint4*>(v), key_bias,
                                                       clustered_layout(s, clustered));
  return cudaGetLastError();
}

}  // namespace dsrsq::kernels
