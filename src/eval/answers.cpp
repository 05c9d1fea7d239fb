#include "dsrsq/eval/answers.h"

#include <algorithm>
#include <map>
#include <utility>

#include "dsrsq/core/error.h"
#include "dsrsq/text/resampling.h"
#include "dsrsq/text/rouge.h"
#include "dsrsq/text/task_metrics.h"

namespace dsrsq {

namespace {

using Pairs = std::vector<std::pair<const QuestionResult*, const QuestionResult*>>;

// The questions of `row` with those of `baseline` that have their id.
Pairs pair_questions(const AnsweredRow& row, const AnsweredRow& baseline) {
  std::map<std::pair<std::string, size_t>, const QuestionResult*> others;
  std::map<std::string, size_t> seen;
  for (const auto& question : baseline.questions)
    others[{question.id, seen[question.id]++}] = &question;
  seen.clear();
  Pairs pairs;
  for (const auto& question : row.questions) {
    auto found = others.find({question.id, seen[question.id]++});
    if (found != others.end()) pairs.emplace_back(&question, found->second);
  }
  return pairs;
}

RowDifference difference_of(const PairedComparison& comparison) {
  return {comparison.difference.mean, comparison.difference.low,
          comparison.difference.high, comparison.p,
          comparison.exact,           comparison.pairs};
}

std::optional<RowDifference> compare_metric(const Pairs& pairs, const AnswerMetric& metric) {
  std::vector<double> values, others;
  for (const auto& [own, other] : pairs) {
    if (own->*metric.value < 0 || other->*metric.value < 0) continue;
    values.push_back(own->*metric.value);
    others.push_back(other->*metric.value);
  }
  if (values.empty()) return std::nullopt;
  return difference_of(compare_paired(values, others));
}

std::optional<RowDifference> compare_bleu(const Pairs& pairs) {
  std::vector<BleuCounts> values, others;
  for (const auto& [own, other] : pairs) {
    if (own->answers.empty() || other->answers.empty()) continue;
    values.push_back(own->bleu);
    others.push_back(other->bleu);
  }
  if (values.empty()) return std::nullopt;
  return difference_of(compare_paired_bleu(values, others));
}

std::map<std::string, std::optional<RowDifference>> compare_all(const Pairs& pairs) {
  std::map<std::string, std::optional<RowDifference>> differences;
  for (const auto& metric : answer_metrics())
    differences[std::string(metric.name)] = compare_metric(pairs, metric);
  differences["bleu"] = compare_bleu(pairs);
  return differences;
}

std::string shared_note(const AnsweredRow& row, const AnsweredRow& baseline, size_t pairs) {
  if (pairs == row.questions.size() && pairs == baseline.questions.size()) return "";
  if (pairs == 0)
    return concat("- ", row.row, ": shares no question with ", baseline.row, ", not compared\n");
  return concat("- ", row.row, ": compared with ", baseline.row, " on the ", pairs,
                " questions that both answered, of ", row.questions.size(), " and ",
                baseline.questions.size(), "\n");
}

double mean_context(const std::vector<QuestionResult>& questions) {
  double sum = 0;
  for (const auto& question : questions) sum += question.context_tokens;
  return questions.empty() ? 0 : sum / double(questions.size());
}

// The row that others are compared with within each case.
std::map<std::string, const AnsweredRow*> find_baselines(const std::vector<AnsweredRow>& rows,
                                                         const std::string& baseline) {
  std::map<std::string, const AnsweredRow*> found;
  std::string names;
  for (const auto& row : rows) {
    if (row.row == baseline) found.emplace(row.case_name, &row);
    names += (names.empty() ? "" : ", ") + row.row;
  }
  if (found.empty())
    throw ConfigError(concat("--baseline: no row is called '", baseline, "'; there are: ", names));
  return found;
}

}  // namespace

const char* place_name(AnswerPlace place) {
  switch (place) {
    case AnswerPlace::kUnknown:
      return "unknown";
    case AnswerPlace::kNotChosen:
      return "not chosen";
    case AnswerPlace::kExact:
      return "exact";
    case AnswerPlace::kLatent:
      return "latent";
    case AnswerPlace::kMixed:
      return "mixed";
  }
  return "unknown";
}

void score_answer(QuestionResult& question) {
  const auto& prediction = question.prediction;
  const auto& answers = question.answers;
  question.exact_match = exact_match(prediction, answers);
  question.f1 = token_f1(prediction, answers);
  question.subspan_exact_match = subspan_exact_match(prediction, answers);
  const auto scores = rouge(prediction, answers);
  question.rouge_1 = scores.rouge_1.f1;
  question.rouge_2 = scores.rouge_2.f1;
  question.rouge_l = scores.rouge_l.f1;
  question.rouge_lsum = scores.rouge_lsum.f1;
  question.sentence_bleu = sentence_bleu(prediction, answers);
  question.bleu = answers.empty() ? BleuCounts{} : bleu_counts(prediction, answers);
}

const std::vector<AnswerMetric>& answer_metrics() {
  static const std::vector<AnswerMetric> metrics = {
      {"score", &QuestionResult::score},
      {"em", &QuestionResult::exact_match},
      {"f1", &QuestionResult::f1},
      {"subspan_em", &QuestionResult::subspan_exact_match},
      {"rouge_1", &QuestionResult::rouge_1},
      {"rouge_2", &QuestionResult::rouge_2},
      {"rouge_l", &QuestionResult::rouge_l},
      {"rouge_lsum", &QuestionResult::rouge_lsum},
      {"evidence_recall", &QuestionResult::evidence_recall},
      {"answer_recall", &QuestionResult::answer_recall},
      {"answer_held", &QuestionResult::answer_held},
      {"answer_loss", &QuestionResult::answer_loss, "nats"},
  };
  return metrics;
}

std::vector<ResultRecord> answer_records(const AnsweredRow& row) {
  std::vector<ResultRecord> records;
  std::map<std::string, double> shape{{"questions", double(row.questions.size())}};
  if (const double context = mean_context(row.questions); context > 0)
    shape["context_tokens"] = context;
  auto add = [&](std::string_view metric, const Interval& interval, std::string_view unit) {
    records.push_back({row.case_name, row.row, shape, std::string(metric), interval.mean,
                       std::string(unit), interval.low, interval.high});
  };
  for (const auto& metric : answer_metrics()) {
    std::vector<double> values;
    for (const auto& question : row.questions)
      if (question.*metric.value >= 0) values.push_back(question.*metric.value);
    if (!values.empty()) add(metric.name, bootstrap_mean(values), metric.unit);
  }
  std::vector<BleuCounts> segments;
  for (const auto& question : row.questions)
    if (!question.answers.empty()) segments.push_back(question.bleu);
  if (!segments.empty()) add("bleu", bootstrap_bleu(segments), "share");
  return records;
}

std::string compare_rows(const std::vector<AnsweredRow>& rows, const std::string& baseline,
                         std::vector<ResultRecord>& records) {
  const auto baselines = find_baselines(rows, baseline);
  std::map<std::pair<std::string, std::string>, double> costs;  // of the baseline: case, metric
  for (const auto& record : records)
    if (record.method == baseline) costs[{record.case_name, record.metric}] = record.value;
  std::string notes;
  for (const auto& row : rows) {
    const auto found = baselines.find(row.case_name);
    if (row.row == baseline || found == baselines.end()) continue;
    const auto pairs = pair_questions(row, *found->second);
    notes += shared_note(row, *found->second, pairs.size());
    const auto differences = compare_all(pairs);
    for (auto& record : records) {
      if (record.method != row.row || record.case_name != row.case_name) continue;
      const auto difference = differences.find(record.metric);
      const auto cost = costs.find({record.case_name, record.metric});
      if (difference != differences.end())
        record.difference = difference->second;
      else if (record.unit != "share" && cost != costs.end() && cost->second > 0)
        record.ratio = record.value / cost->second;
      if (record.difference || record.ratio) record.baseline = baseline;
    }
  }
  return notes;
}

}  // namespace dsrsq
