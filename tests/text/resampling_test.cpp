#include "dsrsq/text/resampling.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "dsrsq/core/error.h"
#include "dsrsq/core/random.h"

namespace dsrsq {
namespace {

using Values = std::vector<double>;

ResamplingOptions options(double confidence, int resamples, unsigned long seed) {
  ResamplingOptions all;
  all.confidence = confidence;
  all.resamples = resamples;
  all.seed = seed;
  return all;
}

TEST(Bootstrap, IsDeterministicInTheSeed) {
  std::vector<double> values;
  for (int i = 0; i < 50; ++i) values.push_back(i % 3 == 0);
  const Interval a = bootstrap_mean(values, options(0.95, 500, 7));
  const Interval b = bootstrap_mean(values, options(0.95, 500, 7));
  const Interval c = bootstrap_mean(values, options(0.95, 500, 8));
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_TRUE(a.low != c.low || a.high != c.high);
  EXPECT_DOUBLE_EQ(a.mean, 17.0 / 50);
}

TEST(Bootstrap, MatchesTheNormalApproximation) {
  std::vector<double> values;
  for (int i = 0; i < 400; ++i) values.push_back(i % 4 == 0);
  const Interval interval = bootstrap_mean(values, options(0.95, 4000, 1));
  const double half_width = 1.96 * std::sqrt(0.25 * 0.75 / 400);
  EXPECT_NEAR(interval.low, 0.25 - half_width, 0.006);
  EXPECT_NEAR(interval.high, 0.25 + half_width, 0.006);
  const Interval narrow = bootstrap_mean(values, options(0.5, 4000, 1));
  EXPECT_LT(narrow.high - narrow.low, 0.5 * (interval.high - interval.low));
}

TEST(Bootstrap, ConstantValuesGiveAPoint) {
  const Interval interval = bootstrap_mean({0.5, 0.5, 0.5});
  EXPECT_EQ(interval.low, 0.5);
  EXPECT_EQ(interval.mean, 0.5);
  EXPECT_EQ(interval.high, 0.5);
}

TEST(Bootstrap, RefusesWhatHasNoInterval) {
  EXPECT_THROW(bootstrap_mean({}), DataError);
  EXPECT_THROW(bootstrap_mean({1}, options(0.95, 0, 0)), ConfigError);
  EXPECT_THROW(bootstrap_mean({1}, options(1.0, 9, 0)), ConfigError);
  EXPECT_THROW(bootstrap_mean({1}, options(std::nan(""), 9, 0)), ConfigError);
}

// A segment of ten words of which the first `right` are.
BleuCounts segment(int right) {
  BleuCounts counts;
  counts.prediction_length = counts.reference_length = 10;
  counts.total = {10, 9, 8, 7};
  for (size_t n = 0; n < kBleuOrders; ++n)
    counts.matched[n] = std::max<int64_t>(0, right - static_cast<int64_t>(n));
  return counts;
}

TEST(Bootstrap, BleuIsOfSummedCounts) {
  const std::vector<BleuCounts> segments{segment(10), segment(2), segment(7), segment(0)};
  BleuCounts sum;
  for (const auto& counts : segments) sum += counts;
  const Interval interval = bootstrap_bleu(segments, options(0.95, 400, 3));
  EXPECT_DOUBLE_EQ(interval.mean, corpus_bleu(sum));
  EXPECT_LT(interval.low, interval.mean);
  EXPECT_GT(interval.high, interval.mean);
  const Interval same = bootstrap_bleu({segment(6), segment(6)});
  EXPECT_DOUBLE_EQ(same.low, corpus_bleu(segment(6)));
  EXPECT_DOUBLE_EQ(same.high, corpus_bleu(segment(6)));
}

// All 2^n sign flips, by recursion.
double brute_force_p(const Values& differences) {
  double measured = 0;
  for (const double d : differences) measured += d;
  double extreme = 0, all = 0;
  const std::function<void(size_t, double)> visit = [&](size_t i, double sum) {
    if (i == differences.size()) {
      ++all;
      extreme += std::abs(sum) > std::abs(measured) - 1e-9;
      return;
    }
    visit(i + 1, sum + differences[i]);
    visit(i + 1, sum - differences[i]);
  };
  visit(0, 0);
  return extreme / all;
}

TEST(Paired, OfExactMatchIsMcNemarsExactTest) {
  // 9 questions only this side has right, 2 only the other, 40 both: p = 2 (1 + 11 + 55) / 2^11.
  Values values(51, 1), baseline(51, 1);
  for (size_t i = 0; i < 9; ++i) baseline[i] = 0;
  for (size_t i = 9; i < 11; ++i) values[i] = 0;
  const PairedComparison result = compare_paired(values, baseline);
  EXPECT_TRUE(result.exact);
  EXPECT_NEAR(result.p, 2.0 * (1 + 11 + 55) / 2048, 1e-12);
  EXPECT_DOUBLE_EQ(result.difference.mean, 7.0 / 51);
  EXPECT_EQ(result.pairs, 51);
}

TEST(Paired, WithFewDifferencesEveryFlipIsCounted) {
  const Values values{0.9, 0.5, 0.75, 0.25, 1, 0.3, 0.6, 0.2, 0.5};
  const Values baseline{0.5, 0.25, 0.8, 0.25, 0.1, 0.2, 0.25, 0.3, 0.4};
  Values differences;
  for (size_t i = 0; i < values.size(); ++i) differences.push_back(values[i] - baseline[i]);
  const PairedComparison result = compare_paired(values, baseline);
  EXPECT_TRUE(result.exact);
  EXPECT_NEAR(result.p, brute_force_p(differences), 1e-12);
  EXPECT_NEAR(compare_paired(baseline, values).p, result.p, 1e-12) << "two-sided";
}

TEST(Paired, DrawnFlipsAgreeWithAllOfThem) {
  Values values, baseline(18, 0), differences;
  const RandomStream random(5, Purpose::kSynthetic);
  for (size_t i = 0; i < 18; ++i) values.push_back(random.normal(i) + 0.4);
  const PairedComparison result = compare_paired(values, baseline);
  EXPECT_FALSE(result.exact);
  const double p = brute_force_p(values);
  EXPECT_GT(p, 0.01);
  EXPECT_NEAR(result.p, p, 4 * std::sqrt(p * (1 - p) / 9999));
  EXPECT_EQ(compare_paired(values, baseline).p, result.p) << "deterministic";
  auto other = options(0.95, 1000, 9);
  EXPECT_NE(compare_paired(values, baseline, other).p, result.p);
}

TEST(Paired, IntervalIsThatOfTheDifferences) {
  Values values, baseline, differences;
  const RandomStream random(6, Purpose::kSynthetic);
  for (size_t i = 0; i < 60; ++i) {
    values.push_back(random.uniform(2 * i));
    baseline.push_back(random.uniform(2 * i + 1));
    differences.push_back(values[i] - baseline[i]);
  }
  const Interval paired = compare_paired(values, baseline).difference;
  const Interval direct = bootstrap_mean(differences);
  EXPECT_EQ(paired.mean, direct.mean);
  EXPECT_EQ(paired.low, direct.low);
  EXPECT_EQ(paired.high, direct.high);
}

TEST(Paired, WhereNothingDiffersPIsOne) {
  EXPECT_EQ(compare_paired({0.5, 1}, {0.5, 1}).p, 1);
  EXPECT_EQ(compare_paired_bleu({segment(3)}, {segment(3)}).p, 1);
}

TEST(Paired, BleuAgreesWithAllSwaps) {
  std::vector<BleuCounts> values, baseline;
  for (int i = 0; i < 9; ++i) {
    values.push_back(segment(4 + i % 5));
    baseline.push_back(segment(4 + (i * 3 + 2) % 4));
  }
  const auto difference = [&](uint32_t swaps) {
    BleuCounts a, b;
    for (size_t i = 0; i < values.size(); ++i) {
      a += (swaps >> i & 1) != 0 ? baseline[i] : values[i];
      b += (swaps >> i & 1) != 0 ? values[i] : baseline[i];
    }
    return corpus_bleu(a) - corpus_bleu(b);
  };
  double extreme = 0;
  for (uint32_t swaps = 0; swaps < 512; ++swaps)
    extreme += std::abs(difference(swaps)) > std::abs(difference(0)) - 1e-12;
  const double p = extreme / 512;
  const PairedComparison result = compare_paired_bleu(values, baseline);
  EXPECT_DOUBLE_EQ(result.difference.mean, difference(0));
  EXPECT_LE(result.difference.low, result.difference.mean);
  EXPECT_GE(result.difference.high, result.difference.mean);
  EXPECT_GT(p, 0.01);
  EXPECT_LT(p, 0.99);
  EXPECT_NEAR(result.p, p, 4 * std::sqrt(p * (1 - p) / 9999));
}

TEST(Paired, RefusesSidesThatAreNoPairs) {
  EXPECT_THROW(compare_paired({1, 0}, {1}), DataError);
  EXPECT_THROW(compare_paired({}, {}), DataError);
  EXPECT_THROW(compare_paired_bleu({segment(1)}, {}), DataError);
  ResamplingOptions none;
  none.permutations = 0;
  EXPECT_THROW(compare_paired({1}, {0}, none), ConfigError);
}

TEST(PercentileInterval, IsLinearBetweenOrderStatistics) {
  std::vector<double> drawn;  // 0, 1, ..., 100, not in order
  for (int i = 0; i <= 100; ++i) drawn.push_back((37 * i) % 101);
  const Interval interval = percentile_interval(7, drawn, 0.95);
  EXPECT_EQ(interval.mean, 7);
  EXPECT_NEAR(interval.low, 2.5, 1e-12);
  EXPECT_NEAR(interval.high, 97.5, 1e-12);
  EXPECT_THROW(percentile_interval(0, {}, 0.95), DataError);
  EXPECT_THROW(percentile_interval(0, {1}, 1), ConfigError);
}

TEST(BootstrapDraw, IsWhatTheBootstrapOfTheMeanDraws) {
  const std::vector<double> values = {3, 1, 4, 1, 5, 9, 2, 6};
  const ResamplingOptions options{.resamples = 200, .seed = 5};
  std::vector<double> means;
  for (int resample = 0; resample < options.resamples; ++resample) {
    const std::vector<size_t> draw = bootstrap_draw(values.size(), resample, options);
    ASSERT_EQ(draw.size(), values.size());
    double sum = 0;
    for (const size_t item : draw) sum += values.at(item);
    means.push_back(sum / 8);
  }
  const Interval expected = bootstrap_mean(values, options);
  const Interval interval = percentile_interval(expected.mean, means, options.confidence);
  EXPECT_EQ(interval.low, expected.low);
  EXPECT_EQ(interval.high, expected.high);
}

}  // namespace
}  // namespace dsrsq
