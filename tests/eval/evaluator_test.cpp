#include "dsrsq/eval/evaluator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/core/error.h"
#include "dsrsq/methods/selectors.h"
#include "dsrsq/registry.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

class EvaluatorTest : public ::testing::Test {
 protected:
  EvaluatorTest() : config_(testing::tiny_config(facts_)) {
    config_.dsrsq.sqa.enabled = false;  // an untrained codebook is empty
    config_.dsrsq.rckv.window = 4;
    config_.eval.latency_questions = 3;
    config_.eval.maximum_tokens = 2;
  }
  Loader loader(bool with_answers, int64_t batch_size = 3) {
    LoaderOptions options;
    options.split = "test";
    options.shuffle = false;
    options.with_answers = with_answers;
    options.batch_size = batch_size;
    return Loader(facts_.store_path(), facts_.tokenizer(), config_.prompt, options);
  }
  EvaluationResult run(LanguageModel& model, const PassOptions& options = {},
                       int64_t batch_size = 3) {
    FlopSettings flops;
    flops.vocabulary_size = facts_.tokenizer().vocabulary_size();
    return evaluate(model, loader(false, batch_size), facts_.tokenizer(), config_.eval, options,
                    flops, "test");
  }
  static const ResultRecord* find(const std::vector<ResultRecord>& records,
                                  const std::string& metric) {
    for (const auto& record : records)
      if (record.metric == metric) return &record;
    return nullptr;
  }

  testing::TinyFacts facts_;
  RunConfig config_;
};

TEST_F(EvaluatorTest, CountsOnAFewQuestionsWhatItCountsOnAll) {
  auto model = make_model(config_, facts_.tokenizer());
  auto all = run(model);
  config_.eval.counted_questions = 8;
  EXPECT_EQ(run(model).flops, all.flops);
  config_.eval.counted_questions = 2;  // a batch of three
  auto few = run(model);
  EXPECT_EQ(few.questions.size(), all.questions.size());
  EXPECT_NEAR(few.flops / all.flops, 1, 0.005);
}

TEST_F(EvaluatorTest, OracleEvidenceRecallsAllOfItAndQuestionOnlyNone) {
  auto model = make_model(config_, facts_.tokenizer());
  auto oracle =
      std::make_shared<OracleEvidenceSelector>(model->shared_method(), config_.selectors, 0);
  LanguageModel with_oracle(model->backbone(), oracle, facts_.tokenizer().begin_id());
  PassOptions options;
  options.budget = 32;
  options.select_per_segment = false;
  auto result = run(with_oracle, options);
  ASSERT_EQ(result.questions.size(), 8u);
  for (const auto& question : result.questions) {
    EXPECT_EQ(question.evidence_recall, 1);
    EXPECT_EQ(question.answer_recall, 1);
    EXPECT_EQ(question.selected_tokens, 32);
    EXPECT_NE(question.place, AnswerPlace::kNotChosen);
    EXPECT_NE(question.place, AnswerPlace::kUnknown);
  }
  auto none = std::make_shared<QuestionOnlySelector>(model->shared_method(), config_.selectors, 0);
  LanguageModel without(model->backbone(), none, facts_.tokenizer().begin_id());
  for (const auto& question : run(without).questions) {
    EXPECT_EQ(question.evidence_recall, 0);
    EXPECT_EQ(question.place, AnswerPlace::kNotChosen);
  }
}

// 64 tokens of context and 2 sinks in front, fp32, 2 layers of 2 key-value heads of width 8: 256
// bytes of keys and values a token.
TEST_F(EvaluatorTest, EvictionReportsTheBudgetAndWhatWasHeld) {
  config_.method = "standard";
  auto reader = make_model(config_, facts_.tokenizer());
  auto evaluated = [&](const char* name, double share) {
    auto method = find_method(name).make(config_, reader->shared_method());
    LanguageModel model(reader->backbone(), method, facts_.tokenizer().begin_id());
    PassOptions options;
    options.budget_share = share;
    return run(model, options);
  };
  auto half = evaluated("snapkv", 0.5), quarter = evaluated("snapkv", 0.25);
  EXPECT_EQ(half.budget_bytes, 32 * 256);
  EXPECT_EQ(quarter.budget_bytes, 16 * 256);
  // 16 tokens fewer, each with its rank of 4 bytes in every head.
  EXPECT_EQ(half.state_bytes - quarter.state_bytes, 16 * (256 + 4 * 4));
  EXPECT_GT(half.prefill_bytes, half.state_bytes);
  EXPECT_LT(quarter.density, half.density);
  EXPECT_EQ(evaluated("random_eviction", 1).density, 1);
  EXPECT_EQ(run(reader).budget_bytes, 0);  // nobody asked
  // Counted in the pass that is timed, or in one of its own: the same.
  auto dense = run(reader);
  EXPECT_EQ(dense.density, 1);
  EXPECT_EQ(dense.sparse_share, 0);
  auto records = result_records(half, "test", "snapkv");
  for (const char* metric : {"bytes_held", "prefill_bytes", "budget_bytes"})
    EXPECT_NE(find(records, metric), nullptr) << metric;
  EXPECT_EQ(find(result_records(dense, "test", "dense"), "budget_bytes"), nullptr);
}

TEST_F(EvaluatorTest, WithoutABufferEveryChosenAnswerIsExact) {
  config_.dsrsq.rckv.enabled = false;
  config_.dsrsq.dsr.enabled = false;
  auto model = make_model(config_, facts_.tokenizer());
  auto result = run(model);
  for (const auto& question : result.questions) EXPECT_EQ(question.place, AnswerPlace::kExact);
  EXPECT_FALSE(result.has_latents);
  auto records = result_records(result, "test", "row");
  EXPECT_EQ(find(records, "em_latent"), nullptr) << "a metric without data has no record";
  EXPECT_EQ(find(records, "em_exact")->value, find(records, "em")->value);
}

TEST_F(EvaluatorTest, WhatLeftTheWindowIsInLatentsOnly) {
  config_.dsrsq.dsr.enabled = false;
  auto model = make_model(config_, facts_.tokenizer());
  auto result = run(model);
  EXPECT_TRUE(result.has_latents);
  EXPECT_GT(result.latent_mass, 0);
  int64_t latent = 0;
  for (const auto& question : result.questions) latent += question.place == AnswerPlace::kLatent;
  EXPECT_GT(latent, 0);
}

TEST_F(EvaluatorTest, PredictionsAndBytesDoNotDependOnTheBatchSize) {
  auto model = make_model(config_, facts_.tokenizer());
  auto three = run(model), eight = run(model, {}, 8);
  for (size_t i = 0; i < 8; ++i)
    EXPECT_EQ(three.questions[i].prediction, eight.questions[i].prediction) << i;
  EXPECT_EQ(three.state_bytes, eight.state_bytes);
  EXPECT_EQ(three.latencies.size(), 3u);
}

TEST_F(EvaluatorTest, TheOutputHeadIsPartOfTheWork) {
  auto model = make_model(config_, facts_.tokenizer());
  auto with_head = run(model).flops;
  FlopSettings no_vocabulary;
  auto without =
      evaluate(model, loader(false), facts_.tokenizer(), config_.eval, {}, no_vocabulary, "test")
          .flops;
  // At least one predicted token a question: a multiply-add for each element of the output matrix.
  EXPECT_GE(with_head - without,
            2.0 * double(facts_.tokenizer().vocabulary_size() * config_.model.width) * 0.999);
}

TEST_F(EvaluatorTest, HeldOutLossIsTheMeanOverAnswerTokens) {
  auto model = make_model(config_, facts_.tokenizer());
  auto whole = held_out(model, loader(true, 8), 1, {}).loss;
  auto parts = held_out(model, loader(true, 3), 3, {}).loss;
  EXPECT_NEAR(whole, parts, 1e-5);
  EXPECT_NEAR(whole, std::log(double(facts_.tokenizer().vocabulary_size())), 0.5)
      << "untrained: about uniform";
}

}  // namespace
}  // namespace dsrsq
