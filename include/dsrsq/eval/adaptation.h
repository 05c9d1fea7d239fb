// How a method keeps up with a text that goes on and changes (D20): retention, consistency,
// adaptation, staleness, from what it answered to the probes of a fact stream
// (data/fact_stream.h). No torch: answers made anywhere can be scored.
//
// Intervals are percentile bootstraps over facts, all probes of a fact drawn together, since they
// are not independent of each other.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dsrsq/eval/report.h"
#include "dsrsq/text/resampling.h"

namespace dsrsq {

// One probe as it was answered.
struct ProbeAnswer {
  int64_t fact = 0;
  int64_t update = -1;    // which value of the fact is true: 0 as first stated; -1: never stated
  int64_t lag = -1;       // tokens since the last statement
  bool right = false;     // the answer is that value (of a control: what it would be)
  bool stale = false;     // the answer is a value that the fact had before
  bool foresees = false;  // the answer is the value that the fact's next update brings
  std::vector<double> candidates;  // probability of each candidate answer, the same candidates at
                                   // all probes of a fact; sums to 1
  int64_t attended = 0, available = 0;  // distinct tokens of the text that were read, and there
};

// In nats, from 0 (equal) to ln 2. Throws DataError where the sizes differ.
double jensen_shannon_divergence(const std::vector<double>& p, const std::vector<double>& q);

// Kaplan and Meier 1958. `time` until the event, or until it was last seen not to have happened.
struct Duration {
  double time = 0;
  bool happened = false;  // false: censored
};
struct SurvivalStep {
  double time = 0;
  double survival = 1;  // share without the event after this time
  int64_t at_risk = 0;  // just before it
};
// A step at each time of an event; a censored one at that time still counts as at risk.
std::vector<SurvivalStep> kaplan_meier(std::vector<Duration> durations);
// The first time at which at most half survive; empty where more than half do to the end, or to
// where fewer than `least_at_risk` are left: the tail of a curve is of a few.
std::optional<double> median_survival(const std::vector<SurvivalStep>& curve,
                                      int64_t least_at_risk = 1);

// Area under correctness (0 or 1 at each lag, joined by straight lines) over x = log2(1 + lag /
// segment), divided by the range of x: 1 where every answer is right, whatever the lags. One point:
// its value. Lags ascend.
struct LagPoint {
  double lag = 0;
  double correct = 0;
};
double correctness_area(const std::vector<LagPoint>& points, double segment);

// All of them over the probes of one row, in the order of time.
struct Adaptation {
  explicit Adaptation(std::vector<ProbeAnswer> probes, int64_t segment);

  // Accuracy of the probes at exactly this lag; empty where there is none. Of controls:
  // never_shown.
  std::optional<double> accuracy(int64_t lag) const;
  std::optional<double> never_shown() const;
  // Lags 0, S, 2 S, 4 S, ... that have probes.
  std::vector<int64_t> lags() const;
  // Mean over lags S 2^j of clip((accuracy - a0) / (a1 - a0), 0, 1), a0 never shown, a1 at lag 0,
  // still in the window. Empty where a1 - a0 < .2: there is nothing to be retained.
  std::optional<double> retention() const;
  // Mean of 1 - JSD / ln 2 between the candidates of consecutive probes of a fact that was not
  // stated in between. `right_only`: a pair counts 0 unless both answers are right, since who
  // always gives the same answer is consistent.
  std::optional<double> consistency(bool right_only) const;
  // Mean over updates of the area under correctness after them, less whether the last answer
  // before was the new value already (a guess, or always the same answer).
  std::optional<double> adaptation_speed() const;
  // Kaplan-Meier medians, tokens. Of the time from an update to the first right answer; of the time
  // from a statement to the first wrong answer. Both are seen at probes only, so true to the
  // distance of two probes; a next statement or the end of the text censors. Of curves down to ten
  // at risk.
  std::optional<double> half_life() const;
  std::optional<double> memory_half_life() const;
  // Share of the answers after an update that are a value from before it.
  std::optional<double> stale_rate() const;
  // Distinct tokens read / tokens there, over all probes: a cost.
  std::optional<double> token_efficiency() const;

  std::vector<ProbeAnswer> probes;
  int64_t segment;
};

// retention, consistency, consistency_right, adaptation_speed, half_life, memory_half_life,
// stale_rate, token_efficiency, never_shown (accuracy of controls) and accuracy_lag_<tokens>, whose
// shape has `lag`. A metric that is not defined (see Adaptation) has no record; half-lives that
// more than half outlive have none either, and an interval whose upper end is not reached is cut at
// the longest time seen.
std::vector<ResultRecord> adaptation_records(const Adaptation& adaptation,
                                             const std::string& case_name, const std::string& row,
                                             const ResamplingOptions& options = {});

}  // namespace dsrsq
