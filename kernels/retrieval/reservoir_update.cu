#include <math_constants.h>

#include "kernels/retrieval/random.h"
#include "kernels/retrieval/reservoir_update.h"
#include "kernels/retrieval/select.h"

namespace dsrsq::kernels {
namespace {

constexpr int kThreads = 1024;
constexpr int kBins = 1024;
constexpr int kDigitBits = 10;
constexpr int64_t kSharedKeys = 24576;  // 192 KiB

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

__device__ double offered_priority(const ReservoirInputs& in, const RandomStream& stream,
                                   int64_t entry) {
  if (!in.valid[entry]) return -CUDART_INF;
  const int64_t rank = in.rank[entry];
  const double weight = in.log_weight == nullptr ? 0. : in.log_weight[entry];
  const double priority = __dadd_rn(weight, __dmul_rn(static_cast<double>(rank), in.decay));
  if (in.noise.sample_ids == nullptr) return priority;
  const auto place = static_cast<uint64_t>(rank) * static_cast<uint64_t>(in.noise.layers) +
                     static_cast<uint64_t>(in.noise.layer);
  return __dadd_rn(priority, random_gumbel(stream, place));
}

// Kept entries are those above `threshold` and the first `wanted` that equal it.
struct Threshold {
  uint64_t key;
  uint32_t wanted;
};

// By digits from the top, until all elements that begin with the digits found are wanted.
__device__ Threshold find_threshold(const uint64_t* keys, int64_t total, uint32_t wanted,
                                    uint32_t* histogram, uint32_t* warp_sums, Digit& found) {
  uint64_t prefix = 0;
  int known = 64;  // bits below those decided
  while (known > 0) {
    const int bits = min(kDigitBits, known), next = known - bits;
    const uint32_t mask = (1u << bits) - 1;
    histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int64_t i = threadIdx.x; i < total; i += kThreads) {
      if (known == 64 || keys[i] >> known == prefix) {
        atomicAdd(&histogram[static_cast<uint32_t>(keys[i] >> next) & mask], 1u);
      }
    }
    __syncthreads();
    find_digit(histogram, kBins, wanted, warp_sums, found);
    prefix = prefix << bits | static_cast<uint64_t>(found.digit);
    wanted = found.wanted;
    const bool whole = histogram[found.digit] == wanted;
    known = next;
    __syncthreads();  // the histogram and `found` have been read
    if (whole) return {prefix << known, 0xffffffffu};
  }
  return {prefix, wanted};
}

__global__ void __launch_bounds__(kThreads, 1)
    reservoir_kernel(const __grid_constant__ Arguments a) {
  extern __shared__ uint64_t shared_keys[];
  __shared__ uint32_t histogram[kBins];
  __shared__ uint32_t warp_sums[33];
  __shared__ Digit found;
  const int64_t b = blockIdx.x, held = a.s.held, total = held + a.s.offered;
  uint64_t* keys = a.workspace == nullptr ? shared_keys : a.workspace + b * total;
  RandomStream stream{};
  if (a.in.noise.sample_ids != nullptr) {
    stream = random_stream(a.in.noise.seed, a.in.noise.purpose, a.in.noise.step,
                           static_cast<uint64_t>(a.in.noise.sample_ids[b]));
  }
  for (int64_t i = threadIdx.x; i < total; i += kThreads) {
    keys[i] = key_of(i < held ? a.in.held[b * held + i]
                              : offered_priority(a.in, stream, b * a.s.offered + i - held));
  }
  __syncthreads();
  const Threshold last =
      find_threshold(keys, total, static_cast<uint32_t>(a.s.kept), histogram, warp_sums, found);
  // A thread has successive entries: their order is that of the places.
  const int64_t share = (total + kThreads - 1) / kThreads;
  const int64_t begin = min(threadIdx.x * share, total), end = min(begin + share, total);
  uint32_t above = 0, equal = 0, all;
  for (int64_t i = begin; i < end; ++i) {
    above += keys[i] > last.key;
    equal += keys[i] == last.key;
  }
  const uint32_t ties_before = block_prefix(equal, warp_sums, all);
  const uint32_t taken =
      min(equal, last.wanted > ties_before ? last.wanted - ties_before : 0u);  // of own ties
  uint32_t place = block_prefix(above + taken, warp_sums, all);
  // How many of them were offered: once more, of those behind the held ones.
  uint32_t left = taken, own_offered = 0;
  for (int64_t i = begin; i < end; ++i) {
    const bool kept = keys[i] > last.key || (keys[i] == last.key && left > 0);
    if (!kept) continue;
    if (keys[i] == last.key) --left;
    own_offered += i >= held;
  }
  uint32_t taken_in;
  uint32_t number = block_prefix(own_offered, warp_sums, taken_in);
  left = taken;
  for (int64_t i = begin; i < end; ++i) {
    const bool kept = keys[i] > last.key || (keys[i] == last.key && left > 0);
    if (!kept) continue;
    if (keys[i] == last.key) --left;
    const int64_t to = b * a.s.kept + place;
    a.out.priority[to] = keys[i] == 0 ? CUDART_NAN : from_orderable(keys[i]);
    if (i < held) {
      a.out.source[to] = i;
    } else {
      a.out.source[to] = held + number;
      a.out.accepted[b * a.s.accepted + number] = i - held;
      a.out.slot[b * a.s.accepted + number] = place;
      ++number;
    }
    ++place;
  }
  for (int64_t j = taken_in + threadIdx.x; j < a.s.accepted; j += kThreads) {
    a.out.accepted[b * a.s.accepted + j] = -1;
    a.out.slot[b * a.s.accepted + j] = -1;
  }
  if (threadIdx.x == 0) a.out.count[b] = taken_in;
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
