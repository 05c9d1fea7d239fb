// What the kernels that select share: orders of numbers as unsigned integers, scans over a block.
#pragma once

#include <cstdint>

namespace dsrsq::kernels {

// Unsigned integers in the order of the numbers; 0 is below any of them but a NaN.
__device__ __forceinline__ uint32_t orderable(float x) {
  const uint32_t bits = __float_as_uint(x);
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
__device__ __forceinline__ float from_orderable(uint32_t key) {
  return __uint_as_float(key >> 31 ? key ^ 0x80000000u : ~key);
}
__device__ __forceinline__ uint64_t orderable(double x) {
  const uint64_t bits = static_cast<uint64_t>(__double_as_longlong(x));
  return bits ^ (bits >> 63 ? ~uint64_t{0} : uint64_t{1} << 63);
}
__device__ __forceinline__ double from_orderable(uint64_t key) {
  const uint64_t top = uint64_t{1} << 63;
  return __longlong_as_double(static_cast<long long>(key & top ? key ^ top : ~key));
}

// Sum of `value` over the threads before this one, and over all; `warp_sums`: 33 words of shared
// memory. All threads of a block of whole warps, at most 32 of them.
__device__ inline uint32_t block_prefix(uint32_t value, uint32_t* warp_sums, uint32_t& total) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint32_t sum = value;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const uint32_t other = __shfl_up_sync(0xffffffffu, sum, offset);
    if (lane >= offset) sum += other;
  }
  __syncthreads();  // what an earlier call left has been read
  if (lane == 31) warp_sums[warp] = sum;
  __syncthreads();
  if (warp == 0) {
    const uint32_t own = lane < static_cast<int>(blockDim.x) / 32 ? warp_sums[lane] : 0;
    uint32_t before = own;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const uint32_t other = __shfl_up_sync(0xffffffffu, before, offset);
      if (lane >= offset) before += other;
    }
    warp_sums[lane] = before - own;
    if (lane == 31) warp_sums[32] = before;
  }
  __syncthreads();
  total = warp_sums[32];
  return warp_sums[warp] + sum - value;
}

// Where the wanted-th largest of the counted elements lies. digit -1: they are fewer.
struct Digit {
  int digit;
  uint32_t wanted;  // of the elements of this digit
  uint32_t count;   // the elements of this digit
};

// A thread's counts of a histogram by digit, from its highest digit down.
constexpr int kMostBins = 4;
struct OwnBins {
  int highest;
  uint32_t count[kMostBins];
};

// `bins`: a multiple of the block's threads, at most kMostBins of them each.
__device__ __forceinline__ OwnBins load_bins(const uint32_t* histogram, int bins) {
  const int each = bins / static_cast<int>(blockDim.x);
  OwnBins own;
  own.highest = bins - 1 - static_cast<int>(threadIdx.x) * each;
#pragma unroll
  for (int i = 0; i < kMostBins; ++i) own.count[i] = i < each ? histogram[own.highest - i] : 0;
  return own;
}

// wanted at least 1. The result lies in shared memory, for all threads.
__device__ inline void find_digit(const OwnBins& own, uint32_t wanted, uint32_t* warp_sums,
                                  Digit& found) {
  if (threadIdx.x == 0) found = {-1, wanted, 0};
  uint32_t sum = 0, total;
#pragma unroll
  for (int i = 0; i < kMostBins; ++i) sum += own.count[i];
  uint32_t above = block_prefix(sum, warp_sums, total);  // also: `found` is set
  if (above < wanted && wanted <= above + sum) {
#pragma unroll
    for (int i = 0; i < kMostBins; ++i) {
      if (above < wanted && wanted <= above + own.count[i]) {
        found = {own.highest - i, wanted - above, own.count[i]};
      }
      above += own.count[i];
    }
  }
  __syncthreads();
}

}  // namespace dsrsq::kernels
