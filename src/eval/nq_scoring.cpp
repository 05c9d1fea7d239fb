#include "dsrsq/eval/nq_scoring.h"

#include <algorithm>

#include "dsrsq/core/error.h"
#include "dsrsq/text/task_metrics.h"

namespace dsrsq {

namespace {

bool same_span(const NqSpan& a, const NqSpan& b) {
  bool bytes = a.begin_byte >= 0 && b.begin_byte >= 0;
  if (bytes && a.begin_byte == b.begin_byte && a.end_byte == b.end_byte) return true;
  bool tokens = a.begin_token >= 0 && b.begin_token >= 0;
  return tokens && a.begin_token == b.begin_token && a.end_token == b.end_token;
}

bool holds_all(const std::vector<NqSpan>& spans, const std::vector<NqSpan>& others) {
  return std::all_of(others.begin(), others.end(), [&](const NqSpan& other) {
    return std::any_of(spans.begin(), spans.end(),
                       [&](const NqSpan& span) { return same_span(span, other); });
  });
}

bool same_spans(const std::vector<NqSpan>& a, const std::vector<NqSpan>& b) {
  return holds_all(a, b) && holds_all(b, a);
}

double ratio(double part, double whole) { return whole == 0 ? 0 : part / whole; }

double f1_of(double precision, double recall) {
  return ratio(2 * precision * recall, precision + recall);
}

}  // namespace

NqOutcome score_long_answer(const NqGold& gold, const NqPrediction& prediction,
                            int64_t annotators) {
  auto answered = [](const NqLabel& label) { return !label.long_answer.is_null(); };
  const auto& labels = gold.annotators;
  const auto& span = prediction.label.long_answer;
  NqOutcome outcome;
  outcome.score = prediction.long_score;
  outcome.has_gold = std::count_if(labels.begin(), labels.end(), answered) >= annotators;
  outcome.has_prediction = answered(prediction.label);
  outcome.is_right = outcome.has_gold && outcome.has_prediction &&
                     std::any_of(labels.begin(), labels.end(), [&](const NqLabel& label) {
                       return answered(label) && same_span(label.long_answer, span);
                     });
  return outcome;
}

NqOutcome score_short_answer(const NqGold& gold, const NqPrediction& prediction,
                             int64_t annotators) {
  auto answered = [](const NqLabel& label) { return label.has_short(); };
  const auto& labels = gold.annotators;
  const auto& said = prediction.label;
  NqOutcome outcome;
  outcome.score = prediction.short_score;
  outcome.has_gold = std::count_if(labels.begin(), labels.end(), answered) >= annotators;
  outcome.has_prediction = answered(said);
  auto agrees = [&](const NqLabel& label) {
    return said.yes_no != "none" ? label.yes_no == said.yes_no
                                 : same_spans(label.short_answers, said.short_answers);
  };
  outcome.is_right = outcome.has_gold && outcome.has_prediction &&
                     std::any_of(labels.begin(), labels.end(), agrees);
  return outcome;
}

NqOutcome score_short_text(const NqGold& gold, const std::string& prediction, int64_t annotators) {
  std::vector<std::string> texts;
  for (const auto& text : gold.short_texts)
    if (!text.empty()) texts.push_back(text);
  NqOutcome outcome;
  outcome.has_gold = int64_t(texts.size()) >= annotators;
  outcome.has_prediction = !normalize_answer(prediction).empty();
  outcome.is_right =
      outcome.has_gold && outcome.has_prediction && exact_match(prediction, texts) > 0;
  return outcome;
}

NqFigures nq_figures(std::vector<NqOutcome> outcomes) {
  std::stable_sort(outcomes.begin(), outcomes.end(),
                   [](const NqOutcome& a, const NqOutcome& b) { return a.score > b.score; });
  double gold = 0, predicted = 0, right = 0;
  for (const auto& outcome : outcomes) gold += outcome.has_gold;
  NqFigures figures;
  for (size_t i = 0; i < outcomes.size(); ++i) {
    predicted += outcomes[i].has_prediction;
    right += outcomes[i].is_right;
    figures.precision = ratio(right, predicted);
    figures.recall = ratio(right, gold);
    figures.f1 = f1_of(figures.precision, figures.recall);
    // Predictions of one score are above a threshold together.
    if (i + 1 < outcomes.size() && outcomes[i + 1].score == outcomes[i].score) continue;
    constexpr double kTargets[3] = {0.5, 0.75, 0.9};
    for (int t = 0; t < 3; ++t) {
      if (figures.precision < kTargets[t] || figures.recall <= figures.recall_at[t]) continue;
      figures.recall_at[t] = figures.recall;
      figures.precision_at[t] = figures.precision;
    }
    if (figures.f1 <= figures.best_f1) continue;
    figures.best_f1 = figures.f1;
    figures.best_precision = figures.precision;
    figures.best_recall = figures.recall;
    figures.best_threshold = outcomes[i].score;
  }
  return figures;
}

namespace {

class Records {
 public:
  Records(std::string row, size_t questions) : row_(std::move(row)), questions_(questions) {}
  void add(const std::string& metric, double value, const std::string& unit = "share") {
    list.push_back({"nq", row_, {{"questions", double(questions_)}}, metric, value, unit, {}, {}});
  }
  void add_unthresholded(const std::string& name, const NqFigures& figures) {
    add(name + "_f1", figures.f1);
    add(name + "_precision", figures.precision);
    add(name + "_recall", figures.recall);
  }
  void add_thresholded(const std::string& name, const NqFigures& figures) {
    add(name + "_best_f1", figures.best_f1);
    add(name + "_best_precision", figures.best_precision);
    add(name + "_best_recall", figures.best_recall);
    add(name + "_best_threshold", figures.best_threshold, "score");
    const char* targets[] = {"50", "75", "90"};
    for (int t = 0; t < 3; ++t) {
      add(concat(name, "_recall_at_", targets[t]), figures.recall_at[t]);
      add(concat(name, "_precision_at_", targets[t]), figures.precision_at[t]);
    }
  }
  std::vector<ResultRecord> list;

 private:
  std::string row_;
  size_t questions_;
};

template <typename Predictions>
void require_same_ids(const NqGolds& gold, const Predictions& predictions, const std::string& row) {
  auto fail = [&](const std::string& what, const std::string& id) {
    throw DataError(concat("row ", row, ": ", what, " example_id ", id, " (", predictions.size(),
                           " predictions, ", gold.size(),
                           " pages); the official score wants one for each page"));
  };
  for (const auto& [id, label] : gold)
    if (!predictions.count(id)) fail("no prediction for", id);
  for (const auto& [id, prediction] : predictions)
    if (!gold.count(id)) fail("no page of", id);
}

}  // namespace

std::vector<ResultRecord> nq_records(const NqGolds& gold,
                                     const std::map<std::string, NqPrediction>& predictions,
                                     const std::string& row, int64_t annotators) {
  require_same_ids(gold, predictions, row);
  std::vector<NqOutcome> longs, shorts;
  for (const auto& [id, page] : gold) {
    longs.push_back(score_long_answer(page, predictions.at(id), annotators));
    shorts.push_back(score_short_answer(page, predictions.at(id), annotators));
  }
  Records records(row, gold.size());
  for (auto [name, outcomes] : {std::pair{"nq_long", &longs}, {"nq_short", &shorts}}) {
    auto figures = nq_figures(*outcomes);
    records.add_unthresholded(name, figures);
    records.add_thresholded(name, figures);
  }
  return records.list;
}

std::vector<ResultRecord> nq_text_records(const NqGolds& gold,
                                          const std::map<std::string, std::string>& predictions,
                                          const std::string& row, int64_t annotators) {
  require_same_ids(gold, predictions, row);
  std::vector<NqOutcome> outcomes;
  for (const auto& [id, page] : gold)
    outcomes.push_back(score_short_text(page, predictions.at(id), annotators));
  Records records(row, gold.size());
  records.add_unthresholded("nq_short_text", nq_figures(outcomes));
  return records.list;
}

}  // namespace dsrsq
