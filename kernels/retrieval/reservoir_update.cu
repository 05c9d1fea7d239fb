#include <cooperative_groups.h>
#include <math_constants.h>

#include "kernels/retrieval/random.h"
#include "kernels/retrieval/reservoir_update.h"
#include "kernels/retrieval/select.h"

namespace cg = cooperative_groups;

namespace dsrsq::kernels {
namespace {

constexpr int kThreads = 512;
constexpr int kUnderWay = 2;  // entries of a thread that are loaded together
constexpr int kBinBits = 11;
constexpr int kBins = 1 << kBinBits;
constexpr uint32_t kListed = 256;       // candidates that are ranked against each other
constexpr int64_t kSharedKeys = 20480;  // of a block: 160 KiB
static_assert(kBins == 4 * kThreads, "a thread adds up four bins");

// Unsigned integers in the order of priorities. Not a number: below all.
__device__ __forceinline__ uint64_t key_of(double priority) {
  return priority == priority ? orderable(priority + 0.) : 0;  // the sum makes one zero of two
}

struct Arguments {
  ReservoirSizes s;
  ReservoirInputs in;
  ReservoirOutputs out;
  uint64_t* workspace;  // [B, H + E], or null: shared memory
};

// What a priority is made of: loaded before the stream of noise is known, whose number comes from
// memory as well.
struct Entry {
  bool offered, valid;
  int64_t rank;
  double value;  // priority of a held entry, log weight of an offered one
};

__device__ __forceinline__ Entry load_entry(const Arguments& a, int64_t b, int64_t entry) {
  const int64_t held = a.s.held;
  if (entry < held) return {false, true, 0, a.in.held[b * held + entry]};
  const int64_t at = b * a.s.offered + entry - held;
  return {true, a.in.valid[at], a.in.rank[at],
          a.in.log_weight == nullptr ? 0. : a.in.log_weight[at]};
}

__device__ __forceinline__ double priority_of(const ReservoirInputs& in, const RandomStream& stream,
                                              const Entry& entry) {
  if (!entry.offered) return entry.value;
  if (!entry.valid) return -CUDART_INF;
  const double priority =
      __dadd_rn(entry.value, __dmul_rn(static_cast<double>(entry.rank), in.decay));
  if (in.noise.sample_ids == nullptr) return priority;
  const auto place = static_cast<uint64_t>(entry.rank) * static_cast<uint64_t>(in.noise.layers) +
                     static_cast<uint64_t>(in.noise.layer);
  return __dadd_rn(priority, random_gumbel(stream, place));
}

// Numbers bins in the order of priorities. First equal parts of the range of values, since the bits
// of most priorities begin alike; then, if a bin holds too many, parts of the range of keys.
struct Bins {
  bool by_value;
  double lowest, scale;
  uint64_t low, high;
  int shift;

  __device__ int of(uint64_t key) const {
    if (!by_value) {
      if (key < low) return -1;
      return key > high ? kBins : static_cast<int>((key - low) >> shift);
    }
    if (key == 0) return 0;
    const double place = __dmul_rn(__dsub_rn(from_orderable(key), lowest), scale);
    if (place >= kBins - 1) return kBins - 1;
    return place > 0 ? static_cast<int>(place) : 0;  // 0: infinity times a scale of zero, too
  }
  __device__ bool one_key_each() const { return !by_value && shift == 0; }
};

// Bounds need not be exact: what lies beyond them is in the last bin of its side.
__device__ Bins bins_of_values(uint32_t lowest, uint32_t highest) {
  const double low = from_orderable(lowest), high = from_orderable(highest);
  return {true, low, lowest < highest ? kBins / (high - low) : 0., 0, 0, 0};
}

__device__ Bins bins_of_keys(uint64_t low, uint64_t high) {
  const int bits = 64 - __clzll(static_cast<long long>(high - low));
  return {false, 0., 0., low, high, max(0, bits - kBinBits)};
}

struct Candidate {
  uint64_t key;
  int64_t entry;
};
static_assert(kListed <= kThreads, "a thread decides about a candidate");

// What the blocks of a cluster read of each other. The counts of every other round lie in the same
// place: a block may still be reading those of the round before.
struct Exchange {
  uint4 counts[2][kBins / 4];
  Candidate list[kListed];  // the same in every block
  uint32_t listed;          // of block 0: entries of the list
  uint32_t lowest, highest;
  uint64_t low, high;
  uint32_t kept, held_kept, ties;
};

// The bin in which the kept-th largest key lies; those above it stay.
struct Threshold {
  Bins bins;
  Digit found;
};

struct Part {  // of a sequence's keys: a block's
  const uint64_t* keys;
  int64_t first, size;
};

__device__ void add_counts(const Part& part, const Bins& bins, uint4* counts) {
  counts[threadIdx.x] = make_uint4(0, 0, 0, 0);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < part.size; i += kThreads) {
    const int bin = bins.of(part.keys[i]);
    if (bin >= 0 && bin < kBins) atomicAdd(reinterpret_cast<uint32_t*>(counts) + bin, 1u);
  }
}

template <unsigned kBlocks>
__device__ OwnBins sum_counts(const cg::cluster_group& cluster, uint4* counts) {
  OwnBins own{kBins - 1 - 4 * static_cast<int>(threadIdx.x), {0, 0, 0, 0}};
#pragma unroll
  for (unsigned block = 0; block < kBlocks; ++block) {  // all loads are under way together
    const uint4 four = cluster.map_shared_rank(counts, block)[kThreads - 1 - threadIdx.x];
    own.count[0] += four.w;
    own.count[1] += four.z;
    own.count[2] += four.y;
    own.count[3] += four.x;
  }
  return own;
}

// The keys of one bin of values, from the smallest to the largest.
template <unsigned kBlocks>
__device__ Bins bins_within(const cg::cluster_group& cluster, const Part& part,
                            const Threshold& last, Exchange& own) {
  for (int64_t i = threadIdx.x; i < part.size; i += kThreads) {
    const uint64_t key = part.keys[i];
    if (last.bins.of(key) != last.found.digit) continue;
    atomicMin(reinterpret_cast<unsigned long long*>(&own.low), key);
    atomicMax(reinterpret_cast<unsigned long long*>(&own.high), key);
  }
  cluster.sync();
  uint64_t low = ~uint64_t{0}, high = 0;
  for (unsigned block = 0; block < kBlocks; ++block) {
    const Exchange& other = *cluster.map_shared_rank(&own, block);
    low = min(low, other.low);
    high = max(high, other.high);
  }
  return bins_of_keys(low, high);
}

// Narrows the bins until the last one is wanted whole, can be listed, or holds equal keys.
template <unsigned kBlocks>
__device__ Threshold find_threshold(const cg::cluster_group& cluster, const Part& part, Bins bins,
                                    uint32_t wanted, Exchange& own, uint32_t* warp_sums,
                                    Digit& found) {
  for (int round = 0;; ++round) {
    uint4* counts = own.counts[round % 2];
    add_counts(part, bins, counts);
    cluster.sync();
    find_digit(sum_counts<kBlocks>(cluster, counts), wanted, warp_sums, found);
    const Threshold last{bins, found};
    __syncthreads();  // `found` has been read
    if (last.found.count == last.found.wanted || last.found.count <= kListed ||
        bins.one_key_each()) {
      return last;
    }
    wanted = last.found.wanted;
    if (bins.by_value) {
      bins = bins_within<kBlocks>(cluster, part, last, own);
    } else {
      const uint64_t low = bins.low + (static_cast<uint64_t>(last.found.digit) << bins.shift);
      bins = bins_of_keys(low, low + (uint64_t{1} << bins.shift) - 1);
    }
  }
}

// Of keys in the last bin: how many stand in the blocks before, and in the threads before.
__device__ uint32_t ties_before(const cg::cluster_group& cluster, uint32_t ties, Exchange& own,
                                uint32_t* warp_sums) {
  uint32_t all;
  uint32_t before = block_prefix(ties, warp_sums, all);
  if (threadIdx.x == 0) own.ties = all;
  cluster.sync();
  for (unsigned block = 0; block < cluster.block_rank(); ++block) {
    before += cluster.map_shared_rank(&own, block)->ties;
  }
  return before;
}

template <unsigned kBlocks>
__device__ void list_candidate(const cg::cluster_group& cluster, const Candidate& candidate,
                               Exchange& own) {
  const uint32_t number = atomicAdd(&cluster.map_shared_rank(&own, 0)->listed, 1u);
  for (unsigned block = 0; block < kBlocks; ++block) {
    cluster.map_shared_rank(&own, block)->list[number] = candidate;
  }
}

// The list has the last bin's keys in no order; a thread decides about one of them.
__device__ bool listed_stays(const Candidate* list, const Digit& last) {
  if (threadIdx.x >= last.count) return false;
  const Candidate candidate = list[threadIdx.x];
  uint32_t better = 0;
  for (uint32_t i = 0; i < last.count; ++i) {
    const uint64_t key = list[i].key;
    better += key > candidate.key || (key == candidate.key && list[i].entry < candidate.entry);
  }
  return better < last.wanted;
}

template <unsigned kBlocks>
__device__ __forceinline__ uint32_t minimum_of_blocks(const cg::cluster_group& cluster,
                                                      uint32_t* own) {
  const unsigned lane = threadIdx.x % 32;
  return __reduce_min_sync(0xffffffffu, *cluster.map_shared_rank(own, lane % kBlocks));
}
template <unsigned kBlocks>
__device__ __forceinline__ uint32_t maximum_of_blocks(const cg::cluster_group& cluster,
                                                      uint32_t* own) {
  const unsigned lane = threadIdx.x % 32;
  return __reduce_max_sync(0xffffffffu, *cluster.map_shared_rank(own, lane % kBlocks));
}

template <unsigned kBlocks>
__global__ void __launch_bounds__(kThreads, 2)
    reservoir_kernel(const __grid_constant__ Arguments a) {
  extern __shared__ uint64_t shared_keys[];
  __shared__ Exchange own;
  __shared__ uint32_t warp_sums[33];
  __shared__ Digit found;
  __shared__ bool list_stays[kListed];
  const cg::cluster_group cluster = cg::this_cluster();
  const unsigned rank = cluster.block_rank();
  const int64_t b = blockIdx.x / kBlocks, held = a.s.held, total = held + a.s.offered;
  const int64_t part_size = (total + kBlocks - 1) / kBlocks;
  const int64_t part_first = min(rank * part_size, total);
  uint64_t* keys = a.workspace == nullptr ? shared_keys : a.workspace + b * total + part_first;
  const Part part{keys, part_first, min(part_size, total - part_first)};
  if (threadIdx.x == 0) {
    own.listed = own.kept = own.held_kept = own.ties = 0;
    own.lowest = 0xffffffffu;
    own.highest = 0;
    own.low = ~uint64_t{0};
    own.high = 0;
  }
  Entry next[kUnderWay];
  const auto load = [&](int64_t from) {
#pragma unroll
    for (int n = 0; n < kUnderWay; ++n) {
      const int64_t i = from + n * kThreads;
      if (i < part.size) next[n] = load_entry(a, b, part.first + i);
    }
  };
  load(threadIdx.x);
  RandomStream stream{};
  if (a.in.noise.sample_ids != nullptr) {
    stream = random_stream(a.in.noise.seed, a.in.noise.purpose, a.in.noise.step,
                           static_cast<uint64_t>(a.in.noise.sample_ids[b]));
  }
  uint32_t lowest = 0xffffffffu, highest = 0;
  for (int64_t from = threadIdx.x; from < part.size; from += kUnderWay * kThreads) {
#pragma unroll
    for (int n = 0; n < kUnderWay; ++n) {
      const int64_t i = from + n * kThreads;
      if (i >= part.size) break;
      const double priority = priority_of(a.in, stream, next[n]);
      keys[i] = key_of(priority);
      const float value = static_cast<float>(priority);
      if (!isfinite(value)) continue;
      lowest = min(lowest, orderable(value));
      highest = max(highest, orderable(value));
    }
    load(from + kUnderWay * kThreads);
  }
  lowest = __reduce_min_sync(0xffffffffu, lowest);
  highest = __reduce_max_sync(0xffffffffu, highest);
  __syncthreads();
  if (threadIdx.x % 32 == 0) {
    atomicMin(&own.lowest, lowest);
    atomicMax(&own.highest, highest);
  }
  cluster.sync();
  lowest = minimum_of_blocks<kBlocks>(cluster, &own.lowest);
  highest = maximum_of_blocks<kBlocks>(cluster, &own.highest);
  const Threshold last =
      find_threshold<kBlocks>(cluster, part, bins_of_values(lowest, highest),
                              static_cast<uint32_t>(a.s.kept), own, warp_sums, found);
  // A thread has successive entries: their order is that of the places.
  const int64_t share = (part.size + kThreads - 1) / kThreads;
  const int64_t begin = min(threadIdx.x * share, part.size), end = min(begin + share, part.size);
  // Of the last bin either all stay, or the best of a list, or the first of equal ones.
  const bool listed = last.found.count != last.found.wanted && last.found.count <= kListed;
  uint32_t first_ties = 0;  // of this thread's keys in the last bin, those that stay as such
  if (last.found.count == last.found.wanted) {
    first_ties = 0xffffffffu;
  } else if (!listed) {
    uint32_t ties = 0;
    for (int64_t i = begin; i < end; ++i) ties += last.bins.of(keys[i]) == last.found.digit;
    const uint32_t before = ties_before(cluster, ties, own, warp_sums);
    first_ties = min(ties, last.found.wanted > before ? last.found.wanted - before : 0u);
  }
  uint32_t kept = 0, held_kept = 0, left = first_ties;
  for (int64_t i = begin; i < end; ++i) {
    const int bin = last.bins.of(keys[i]);
    if (bin < last.found.digit) continue;
    if (bin == last.found.digit) {
      if (listed) list_candidate<kBlocks>(cluster, {keys[i], part.first + i}, own);
      if (left == 0) continue;
      --left;
    }
    ++kept;
    held_kept += part.first + i < held;
  }
  uint32_t all;
  uint32_t place = block_prefix(kept, warp_sums, all);
  held_kept = __reduce_add_sync(0xffffffffu, held_kept);
  if (threadIdx.x % 32 == 0) atomicAdd(&own.held_kept, held_kept);
  if (threadIdx.x == 0) own.kept = all;
  cluster.sync();
  held_kept = 0;
#pragma unroll
  for (unsigned block = 0; block < kBlocks; ++block) {
    const Exchange& other = *cluster.map_shared_rank(&own, block);
    held_kept += other.held_kept;
    if (block < rank) place += other.kept;
  }
  cluster.barrier_arrive();  // nothing of another block is read from here on
  if (listed) {
    const bool stays = listed_stays(own.list, last.found);
    if (threadIdx.x < kListed) list_stays[threadIdx.x] = stays;
    held_kept += __syncthreads_count(stays && own.list[threadIdx.x].entry < held);
    for (uint32_t i = 0; i < last.found.count; ++i) {
      place += list_stays[i] && own.list[i].entry < part.first + begin;
    }
  }
  left = first_ties;
  for (int64_t i = begin; i < end; ++i) {
    const int64_t entry = part.first + i;
    const int bin = last.bins.of(keys[i]);
    bool stays = bin > last.found.digit;
    if (bin == last.found.digit) {
      stays = left > 0;
      left -= stays;
      for (uint32_t c = 0; listed && c < last.found.count; ++c) {
        stays |= list_stays[c] && own.list[c].entry == entry;
      }
    }
    if (!stays) continue;
    const int64_t to = b * a.s.kept + place;
    a.out.priority[to] = keys[i] == 0 ? CUDART_NAN : from_orderable(keys[i]);
    a.out.source[to] = entry < held ? entry : held + place - held_kept;
    if (entry >= held) {
      const int64_t number = b * a.s.accepted + place - held_kept;
      a.out.accepted[number] = entry - held;
      a.out.slot[number] = place;
    }
    ++place;
  }
  const int64_t accepted = a.s.kept - held_kept;
  for (int64_t j = accepted + rank * kThreads + threadIdx.x; j < a.s.accepted;
       j += kBlocks * kThreads) {
    a.out.accepted[b * a.s.accepted + j] = -1;
    a.out.slot[b * a.s.accepted + j] = -1;
  }
  if (rank == 0 && threadIdx.x == 0) a.out.count[b] = accepted;
  cluster.barrier_wait();  // other blocks have read this one's shared memory
}

// Of a cluster, which has a sequence together: a few sequences are spread, many fill the device.
constexpr unsigned kFewBlocks = 2, kManyBlocks = 4;

unsigned blocks_of_sequence(const ReservoirSizes& s) {
  return s.batch <= 16 ? kManyBlocks : kFewBlocks;
}
int64_t keys_of_block(const ReservoirSizes& s) {
  const int64_t blocks = blocks_of_sequence(s);
  return (s.held + s.offered + blocks - 1) / blocks;
}
bool in_shared_memory(const ReservoirSizes& s) { return keys_of_block(s) <= kSharedKeys; }

template <unsigned kBlocks>
cudaError_t launch(const Arguments& a, int bytes, cudaStream_t stream) {
  const cudaError_t status = cudaFuncSetAttribute(
      reservoir_kernel<kBlocks>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kBlocks, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(a.s.batch) * kBlocks);
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(bytes);
  config.stream = stream;
  config.attrs = &cluster;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, reservoir_kernel<kBlocks>, a);
}

}  // namespace

int64_t reservoir_workspace_bytes(const ReservoirSizes& s) {
  return in_shared_memory(s) ? 0 : s.batch * (s.held + s.offered) * 8;
}

cudaError_t launch_reservoir_update(const ReservoirSizes& s, const ReservoirInputs& in,
                                    const ReservoirOutputs& out, void* workspace,
                                    cudaStream_t stream) {
  if (s.kept < 1 || s.kept > s.held + s.offered) return cudaErrorInvalidValue;
  const bool shared = in_shared_memory(s);
  const int bytes = shared ? static_cast<int>(keys_of_block(s) * 8) : 0;
  const Arguments arguments{s, in, out, shared ? nullptr : static_cast<uint64_t*>(workspace)};
  if (blocks_of_sequence(s) == kManyBlocks) return launch<kManyBlocks>(arguments, bytes, stream);
  return launch<kFewBlocks>(arguments, bytes, stream);
}

}  // namespace dsrsq::kernels
