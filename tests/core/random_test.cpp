#include "dsrsq/core/random.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <stdexcept>
#include <vector>

namespace dsrsq {
namespace {

using Words = std::array<uint32_t, 4>;

Words philox(Words counter, std::array<uint32_t, 2> key) {
  Words out;
  philox4x32(counter.data(), key.data(), out.data());
  return out;
}

TEST(Random, PhiloxKnownAnswers) {  // kat_vectors of Random123
  constexpr uint32_t kOnes = 0xffffffffU;
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(philox({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

// A change of these numbers changes every run: it must be meant.
TEST(Random, NumbersAreFixedForEver) {
  const RandomStream stream(17, Purpose::kPolicy, 3, 5);
  EXPECT_EQ(stream.bits(0), RandomStream(17, Purpose::kPolicy, 3, 5).bits(0));
  EXPECT_EQ(stream.bits(0), 1026926563U);
  EXPECT_EQ(stream.bits(uint64_t{1} << 40), 643254056U);
  EXPECT_EQ(stable_hash(""), 17665956581633026203ULL);
  EXPECT_EQ(stable_hash("layers.0.weight"), 14152065214062983513ULL);
  EXPECT_EQ(permute_index(1, 2, 3, 1000), 691u);
}

TEST(Random, OrderOfDrawsDoesNotMatter) {
  const RandomStream stream(1, Purpose::kReservoir, 9, 9);
  std::vector<double> forward;
  for (uint64_t i = 0; i < 100; ++i) forward.push_back(stream.gumbel(i));
  for (uint64_t i = 100; i-- > 0;) EXPECT_EQ(stream.gumbel(i), forward[i]);
}

TEST(Random, EveryCoordinateMatters) {
  std::set<uint64_t> seen;
  size_t drawn = 0;
  const auto draw = [&](uint64_t seed, uint32_t purpose, uint64_t step, uint64_t sample,
                        uint64_t position) {
    const RandomStream stream(seed, static_cast<Purpose>(purpose), step, sample);
    // Two words of distinct positions: 64 bits, where chance collisions of some thousand draws do
    // not happen.
    seen.insert((uint64_t{stream.bits(position)} << 32) |
                stream.bits(position + (uint64_t{1} << 50)));
    ++drawn;
  };
  for (uint64_t seed : {0ULL, 1ULL, 1ULL << 32, ~0ULL})
    for (uint32_t purpose : {1U, 2U, 3U})
      for (uint64_t step : {0ULL, 1ULL, 2ULL, 1ULL << 32, ~0ULL})
        for (uint64_t sample : {0ULL, 1ULL, 2ULL, 1ULL << 32, ~0ULL})
          for (uint64_t position : {0ULL, 1ULL, 4ULL, 1ULL << 32, 1ULL << 40})
            draw(seed, purpose, step, sample, position);
  EXPECT_EQ(seen.size(), drawn);
}

struct Moments {
  double mean = 0, variance = 0, lag = 0;  // lag: correlation of neighbours
};

template <typename Draw>
Moments moments(const Draw& draw, size_t count) {
  std::vector<double> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = draw(i);
  Moments m;
  for (const double v : values) m.mean += v / static_cast<double>(count);
  for (size_t i = 0; i < count; ++i) {
    m.variance += (values[i] - m.mean) * (values[i] - m.mean) / static_cast<double>(count);
    if (i > 0)
      m.lag += (values[i] - m.mean) * (values[i - 1] - m.mean) / static_cast<double>(count);
  }
  m.lag /= m.variance;
  return m;
}

TEST(Random, DistributionsHaveTheirMoments) {
  const RandomStream stream(3, Purpose::kSynthetic);
  constexpr size_t kCount = 200000;  // standard error of a mean: sigma / 447
  const Moments uniform = moments([&](size_t i) { return stream.uniform(i); }, kCount);
  EXPECT_NEAR(uniform.mean, 0.5, 0.003);
  EXPECT_NEAR(uniform.variance, 1.0 / 12, 0.001);
  EXPECT_NEAR(uniform.lag, 0, 0.01);
  const Moments normal = moments([&](size_t i) { return stream.normal(i); }, kCount);
  EXPECT_NEAR(normal.mean, 0, 0.01);
  EXPECT_NEAR(normal.variance, 1, 0.015);
  EXPECT_NEAR(normal.lag, 0, 0.01);
  const Moments gumbel = moments([&](size_t i) { return stream.gumbel(i); }, kCount);
  EXPECT_NEAR(gumbel.mean, 0.57721566, 0.013);
  EXPECT_NEAR(gumbel.variance, 1.644934, 0.04);
  EXPECT_NEAR(gumbel.lag, 0, 0.01);
  // Over steps and over samples at one position: what the seeds of a batch look like.
  const auto by_step = [](size_t i) { return RandomStream(3, Purpose::kPolicy, i, 0).normal(7); };
  const auto by_sample = [](size_t i) { return RandomStream(3, Purpose::kPolicy, 0, i).normal(7); };
  for (const Moments& m : {moments(by_step, kCount), moments(by_sample, kCount)}) {
    EXPECT_NEAR(m.mean, 0, 0.01);
    EXPECT_NEAR(m.variance, 1, 0.015);
    EXPECT_NEAR(m.lag, 0, 0.01);
  }
}

TEST(Random, UniformIsOpenAndNormalHasTails) {
  const RandomStream stream(4, Purpose::kBootstrap);
  size_t beyond_two = 0;
  for (uint64_t i = 0; i < 100000; ++i) {
    const double u = stream.uniform(i);
    ASSERT_TRUE(u > 0 && u < 1);
    ASSERT_TRUE(std::isfinite(stream.gumbel(i)));
    if (std::abs(stream.normal(i)) > 2) ++beyond_two;
  }
  EXPECT_NEAR(static_cast<double>(beyond_two), 4550, 300);
}

TEST(Random, BelowIsEvenAndBounded) {
  const RandomStream stream(5, Purpose::kSelection);
  std::array<int, 7> counts{};
  for (uint64_t i = 0; i < 70000; ++i) ++counts.at(stream.below(i, 7));
  for (const int count : counts) EXPECT_NEAR(count, 10000, 400);
  EXPECT_EQ(stream.below(0, 1), 0u);
  uint64_t largest = 0;
  for (uint64_t i = 0; i < 1000; ++i) largest = std::max(largest, stream.below(i, ~uint64_t{0}));
  EXPECT_GT(largest, uint64_t{1} << 63);
  EXPECT_THROW(stream.below(0, 0), std::invalid_argument);
}

TEST(Random, PermutationIsABijection) {
  for (const uint64_t size : {1, 2, 3, 4, 5, 7, 16, 17, 100, 255, 256, 257, 1000, 4097}) {
    for (uint64_t epoch = 0; epoch < 3; ++epoch) {
      std::vector<bool> seen(size, false);
      for (uint64_t i = 0; i < size; ++i) {
        const uint64_t at = permute_index(11, epoch, i, size);
        ASSERT_LT(at, size);
        ASSERT_FALSE(seen[at]) << "size " << size << ", index " << i;
        seen[at] = true;
      }
    }
  }
  EXPECT_THROW(permute_index(1, 1, 5, 5), std::out_of_range);
  EXPECT_THROW(permute_index(1, 1, 0, 0), std::out_of_range);
  EXPECT_LT(permute_index(1, 1, uint64_t{1} << 63, ~uint64_t{0}), ~uint64_t{0});
}

TEST(Random, PermutationIsEvenOverSeedsAndEpochs) {
  constexpr uint64_t kSize = 5;
  int counts[kSize][kSize] = {};
  int pairs[kSize][kSize] = {};  // where 0 and 1 go together
  for (uint64_t seed = 0; seed < 100; ++seed) {
    for (uint64_t epoch = 0; epoch < 200; ++epoch) {
      for (uint64_t i = 0; i < kSize; ++i) ++counts[i][permute_index(seed, epoch, i, kSize)];
      ++pairs[permute_index(seed, epoch, 0, kSize)][permute_index(seed, epoch, 1, kSize)];
    }
  }
  for (uint64_t i = 0; i < kSize; ++i) {
    for (uint64_t j = 0; j < kSize; ++j) {
      EXPECT_NEAR(counts[i][j], 4000, 400);
      EXPECT_NEAR(pairs[i][j], i == j ? 0 : 1000, 250);
    }
  }
}

TEST(Random, EpochsDiffer) {
  size_t fixed = 0, same = 0;
  for (uint64_t i = 0; i < 10000; ++i) {
    if (permute_index(1, 0, i, 10000) == i) ++fixed;
    if (permute_index(1, 0, i, 10000) == permute_index(1, 1, i, 10000)) ++same;
  }
  EXPECT_LT(fixed, 10u);  // one is expected of a random permutation
  EXPECT_LT(same, 10u);
}

TEST(Random, HashSpreads) {
  std::array<int, 10> counts{};
  for (int i = 0; i < 50000; ++i) ++counts.at(stable_hash("document-" + std::to_string(i)) % 10);
  for (const int count : counts) EXPECT_NEAR(count, 5000, 350);
  EXPECT_NE(stable_hash(std::string_view("a\0", 2)), stable_hash("a"));
}

}  // namespace
}  // namespace dsrsq
