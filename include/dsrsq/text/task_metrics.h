// Answer metrics by the SQuAD rules (Rajpurkar et al. 2016, evaluation scripts v1.1 and v2.0):
// lower-case as Python's str.lower (all of Unicode), delete ASCII punctuation, then the articles a,
// an, the, then collapse white space. 0 to 1.
#pragma once

#include <string>
#include <vector>

namespace dsrsq {

std::string normalize_answer(const std::string& text);
// The maximum over the references, EM and F1 separately. No reference (an unanswerable question): 1
// where the prediction normalises to nothing. Where either side of F1 has no word left, F1 is 1 if
// neither has, else 0 (v2.0).
double exact_match(const std::string& prediction, const std::vector<std::string>& references);
double token_f1(const std::string& prediction, const std::vector<std::string>& references);

// Percentile bootstrap of the mean over items, `resamples` draws, deterministic in `seed`. Throws
// DataError where there are no values, ConfigError where confidence is not inside (0, 1) or
// resamples is below 1.
struct Interval {
  double mean = 0, low = 0, high = 0;
};
Interval bootstrap_mean(const std::vector<double>& values, double confidence = 0.95,
                        int resamples = 1000, unsigned long seed = 0);

}  // namespace dsrsq
