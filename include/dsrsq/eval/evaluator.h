// Runs a model over a test split and measures what the report shows.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "dsrsq/batch/loader.h"
#include "dsrsq/core/config.h"
#include "dsrsq/eval/answers.h"
#include "dsrsq/eval/efficiency.h"
#include "dsrsq/eval/report.h"
#include "dsrsq/model/generate.h"

namespace dsrsq {

struct EvalConfig {
  int64_t batch_size = 32;
  int64_t maximum_tokens = 16;     // decoded an answer
  int64_t questions = 0;           // 0: the whole split
  int64_t latency_questions = 20;  // questions timed one by one, after two untimed ones
  int64_t counted_questions = 0;   // whose attended keys are counted, at least; 0: all
  std::string precision = "fp32";  // or bf16 autocast
  std::string decoding = "auto";   // or eager
  int64_t maximum_prompt = 0;      // tokens of prefix, context and question; 0: never cut
  std::string truncation = "right";
  std::string chat_begin, chat_end;  // around a suite's prompts
  void visit_fields(ConfigVisitor& v);
};

// How an evaluation answers.
GenerateOptions generation_options(const EvalConfig& config, const Tokenizer& tokenizer);

struct EvaluationResult {
  std::vector<QuestionResult> questions;
  double seconds = 0;  // of generation, all questions
  double context_tokens_per_second = 0;
  std::vector<double> latencies;  // seconds a question at batch size 1
  double peak_bytes = 0;          // above what was held before, at the evaluation's batch size
  double state_bytes = 0;    // held for a sequence read alone, when its answer is decoded (D24)
  double prefill_bytes = 0;  // the most that was held while such a sequence was read
  double budget_bytes = 0;  // keys and values of the share of its context that was asked for; 0: no
                            // budget was
  double shared_bytes = 0;
  double flops = 0;         // analytic, a question
  double tokens_spent = 0;  // that went through the blocks, a question: to choose, read and answer
  double sparse_share = 0;  // share of query rows under half of their visible exact keys
  double density = 1;       // attended / visible pairs
  double latent_mass = 0;   // mean over query rows that could read a latent
  bool has_latents = false;
};

// The answers alone, without what they cost: questions with their scores and the loss of their
// references, FLOPs and what is attended, for each of `budgets`, which differ in their budget
// alone; a method that can reads each prompt once for all of them (model/shared_prompt.h).
std::vector<EvaluationResult> evaluate_answers(LanguageModel& model, const Loader& loader,
                                               const Tokenizer& tokenizer, const EvalConfig& config,
                                               const std::vector<PassOptions>& budgets,
                                               const FlopSettings& flops, const std::string& label);
// What such answers cost, into the result that holds them: the questions of latency_questions one
// by one, then one batch for throughput and peak memory.
void evaluate_costs(LanguageModel& model, const Loader& loader, const Tokenizer& tokenizer,
                    const EvalConfig& config, const PassOptions& options, EvaluationResult& result);

// Both in one pass: the answers, by greedy decoding. `probe`: see Probe. Progress is shown under
// `label`.
EvaluationResult evaluate(LanguageModel& model, const Loader& loader, const Tokenizer& tokenizer,
                          const EvalConfig& config, const PassOptions& options,
                          const FlopSettings& flops, const std::string& label);

// The records of one row: those of answer_records, then em_exact, em_latent, share_latent,
// retained_latent, flops, tokens_read, tokens_spent, token_efficiency, sparse_share, density,
// latent_mass. A metric without data (no evidence, no latents, no question in that place) has no
// record.
std::vector<ResultRecord> quality_records(const EvaluationResult& result,
                                          const std::string& case_name, const std::string& row);
// throughput, latency_p50, latency_p95, peak_memory, bytes_held, prefill_bytes, budget_bytes,
// bytes_shared.
std::vector<ResultRecord> cost_records(const EvaluationResult& result, const std::string& case_name,
                                       const std::string& row);
// Both.
std::vector<ResultRecord> result_records(const EvaluationResult& result,
                                         const std::string& case_name, const std::string& row);

// What a training run looks at on held-out questions.
struct HeldOut {
  double loss = 0;              // mean cross-entropy of the answers' tokens, teacher-forced
  double answer_recall = -1;    // share of answer tokens that were selected; -1: none are marked
  double evidence_recall = -1;  // of evidence tokens
  double token_share = 0;       // selected / available tokens
};
// Over (at most `batches` of) a pass; the loader is with_answers.
HeldOut held_out(LanguageModel& model, const Loader& loader, int64_t batches,
                 const PassOptions& options);

// Exact match and token F1 of greedily decoded answers; the loader is not with_answers.
struct HeldOutAnswers {
  double exact_match = 0;
  double f1 = 0;
};
HeldOutAnswers held_out_answers(LanguageModel& model, const Loader& loader,
                                const Tokenizer& tokenizer, int64_t batches,
                                const PassOptions& options, int64_t maximum_tokens);

}  // namespace dsrsq
