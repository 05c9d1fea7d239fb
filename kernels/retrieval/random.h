// The counter-based random numbers of include/dsrsq/core/random.h on a device, bit for bit: the
// same Philox4x32-10 of (seed, purpose, step, sample, position), and a Gumbel number from it by the
// same IEEE operations in the same order. None may be fused: hence the intrinsics.
#pragma once

#include <cstdint>

namespace dsrsq::kernels {

struct RandomStream {
  uint32_t key[2];
  uint32_t counter[2];  // the upper half; the lower is the position
};

__device__ __forceinline__ uint64_t mix64(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebULL;
  return x ^ x >> 31;
}

__device__ __forceinline__ uint64_t stream_lane(uint64_t constant, uint64_t seed, uint64_t purpose,
                                                uint64_t step, uint64_t sample) {
  uint64_t h = mix64(seed + constant);
  h = mix64((h ^ purpose) + constant);
  h = mix64((h ^ step) + constant);
  return mix64((h ^ sample) + constant);
}

__device__ __forceinline__ RandomStream random_stream(uint64_t seed, uint64_t purpose,
                                                      uint64_t step, uint64_t sample) {
  const uint64_t key = stream_lane(0x9e3779b97f4a7c15ULL, seed, purpose, step, sample);
  const uint64_t upper = stream_lane(0xd1b54a32d192ed03ULL, seed, purpose, step, sample);
  return {{static_cast<uint32_t>(key), static_cast<uint32_t>(key >> 32)},
          {static_cast<uint32_t>(upper), static_cast<uint32_t>(upper >> 32)}};
}

// In (0, 1): the first two of the position's four words.
__device__ __forceinline__ double random_uniform(const RandomStream& stream, uint64_t position) {
  uint32_t c0 = static_cast<uint32_t>(position), c1 = static_cast<uint32_t>(position >> 32);
  uint32_t c2 = stream.counter[0], c3 = stream.counter[1];
  uint32_t k0 = stream.key[0], k1 = stream.key[1];
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const uint32_t high0 = __umulhi(0xD2511F53U, c0), low0 = 0xD2511F53U * c0;
    const uint32_t high1 = __umulhi(0xCD9E8D57U, c2), low1 = 0xCD9E8D57U * c2;
    c0 = high1 ^ c1 ^ k0;
    c1 = low1;
    c2 = high0 ^ c3 ^ k1;
    c3 = low0;
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  const uint64_t word = uint64_t{c0} << 32 | c1;
  return __dmul_rn(__dadd_rn(static_cast<double>(word >> 12), 0.5), 0x1p-52);
}

// log of a normal positive number; portable_log of core/random.cpp.
__device__ __forceinline__ double portable_log(double x) {
  const uint64_t bits = static_cast<uint64_t>(__double_as_longlong(x));
  int exponent = static_cast<int>(bits >> 52) - 1023;
  double m = __longlong_as_double(
      static_cast<long long>((bits & 0xfffffffffffffULL) | 0x3ff0000000000000ULL));
  if (m > 1.4142135623730951) {
    m = __dmul_rn(m, 0.5);
    ++exponent;
  }
  const double f = __ddiv_rn(__dadd_rn(m, -1.0), __dadd_rn(m, 1.0));
  const double square = __dmul_rn(f, f);
  double series = 1.0 / 23;
#pragma unroll
  for (int odd = 21; odd >= 3; odd -= 2) {
    series = __dadd_rn(__dmul_rn(series, square), 1.0 / odd);
  }
  const double twice = __dmul_rn(2.0, f);
  const double rest = __dadd_rn(__dmul_rn(twice, __dmul_rn(square, series)),
                                __dmul_rn(exponent, 0x1.473de6af278edp-34));
  return __dadd_rn(__dmul_rn(exponent, 0x1.62e42fefp-1), __dadd_rn(twice, rest));
}

__device__ __forceinline__ double random_gumbel(const RandomStream& stream, uint64_t position) {
  return -portable_log(-portable_log(random_uniform(stream, position)));
}

}  // namespace dsrsq::kernels
