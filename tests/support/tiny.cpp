#include "support/tiny.h"

#include <torch/torch.h>

#include <algorithm>

#include "dsrsq/core/error.h"
#include "dsrsq/core/random.h"
#include "dsrsq/ops/noise.h"

namespace dsrsq::testing {

at::Tensor normal(const std::string& name, at::IntArrayRef shape) {
  return ops::initial_normal("test." + name, shape, 1.0, 17);
}

at::Tensor token_ids(const std::string& name, at::IntArrayRef shape) {
  auto ids = at::empty(shape, at::kLong);
  RandomStream stream(17, Purpose::kSynthetic, 0, stable_hash(name));
  for (int64_t i = 0; i < ids.numel(); ++i)
    ids.data_ptr<int64_t>()[i] =
        2 + int64_t(stream.below(uint64_t(i), uint64_t(kTinyVocabulary - 2)));
  return ids;
}

TransformerConfig tiny_model() {
  TransformerConfig config;
  config.layers = 2;
  config.width = 32;
  config.heads = 4;
  config.key_value_heads = 2;
  config.mlp_width = 48;
  config.conv_width = 4;
  config.sinks = 2;
  config.initial_deviation = 0.3;
  return config;
}

DsrsqConfig tiny_dsrsq(bool dsr, bool sqa, bool rckv) {
  DsrsqConfig config;
  config.dsr.enabled = dsr;
  config.dsr.width = 16;
  config.dsr.budget = 12;
  config.dsr.conv_width = 3;
  config.sqa.enabled = sqa;
  config.sqa.clusters = 6;
  config.sqa.clusters_per_query = 2;
  config.sqa.window = 3;
  config.rckv.enabled = rckv;
  config.rckv.latent_width = 8;
  config.rckv.buffer_length = 5;
  config.rckv.window = 4;
  config.rckv.segment = 8;
  return config;
}

LanguageModel tiny_language_model(const TransformerConfig& model, std::shared_ptr<Method> method,
                                  int64_t seed) {
  Transformer backbone(model, kTinyVocabulary, seed, method.get());
  return LanguageModel(backbone, std::move(method), kTinyBegin);
}

LanguageModel tiny_dsrsq_model(const TransformerConfig& model, const DsrsqConfig& config,
                               int64_t seed) {
  auto made = tiny_language_model(model, std::make_shared<DsrsqMethod>(config, model, seed), seed);
  if (config.sqa.enabled) feed_codebooks(made);
  return made;
}

void feed_codebooks(LanguageModel& model) {
  at::NoGradGuard no_grad;
  PassOptions training;
  training.training = true;
  training.calibrating = true;  // starts them
  training.rckv = false;
  training.step = 1;
  auto batch = tiny_batch({{.context = 60, .sample = 1000}, {.context = 60, .sample = 1001}});
  PassOptions before;
  before.sqa = before.rckv = false;
  model->method().calibration_sequences(before, training);
  model->method().begin_calibration();
  read_batch(model, batch, training);
  model->method().finish_calibration();
  model->method().after_step(1);
}

Batch tiny_batch(const std::vector<TinySequence>& sequences) {
  auto size = int64_t(sequences.size());
  int64_t context = 1, tail = 1, questions = 1, question = 1;
  for (const auto& s : sequences) {
    context = std::max(context, s.context);
    tail = std::max(tail, s.tail);
    questions = std::max(questions, s.questions);
    question = std::max(question, s.question);
  }
  Batch batch;
  batch.context = at::zeros({size, context}, at::kLong);
  batch.context_valid = at::zeros({size, context}, at::kBool);
  batch.passage = at::full({size, context}, -1, at::kLong);
  batch.questions = at::zeros({size, questions, question}, at::kLong);
  batch.questions_valid = at::zeros({size, questions, question}, at::kBool);
  batch.evidence = at::zeros({size, questions, context}, at::kBool);
  batch.answer_tokens = at::zeros({size, questions, context}, at::kBool);
  batch.tail = at::zeros({size, tail}, at::kLong);
  batch.tail_valid = at::zeros({size, tail}, at::kBool);
  batch.labels = at::full({size, tail}, -100, at::kLong);
  batch.label_question = at::full({size, tail}, -1, at::kLong);
  for (int64_t b = 0; b < size; ++b) {
    const auto& s = sequences[size_t(b)];
    batch.context[b]
        .narrow(0, 0, s.context)
        .copy_(token_ids(concat("context ", s.sample), {s.context}));
    batch.context_valid[b].narrow(0, 0, s.context).fill_(true);
    batch.passage[b].narrow(0, 0, s.context).fill_(0);
    for (int64_t q = 0; q < s.questions; ++q) {
      batch.questions[b][q]
          .narrow(0, 0, s.question)
          .copy_(token_ids(concat("question ", s.sample, " ", q), {s.question}));
      batch.questions_valid[b][q].narrow(0, 0, s.question).fill_(true);
      auto begin = (s.sample + 3 * q) % std::max<int64_t>(1, s.context - 4);
      auto end = std::min(s.context, begin + 4);
      batch.evidence[b][q].slice(0, begin, end).fill_(true);
      batch.answer_tokens[b][q].slice(0, std::min(end, begin + 2), end).fill_(true);
    }
    batch.tail[b].narrow(0, 0, s.tail).copy_(token_ids(concat("tail ", s.sample), {s.tail}));
    batch.tail_valid[b].narrow(0, 0, s.tail).fill_(true);
    batch.labels[b].narrow(0, 0, s.tail).copy_(token_ids(concat("label ", s.sample), {s.tail}));
    for (int64_t t = 0; t < s.tail; ++t)
      batch.label_question[b][t] = t * std::max<int64_t>(1, s.questions) / s.tail;
    batch.sample_ids.push_back(s.sample);
    batch.records.emplace_back(size_t(s.questions));
  }
  return batch;
}

at::Tensor read_batch(LanguageModel& model, const Batch& batch, const PassOptions& options,
                      MethodState* state) {
  auto own = model->method().make_state(batch, options);
  auto hidden = model->read(batch, own);
  if (state != nullptr) *state = std::move(own);
  return hidden;
}

std::string parts_name(bool dsr, bool sqa, bool rckv) {
  std::string name;
  for (auto [on, part] : {std::pair{dsr, "dsr"}, {sqa, "sqa"}, {rckv, "rckv"}})
    if (on) name += (name.empty() ? "" : "_") + std::string(part);
  return name.empty() ? "none" : name;
}

}  // namespace dsrsq::testing
