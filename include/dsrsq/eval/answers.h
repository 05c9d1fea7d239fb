// The answers of one row (a method, a run, another system's file): scored question by question, as
// records with intervals, and compared with another row over the questions that both answered.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "dsrsq/eval/report.h"
#include "dsrsq/text/bleu.h"

namespace dsrsq {

// Where a question's answer stood when the answer was decoded (D17).
enum class AnswerPlace {
  kUnknown,    // the record has no answer spans
  kNotChosen,  // some answer token was not selected
  kExact,      // every answer token is an exact key
  kLatent,     // every answer token has left the exact set: in latents, or dropped by the buffer
  kMixed,
};
const char* place_name(AnswerPlace place);

struct QuestionResult {
  std::string id;
  std::string question;
  std::string prediction;
  std::vector<std::string> answers;  // empty: unanswerable
  // By score_answer, 0 to 1.
  double exact_match = 0;
  double f1 = 0;
  double subspan_exact_match = 0;
  double rouge_1 = 0, rouge_2 = 0, rouge_l = 0, rouge_lsum = 0;  // F, without stemming
  double sentence_bleu = 0;
  double score = -1;  // by the metric of the suite that the question is of; -1: of none
  BleuCounts bleu;    // zeros where there is no answer
  // What a model did to answer; unknown (-1, kUnknown, 0) of answers made elsewhere.
  double evidence_recall =
      -1;  // share of evidence tokens that were selected; -1 where there is no evidence
  double answer_recall = -1;  // the same for answer tokens
  // Mean cross-entropy of the first answer's tokens as training reads them, nats a token
  // (eval/answer_loss.h); -1 where nobody measured it.
  double answer_loss = -1;
  // Share of the answer tokens' entries, over layers (and heads, where heads hold their own), that
  // are exact keys when the answer is decoded; -1 where none is marked.
  double answer_held = -1;
  double depth = -1;  // context tokens before the answer, as a share; -1: none is marked
  AnswerPlace place = AnswerPlace::kUnknown;
  bool retained = false;  // kLatent: every answer token is in the latents of at least one layer
  double selected_tokens = 0;
  double context_tokens = 0;
};

// Fills the scores from prediction and answers.
void score_answer(QuestionResult& question);

// Metrics that are a mean over questions: score, em, f1, subspan_em, rouge_1, rouge_2, rouge_l,
// rouge_lsum, evidence_recall, answer_recall, answer_held; and answer_loss, in nats a token, the
// one of which less is better. A question whose value is negative has none.
struct AnswerMetric {
  std::string_view name;
  double QuestionResult::*value;
  std::string_view unit = "share";
};
const std::vector<AnswerMetric>& answer_metrics();

struct AnsweredRow {
  std::string case_name;  // the split
  std::string row;
  std::vector<QuestionResult> questions;
};

// One record a metric of answer_metrics with a bootstrap interval over questions, and "bleu": of
// the corpus, its interval over resampled corpora (0 to 1; questions without an answer are left
// out, as sacrebleu refuses them). A metric that no question has gets no record. shape: questions,
// context_tokens where known.
std::vector<ResultRecord> answer_records(const AnsweredRow& row);

// Compares each row with the row `baseline`, question by question of one id (the n-th of an id with
// the n-th), within a case: `difference` of every record of answer_metrics and of bleu, `ratio` of
// every other record that is no share. Returns notes in words, a list item each: rows that share
// some or none of the questions. Throws ConfigError naming the rows where there is no such row.
std::string compare_rows(const std::vector<AnsweredRow>& rows, const std::string& baseline,
                         std::vector<ResultRecord>& records);

}  // namespace dsrsq
