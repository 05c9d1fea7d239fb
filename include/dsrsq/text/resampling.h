// How sure a measured difference is: percentile bootstrap intervals and paired randomisation tests
// over questions (Efron and Tibshirani 1993; Koehn 2004 for BLEU). Everything is deterministic in
// `seed`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "dsrsq/text/bleu.h"

namespace dsrsq {

struct ResamplingOptions {
  double confidence = 0.95;  // inside (0, 1), else ConfigError
  int resamples = 1000;      // of the bootstrap, at least 1
  int permutations = 9999;   // of a test that is not exact, at least 1
  unsigned long seed = 0;
};

// `mean`: of the values themselves, not of the resampled means; for BLEU the corpus's.
struct Interval {
  double mean = 0, low = 0, high = 0;
};

// Percentile bootstrap of the mean over items; quantiles are linear between order statistics, as
// numpy.quantile. Throws DataError where there are no values, ConfigError for a bad option.
Interval bootstrap_mean(const std::vector<double>& values, const ResamplingOptions& options = {});
// What they are made of, for statistics that are no mean. The items that the bootstrap draws the
// `resample`-th time, as many as there are.
std::vector<size_t> bootstrap_draw(size_t items, int resample,
                                   const ResamplingOptions& options = {});
// The percentile interval of the statistic over all draws; `mean` is the value given. Throws
// DataError where there are none, ConfigError for a bad confidence.
Interval percentile_interval(double value, std::vector<double> drawn, double confidence);
// The same of BLEU over resampled corpora: counts are summed over each draw.
Interval bootstrap_bleu(const std::vector<BleuCounts>& segments,
                        const ResamplingOptions& options = {});

// `values` less `baseline`, item by item.
struct PairedComparison {
  Interval difference;  // bootstrap over items, both sides of an item drawn together
  // Two-sided, of the hypothesis that the sides of every pair may be swapped: the share of sign
  // flips whose absolute mean difference is at least the measured one. 1 where nothing differs. It
  // is not corrected for several comparisons.
  double p = 1;
  // Every sign flip was counted: where all differences that are not 0 have one size (exact match:
  // then it is McNemar's exact test, a binomial), or where there are at most 16 of them. Otherwise
  // p = (1 + h) / (1 + permutations), h of the drawn flips being as extreme.
  bool exact = false;
  int64_t pairs = 0;
};

// Throws DataError where the sides have different lengths or none, ConfigError for a bad option.
PairedComparison compare_paired(const std::vector<double>& values,
                                const std::vector<double>& baseline,
                                const ResamplingOptions& options = {});
// BLEU of two corpora over the same segments: paired bootstrap, approximate randomisation of which
// side a segment's answer belongs to (sacrebleu's --paired-bs and --paired-ar; never exact).
PairedComparison compare_paired_bleu(const std::vector<BleuCounts>& values,
                                     const std::vector<BleuCounts>& baseline,
                                     const ResamplingOptions& options = {});

}  // namespace dsrsq
