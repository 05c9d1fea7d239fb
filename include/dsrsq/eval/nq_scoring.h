// The official evaluation of Natural Questions (Kwiatkowski et al. 2019;
// github.com/google-research-datasets/natural-questions, nq_eval.py), which compares spans, not
// texts. A question counts as answerable where at least `annotators` (2) of its annotators gave an
// answer. A long answer is right where its span is that of any annotator; short answers are right
// where their set is that of any annotator, or yes/no is. Of two spans, equal bytes decide or,
// where those differ or lack, equal tokens.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "dsrsq/eval/report.h"

namespace dsrsq {

// Half-open, in bytes of the page's HTML and in its tokens; -1: not given.
struct NqSpan {
  int64_t begin_byte = -1, end_byte = -1, begin_token = -1, end_token = -1;
  bool is_null() const { return begin_byte < 0 && begin_token < 0; }
};

// What one annotator, or a system, says of a page.
struct NqLabel {
  NqSpan long_answer;
  std::vector<NqSpan> short_answers;  // without null spans
  std::string yes_no = "none";        // yes, no, none
  bool has_short() const { return !short_answers.empty() || yes_no != "none"; }
};

struct NqGold {
  std::vector<NqLabel> annotators;
  // The text of each annotator's short answers: tokens joined by blanks, spans by ", "; "yes",
  // "no"; empty: none.
  std::vector<std::string> short_texts;
};

struct NqPrediction {
  NqLabel label;
  double long_score = 0, short_score = 0;
};

struct NqOutcome {
  bool has_gold = false, has_prediction = false, is_right = false;
  double score = 0;
};
NqOutcome score_long_answer(const NqGold& gold, const NqPrediction& prediction,
                            int64_t annotators = 2);
NqOutcome score_short_answer(const NqGold& gold, const NqPrediction& prediction,
                             int64_t annotators = 2);
// Not official: a system that answers in words alone. Answerable as above; right where the words
// equal an annotator's short text after SQuAD's normalisation; words that normalise to nothing are
// no answer. The score is 0: there is no threshold to choose.
NqOutcome score_short_text(const NqGold& gold, const std::string& prediction,
                           int64_t annotators = 2);

struct NqFigures {
  // Of all predictions, whatever their scores.
  double f1 = 0, precision = 0, recall = 0;
  // Of those with a score of at least the threshold that maximises F1.
  double best_f1 = 0, best_precision = 0, best_recall = 0, best_threshold = 0;
  // The highest recall with a precision of at least .5, .75 and .9, and that precision.
  double recall_at[3] = {}, precision_at[3] = {};
};
NqFigures nq_figures(std::vector<NqOutcome> outcomes);

using NqGolds = std::map<std::string, NqGold>;  // by example_id, in decimal
// The annotated pages, JSONL, plain or packed: v1.0 with bytes, or v1.0-simplified, which has
// tokens alone. Throws DataError naming file:line.
NqGolds read_nq_gold(const std::string& path);
// {"predictions": [{"example_id", "long_answer", "long_answer_score", "short_answers",
// "short_answers_score", "yes_no_answer"}]}. Throws DataError: no such file, a span of one end, or
// of no length, yes/no beside spans, an id twice.
std::map<std::string, NqPrediction> read_nq_predictions(const std::string& path);

// nq_long_* and nq_short_*: f1, precision, recall, best_f1, best_precision, best_recall,
// best_threshold, recall_at_50, _75, _90, precision_at_50, ... Throws DataError where a page has no
// prediction or a prediction no page.
std::vector<ResultRecord> nq_records(const NqGolds& gold,
                                     const std::map<std::string, NqPrediction>& predictions,
                                     const std::string& row, int64_t annotators = 2);
// nq_short_text_f1, _precision, _recall, of answers in words (score_short_text).
std::vector<ResultRecord> nq_text_records(const NqGolds& gold,
                                          const std::map<std::string, std::string>& predictions,
                                          const std::string& row, int64_t annotators = 2);

}  // namespace dsrsq
