#include "dsrsq/text/resampling.h"

#include <algorithm>
#include <cmath>

#include "dsrsq/core/error.h"
#include "dsrsq/core/random.h"

namespace dsrsq {
namespace {

// Streams of one seed: draws of items, and of signs.
constexpr uint64_t kItems = 0;
constexpr uint64_t kSigns = 1;
constexpr size_t kSignsAWord = 32;
constexpr size_t kExactFlips = 16;  // 2^16 sums at most

void check(size_t items, const ResamplingOptions& options, const char* where) {
  if (items == 0) throw DataError(concat(where, ": no values; evaluate at least one question"));
  for (const auto& [name, count] :
       {std::pair{"resamples", options.resamples}, std::pair{"permutations", options.permutations}})
    if (count < 1)
      throw ConfigError(concat(where, ": ", name, " is ", count, ", expected at least 1"));
  if (!(options.confidence > 0 && options.confidence < 1)) {
    throw ConfigError(
        concat(where, ": confidence is ", options.confidence, ", expected above 0 and below 1"));
  }
}

void check_pairs(size_t values, size_t baseline, const ResamplingOptions& options,
                 const char* where) {
  if (values != baseline)
    throw DataError(concat(where, ": ", values, " values against ", baseline,
                           " of the baseline; a pair needs both"));
  check(values, options, where);
}

// Linear between order statistics, as numpy.quantile.
double quantile(const std::vector<double>& sorted, double q) {
  const double at = q * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (at - static_cast<double>(below)) * (sorted[above] - sorted[below]);
}

// `statistic(draw)` of items chosen by `draw(i)`, i in [0, items).
template <typename Statistic>
Interval bootstrap(size_t items, double value, const ResamplingOptions& options,
                   const Statistic& statistic) {
  std::vector<double> drawn;
  drawn.reserve(static_cast<size_t>(options.resamples));
  for (int resample = 0; resample < options.resamples; ++resample) {
    const RandomStream random(options.seed, Purpose::kBootstrap, static_cast<uint64_t>(resample),
                              kItems);
    drawn.push_back(statistic([&](size_t i) { return random.below(i, items); }));
  }
  return percentile_interval(value, std::move(drawn), options.confidence);
}

// p of a test by drawn signs: `is_extreme(flips)` where `flips(i)` says whether pair i is swapped.
template <typename IsExtreme>
double drawn_p(const ResamplingOptions& options, const IsExtreme& is_extreme) {
  int64_t extreme = 0;
  for (int permutation = 0; permutation < options.permutations; ++permutation) {
    const RandomStream random(options.seed, Purpose::kBootstrap, static_cast<uint64_t>(permutation),
                              kSigns);
    uint32_t bits = 0;
    extreme += is_extreme([&](size_t i) {  // asked in order
      if (i % kSignsAWord == 0) bits = random.bits(i / kSignsAWord);
      return (bits >> (i % kSignsAWord) & 1) != 0;
    });
  }
  return static_cast<double>(1 + extreme) / static_cast<double>(1 + options.permutations);
}

// P(|X - n/2| >= |k - n/2|), X binomial(n, 1/2).
double binomial_p(int64_t n, int64_t k) {
  const int64_t smaller = std::min(k, n - k);
  double tail = 0;
  for (int64_t i = 0; i <= smaller; ++i) {
    const double x = static_cast<double>(i), size = static_cast<double>(n);
    tail += std::exp(std::lgamma(size + 1) - std::lgamma(x + 1) - std::lgamma(size - x + 1) -
                     size * std::log(2.0));
  }
  return std::min(1.0, 2 * tail);
}

// Sums of the same numbers in another order differ by rounding: equal is as extreme.
double threshold_of(const std::vector<double>& differences) {
  double sum = 0, size = 0;
  for (const double d : differences) {
    sum += d;
    size += std::abs(d);
  }
  return std::abs(sum) - 1e-12 * size;
}

double enumerated_p(const std::vector<double>& differences) {
  const double threshold = threshold_of(differences);
  const uint32_t flips = uint32_t{1} << differences.size();
  int64_t extreme = 0;
  for (uint32_t flip = 0; flip < flips; ++flip) {
    double sum = 0;
    for (size_t i = 0; i < differences.size(); ++i)
      sum += (flip >> i & 1) != 0 ? -differences[i] : differences[i];
    extreme += std::abs(sum) >= threshold;
  }
  return static_cast<double>(extreme) / static_cast<double>(flips);
}

}  // namespace

std::vector<size_t> bootstrap_draw(size_t items, int resample, const ResamplingOptions& options) {
  const RandomStream random(options.seed, Purpose::kBootstrap, static_cast<uint64_t>(resample),
                            kItems);
  std::vector<size_t> draw;
  for (size_t i = 0; i < items; ++i) draw.push_back(random.below(i, items));
  return draw;
}

Interval percentile_interval(double value, std::vector<double> drawn, double confidence) {
  ResamplingOptions options;
  options.confidence = confidence;
  check(drawn.size(), options, "percentile_interval");
  std::sort(drawn.begin(), drawn.end());
  const double tail = (1 - confidence) / 2;
  return {value, quantile(drawn, tail), quantile(drawn, 1 - tail)};
}

Interval bootstrap_mean(const std::vector<double>& values, const ResamplingOptions& options) {
  check(values.size(), options, "bootstrap_mean");
  double total = 0;
  for (const double value : values) total += value;
  const auto size = static_cast<double>(values.size());
  return bootstrap(values.size(), total / size, options, [&](const auto& draw) {
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) sum += values[draw(i)];
    return sum / size;
  });
}

Interval bootstrap_bleu(const std::vector<BleuCounts>& segments, const ResamplingOptions& options) {
  check(segments.size(), options, "bootstrap_bleu");
  BleuCounts total;
  for (const BleuCounts& counts : segments) total += counts;
  return bootstrap(segments.size(), corpus_bleu(total), options, [&](const auto& draw) {
    BleuCounts sum;
    for (size_t i = 0; i < segments.size(); ++i) sum += segments[draw(i)];
    return corpus_bleu(sum);
  });
}

PairedComparison compare_paired(const std::vector<double>& values,
                                const std::vector<double>& baseline,
                                const ResamplingOptions& options) {
  check_pairs(values.size(), baseline.size(), options, "compare_paired");
  std::vector<double> all, differences;
  int64_t positive = 0;
  bool one_size = true;
  for (size_t i = 0; i < values.size(); ++i) {
    const double d = values[i] - baseline[i];
    all.push_back(d);
    if (d == 0) continue;
    differences.push_back(d);
    positive += d > 0;
    one_size = one_size && std::abs(d) == std::abs(differences[0]);
  }
  PairedComparison result;
  result.pairs = static_cast<int64_t>(values.size());
  result.difference = bootstrap_mean(all, options);
  result.exact = one_size || differences.size() <= kExactFlips;
  if (one_size) {
    result.p = binomial_p(static_cast<int64_t>(differences.size()), positive);
  } else if (result.exact) {
    result.p = enumerated_p(differences);
  } else {
    const double threshold = threshold_of(differences);
    result.p = drawn_p(options, [&](const auto& flipped) {
      double sum = 0;
      for (size_t i = 0; i < differences.size(); ++i)
        sum += flipped(i) ? -differences[i] : differences[i];
      return std::abs(sum) >= threshold;
    });
  }
  return result;
}

PairedComparison compare_paired_bleu(const std::vector<BleuCounts>& values,
                                     const std::vector<BleuCounts>& baseline,
                                     const ResamplingOptions& options) {
  check_pairs(values.size(), baseline.size(), options, "compare_paired_bleu");
  const auto difference = [&](const auto& left, const auto& right) {
    BleuCounts a, b;
    for (size_t i = 0; i < values.size(); ++i) {
      a += left(i);
      b += right(i);
    }
    return corpus_bleu(a) - corpus_bleu(b);
  };
  const double measured =
      difference([&](size_t i) { return values[i]; }, [&](size_t i) { return baseline[i]; });
  PairedComparison result;
  result.pairs = static_cast<int64_t>(values.size());
  result.difference = bootstrap(values.size(), measured, options, [&](const auto& draw) {
    return difference([&](size_t i) { return values[draw(i)]; },
                      [&](size_t i) { return baseline[draw(i)]; });
  });
  result.p = drawn_p(options, [&](const auto& flipped) {
    BleuCounts sides[2];
    for (size_t i = 0; i < values.size(); ++i) {
      const bool swap = flipped(i);
      sides[swap] += values[i];
      sides[!swap] += baseline[i];
    }
    return std::abs(corpus_bleu(sides[0]) - corpus_bleu(sides[1])) >= std::abs(measured) - 1e-12;
  });
  return result;
}

}  // namespace dsrsq
