// What every method of the registry owes: shapes, finite numbers, batches with padding, grouped
// heads, causality, decoding that agrees with prefill. A new method is under these tests by its
// line in src/registry.cpp.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <set>

#include "dsrsq/core/error.h"
#include "dsrsq/model/generate.h"
#include "dsrsq/registry.h"
#include "methods/kept_entries.h"
#include "methods/tiny_words.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::read_batch;
using testing::tiny_batch;
using testing::Tolerance;

RunConfig config() {
  RunConfig run;
  run.model = testing::tiny_model();
  run.dsrsq = testing::tiny_dsrsq(true, true, true);
  run.standard.window = 40;
  run.standard.reserved = 10;
  run.gca.chunk = 4;
  run.gca.chunks_per_query = 2;
  run.gca.window = 8;
  run.gca.encoder_layers = 1;
  run.gca.output_start = "normal";
  run.train.seed = 3;
  run.eviction.window = 4;
  run.kv_compress.block = 4;
  run.razor.search_tokens = 20;
  run.data.tokenizer = testing::tiny_words_path();
  return run;
}

const std::vector<testing::TinySequence> kSequences{
    {.context = 45, .tail = 6, .sample = 1},
    {.context = 19, .question = 3, .tail = 9, .questions = 2, .sample = 2},
    {.context = 1, .question = 2, .tail = 4, .sample = 3}};

class Conformance : public ::testing::TestWithParam<std::string> {
 protected:
  // A selector does not own its reader, which is moved first.
  LanguageModel make(at::Device device = at::kCPU) const {
    auto run = config();
    const auto& entry = find_method(GetParam());
    if (entry.trainable) {
      auto model = testing::tiny_language_model(run.model, entry.make(run, nullptr));
      testing::feed_codebooks(model);
      model->to(device);
      return model;
    }
    auto trained = testing::tiny_language_model(run.model, find_method("dsrsq").make(run, nullptr));
    testing::feed_codebooks(trained);
    trained->to(device);
    auto model = testing::tiny_language_model(run.model, entry.make(run, trained->shared_method()));
    model->to(device);
    return model;
  }
};

TEST_P(Conformance, ReadsAPaddedBatch) {
  torch::NoGradGuard no_grad;
  auto model = make();
  EXPECT_EQ(model->method().method_name(), GetParam());
  auto batch = tiny_batch(kSequences);
  MethodState state;
  auto hidden = read_batch(model, batch, {}, &state);
  ASSERT_EQ(hidden.sizes(), (std::vector<int64_t>{3, 9, 32}));
  EXPECT_TRUE(hidden.isfinite().all().item<bool>());
  EXPECT_EQ(state.selected.slots(), state.selected.mask.size(1));
  EXPECT_GT(model->method().state_bytes(state), 0);
  auto logits = model->backbone()->logits(hidden);
  EXPECT_EQ(logits.size(-1), testing::kTinyVocabulary);
  EXPECT_EQ(logits.scalar_type(), at::kFloat);
}

TEST_P(Conformance, ASequenceDoesNotDependOnItsBatch) {
  torch::NoGradGuard no_grad;
  auto model = make();
  auto together = read_batch(model, tiny_batch(kSequences));
  for (size_t b = 0; b < kSequences.size(); ++b) {
    auto alone = read_batch(model, tiny_batch({kSequences[b]}));
    EXPECT_TENSOR_NEAR(together[int64_t(b)].narrow(0, 0, kSequences[b].tail), alone[0],
                       (Tolerance{0, 1e-5}))
        << "sequence " << b;
  }
}

TEST_P(Conformance, TailIsCausal) {
  torch::NoGradGuard no_grad;
  auto model = make();
  auto batch = tiny_batch(kSequences);
  auto hidden = read_batch(model, batch);
  batch.tail = batch.tail.clone();
  batch.tail.select(1, 3).add_(1);
  auto changed = read_batch(model, batch);
  EXPECT_TENSOR_NEAR(changed.slice(1, 0, 3), hidden.slice(1, 0, 3), (Tolerance{0, 3e-6}));
  EXPECT_GT((changed - hidden).select(1, 3).abs().min().item<double>(), 0);
}

TEST_P(Conformance, DecodingEqualsPrefill) {
  torch::NoGradGuard no_grad;
  auto model = make();
  auto batch = tiny_batch(kSequences);
  auto whole = read_batch(model, batch);
  auto start = batch;
  start.tail = batch.tail.narrow(1, 0, 2);
  start.tail_valid = batch.tail_valid.narrow(1, 0, 2);
  start.labels = batch.labels.narrow(1, 0, 2);
  MethodState state;
  std::vector<at::Tensor> hidden{read_batch(model, start, {}, &state)};
  for (int64_t t = 2; t < 9; ++t)
    hidden.push_back(
        model->read_next(batch.tail.select(1, t), batch.tail_valid.select(1, t), state));
  auto valid = batch.tail_valid.unsqueeze(-1);
  EXPECT_TENSOR_NEAR(at::cat(hidden, 1) * valid, whole * valid, (Tolerance{0, 1e-5}));
}

TEST_P(Conformance, ACopyOfTheStateGoesOnByItself) {
  torch::NoGradGuard no_grad;
  auto model = make();
  auto batch = tiny_batch(kSequences);
  MethodState state;
  read_batch(model, batch, {}, &state);
  auto copy = state;
  auto open = at::ones({3}, at::kBool);
  auto first = testing::token_ids("first", {3}), second = testing::token_ids("second", {3});
  auto bytes = model->method().state_bytes(state);
  auto one = model->read_next(first, open, state);
  model->read_next(second, open, state);
  EXPECT_EQ(model->method().state_bytes(copy), bytes);  // what the other read is not in it
  EXPECT_TENSOR_NEAR(model->read_next(first, open, copy), one, (Tolerance{0, 1e-6}));
}

// Behind the question, several tokens at once read as they would one by one.
TEST_P(Conformance, AnAnswerReadAtOnceIsReadAsTokenByToken) {
  torch::NoGradGuard no_grad;
  auto model = make();
  auto batch = tiny_batch(kSequences);
  PassOptions options;
  options.budget_share = 0.5;
  MethodState state;
  read_batch(model, batch, options, &state);
  auto ids = testing::token_ids("answer", {3, 4});
  auto valid = at::tensor({1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0}, at::kLong).view({3, 4}) > 0;
  auto copy = state;
  auto at_once = read_more(model, ids, valid, copy);
  std::vector<at::Tensor> one_by_one;
  for (int64_t t = 0; t < 4; ++t)
    one_by_one.push_back(model->read_next(ids.select(1, t), valid.select(1, t), state));
  auto counts = valid.unsqueeze(-1);
  EXPECT_TENSOR_NEAR(at_once * counts, at::cat(one_by_one, 1) * counts, (Tolerance{0, 1e-5}));
  EXPECT_TENSOR_NEAR(copy.next_order, state.next_order, (Tolerance{0, 0}));
  EXPECT_TENSOR_NEAR(copy.next_position, state.next_position, (Tolerance{0, 0}));
}

// One reading of the prompts for three budgets, or one each: the same answers from the same state.
TEST_P(Conformance, SeveralBudgetsAtOnceAreEachAsAlone) {
  torch::NoGradGuard no_grad;
  auto model = make();
  auto batch = tiny_batch(kSequences);
  std::vector<PassOptions> budgets(3);
  budgets[0].budget_share = 0.5;
  budgets[1].budget_share = 1;
  budgets[2].budget_share = 0.2;
  for (auto& options : budgets) options.collect_stats = true;
  GenerateOptions settings;
  settings.maximum_tokens = 4;
  size_t seen = 0;
  generate_budgets(model, batch, budgets, settings, [&](size_t i, const Generated& together) {
    ASSERT_EQ(i, seen++);
    auto alone = generate(model, batch, budgets[i], settings);
    EXPECT_EQ(together.tokens, alone.tokens) << i;
    EXPECT_EQ(together.state_bytes, alone.state_bytes) << i;
    EXPECT_TRUE(together.state.selected.index.equal(alone.state.selected.index)) << i;
    for (auto sum : {&AttentionStats::rows, &AttentionStats::attended_pairs,
                     &AttentionStats::visible_pairs, &AttentionStats::sparse_rows}) {
      const auto &is = together.state.stats.*sum, &was = alone.state.stats.*sum;
      ASSERT_EQ(is.defined(), was.defined()) << i;
      if (was.defined()) {
        EXPECT_EQ(is.item<double>(), was.item<double>()) << i;
      }
    }
    EXPECT_TENSOR_NEAR(together.state.next_order, alone.state.next_order, (Tolerance{0, 0}));
    auto open = at::ones({3}, at::kBool);
    auto next = testing::token_ids("next", {3});
    auto copy = together.state;
    EXPECT_TENSOR_NEAR(model->read_next(next, open, copy),
                       model->read_next(next, open, alone.state), (Tolerance{0, 1e-5}));
  });
  EXPECT_EQ(seen, budgets.size());
}

TEST_P(Conformance, ReadsOnAGpuAsOnTheCpu) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU";
  torch::NoGradGuard no_grad;
  auto model = make();
  auto batch = tiny_batch(kSequences);
  auto ids = testing::token_ids("next", {3});
  auto open = at::ones({3}, at::kBool);
  MethodState state;
  auto hidden = read_batch(model, batch, {}, &state);
  auto next = model->read_next(ids, open, state);
  model = make(at::kCUDA);
  MethodState on_gpu;
  auto valid = batch.tail_valid.unsqueeze(-1);
  EXPECT_TENSOR_NEAR(read_batch(model, batch.to(at::kCUDA), {}, &on_gpu).cpu() * valid,
                     hidden * valid, (Tolerance{0, 1e-3}));
  EXPECT_TENSOR_NEAR(model->read_next(ids.cuda(), open.cuda(), on_gpu).cpu(), next,
                     (Tolerance{0, 1e-3}));
}

TEST_P(Conformance, TrainsEveryParameterThatItHas) {
  auto model = make();
  if (!find_method(GetParam()).trainable) {
    // A selector owns nothing: it reads with another's weights.
    EXPECT_TRUE(model->method().parameters().empty());
    return;
  }
  PassOptions training;
  training.training = true;
  training.step = 2;
  auto batch = tiny_batch(kSequences);
  MethodState state;
  auto hidden = read_batch(model, batch, training, &state);
  auto loss = model->backbone()->logits(hidden).log_softmax(-1).square().mean();
  for (const auto& [name, term] : model->method().losses(batch, state)) {
    EXPECT_EQ(term.count, model->method().loss_counts(batch, training).at(name)) << name;
    loss = loss + term.sum / term.count;
  }
  loss.backward();
  for (const auto& one : model->named_parameters()) {
    ASSERT_TRUE(one.value().is_leaf()) << one.key();
    ASSERT_TRUE(one.value().grad().defined()) << one.key();
    EXPECT_TRUE(one.value().grad().isfinite().all().item<bool>()) << one.key();
    EXPECT_GT(one.value().grad().norm().item<double>(), 0) << one.key();
  }
  model->method().after_step(2);
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(read_batch(model, batch).isfinite().all().item<bool>());
}

std::vector<std::string> names() {
  std::vector<std::string> list;
  for (const auto& entry : method_table()) list.push_back(entry.name);
  return list;
}

INSTANTIATE_TEST_SUITE_P(Methods, Conformance, ::testing::ValuesIn(names()),
                         [](const auto& info) { return info.param; });

TEST(Registry, NamesAreUniqueAndDescribed) {
  std::set<std::string> seen;
  for (const auto& entry : method_table()) {
    EXPECT_TRUE(seen.insert(entry.name).second) << entry.name;
    EXPECT_FALSE(entry.description.empty()) << entry.name;
  }
}

TEST(Registry, AnUnknownMethodNamesTheNearest) {
  try {
    find_method("bm52");
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean 'bm25'?"), std::string::npos)
        << error.what();
  }
}

// What a prompt puts in front of every context is kept by a method that reads with another's
// weights, outside its budget.
TEST(Registry, AMethodKeepsThePrefixOfTheModelThatItReadsWith) {
  torch::NoGradGuard no_grad;
  auto run = config();
  run.streaming_llm.sinks = 0;
  auto reader = run.model;
  reader.sinks += 3;  // as make_model counts a prefix
  auto standard = std::make_shared<StandardMethod>(run.standard, reader);
  LanguageModel trained(Transformer(reader, testing::kTinyVocabulary, 3, standard.get()), standard,
                        testing::kTinyBegin, std::vector<int32_t>{5, 6, 7});
  auto model = with_method(trained, "streaming_llm", run);
  PassOptions options;
  options.budget_share = 0.5;
  MethodState state;
  read_batch(model, tiny_batch({{.context = 10, .tail = 2, .sample = 1}}), options, &state);
  // 2 sinks and 3 tokens of the prefix, the last half of the context, the question.
  EXPECT_EQ(testing::kept_ranks(state, 1, 2)[0][0][0],
            (std::set<int64_t>{0, 1, 2, 3, 4, 10, 11, 12, 13, 14, 15, 16}));
}

TEST(Registry, ProbesRunOnTrainedWeights) {
  torch::NoGradGuard no_grad;
  auto run = config();
  auto model = testing::tiny_language_model(run.model, find_method("dsrsq").make(run, nullptr));
  testing::feed_codebooks(model);
  auto batch = tiny_batch({{.context = 45, .sample = 1}});
  auto plain = read_batch(model, batch);
  for (const auto& entry : probe_table()) {
    PassOptions options;
    options.probe = entry.probe;
    auto hidden = read_batch(model, batch, options);
    EXPECT_TRUE(hidden.isfinite().all().item<bool>()) << entry.name;
    EXPECT_GT((hidden - plain).abs().max().item<double>(), 1e-4) << entry.name;
  }
}

}  // namespace
}  // namespace dsrsq
