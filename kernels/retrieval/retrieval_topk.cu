#include <cuda_bf16.h>
#include <math_constants.h>

#include <algorithm>
#include <type_traits>

#include "kernels/retrieval/random.h"
#include "kernels/retrieval/retrieval_topk.h"
#include "kernels/retrieval/select.h"

namespace dsrsq::kernels {
namespace {

// Scores become 32-bit keys in the order of the numbers (0: not to be chosen), which lie in L2. A
// radix select takes their digits from the top, 11, 11 and 10 bits: each kernel counts the elements
// that agree with the digits found so far by their next digit.
constexpr int kScoreThreads = 256;
constexpr int kSelectThreads = 512;
constexpr int kFinishThreads = 1024;
constexpr int kBins = 2048;
constexpr int kLevels = 3;
constexpr int kMostRanges = 512;  // blocks that select from one sequence's keys
constexpr int kScoreBlocks = 2;   // a multiprocessor

// Eight lanes read a row, a warp 32 rows: a lane's eight loads are under way together.
constexpr int kLanes = 8;
constexpr int kWarpRows = 32;

int64_t align_up(int64_t x, int64_t step) { return (x + step - 1) / step * step; }

// Decided so far of one sequence: the keys of the wanted rows begin with `prefix`, or lie above it.
struct Level {
  uint32_t prefix;
  uint32_t wanted;  // of the keys that begin with it; 0 where `done`
  uint32_t done;    // 1: `prefix` is a whole key, and all wanted keys lie above it
};

struct Workspace {
  // Zeros at first.
  uint32_t* histogram;  // [B][kLevels][kBins]
  uint32_t* chosen;     // [B] packed so far
  int64_t zero_bytes;
  Level* level;         // [B][kLevels - 1]
  uint32_t* tie_count;  // [B][kMostRanges]
  uint32_t* key;        // [B][stride]
  uint32_t* tie;        // [B][stride] positions of keys that equal the last one chosen, by range
  uint64_t* packed;     // [B][slots]
  int64_t stride;       // N, whole vectors of four
  int64_t bytes;
};

Workspace lay_out(const RetrievalTopkSizes& s, void* memory) {
  Workspace w{};
  w.stride = align_up(s.tokens, 4);
  int64_t at = 0;
  const auto place = [&](auto*& pointer, int64_t count) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(
        static_cast<char*>(memory) + at);
    at = align_up(at + count * static_cast<int64_t>(sizeof(*pointer)), 256);
  };
  place(w.histogram, s.batch * kLevels * kBins);
  place(w.chosen, s.batch);
  w.zero_bytes = at;
  place(w.level, s.batch * (kLevels - 1));
  place(w.tie_count, s.batch * kMostRanges);
  place(w.key, s.batch * w.stride);
  place(w.tie, s.batch * w.stride);
  place(w.packed, s.batch * s.slots);
  w.bytes = at;
  return w;
}

struct Arguments {
  RetrievalTopkSizes s;
  RetrievalTopkInputs in;
  Workspace w;
  int64_t range;  // keys of a block that selects
  int64_t* index;
  float* score;
  int64_t* packed;  // unsorted; null: sort
};

// Larger for larger scores and, of equal ones, for lower positions.
__device__ __forceinline__ uint64_t pack(uint32_t key, uint32_t position) {
  return uint64_t{key} << 32 | (0xffffffffu - position);
}

__device__ __forceinline__ float low_half(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high_half(uint32_t pair) {
  return __uint_as_float(pair & 0xffff0000u);
}

// Numbers of a vector of 16 bytes.
template <typename Element>
struct Vector;
template <>
struct Vector<float> {
  static constexpr int kNumbers = 4;
  static __device__ __forceinline__ float add(float sum, const uint4& x, const float* q) {
    sum = fmaf(__uint_as_float(x.x), q[0], sum);
    sum = fmaf(__uint_as_float(x.y), q[1], sum);
    sum = fmaf(__uint_as_float(x.z), q[2], sum);
    return fmaf(__uint_as_float(x.w), q[3], sum);
  }
};
template <>
struct Vector<__nv_bfloat16> {
  static constexpr int kNumbers = 8;
  static __device__ __forceinline__ float add(float sum, const uint4& x, const float* q) {
    sum = fmaf(low_half(x.x), q[0], sum);
    sum = fmaf(high_half(x.x), q[1], sum);
    sum = fmaf(low_half(x.y), q[2], sum);
    sum = fmaf(high_half(x.y), q[3], sum);
    sum = fmaf(low_half(x.z), q[4], sum);
    sum = fmaf(high_half(x.z), q[5], sum);
    sum = fmaf(low_half(x.w), q[6], sum);
    return fmaf(high_half(x.w), q[7], sum);
  }
};

// Sums over the eight lanes of a group: the lane's own is that of row `lane % 8`.
__device__ __forceinline__ float own_row(float (&sum)[kLanes]) {
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int half = kLanes / 2; half >= 1; half /= 2) {
    const bool upper = (lane & half) != 0;
#pragma unroll
    for (int i = 0; i < half; ++i) {
      const float given = upper ? sum[i] : sum[i + half];
      const float kept = upper ? sum[i + half] : sum[i];
      sum[i] = kept + __shfl_xor_sync(0xffffffffu, given, half);
    }
  }
  return sum[0];
}

// Row `lane` of the tile's 32 by the best of the queries, which lie in shared memory.
template <typename Element>
__device__ __forceinline__ float best_score(const Arguments& a, const uint4* rows,
                                            const float* query, int64_t first, int64_t b) {
  constexpr int kNumbers = Vector<Element>::kNumbers;
  const int lane = threadIdx.x % 32, chunks = static_cast<int>(a.s.width) / kNumbers;
  const int64_t row = first + lane / kLanes * kLanes;
  // Rows behind the last one are read as that.
  const int behind = static_cast<int>(min(a.s.tokens - 1 - row, int64_t{kLanes}));
  const uint4* own_rows = rows + row * chunks;
  float best = -CUDART_INF_F;
  for (int64_t q = 0; q < a.s.queries; ++q) {
    if (a.in.query_valid != nullptr && !a.in.query_valid[b * a.s.queries + q]) continue;
    float sum[kLanes];
#pragma unroll
    for (int j = 0; j < kLanes; ++j) sum[j] = 0.f;
    for (int chunk = lane % kLanes; chunk < chunks; chunk += kLanes) {
      uint4 x[kLanes];
#pragma unroll
      for (int j = 0; j < kLanes; ++j) x[j] = __ldcs(own_rows + min(j, behind) * chunks + chunk);
      float numbers[kNumbers];
      const auto* source =
          reinterpret_cast<const float4*>(query + q * a.s.width + chunk * kNumbers);
#pragma unroll
      for (int i = 0; i < kNumbers / 4; ++i)
        *reinterpret_cast<float4*>(numbers + 4 * i) = source[i];
#pragma unroll
      for (int j = 0; j < kLanes; ++j) sum[j] = Vector<Element>::add(sum[j], x[j], numbers);
    }
    const float score = own_row(sum);
    best = score > best ? score : best;
  }
  return best;
}

template <typename Element>
__global__ void __launch_bounds__(kScoreThreads, kScoreBlocks)
    score_kernel(const __grid_constant__ Arguments a) {
  extern __shared__ float4 query_raw[];
  __shared__ uint32_t histogram[kBins];
  auto* query = reinterpret_cast<float*>(query_raw);
  const int64_t b = blockIdx.y, query_floats = a.s.queries * a.s.width;
  for (int i = threadIdx.x; i < kBins; i += kScoreThreads) histogram[i] = 0;
  for (int64_t i = threadIdx.x; i < query_floats; i += kScoreThreads)
    query[i] = a.in.query[b * query_floats + i];
  const bool noisy = a.in.noise.sample_ids != nullptr;
  RandomStream stream{};
  if (noisy) {
    stream = random_stream(a.in.noise.seed, a.in.noise.purpose, a.in.noise.step,
                           static_cast<uint64_t>(a.in.noise.sample_ids[b]));
  }
  __syncthreads();
  const int64_t chunks = a.s.width / Vector<Element>::kNumbers;
  const auto* rows =
      static_cast<const uint4*>(a.in.rows) + (a.s.rows_by_batch ? b * a.s.tokens * chunks : 0);
  const bool* valid = a.in.valid;
  if (valid != nullptr && a.s.valid_by_batch) valid += b * a.s.tokens;
  const int64_t step = int64_t{gridDim.x} * (kScoreThreads / 32) * kWarpRows;
  int64_t first = (int64_t{blockIdx.x} * (kScoreThreads / 32) + threadIdx.x / 32) * kWarpRows;
  for (; first < a.s.tokens; first += step) {
    const int64_t own = first + threadIdx.x % 32;
    const bool exists = own < a.s.tokens && (valid == nullptr || valid[own]);
    float score = best_score<Element>(a, rows, query, first, b) * a.s.scale;
    const bool candidate = exists && score > -CUDART_INF_F;
    if (noisy && candidate) {
      score = static_cast<float>(static_cast<double>(score) +
                                 random_gumbel(stream, static_cast<uint64_t>(own)));
    }
    // The sum makes one zero of two.
    const uint32_t key = candidate ? orderable(score + 0.f) : 0;
    if (own < a.w.stride) a.w.key[b * a.w.stride + own] = key;
    if (key != 0) atomicAdd(&histogram[key >> 21], 1u);
  }
  __syncthreads();
  uint32_t* all = a.w.histogram + b * kLevels * kBins;
  for (int i = threadIdx.x; i < kBins; i += kScoreThreads) {
    if (histogram[i] != 0) atomicAdd(&all[i], histogram[i]);
  }
}

__device__ __forceinline__ uint32_t wanted_rows(const Arguments& a, int64_t b) {
  return static_cast<uint32_t>(min(max(a.in.count[b], int64_t{0}), a.s.slots));
}

// What decides one digit, loaded before anything of it is looked at.
struct Evidence {
  int level;
  OwnBins own;
  Level before;
};
__device__ __forceinline__ Evidence load_evidence(const Arguments& a, int level, int64_t b) {
  const int bins = level == kLevels - 1 ? kBins / 2 : kBins;
  Evidence e{level, load_bins(a.w.histogram + (b * kLevels + level) * kBins, bins), {}};
  e.before = level > 0 ? a.w.level[b * (kLevels - 1) + level - 1] : Level{0, wanted_rows(a, b), 0};
  return e;
}
__device__ Level decide(const Evidence& e, uint32_t* warp_sums, Digit& found) {
  if (e.before.done) return e.before;
  if (e.before.wanted == 0) return {0xffffffffu, 0, 1};
  find_digit(e.own, e.before.wanted, warp_sums, found);
  if (found.digit < 0) return {0, 0, 1};  // fewer than wanted: all that may be chosen
  const int bits = e.level == kLevels - 1 ? 10 : 11;
  return {e.before.prefix << bits | static_cast<uint32_t>(found.digit), found.wanted, 0};
}

// The keys of this block, four a thread and turn; behind the last of them 0.
struct Turns {
  __device__ explicit Turns(const Arguments& a)
      : keys(a.w.key + blockIdx.y * a.w.stride),
        begin(blockIdx.x * a.range),
        end(min(begin + a.range, a.w.stride)) {}
  __device__ uint4 load(int64_t first) const {
    const int64_t i = first + 4 * threadIdx.x;
    return i < end ? *reinterpret_cast<const uint4*>(keys + i) : make_uint4(0, 0, 0, 0);
  }
  const uint32_t* keys;
  int64_t begin, end;
};
constexpr int kTurn = 4 * kSelectThreads;

// level 0 and 1: decides, and counts by the next digit.
__global__ void __launch_bounds__(kSelectThreads)
    select_kernel(const __grid_constant__ Arguments a, int level) {
  __shared__ uint32_t histogram[kBins];
  __shared__ uint32_t warp_sums[33];
  __shared__ Digit found;
  const int64_t b = blockIdx.y;
  const Evidence evidence = load_evidence(a, level, b);
  const Turns turns(a);
  uint4 four = turns.load(turns.begin);
  for (int i = threadIdx.x; i < kBins; i += kSelectThreads) histogram[i] = 0;
  const Level now = decide(evidence, warp_sums, found);
  if (blockIdx.x == 0 && threadIdx.x == 0) a.w.level[b * (kLevels - 1) + level] = now;
  if (now.done) return;
  __syncthreads();
  const int known = level == 0 ? 21 : 10;  // bits below those decided
  const int next = level == 0 ? 10 : 0;    // bits below the next digit
  const uint32_t mask = level == 0 ? 2047 : 1023;
  for (int64_t first = turns.begin; first < turns.end; first += kTurn) {
    const uint32_t key[4] = {four.x, four.y, four.z, four.w};
    four = turns.load(first + kTurn);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (key[j] >> known == now.prefix) atomicAdd(&histogram[key[j] >> next & mask], 1u);
    }
  }
  __syncthreads();
  uint32_t* all = a.w.histogram + (b * kLevels + level + 1) * kBins;
  for (int i = threadIdx.x; i < kBins; i += kSelectThreads) {
    if (histogram[i] != 0) atomicAdd(&all[i], histogram[i]);
  }
}

// Collects the keys above the last one chosen, in any order, and the positions of those that equal
// it, in theirs.
__global__ void __launch_bounds__(kSelectThreads)
    collect_kernel(const __grid_constant__ Arguments a) {
  __shared__ uint32_t warp_sums[33];
  __shared__ Digit found;
  const int64_t b = blockIdx.y;
  const Evidence evidence = load_evidence(a, kLevels - 1, b);
  const Turns turns(a);
  uint4 four = turns.load(turns.begin);
  const Level last = decide(evidence, warp_sums, found);
  uint32_t ties = 0;
  for (int64_t first = turns.begin; first < turns.end; first += kTurn) {
    const uint32_t key[4] = {four.x, four.y, four.z, four.w};
    four = turns.load(first + kTurn);
    const auto position = static_cast<uint32_t>(first + 4 * threadIdx.x);
    uint32_t equal = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (key[j] > last.prefix) {
        a.w.packed[b * a.s.slots + atomicAdd(&a.w.chosen[b], 1u)] = pack(key[j], position + j);
      }
      equal += key[j] == last.prefix;
    }
    // More ties than are wanted are none of this block's business.
    if (last.done || ties >= last.wanted || !__syncthreads_or(equal != 0)) continue;
    uint32_t total;
    uint32_t at = ties + block_prefix(equal, warp_sums, total);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (key[j] == last.prefix) a.w.tie[b * a.w.stride + turns.begin + at++] = position + j;
    }
    ties += total;
  }
  if (threadIdx.x == 0) a.w.tie_count[b * kMostRanges + blockIdx.x] = ties;
}

__device__ __forceinline__ void unpack(uint64_t packed, int64_t& index, float& score) {
  index = packed == 0 ? -1 : static_cast<int64_t>(0xffffffffu - static_cast<uint32_t>(packed));
  score = packed == 0 ? -CUDART_INF_F : from_orderable(static_cast<uint32_t>(packed >> 32));
}

// The steps of a bitonic sort from `distance` (at most 16) down to 1 in runs of `run`, of element
// i, which lane i % 32 holds.
__device__ __forceinline__ void sort_near(uint64_t& own, int i, int run, int distance) {
  const bool falling = (i & run) == 0;
  for (; distance >= 1; distance /= 2) {
    const uint64_t other = __shfl_xor_sync(0xffffffffu, own, distance);
    const bool larger = falling == ((i & distance) == 0);
    own = larger == (own > other) ? own : other;
  }
}

// Joins what the blocks collected and sorts it. `ranges`: blocks that collected; `size`: a power of
// two >= slots and a warp, of elements in shared memory; 0: do not sort.
__global__ void __launch_bounds__(kFinishThreads, 1)
    finish_kernel(const __grid_constant__ Arguments a, int ranges, int size) {
  extern __shared__ uint64_t sorted[];
  __shared__ uint32_t before[kMostRanges + 1];
  __shared__ uint32_t warp_sums[33];
  __shared__ Digit found;
  const int64_t b = blockIdx.x;
  const Evidence evidence = load_evidence(a, kLevels - 1, b);
  const uint32_t above = a.w.chosen[b];
  const uint32_t own =
      static_cast<int>(threadIdx.x) < ranges ? a.w.tie_count[b * kMostRanges + threadIdx.x] : 0;
  const Level last = decide(evidence, warp_sums, found);
  const uint32_t all = above + last.wanted;
  uint32_t total;
  const uint32_t prefix = block_prefix(own, warp_sums, total);
  if (static_cast<int>(threadIdx.x) <= ranges) before[threadIdx.x] = prefix;
  __syncthreads();
  const auto element = [&](int64_t i) -> uint64_t {
    if (i < above) return a.w.packed[b * a.s.slots + i];
    if (i >= all) return 0;
    const auto tie = static_cast<uint32_t>(i - above);
    int low = 0, high = ranges;  // before[low] <= tie < before[high]
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      (before[middle] <= tie ? low : high) = middle;
    }
    const uint32_t* of_range = a.w.tie + b * a.w.stride + low * a.range;
    return pack(last.prefix, of_range[tie - before[low]]);
  };
  if (size == 0) {
    // The sign is turned: signed order is to be that of the unsigned numbers.
    for (int64_t i = threadIdx.x; i < a.s.slots; i += kFinishThreads) {
      a.packed[b * a.s.slots + i] = static_cast<int64_t>(element(i) ^ uint64_t{1} << 63);
    }
    return;
  }
  for (int i = threadIdx.x; i < size; i += kFinishThreads) {
    sorted[i] = i < a.s.slots ? element(i) : 0;
  }
  // A bitonic sort, largest first: partners far apart meet in shared memory, near ones in a warp.
  for (int run = 32; run <= size; run *= 2) {
    for (int distance = run / 2; distance >= 32; distance /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < size / 2; i += kFinishThreads) {
        const int x = 2 * i - (i & (distance - 1)), y = x + distance;
        const bool falling = (x & run) == 0;
        const uint64_t p = sorted[x], q = sorted[y];
        if (falling ? p < q : p > q) sorted[x] = q, sorted[y] = p;
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < size; i += kFinishThreads) {
      uint64_t own = sorted[i];
      if (run == 32) {
        for (int small = 2; small < 32; small *= 2) sort_near(own, i, small, small / 2);
      }
      sort_near(own, i, run, 16);
      sorted[i] = own;
    }
  }
  __syncthreads();
  for (int64_t i = threadIdx.x; i < a.s.slots; i += kFinishThreads) {
    unpack(sorted[i], a.index[b * a.s.slots + i], a.score[b * a.s.slots + i]);
  }
}

__global__ void unpack_kernel(int64_t elements, const int64_t* packed, int64_t* index,
                              float* score) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= elements) return;
  unpack(static_cast<uint64_t>(packed[i]) ^ uint64_t{1} << 63, index[i], score[i]);
}

template <typename Element>
cudaError_t launch_score(const Arguments& a, int multiprocessors, cudaStream_t stream) {
  const int bytes = static_cast<int>(a.s.queries * a.s.width * 4);
  const cudaError_t status = cudaFuncSetAttribute(
      score_kernel<Element>, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  const int64_t block_rows = kScoreThreads / 32 * kWarpRows;
  const int64_t wanted = (a.s.tokens + block_rows - 1) / block_rows;
  const int64_t room = std::max(int64_t{1}, int64_t{multiprocessors} * kScoreBlocks / a.s.batch);
  const dim3 grid(static_cast<unsigned>(std::min(wanted, room)), static_cast<unsigned>(a.s.batch));
  score_kernel<Element><<<grid, kScoreThreads, bytes, stream>>>(a);
  return cudaGetLastError();
}

}  // namespace

int64_t retrieval_topk_workspace_bytes(const RetrievalTopkSizes& sizes) {
  return lay_out(sizes, nullptr).bytes;
}

cudaError_t launch_retrieval_topk(const RetrievalTopkSizes& s, const RetrievalTopkInputs& in,
                                  int64_t* index, float* score, int64_t* packed, void* workspace,
                                  cudaStream_t stream) {
  const bool sort = s.slots <= kRetrievalMaxSorted;
  const int64_t numbers = in.type == ElementType::kFloat32 ? 4 : 8;
  if (s.width % numbers != 0 || s.queries * s.width > kRetrievalMaxQueryFloats || s.slots < 1 ||
      s.tokens >= int64_t{1} << 31 || (!sort && packed == nullptr)) {
    return cudaErrorInvalidValue;
  }
  int device = 0, multiprocessors = 0;
  cudaError_t status = cudaGetDevice(&device);
  if (status != cudaSuccess) return status;
  status = cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device);
  if (status != cudaSuccess) return status;
  Arguments a{s, in, lay_out(s, workspace), 0, index, score, sort ? nullptr : packed};
  status = cudaMemsetAsync(a.w.histogram, 0, a.w.zero_bytes, stream);
  if (status != cudaSuccess) return status;
  status = in.type == ElementType::kFloat32
               ? launch_score<float>(a, multiprocessors, stream)
               : launch_score<__nv_bfloat16>(a, multiprocessors, stream);
  if (status != cudaSuccess) return status;

  const int64_t turns = (a.w.stride + kTurn - 1) / kTurn;
  const int64_t most = std::clamp(2 * multiprocessors / s.batch, int64_t{1}, int64_t{kMostRanges});
  a.range = (turns + most - 1) / most * kTurn;
  const int ranges = static_cast<int>((a.w.stride + a.range - 1) / a.range);
  const dim3 grid(static_cast<unsigned>(ranges), static_cast<unsigned>(s.batch));
  for (int level = 0; level < kLevels - 1; ++level) {
    select_kernel<<<grid, kSelectThreads, 0, stream>>>(a, level);
  }
  collect_kernel<<<grid, kSelectThreads, 0, stream>>>(a);
  int size = 0;
  if (sort) {
    for (size = 32; size < s.slots;) size *= 2;
  }
  const int bytes = size * 8;
  status = cudaFuncSetAttribute(finish_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  finish_kernel<<<static_cast<unsigned>(s.batch), kFinishThreads, bytes, stream>>>(a, ranges, size);
  return cudaGetLastError();
}

cudaError_t launch_retrieval_unpack(int64_t elements, const int64_t* packed, int64_t* index,
                                    float* score, cudaStream_t stream) {
  if (elements == 0) return cudaSuccess;
  constexpr int kThreads = 256;
  unpack_kernel<<<static_cast<unsigned>((elements + kThreads - 1) / kThreads), kThreads, 0,
                  stream>>>(elements, packed, index, score);
  return cudaGetLastError();
}

}  // namespace dsrsq::kernels
