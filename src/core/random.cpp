#include "dsrsq/core/random.h"

#include <bit>
#include <cmath>
#include <stdexcept>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

__extension__ typedef unsigned __int128 uint128;

constexpr double kTwoPi = 6.283185307179586476925286766559;

// The finaliser of SplitMix64: a bijection of 64-bit words, each output bit depends on each input
// bit.
uint64_t mix64(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ULL;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebULL;
  x ^= x >> 31;
  return x;
}

// A chain of bijections: two tuples that differ in one word always give different lanes; others
// collide as random 64-bit words would. Two lanes with different constants make 128 bits of stream
// identity.
uint64_t lane(uint64_t constant, uint64_t seed, uint64_t purpose, uint64_t step, uint64_t sample) {
  uint64_t h = mix64(seed + constant);
  h = mix64((h ^ purpose) + constant);
  h = mix64((h ^ step) + constant);
  h = mix64((h ^ sample) + constant);
  return h;
}

uint64_t join(uint32_t high, uint32_t low) { return (uint64_t{high} << 32) | low; }

// 52 bits and a half, so that neither 0 nor 1 can come out: with 53 bits the largest value would
// round to 1.
double to_unit(uint64_t word) { return (static_cast<double>(word >> 12) + 0.5) * 0x1p-52; }

// log of a normal positive number to two units in the last place: log m = 2 artanh((m - 1) / (m +
// 1)), m within a factor of sqrt 2 of 1. Only additions, products and divisions, none of them fused
// (src/CMakeLists.txt): the same bits on every machine, and on a GPU (kernels/retrieval/random.h),
// so that what is decided by noise is decided alike.
double portable_log(double x) {
  const auto bits = std::bit_cast<uint64_t>(x);
  int exponent = static_cast<int>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0xfffffffffffffULL) | 0x3ff0000000000000ULL);
  if (m > 1.4142135623730951) {
    m *= 0.5;
    ++exponent;
  }
  const double f = (m - 1) / (m + 1);
  const double square = f * f;
  double series = 1.0 / 23;
  for (int odd = 21; odd >= 3; odd -= 2) series = series * square + 1.0 / odd;
  const double twice = 2 * f;
  // log 2 in two parts, of which the first times an exponent is exact.
  const double rest = twice * (square * series) + exponent * 0x1.473de6af278edp-34;
  return exponent * 0x1.62e42fefp-1 + (twice + rest);
}

}  // namespace

void philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
  uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
  uint32_t k0 = key[0], k1 = key[1];
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53U} * c0;
    const uint64_t product1 = uint64_t{0xCD9E8D57U} * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += 0x9E3779B9U;
    k1 += 0xBB67AE85U;
  }
  out[0] = c0;
  out[1] = c1;
  out[2] = c2;
  out[3] = c3;
}

RandomStream::RandomStream(uint64_t seed, Purpose purpose, uint64_t step, uint64_t sample) {
  const uint64_t purpose_word = static_cast<uint64_t>(purpose);
  const uint64_t key = lane(0x9e3779b97f4a7c15ULL, seed, purpose_word, step, sample);
  const uint64_t upper = lane(0xd1b54a32d192ed03ULL, seed, purpose_word, step, sample);
  key_[0] = static_cast<uint32_t>(key);
  key_[1] = static_cast<uint32_t>(key >> 32);
  counter_[0] = 0;
  counter_[1] = 0;
  counter_[2] = static_cast<uint32_t>(upper);
  counter_[3] = static_cast<uint32_t>(upper >> 32);
}

void RandomStream::block(uint64_t position, uint32_t out[4]) const {
  const uint32_t counter[4] = {static_cast<uint32_t>(position),
                               static_cast<uint32_t>(position >> 32), counter_[2], counter_[3]};
  philox4x32(counter, key_, out);
}

uint32_t RandomStream::bits(uint64_t position) const {
  uint32_t words[4];
  block(position, words);
  return words[0];
}

double RandomStream::uniform(uint64_t position) const {
  uint32_t words[4];
  block(position, words);
  return to_unit(join(words[0], words[1]));
}

double RandomStream::normal(uint64_t position) const {
  uint32_t words[4];
  block(position, words);
  const double radius = std::sqrt(-2.0 * std::log(to_unit(join(words[0], words[1]))));
  return radius * std::cos(kTwoPi * to_unit(join(words[2], words[3])));
}

double RandomStream::gumbel(uint64_t position) const {
  return -portable_log(-portable_log(uniform(position)));
}

uint64_t RandomStream::below(uint64_t position, uint64_t bound) const {
  if (bound == 0) throw std::invalid_argument("RandomStream::below: bound is 0");
  uint32_t words[4];
  block(position, words);
  return static_cast<uint64_t>((uint128{join(words[0], words[1])} * bound) >> 64);
}

uint64_t permute_index(uint64_t seed, uint64_t epoch, uint64_t index, uint64_t size) {
  if (index >= size) {
    throw std::out_of_range(
        concat("permute_index: index ", index, " is not below the size ", size));
  }
  int half = 1;  // bits of one half; the network permutes [0, 4^half)
  while (half < 32 && (uint64_t{1} << (2 * half)) < size) ++half;
  const uint64_t mask = (uint64_t{1} << half) - 1;
  // Four rounds mix a large domain. In a small one a round function has few values, and the orders
  // come out uneven.
  const uint64_t rounds = half < 8 ? 12 : 4;
  uint64_t keys[12];
  for (uint64_t round = 0; round < rounds; ++round) {
    keys[round] =
        lane(0x8cb92ba72f3d8dd7ULL, seed, static_cast<uint64_t>(Purpose::kDataOrder), epoch, round);
  }
  // Cycle walking: a value outside [0, size) is sent on. Less than 4 turns are expected, as 4^half
  // < 4 size.
  uint64_t value = index;
  do {
    uint64_t left = value >> half;
    uint64_t right = value & mask;
    for (uint64_t round = 0; round < rounds; ++round) {
      const uint64_t next = left ^ ((mix64(right + keys[round]) >> 17) & mask);
      left = right;
      right = next;
    }
    value = (left << half) | right;
  } while (value >= size);
  return value;
}

uint64_t stable_hash(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : text) {
    hash ^= static_cast<unsigned char>(c);
    hash *= 0x100000001b3ULL;
  }
  return mix64(hash);
}

}  // namespace dsrsq
