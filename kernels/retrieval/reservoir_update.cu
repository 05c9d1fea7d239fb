#include <math_constants.h>

#include "kernels/retrieval/random.h"
#include "kernels/retrieval/reservoir_update.h"
#include "kernels/retrieval/select.h"

namespace dsrsq::kernels {
namespace {

constexpr int kThreads = 1024;
constexpr int kBins = kThreads;
constexpr int kDigitBits = 10;
constexpr int kCopies = 8;              // of the counts: priorities have few exponents
constexpr int64_t kSharedKeys = 20480;  // 160 KiB

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

// Without a branch before the loads: those of a thread's entries are under way together.
__device__ __forceinline__ double offered_priority(const ReservoirInputs& in,
                                                   const RandomStream& stream, int64_t entry) {
  const bool valid = in.valid[entry];
  const int64_t rank = in.rank[entry];
  const double weight = in.log_weight == nullptr ? 0. : in.log_weight[entry];
  double priority = __dadd_rn(weight, __dmul_rn(static_cast<double>(rank), in.decay));
  if (in.noise.sample_ids != nullptr) {
    const auto place = static_cast<uint64_t>(rank) * static_cast<uint64_t>(in.noise.layers) +
                       static_cast<uint64_t>(in.noise.layer);
    priority = __dadd_rn(priority, random_gumbel(stream, place));
  }
  return valid ? priority : -CUDART_INF;
}

constexpr uint32_t kAllTies = 0xffffffffu;

// Kept entries are those above `key` and the first `wanted` that equal it.
struct Threshold {
  uint64_t key;
  uint32_t wanted;
};

// Counts by digit, kCopies beside each other, of which a lane adds to its own; then their sums.
struct Counts {
  uint4 copies[kBins][kCopies / 4];
  uint32_t sums[kBins];
};

// By digits from the top, until all elements that begin with the digits found are wanted.
__device__ Threshold find_threshold(const uint64_t* keys, int64_t total, uint32_t wanted,
                                    Counts& counts, uint32_t* warp_sums, Digit& found) {
  uint64_t prefix = 0;
  int known = 64;  // bits below those decided
  while (known > 0) {
    const int bits = min(kDigitBits, known), next = known - bits;
    const uint32_t mask = (1u << bits) - 1;
    uint4* own = counts.copies[threadIdx.x];
#pragma unroll
    for (int i = 0; i < kCopies / 4; ++i) own[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    for (int64_t i = threadIdx.x; i < total; i += kThreads) {
      if (known == 64 || keys[i] >> known == prefix) {
        const uint32_t digit = static_cast<uint32_t>(keys[i] >> next) & mask;
        atomicAdd(reinterpret_cast<uint32_t*>(counts.copies[digit]) + threadIdx.x % kCopies, 1u);
      }
    }
    __syncthreads();
    uint32_t sum = 0;
#pragma unroll
    for (int i = 0; i < kCopies / 4; ++i) sum += own[i].x + own[i].y + own[i].z + own[i].w;
    counts.sums[threadIdx.x] = sum;
    __syncthreads();
    find_digit(load_bins(counts.sums, kBins), wanted, warp_sums, found);
    prefix = prefix << bits | static_cast<uint64_t>(found.digit);
    wanted = found.wanted;
    const bool whole = counts.sums[found.digit] == wanted;
    known = next;
    __syncthreads();  // the counts and `found` have been read
    if (whole) return {prefix << known, kAllTies};
  }
  return {prefix, wanted};
}

__global__ void __launch_bounds__(kThreads, 1)
    reservoir_kernel(const __grid_constant__ Arguments a) {
  extern __shared__ uint64_t shared_keys[];
  __shared__ Counts counts;
  __shared__ uint32_t warp_sums[33];
  __shared__ Digit found;
  __shared__ uint32_t held_kept;
  const int64_t b = blockIdx.x, held = a.s.held, total = held + a.s.offered;
  uint64_t* keys = a.workspace == nullptr ? shared_keys : a.workspace + b * total;
  RandomStream stream{};
  if (a.in.noise.sample_ids != nullptr) {
    stream = random_stream(a.in.noise.seed, a.in.noise.purpose, a.in.noise.step,
                           static_cast<uint64_t>(a.in.noise.sample_ids[b]));
  }
  for (int64_t i = threadIdx.x; i < held; i += kThreads) keys[i] = key_of(a.in.held[b * held + i]);
#pragma unroll 2
  for (int64_t j = threadIdx.x; j < a.s.offered; j += kThreads) {
    keys[held + j] = key_of(offered_priority(a.in, stream, b * a.s.offered + j));
  }
  __syncthreads();
  const Threshold last =
      find_threshold(keys, total, static_cast<uint32_t>(a.s.kept), counts, warp_sums, found);
  // A thread has successive entries: their order is that of the places.
  const int64_t share = (total + kThreads - 1) / kThreads;
  const int64_t begin = min(threadIdx.x * share, total), end = min(begin + share, total);
  uint32_t above = 0, equal = 0, all;
  for (int64_t i = begin; i < end; ++i) {
    above += keys[i] > last.key;
    equal += keys[i] == last.key;
  }
  uint32_t taken = equal;  // of the ties
  if (last.wanted != kAllTies) {
    const uint32_t before = block_prefix(equal, warp_sums, all);
    taken = min(equal, last.wanted > before ? last.wanted - before : 0u);
  }
  const uint32_t first = block_prefix(above + taken, warp_sums, all);
  // visit(entry, place) of the kept ones.
  const auto for_each_kept = [&](const auto& visit) {
    uint32_t place = first, left = taken;
    for (int64_t i = begin; i < end; ++i) {
      const bool tie = keys[i] == last.key;
      if (keys[i] < last.key || (tie && left == 0)) continue;
      left -= tie;
      visit(i, place++);
    }
  };
  if (begin <= held && held < end) {
    uint32_t before = first;
    for_each_kept([&](int64_t i, uint32_t place) { before = i < held ? place + 1 : before; });
    held_kept = before;
  }
  if (threadIdx.x == 0 && held == total) held_kept = static_cast<uint32_t>(a.s.kept);
  __syncthreads();
  const int64_t accepted = a.s.kept - held_kept;
  for_each_kept([&](int64_t i, uint32_t place) {
    const int64_t to = b * a.s.kept + place;
    a.out.priority[to] = keys[i] == 0 ? CUDART_NAN : from_orderable(keys[i]);
    a.out.source[to] = i < held ? i : held + place - held_kept;
    if (i < held) return;
    const int64_t number = b * a.s.accepted + place - held_kept;
    a.out.accepted[number] = i - held;
    a.out.slot[number] = place;
  });
  for (int64_t j = accepted + threadIdx.x; j < a.s.accepted; j += kThreads) {
    a.out.accepted[b * a.s.accepted + j] = -1;
    a.out.slot[b * a.s.accepted + j] = -1;
  }
  if (threadIdx.x == 0) a.out.count[b] = accepted;
}

bool in_shared_memory(const ReservoirSizes& s) { return s.held + s.offered <= kSharedKeys; }

}  // namespace

int64_t reservoir_workspace_bytes(const ReservoirSizes& s) {
  return in_shared_memory(s) ? 0 : s.batch * (s.held + s.offered) * 8;
}

cudaError_t launch_reservoir_update(const ReservoirSizes& s, const ReservoirInputs& in,
                                    const ReservoirOutputs& out, void* workspace,
                                    cudaStream_t stream) {
  if (s.kept < 1 || s.kept > s.held + s.offered) return cudaErrorInvalidValue;
  const bool shared = in_shared_memory(s);
  const int bytes = shared ? static_cast<int>((s.held + s.offered) * 8) : 0;
  const cudaError_t status =
      cudaFuncSetAttribute(reservoir_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  if (status != cudaSuccess) return status;
  reservoir_kernel<<<static_cast<unsigned>(s.batch), kThreads, bytes, stream>>>(
      {s, in, out, shared ? nullptr : static_cast<uint64_t*>(workspace)});
  return cudaGetLastError();
}

}  // namespace dsrsq::kernels
