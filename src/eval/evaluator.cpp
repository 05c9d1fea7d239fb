#include "dsrsq/eval/evaluator.h"

#include <torch/torch.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "dsrsq/batch/answer_tokens.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/progress.h"
#include "dsrsq/core/timer.h"
#include "dsrsq/eval/answer_loss.h"
#include "dsrsq/eval/answer_places.h"
#include "dsrsq/eval/sequence_work.h"
#include "dsrsq/methods/prompt_tokens.h"
#include "dsrsq/objective/task_loss.h"
#include "dsrsq/ops/autocast.h"
#include "dsrsq/text/resampling.h"
#include "dsrsq/text/task_metrics.h"

namespace dsrsq {

void EvalConfig::visit_fields(ConfigVisitor& v) {
  v.field("batch_size", batch_size, "Questions a batch.", at_least(1));
  v.field("maximum_tokens", maximum_tokens, "Tokens decoded for an answer, at most.", at_least(1));
  v.field("questions", questions, "Questions of the test split that are evaluated; 0: all.",
          at_least(0));
  v.field("latency_questions", latency_questions,
          "Questions timed one by one, after two untimed ones; 0: no latency.", at_least(0));
  v.field(
      "counted_questions", counted_questions,
      "Questions, rounded up to whole batches, whose attended keys are counted (density, sparse "
      "queries, latent mass, FLOP), where that needs explicit masks in a second pass; 0: all.",
      at_least(0));
  v.field(
      "precision", precision,
      "Of evaluation: fp32, or bf16 autocast with fp32 weights, whose keys and values take half "
      "the bytes.",
      one_of({"fp32", "bf16"}));
  v.field(
      "decoding", decoding,
      "auto: on a GPU the steps behind an answer's first token are recorded once (a CUDA graph) "
      "and replayed, where the method's state keeps its shapes; the same numbers, and what "
      "cannot be recorded is logged. eager: operator by operator.",
      one_of({"auto", "eager"}));
  v.field("maximum_prompt", maximum_prompt,
          "Tokens of a prompt: prefix, context and question, without begin tokens. A longer prompt "
          "loses tokens of its context, as truncation says; 0: as many as the suite says, or all.",
          at_least(0));
  v.field("truncation", truncation,
          "Which tokens of the context go: right, its end; left, its beginning; middle, so that "
          "the prompt's first and last maximum_prompt / 2 tokens stay. A suite says so itself.",
          one_of({"right", "middle", "left"}));
  v.field("chat_begin", chat_begin,
          "What the model's chat template has in front of a user's turn: stands before the prompts "
          "of suites, outside maximum_prompt, but of tasks whose suite says chat: false.");
  v.field("chat_end", chat_end,
          "The same behind it, up to where the model answers: <|im_end|>, ...");
}

GenerateOptions generation_options(const EvalConfig& config, const Tokenizer& tokenizer) {
  GenerateOptions options;
  options.maximum_tokens = config.maximum_tokens;
  options.end_id = tokenizer.end_id();
  options.decoding = config.decoding == "eager" ? Decoding::kEager : Decoding::kAuto;
  return options;
}

namespace {

// [B] shares of `wanted` [B, N] that are chosen; -1: none is wanted.
std::vector<double> shares_chosen(const at::Tensor& wanted, const at::Tensor& chosen) {
  auto total = wanted.sum(1).to(at::kCPU, at::kDouble),
       found = wanted.logical_and(chosen).sum(1).to(at::kCPU, at::kDouble);
  std::vector<double> shares;
  for (int64_t b = 0; b < total.numel(); ++b) {
    auto all = total.data_ptr<double>()[b];
    shares.push_back(all > 0 ? found.data_ptr<double>()[b] / all : -1);
  }
  return shares;
}

// [B] places of the first answer token, as a share of the context; -1: none is marked.
std::vector<double> answer_depths(const Batch& batch) {
  auto answer = batch.answer_tokens.select(1, 0).to(at::kCPU);
  auto length = batch.context_valid.sum(1).to(at::kCPU), first = answer.to(at::kByte).argmax(1);
  std::vector<double> depths;
  for (int64_t b = 0; b < batch.size(); ++b) {
    bool marked = answer[b].any().item<bool>();
    depths.push_back(marked ? first[b].item<double>() / length[b].item<double>() : -1);
  }
  return depths;
}

// A row's own numbers are read once a batch: on a GPU every one of them waits.
void score_batch(const Batch& batch, const Generated& generated, const Tokenizer& tokenizer,
                 int64_t sinks, EvaluationResult& result) {
  auto chosen = at::zeros_like(batch.context_valid);
  if (generated.state.selected.slots() > 0)
    chosen = generated.state.selected.chosen(batch.context.size(1));
  auto evidence = shares_chosen(batch.evidence.select(1, 0), chosen),
       answer = shares_chosen(batch.answer_tokens.select(1, 0), chosen);
  auto depths = answer_depths(batch);
  auto selected = chosen.sum(1).to(at::kCPU), context = batch.context_valid.sum(1).to(at::kCPU);
  auto first = result.questions.size();
  for (int64_t b = 0; b < batch.size(); ++b) {
    const auto& record = batch.records[size_t(b)][0];
    QuestionResult question;
    question.id = record.id;
    question.question = record.question;
    question.answers = record.answers;
    question.prediction = tokenizer.decode(generated.tokens[size_t(b)]);
    score_answer(question);
    question.evidence_recall = evidence[size_t(b)];
    question.answer_recall = answer[size_t(b)];
    question.depth = depths[size_t(b)];
    question.selected_tokens = double(selected.data_ptr<int64_t>()[b]);
    question.context_tokens = double(context.data_ptr<int64_t>()[b]);
    result.questions.push_back(std::move(question));
  }
  locate_answers(batch, generated.state, sinks, result.questions.data() + first);
}

double value(const at::Tensor& x) { return x.defined() ? x.item().toDouble() : 0.0; }

struct StatSums {
  double rows = 0, sparse = 0, attended = 0, visible = 0, latent_rows = 0, latent_pairs = 0,
         rebuilt = 0, latent_mass = 0;
  int64_t sequences = 0;
  void add(const AttentionStats& stats, int64_t batch_size) {
    sequences += batch_size;
    rows += value(stats.rows);
    sparse += value(stats.sparse_rows);
    attended += value(stats.attended_pairs);
    visible += value(stats.visible_pairs);
    latent_rows += value(stats.latent_rows);
    latent_pairs += value(stats.latent_pairs);
    rebuilt += value(stats.rebuilt_latents);
    latent_mass += value(stats.latent_mass);
  }
};

// Keys and values of the context tokens that the options ask for.
double asked_bytes(LanguageModel& model, const Batch& batch, const PassOptions& options,
                   const EvalConfig& config) {
  auto tokens = requested_budget(options, batch.context_valid);
  if (!tokens.defined()) return 0;
  const auto& shape = model->method().shape();
  auto element = config.precision == "bf16"
                     ? int64_t{2}
                     : int64_t(model->backbone()->parameters().front().element_size());
  auto entry = 2 * shape.layers * shape.key_value_heads * shape.head_width * element;
  auto asked = at::minimum(tokens, batch.context_valid.sum(1)).sum().item<int64_t>();
  return double(asked * entry);
}

double seconds_of(const Generated& generated) {
  return generated.select_seconds + generated.prefill_seconds + generated.decode_seconds;
}

// Questions one by one: latencies, and the bytes held for a sequence, which in a batch would count
// the padding of others.
void measure_singly(LanguageModel& model, const Loader& loader, const EvalConfig& config,
                    const PassOptions& options, const GenerateOptions& generation,
                    EvaluationResult& result) {
  constexpr int64_t kUntimed = 2;
  auto read = std::clamp<int64_t>(config.latency_questions, 1, loader.sequences());
  for (int64_t i = 0; i < read + kUntimed; ++i) {
    auto single = loader.single(i % loader.sequences()).to(model->device());
    Timer timer;
    auto generated = generate(model, single, options, generation);
    auto seconds = timer.seconds();
    if (i < kUntimed) continue;
    if (config.latency_questions > 0) result.latencies.push_back(seconds);
    result.state_bytes += double(generated.state_bytes) / double(read);
    result.prefill_bytes += double(generated.state.peak_bytes) / double(read);
    result.budget_bytes += asked_bytes(model, single, options, config) / double(read);
  }
  result.shared_bytes = double(model->method().shared_bytes());
}

// One pass over the questions for one or several budgets.
class AnswerPass {
 public:
  AnswerPass(LanguageModel& model, const Loader& loader, const Tokenizer& tokenizer,
             const EvalConfig& config, const std::vector<PassOptions>& budgets)
      : model_(model),
        loader_(loader),
        tokenizer_(tokenizer),
        config_(config),
        budgets_(budgets),
        generation_(generation_options(config, tokenizer)),
        rows_(budgets.size()) {}

  // From here on, without what measuring the answers' loss takes.
  void measure_peak() { peak_.emplace(model_->device()); }
  double peak_bytes() const { return peak_->bytes(); }

  void answer(const std::string& label) {
    Progress progress(label, loader_.sequences());
    bool counts = model_->method().counts_without_masks();
    auto sinks = model_->backbone()->config().sinks;
    int64_t read = 0;
    for (int64_t i = 0; i < loader_.pass_batches(); ++i) {
      auto batch = loader_.pass_batch(i).to(model_->device());
      bool counting = counts && read < counted();
      auto options = budgets_;
      for (auto& one : options) one.collect_stats = counting;
      auto generation = generation_;
      std::vector<double> losses;
      generation.prompt_read = [&](const at::Tensor& hidden, const MethodState& state) {
        losses = measure_losses(batch, hidden, state);
      };
      generate_budgets(model_, batch, options, generation, [&](size_t b, const Generated& made) {
        auto& row = rows_[b];
        auto first = row.result.questions.size();
        row.result.seconds += seconds_of(made);
        row.decoded += double(made.decoded_tokens);
        auto tokens = made.state.selected.mask.sum() + batch.tail_valid.sum();
        row.reader_tokens += double(tokens.item<int64_t>() + sinks * batch.size());
        if (auto* chooses = dynamic_cast<PromptTokens*>(&model_->method()))
          for (auto spent : chooses->tokens_to_choose()) row.choice_tokens += double(spent);
        score_batch(batch, made, tokenizer_, sinks, row.result);
        for (size_t i = 0; i < losses.size(); ++i)
          row.result.questions[first + i].answer_loss = losses[i];
        if (counting) row.sums.add(made.state.stats, batch.size());
      });
      read += batch.size();
      progress.update(read);
    }
    progress.finish();
  }

  // What is attended, where counting it needs explicit masks: they would be timed with the method,
  // so a pass of its own.
  void count(const std::string& label) {
    if (model_->method().counts_without_masks()) return;
    for (size_t b = 0; b < budgets_.size(); ++b) {
      auto& sums = rows_[b].sums;
      auto options = budgets_[b];
      options.collect_stats = true;
      Progress counting(label + ", counting", counted());
      for (int64_t i = 0; i < loader_.pass_batches() && sums.sequences < counted(); ++i) {
        auto batch = loader_.pass_batch(i).to(model_->device());
        sums.add(generate(model_, batch, options, generation_).state.stats, batch.size());
        counting.update(std::min(sums.sequences, counted()));
      }
      counting.finish();
    }
  }

  std::vector<EvaluationResult> results(const FlopSettings& flops) {
    std::vector<EvaluationResult> results;
    for (auto& row : rows_) {
      derive(row, flops);
      results.push_back(std::move(row.result));
    }
    return results;
  }

 private:
  struct Row {
    EvaluationResult result;
    StatSums sums;
    double reader_tokens = 0, decoded = 0, choice_tokens = 0;
  };

  std::vector<double> measure_losses(const Batch& batch, const at::Tensor& hidden,
                                     const MethodState& state) {
    std::vector<std::vector<int32_t>> answers;
    for (const auto& records : batch.records)
      answers.push_back(answer_tokens(tokenizer_, loader_.prompt(), records[0]));
    if (peak_) peak_->pause();
    auto losses = answer_losses(model_, batch, hidden, state, answers);
    if (peak_) peak_->resume();
    return losses;
  }

  int64_t counted() const {
    auto all = loader_.sequences();
    return config_.counted_questions > 0 ? std::min(all, config_.counted_questions) : all;
  }

  void derive(Row& row, const FlopSettings& flops) const {
    auto& result = row.result;
    const auto& sums = row.sums;
    auto questions = double(result.questions.size());
    double context = 0;
    for (const auto& question : result.questions) context += question.context_tokens;
    result.context_tokens_per_second = context / std::max(1e-9, result.seconds);
    result.sparse_share = sums.rows > 0 ? sums.sparse / sums.rows : 0;
    result.density = sums.visible > 0 ? sums.attended / sums.visible : 1;
    result.has_latents = sums.latent_rows > 0;
    result.latent_mass = result.has_latents ? sums.latent_mass / sums.latent_rows : 0;
    WorkSums total{
        questions,     context,           row.reader_tokens, row.decoded, double(sums.sequences),
        sums.attended, sums.latent_pairs, sums.rebuilt};
    auto work = mean_work(total, model_->method().shape(), flops);
    result.tokens_spent = work.reader_tokens + row.choice_tokens / questions;
    result.flops = forward_flops(model_->backbone()->config(), flops, work) +
                   work.reader_tokens * model_->method().token_flops();
  }

  LanguageModel& model_;
  const Loader& loader_;
  const Tokenizer& tokenizer_;
  const EvalConfig& config_;
  const std::vector<PassOptions>& budgets_;
  GenerateOptions generation_;
  std::vector<Row> rows_;
  std::optional<PeakMemory> peak_;
};

}  // namespace

std::vector<EvaluationResult> evaluate_answers(LanguageModel& model, const Loader& loader,
                                               const Tokenizer& tokenizer, const EvalConfig& config,
                                               const std::vector<PassOptions>& budgets,
                                               const FlopSettings& flops,
                                               const std::string& label) {
  at::NoGradGuard no_grad;
  ops::AutocastGuard autocast(model->device(), config.precision == "bf16");
  AnswerPass pass(model, loader, tokenizer, config, budgets);
  pass.answer(label);
  pass.count(label);
  return pass.results(flops);
}

void evaluate_costs(LanguageModel& model, const Loader& loader, const Tokenizer& tokenizer,
                    const EvalConfig& config, const PassOptions& options,
                    EvaluationResult& result) {
  at::NoGradGuard no_grad;
  ops::AutocastGuard autocast(model->device(), config.precision == "bf16");
  auto generation = generation_options(config, tokenizer);
  measure_singly(model, loader, config, options, generation, result);
  auto batch = loader.pass_batch(0).to(model->device());
  PeakMemory peak(model->device());
  auto generated = generate(model, batch, options, generation);
  result.peak_bytes = peak.bytes();
  result.seconds = seconds_of(generated);
  auto context = batch.context_valid.sum().item<int64_t>();
  result.context_tokens_per_second = double(context) / std::max(1e-9, result.seconds);
}

EvaluationResult evaluate(LanguageModel& model, const Loader& loader, const Tokenizer& tokenizer,
                          const EvalConfig& config, const PassOptions& options,
                          const FlopSettings& flops, const std::string& label) {
  at::NoGradGuard no_grad;
  ops::AutocastGuard autocast(model->device(), config.precision == "bf16");
  std::vector<PassOptions> budgets{options};
  AnswerPass pass(model, loader, tokenizer, config, budgets);
  pass.measure_peak();
  pass.answer(label);
  auto bytes = pass.peak_bytes();
  pass.count(label);
  auto result = std::move(pass.results(flops).front());
  result.peak_bytes = bytes;
  measure_singly(model, loader, config, options, generation_options(config, tokenizer), result);
  return result;
}

namespace {

double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[size_t(std::min<double>(double(values.size()) - 1, share * double(values.size())))];
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (auto one : values) sum += one;
  return values.empty() ? 0 : sum / double(values.size());
}

template <typename Get>
std::vector<double> collect(const EvaluationResult& result, Get get) {
  std::vector<double> values;
  for (const auto& question : result.questions)
    if (auto one = get(question); one >= 0) values.push_back(one);
  return values;
}

}  // namespace

namespace {

double mean_context(const EvaluationResult& result) {
  return mean_of(collect(result, [](const auto& q) { return q.context_tokens; }));
}

// Adds records of one row.
class RowRecords {
 public:
  RowRecords(const EvaluationResult& result, const std::string& case_name, const std::string& row)
      : case_(case_name),
        row_(row),
        shape_{{"questions", double(result.questions.size())},
               {"context_tokens", mean_context(result)}} {}
  void add(const std::string& metric, double value, const std::string& unit) {
    records.push_back({case_, row_, shape_, metric, value, unit, {}, {}});
  }
  void add_mean(const std::string& metric, const std::vector<double>& values) {
    if (values.empty()) return;
    auto interval = bootstrap_mean(values);
    records.push_back(
        {case_, row_, shape_, metric, interval.mean, "share", interval.low, interval.high});
  }
  std::vector<ResultRecord> records;

 private:
  std::string case_, row_;
  std::map<std::string, double> shape_;
};

}  // namespace

std::vector<ResultRecord> quality_records(const EvaluationResult& result,
                                          const std::string& case_name, const std::string& row) {
  RowRecords made(result, case_name, row);
  made.records = answer_records({case_name, row, result.questions});
  auto em_at = [&](AnswerPlace place) {
    return collect(result,
                   [place](const auto& q) { return q.place == place ? q.exact_match : -1; });
  };
  if (auto values = em_at(AnswerPlace::kExact); !values.empty()) made.add_mean("em_exact", values);
  auto located = collect(result, [](const auto& q) {
    return q.place == AnswerPlace::kUnknown ? -1.0 : double(q.place == AnswerPlace::kLatent);
  });
  if (auto values = em_at(AnswerPlace::kLatent); !values.empty()) {
    made.add_mean("em_latent", values);
    made.add("share_latent", mean_of(located), "share");
    made.add_mean("retained_latent", collect(result, [](const auto& q) {
                    return q.place == AnswerPlace::kLatent ? double(q.retained) : -1;
                  }));
  }
  auto context = mean_context(result);
  auto selected = mean_of(collect(result, [](const auto& q) { return q.selected_tokens; }));
  made.add("flops", result.flops, "FLOP");
  made.add("tokens_read", selected, "tokens");
  made.add("tokens_spent", result.tokens_spent, "tokens");
  made.add("token_efficiency", context > 0 ? selected / context : 0, "share");
  made.add("sparse_share", result.sparse_share, "share");
  made.add("density", result.density, "share");
  if (result.has_latents) made.add("latent_mass", result.latent_mass, "share");
  return std::move(made.records);
}

std::vector<ResultRecord> cost_records(const EvaluationResult& result, const std::string& case_name,
                                       const std::string& row) {
  RowRecords made(result, case_name, row);
  made.add("throughput", result.context_tokens_per_second, "tokens/s");
  if (!result.latencies.empty()) {
    made.add("latency_p50", quantile(result.latencies, 0.5), "s");
    made.add("latency_p95", quantile(result.latencies, 0.95), "s");
  }
  if (result.peak_bytes >= 0) made.add("peak_memory", result.peak_bytes, "bytes");
  made.add("bytes_held", result.state_bytes, "bytes");
  made.add("prefill_bytes", result.prefill_bytes, "bytes");
  if (result.budget_bytes > 0) made.add("budget_bytes", result.budget_bytes, "bytes");
  if (result.shared_bytes > 0) made.add("bytes_shared", result.shared_bytes, "bytes");
  return std::move(made.records);
}

std::vector<ResultRecord> result_records(const EvaluationResult& result,
                                         const std::string& case_name, const std::string& row) {
  auto records = quality_records(result, case_name, row);
  auto costs = cost_records(result, case_name, row);
  records.insert(records.end(), costs.begin(), costs.end());
  return records;
}

HeldOut held_out(LanguageModel& model, const Loader& loader, int64_t batches,
                 const PassOptions& options) {
  at::NoGradGuard no_grad;
  double sum = 0, count = 0, selected = 0, available = 0;
  double answers = 0, found_answers = 0, evidence = 0, found_evidence = 0;
  auto number = [](const at::Tensor& x) { return double(x.sum().item<int64_t>()); };
  for (int64_t i = 0; i < std::min(batches, loader.pass_batches()); ++i) {
    auto batch = loader.pass_batch(i).to(model->device());
    auto state = model->method().make_state(batch, options);
    auto term = task_loss(model->backbone(), model->read(batch, state), batch);
    sum += term.sum.item<double>();
    count += term.count;
    selected += number(state.selected.mask);
    available += number(batch.context_valid);
    for (auto [wanted, all, found] : {std::tuple{&batch.answer_tokens, &answers, &found_answers},
                                      {&batch.evidence, &evidence, &found_evidence}}) {
      auto any = wanted->any(1);
      *all += number(any);
      if (state.selected.slots() > 0) *found += number(state.selected.marked(any));
    }
  }
  if (count == 0)
    throw DataError("held-out loss: the split holds no answer to predict; see dsrsq-data inspect");
  HeldOut result;
  result.loss = sum / count;
  if (answers > 0) result.answer_recall = found_answers / answers;
  if (evidence > 0) result.evidence_recall = found_evidence / evidence;
  result.token_share = available > 0 ? selected / available : 0;
  return result;
}

HeldOutAnswers held_out_answers(LanguageModel& model, const Loader& loader,
                                const Tokenizer& tokenizer, int64_t batches,
                                const PassOptions& options, int64_t maximum_tokens) {
  HeldOutAnswers result;
  double questions = 0;
  for (int64_t i = 0; i < std::min(batches, loader.pass_batches()); ++i) {
    auto batch = loader.pass_batch(i).to(model->device());
    auto generated = generate(model, batch, options, {maximum_tokens, tokenizer.end_id()});
    for (int64_t b = 0; b < batch.size(); ++b) {
      auto prediction = tokenizer.decode(generated.tokens[size_t(b)]);
      const auto& answers = batch.records[size_t(b)][0].answers;
      result.exact_match += exact_match(prediction, answers);
      result.f1 += token_f1(prediction, answers);
      ++questions;
    }
  }
  result.exact_match /= std::max(1.0, questions);
  result.f1 /= std::max(1.0, questions);
  return result;
}

}  // namespace dsrsq
