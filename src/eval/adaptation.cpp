#include "dsrsq/eval/adaptation.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "dsrsq/core/error.h"

namespace dsrsq {

double jensen_shannon_divergence(const std::vector<double>& p, const std::vector<double>& q) {
  if (p.size() != q.size() || p.empty())
    throw DataError(concat("Jensen-Shannon divergence: expected equally many candidates, got ",
                           p.size(), " and ", q.size()));
  double sum = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    auto middle = (p[i] + q[i]) / 2;
    for (auto one : {p[i], q[i]})
      if (one > 0) sum += one / 2 * std::log(one / middle);
  }
  return std::max(0.0, sum);
}

std::vector<SurvivalStep> kaplan_meier(std::vector<Duration> durations) {
  std::sort(durations.begin(), durations.end(),
            [](const Duration& x, const Duration& y) { return x.time < y.time; });
  std::vector<SurvivalStep> curve;
  double survival = 1;
  for (size_t i = 0; i < durations.size();) {
    auto at_risk = durations.size() - i;
    auto time = durations[i].time;
    size_t events = 0;
    for (; i < durations.size() && durations[i].time == time; ++i) events += durations[i].happened;
    if (events == 0) continue;
    survival *= 1 - double(events) / double(at_risk);
    curve.push_back({time, survival, int64_t(at_risk)});
  }
  return curve;
}

std::optional<double> median_survival(const std::vector<SurvivalStep>& curve,
                                      int64_t least_at_risk) {
  constexpr double kRounding = 1e-12;  // of the product
  for (const auto& step : curve) {
    if (step.at_risk < least_at_risk) return std::nullopt;
    if (step.survival <= 0.5 + kRounding) return step.time;
  }
  return std::nullopt;
}

double correctness_area(const std::vector<LagPoint>& points, double segment) {
  auto place = [&](const LagPoint& point) { return std::log2(1 + point.lag / segment); };
  auto range = place(points.back()) - place(points.front());
  if (range <= 0) return points.back().correct;
  double area = 0;
  for (size_t i = 1; i < points.size(); ++i)
    area +=
        (place(points[i]) - place(points[i - 1])) * (points[i].correct + points[i - 1].correct) / 2;
  return area / range;
}

namespace {

std::optional<double> ratio(double sum, double count) {
  if (count == 0) return std::nullopt;
  return sum / count;
}

// The probes of a fact between two of its statements, in the order of time.
using Span = std::vector<const ProbeAnswer*>;

// fact -> update -> its probes.
std::map<int64_t, std::map<int64_t, Span>> spans_of(const std::vector<ProbeAnswer>& probes) {
  std::map<int64_t, std::map<int64_t, Span>> spans;
  for (const auto& probe : probes)
    if (probe.update >= 0) spans[probe.fact][probe.update].push_back(&probe);
  return spans;
}

constexpr int64_t kLeastAtRisk = 10;

// Until the first probe whose answer is right, or wrong.
Duration until(const Span& span, bool right) {
  for (const auto* probe : span)
    if (probe->right == right) return {double(probe->lag), true};
  return {double(span.back()->lag), false};
}

}  // namespace

Adaptation::Adaptation(std::vector<ProbeAnswer> all, int64_t segment)
    : probes(std::move(all)), segment(segment) {
  // By fact and time; the order of facts is of no matter.
  std::stable_sort(probes.begin(), probes.end(), [](const ProbeAnswer& x, const ProbeAnswer& y) {
    return std::tie(x.fact, x.update, x.lag) < std::tie(y.fact, y.update, y.lag);
  });
}

std::optional<double> Adaptation::accuracy(int64_t lag) const {
  double right = 0, count = 0;
  for (const auto& probe : probes)
    if (probe.update >= 0 && probe.lag == lag) right += probe.right, ++count;
  return ratio(right, count);
}

std::optional<double> Adaptation::never_shown() const {
  double right = 0, count = 0;
  for (const auto& probe : probes)
    if (probe.update < 0) right += probe.right, ++count;
  return ratio(right, count);
}

std::vector<int64_t> Adaptation::lags() const {
  std::set<int64_t> seen;
  int64_t longest = 0;
  for (const auto& probe : probes) {
    seen.insert(probe.lag);
    longest = std::max(longest, probe.lag);
  }
  std::vector<int64_t> lags;
  for (int64_t lag = 0; lag <= longest; lag = lag == 0 ? segment : 2 * lag)
    if (seen.count(lag) > 0) lags.push_back(lag);
  return lags;
}

std::optional<double> Adaptation::retention() const {
  constexpr double kLeastRange = 0.2;
  auto known = accuracy(0), unknown = never_shown();
  if (!known || !unknown || *known - *unknown < kLeastRange) return std::nullopt;
  double sum = 0, count = 0;
  for (auto lag : lags()) {
    if (lag == 0) continue;
    sum += std::clamp((*accuracy(lag) - *unknown) / (*known - *unknown), 0.0, 1.0);
    ++count;
  }
  return ratio(sum, count);
}

std::optional<double> Adaptation::consistency(bool right_only) const {
  double sum = 0, count = 0;
  for (size_t i = 1; i < probes.size(); ++i) {
    const auto &now = probes[i], &before = probes[i - 1];
    if (now.update < 0 || now.fact != before.fact || now.update != before.update) continue;
    ++count;
    if (right_only && !(now.right && before.right)) continue;
    sum += 1 - jensen_shannon_divergence(now.candidates, before.candidates) / std::log(2.0);
  }
  return ratio(sum, count);
}

std::optional<double> Adaptation::adaptation_speed() const {
  double sum = 0, count = 0;
  for (const auto& [fact, spans] : spans_of(probes))
    for (const auto& [update, span] : spans) {
      auto before = spans.find(update - 1);
      if (before == spans.end()) continue;
      std::vector<LagPoint> points;
      for (const auto* probe : span) points.push_back({double(probe->lag), double(probe->right)});
      sum += correctness_area(points, double(segment)) - before->second.back()->foresees;
      ++count;
    }
  return ratio(sum, count);
}

std::optional<double> Adaptation::half_life() const {
  std::vector<Duration> durations;
  for (const auto& [fact, spans] : spans_of(probes))
    for (const auto& [update, span] : spans)
      if (update > 0) durations.push_back(until(span, true));
  return median_survival(kaplan_meier(durations), kLeastAtRisk);
}

std::optional<double> Adaptation::memory_half_life() const {
  std::vector<Duration> durations;
  for (const auto& [fact, spans] : spans_of(probes))
    for (const auto& [update, span] : spans) durations.push_back(until(span, false));
  return median_survival(kaplan_meier(durations), kLeastAtRisk);
}

std::optional<double> Adaptation::stale_rate() const {
  double stale = 0, count = 0;
  for (const auto& probe : probes)
    if (probe.update > 0) stale += probe.stale, ++count;
  return ratio(stale, count);
}

std::optional<double> Adaptation::token_efficiency() const {
  double attended = 0, available = 0;
  for (const auto& probe : probes) {
    attended += double(probe.attended);
    available += double(probe.available);
  }
  return ratio(attended, available);
}

namespace {

using Statistic = std::function<std::optional<double>(const Adaptation&)>;

// Facts drawn with replacement, all probes of a fact together; and controls among themselves, so
// that every draw has both.
class FactDraw {
 public:
  FactDraw(const Adaptation& adaptation, const ResamplingOptions& options)
      : segment_(adaptation.segment), options_(options) {
    std::map<int64_t, Span> facts, controls;
    for (const auto& probe : adaptation.probes)
      (probe.update < 0 ? controls : facts)[probe.fact].push_back(&probe);
    for (const auto* group : {&facts, &controls}) {
      groups_.emplace_back();
      for (const auto& [fact, probes] : *group) groups_.back().push_back(probes);
    }
  }

  Adaptation draw(int resample) const {
    std::vector<ProbeAnswer> drawn;
    int64_t fact = 0;  // one that is drawn twice is two facts
    for (const auto& group : groups_)
      for (auto item : bootstrap_draw(group.size(), resample, options_)) {
        for (const auto* probe : group[item]) {
          drawn.push_back(*probe);
          drawn.back().fact = fact;
        }
        ++fact;
      }
    return Adaptation(std::move(drawn), segment_);
  }

 private:
  int64_t segment_;
  ResamplingOptions options_;
  std::vector<std::vector<Span>> groups_;
};

struct Metric {
  std::string name, unit;
  Statistic statistic;
  std::map<std::string, double> shape = {};
  bool censored = false;  // a draw without a value has one beyond all others, not none
};

std::vector<Metric> metrics_of(const Adaptation& adaptation) {
  std::vector<Metric> metrics = {
      {"retention", "share", &Adaptation::retention},
      {"consistency", "share", [](const auto& a) { return a.consistency(false); }},
      {"consistency_right", "share", [](const auto& a) { return a.consistency(true); }},
      {"adaptation_speed", "share", &Adaptation::adaptation_speed},
      {"half_life", "tokens", &Adaptation::half_life, {}, true},
      {"memory_half_life", "tokens", &Adaptation::memory_half_life, {}, true},
      {"stale_rate", "share", &Adaptation::stale_rate},
      {"token_efficiency", "share", &Adaptation::token_efficiency},
      {"never_shown", "share", &Adaptation::never_shown}};
  for (auto lag : adaptation.lags())
    metrics.push_back({concat("accuracy_lag_", lag),
                       "share",
                       [lag](const auto& a) { return a.accuracy(lag); },
                       {{"lag", double(lag)}}});
  return metrics;
}

}  // namespace

std::vector<ResultRecord> adaptation_records(const Adaptation& adaptation,
                                             const std::string& case_name, const std::string& row,
                                             const ResamplingOptions& options) {
  std::set<int64_t> facts;
  double longest = 0;
  for (const auto& probe : adaptation.probes) {
    facts.insert(probe.fact);
    longest = std::max(longest, double(probe.lag));
  }
  auto metrics = metrics_of(adaptation);
  std::vector<std::vector<double>> drawn(metrics.size());
  FactDraw facts_drawn(adaptation, options);
  for (int resample = 0; resample < options.resamples; ++resample) {
    auto sample = facts_drawn.draw(resample);
    for (size_t i = 0; i < metrics.size(); ++i)
      if (auto own = metrics[i].statistic(sample))
        drawn[i].push_back(*own);
      else if (metrics[i].censored)
        drawn[i].push_back(longest);
  }
  std::vector<ResultRecord> records;
  for (size_t i = 0; i < metrics.size(); ++i) {
    auto& metric = metrics[i];
    auto value = metric.statistic(adaptation);
    if (!value) continue;
    metric.shape["probes"] = double(adaptation.probes.size());
    metric.shape["facts"] = double(facts.size());
    ResultRecord record{case_name, row, metric.shape, metric.name, *value, metric.unit, {}, {}};
    if (!drawn[i].empty()) {
      auto interval = percentile_interval(*value, std::move(drawn[i]), options.confidence);
      record.low = interval.low;
      record.high = interval.high;
    }
    records.push_back(std::move(record));
  }
  return records;
}

}  // namespace dsrsq
