#include "dsrsq/eval/evaluator.h"

#include <torch/torch.h>

#include <algorithm>
#include <set>
#include <unordered_map>

#include "dsrsq/core/error.h"
#include "dsrsq/core/progress.h"
#include "dsrsq/core/timer.h"
#include "dsrsq/objective/task_loss.h"
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
      "queries, latent mass, FLOP): a second pass, with explicit masks; 0: all.",
      at_least(0));
}

namespace {

std::set<int64_t> valid_orders(const at::Tensor& order, const at::Tensor& valid, int64_t b) {
  std::set<int64_t> orders;
  if (!order.defined()) return orders;
  auto ranks = order[b].to(at::kCPU).contiguous(), present = valid[b].to(at::kCPU).contiguous();
  for (int64_t i = 0; i < ranks.numel(); ++i)
    if (present.data_ptr<bool>()[i]) orders.insert(ranks.data_ptr<int64_t>()[i]);
  return orders;
}

double share_selected(const at::Tensor& wanted, const at::Tensor& chosen) {
  auto total = wanted.sum().item<int64_t>();
  return total == 0 ? -1 : double(wanted.logical_and(chosen).sum().item<int64_t>()) / double(total);
}

// Where the answer's tokens stand: by their rank in the reader's sequence, in exact entries or in
// latents.
void locate_answer(const Batch& batch, const MethodState& state, int64_t b, int64_t sinks,
                   QuestionResult& question) {
  auto wanted = batch.answer_tokens[b][0].to(at::kCPU).nonzero().squeeze(1);
  if (wanted.numel() == 0) return;
  std::unordered_map<int64_t, int64_t> rank_of;  // context token -> rank in the reader's sequence
  auto index = state.selected.index[b].to(at::kCPU).contiguous(),
       mask = state.selected.mask[b].to(at::kCPU).contiguous();
  int64_t rank = sinks;
  for (int64_t i = 0; i < index.numel(); ++i)
    if (mask.data_ptr<bool>()[i]) rank_of[index.data_ptr<int64_t>()[i]] = rank++;
  std::vector<int64_t> ranks;
  for (int64_t i = 0; i < wanted.numel(); ++i) {
    auto found = rank_of.find(wanted.data_ptr<int64_t>()[i]);
    if (found == rank_of.end()) {
      question.place = AnswerPlace::kNotChosen;
      return;
    }
    ranks.push_back(found->second);
  }
  // A token is an exact key where every layer (and head, where heads hold their own) holds it, and
  // gone where none does.
  std::vector<std::set<int64_t>> exact;
  for (const auto& layer : state.layers) {
    if (layer.values.defined() && !layer.keys.defined()) continue;  // of another layer's keys
    if (layer.head_groups.empty()) exact.push_back(valid_orders(layer.order, layer.valid, b));
    for (const auto& group : layer.head_groups)
      for (int64_t h = 0; h < group.keys.size(1); ++h)
        exact.push_back(valid_orders(group.order.select(1, h).to(at::kLong),
                                     group.valid.defined()
                                         ? group.valid.select(1, h)
                                         : at::ones_like(group.order.select(1, h), at::kBool),
                                     b));
  }
  size_t held = 0, gone = 0;
  for (auto r : ranks) {
    auto layers = size_t(std::count_if(exact.begin(), exact.end(),
                                       [r](const auto& set) { return set.count(r) > 0; }));
    held += layers == exact.size();
    gone += layers == 0;
  }
  question.place = held == ranks.size()   ? AnswerPlace::kExact
                   : gone == ranks.size() ? AnswerPlace::kLatent
                                          : AnswerPlace::kMixed;
  for (const auto& layer : state.layers) {
    auto latents = valid_orders(layer.latents.order, layer.latents.valid, b);
    if (std::all_of(ranks.begin(), ranks.end(), [&](int64_t r) { return latents.count(r) > 0; }))
      question.retained = true;
  }
}

void score_batch(const Batch& batch, const Generated& generated, const Tokenizer& tokenizer,
                 int64_t sinks, EvaluationResult& result) {
  auto chosen = at::zeros_like(batch.context_valid);
  if (generated.state.selected.slots() > 0) {
    chosen = generated.state.selected.chosen(batch.context.size(1));
  }
  for (int64_t b = 0; b < batch.size(); ++b) {
    const auto& record = batch.records[size_t(b)][0];
    QuestionResult question;
    question.id = record.id;
    question.question = record.question;
    question.answers = record.answers;
    question.prediction = tokenizer.decode(generated.tokens[size_t(b)]);
    score_answer(question);
    question.evidence_recall = share_selected(batch.evidence[b][0], chosen[b]);
    question.answer_recall = share_selected(batch.answer_tokens[b][0], chosen[b]);
    question.selected_tokens = double(chosen[b].sum().item<int64_t>());
    question.context_tokens = double(batch.context_valid[b].sum().item<int64_t>());
    locate_answer(batch, generated.state, b, sinks, question);
    result.questions.push_back(std::move(question));
  }
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

// What is attended, where counting it needs explicit masks: they would be timed with the method, so
// a pass of its own.
void count_attended(LanguageModel& model, const Loader& loader, int64_t wanted,
                    const GenerateOptions& generation, PassOptions options,
                    const std::string& label, StatSums& sums) {
  auto sequences = loader.sequences();
  if (wanted > 0) sequences = std::min(sequences, wanted);
  Progress counting(label + ", counting", sequences);
  options.collect_stats = true;
  for (int64_t i = 0; i < loader.pass_batches() && sums.sequences < sequences; ++i) {
    auto batch = loader.pass_batch(i).to(model->device());
    sums.add(generate(model, batch, options, generation).state.stats, batch.size());
    counting.update(std::min(sums.sequences, sequences));
  }
  counting.finish();
}

// Keys and values of the context tokens that the options ask for.
double asked_bytes(LanguageModel& model, const Batch& batch, const PassOptions& options) {
  auto tokens = requested_budget(options, batch.context_valid);
  if (!tokens.defined()) return 0;
  const auto& shape = model->method().shape();
  auto entry = 2 * shape.layers * shape.key_value_heads * shape.head_width *
               int64_t(model->backbone()->parameters().front().element_size());
  auto asked = at::minimum(tokens, batch.context_valid.sum(1)).sum().item<int64_t>();
  return double(asked * entry);
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
    result.budget_bytes += asked_bytes(model, single, options) / double(read);
  }
}

}  // namespace

EvaluationResult evaluate(LanguageModel& model, const Loader& loader, const Tokenizer& tokenizer,
                          const EvalConfig& config, const PassOptions& base,
                          const FlopSettings& flops, const std::string& label) {
  at::NoGradGuard no_grad;
  auto device = model->device();
  auto options = base;
  GenerateOptions generation{config.maximum_tokens, tokenizer.end_id()};
  EvaluationResult result;
  StatSums sums;
  double reader_tokens = 0, decoded = 0;
  auto sinks = model->backbone()->config().sinks;
  PeakMemory peak(device);
  Progress progress(label, loader.sequences());
  bool counts = model->method().counts_without_masks();
  options.collect_stats = counts;
  for (int64_t i = 0; i < loader.pass_batches(); ++i) {
    auto batch = loader.pass_batch(i).to(device);
    auto generated = generate(model, batch, options, generation);
    result.seconds +=
        generated.select_seconds + generated.prefill_seconds + generated.decode_seconds;
    decoded += double(generated.decoded_tokens);
    reader_tokens +=
        double((generated.state.selected.mask.sum() + batch.tail_valid.sum()).item<int64_t>() +
               sinks * batch.size());
    score_batch(batch, generated, tokenizer, sinks, result);
    if (counts) sums.add(generated.state.stats, batch.size());
    progress.update(int64_t(result.questions.size()));
  }
  progress.finish();
  result.peak_bytes = peak.bytes();
  if (!counts)
    count_attended(model, loader, config.counted_questions, generation, options, label, sums);
  options.collect_stats = false;
  auto questions = double(result.questions.size());
  double context = 0;
  for (const auto& question : result.questions) context += question.context_tokens;
  result.context_tokens_per_second = context / std::max(1e-9, result.seconds);
  result.shared_bytes = double(model->method().shared_bytes());
  result.sparse_share = sums.rows > 0 ? sums.sparse / sums.rows : 0;
  result.density = sums.visible > 0 ? sums.attended / sums.visible : 1;
  result.has_latents = sums.latent_rows > 0;
  result.latent_mass = result.has_latents ? sums.latent_mass / sums.latent_rows : 0;
  const auto& shape = model->method().shape();
  SequenceWork work;
  work.context_tokens = flops.retriever_width > 0 ? context / questions : 0;
  work.reader_tokens = (reader_tokens + decoded) / questions;
  auto counted = double(sums.sequences);
  work.attended_pairs = sums.attended / double(shape.query_heads) / counted;
  work.latent_pairs = sums.latent_pairs / double(shape.query_heads) / counted;
  work.rebuilt_latents = sums.rebuilt / counted;
  work.routed_pairs = work.reader_tokens * double(shape.layers * flops.clusters) *
                      (1 + double(shape.key_value_heads) / double(shape.query_heads));
  work.predicted_tokens = 1 + decoded / questions;
  result.flops = forward_flops(model->backbone()->config(), flops, work) +
                 work.reader_tokens * model->method().token_flops();
  measure_singly(model, loader, config, options, generation, result);
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

std::vector<ResultRecord> result_records(const EvaluationResult& result,
                                         const std::string& case_name, const std::string& row) {
  auto records = answer_records({case_name, row, result.questions});
  auto context = mean_of(collect(result, [](const auto& q) { return q.context_tokens; }));
  auto selected = mean_of(collect(result, [](const auto& q) { return q.selected_tokens; }));
  std::map<std::string, double> shape{{"questions", double(result.questions.size())},
                                      {"context_tokens", context}};
  auto add = [&](const std::string& metric, double value, const std::string& unit) {
    records.push_back({case_name, row, shape, metric, value, unit, {}, {}});
  };
  auto add_mean = [&](const std::string& metric, const std::vector<double>& values) {
    if (values.empty()) return;
    auto interval = bootstrap_mean(values);
    records.push_back(
        {case_name, row, shape, metric, interval.mean, "share", interval.low, interval.high});
  };
  auto em_at = [&](AnswerPlace place) {
    return collect(result,
                   [place](const auto& q) { return q.place == place ? q.exact_match : -1; });
  };
  if (auto values = em_at(AnswerPlace::kExact); !values.empty()) add_mean("em_exact", values);
  auto located = collect(result, [](const auto& q) {
    return q.place == AnswerPlace::kUnknown ? -1.0 : double(q.place == AnswerPlace::kLatent);
  });
  if (auto values = em_at(AnswerPlace::kLatent); !values.empty()) {
    add_mean("em_latent", values);
    add("share_latent", mean_of(located), "share");
    add_mean("retained_latent", collect(result, [](const auto& q) {
               return q.place == AnswerPlace::kLatent ? double(q.retained) : -1;
             }));
  }
  add("throughput", result.context_tokens_per_second, "tokens/s");
  if (!result.latencies.empty()) {
    add("latency_p50", quantile(result.latencies, 0.5), "s");
    add("latency_p95", quantile(result.latencies, 0.95), "s");
  }
  if (result.peak_bytes >= 0) add("peak_memory", result.peak_bytes, "bytes");
  add("bytes_held", result.state_bytes, "bytes");
  add("prefill_bytes", result.prefill_bytes, "bytes");
  if (result.budget_bytes > 0) add("budget_bytes", result.budget_bytes, "bytes");
  if (result.shared_bytes > 0) add("bytes_shared", result.shared_bytes, "bytes");
  add("flops", result.flops, "FLOP");
  add("tokens_read", selected, "tokens");
  add("token_efficiency", context > 0 ? selected / context : 0, "share");
  add("sparse_share", result.sparse_share, "share");
  add("density", result.density, "share");
  if (result.has_latents) add("latent_mass", result.latent_mass, "share");
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
