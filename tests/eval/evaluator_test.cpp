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

// Answers of several budgets at once and costs on their own: what one evaluation each finds.
TEST_F(EvaluatorTest, AnswersOfSeveralBudgetsAndCostsAreThoseOfOneEvaluationEach) {
  config_.method = "standard";
  auto reader = make_model(config_, facts_.tokenizer());
  for (const char* name : {"snapkv", "kv_compress", "quest", "random"}) {
    auto method = find_method(name).make(config_, reader->shared_method());
    LanguageModel model(reader->backbone(), method, facts_.tokenizer().begin_id());
    std::vector<PassOptions> budgets(2);
    budgets[0].budget_share = 0.5;
    budgets[1].budget_share = 0.25;
    FlopSettings flops;
    flops.vocabulary_size = facts_.tokenizer().vocabulary_size();
    auto together = evaluate_answers(model, loader(false), facts_.tokenizer(), config_.eval,
                                     budgets, flops, "test");
    ASSERT_EQ(together.size(), 2u);
    for (size_t i = 0; i < budgets.size(); ++i) {
      evaluate_costs(model, loader(false), facts_.tokenizer(), config_.eval, budgets[i],
                     together[i]);
      auto alone = run(model, budgets[i]);
      ASSERT_EQ(together[i].questions.size(), alone.questions.size());
      for (size_t q = 0; q < alone.questions.size(); ++q) {
        EXPECT_EQ(together[i].questions[q].prediction, alone.questions[q].prediction) << name;
        EXPECT_EQ(together[i].questions[q].answer_held, alone.questions[q].answer_held) << name;
        EXPECT_EQ(together[i].questions[q].place, alone.questions[q].place) << name;
        EXPECT_NEAR(together[i].questions[q].answer_loss, alone.questions[q].answer_loss, 1e-5)
            << name;
      }
      for (auto number :
           {&EvaluationResult::flops, &EvaluationResult::density, &EvaluationResult::sparse_share,
            &EvaluationResult::state_bytes, &EvaluationResult::prefill_bytes,
            &EvaluationResult::budget_bytes, &EvaluationResult::tokens_spent})
        EXPECT_DOUBLE_EQ(together[i].*number, alone.*number) << name << " " << i;
      EXPECT_EQ(together[i].latencies.size(), alone.latencies.size());
      EXPECT_GT(together[i].context_tokens_per_second, 0);
    }
    if (model->method().method_name() != "random") {
      EXPECT_LT(together[1].density, together[0].density) << name;
    }
  }
}

// Where everything is read and kept the answer is held whole; where nothing is read, not at all;
// half of the entries, chosen at random, hold about half of it.
TEST_F(EvaluatorTest, AnswerHeldIsTheShareOfItsEntriesThatIsLeft) {
  config_.method = "standard";
  auto reader = make_model(config_, facts_.tokenizer());
  auto held = [&](const char* name, double share) {
    auto method = find_method(name).make(config_, reader->shared_method());
    LanguageModel model(reader->backbone(), method, facts_.tokenizer().begin_id());
    PassOptions options;
    options.budget_share = share;
    auto result = run(model, options);
    double sum = 0;
    for (const auto& question : result.questions) sum += question.answer_held;
    return sum / double(result.questions.size());
  };
  EXPECT_EQ(held("random_eviction", 1), 1);
  EXPECT_EQ(held("quest", 0.25), 1);  // all stay
  EXPECT_EQ(held("question_only", 0), 0);
  auto half = held("random_eviction", 0.5);
  EXPECT_GT(half, 0.3);
  EXPECT_LT(half, 0.7);
  EXPECT_EQ(held("oracle_evidence", 0.9), 1);
}

TEST_F(EvaluatorTest, Bf16HoldsHalfTheBytes) {
  config_.method = "standard";
  auto reader = make_model(config_, facts_.tokenizer());
  auto method = find_method("snapkv").make(config_, reader->shared_method());
  LanguageModel model(reader->backbone(), method, facts_.tokenizer().begin_id());
  PassOptions options;
  options.budget_share = 0.5;
  auto single = run(model, options);
  config_.eval.precision = "bf16";
  auto half = run(model, options);
  EXPECT_EQ(single.budget_bytes, 2 * half.budget_bytes);
  // Beside keys and values, each entry has its rank of 4 bytes in every head.
  EXPECT_LT(half.state_bytes, 0.6 * single.state_bytes);
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

// What a loop over decoded tokens and a softmax in fp64 find: of a method that evicts behind the
// question, of one that evicts behind the context, of a selector and of DSRSQ itself.
TEST_F(EvaluatorTest, AnswerLossIsThatOfTheAnswerDecodedByForce) {
  auto reader = make_model(config_, facts_.tokenizer());
  for (const std::string name : {"snapkv", "streaming_llm", "bm25", "dsrsq"}) {
    config_.eviction.query_aware = name == "snapkv";
    auto model = name == "dsrsq" ? reader : with_method(reader, name, config_);
    PassOptions options;
    options.budget_share = 0.5;
    auto result = run(model, options);
    auto questions = loader(false), whole = loader(true);
    size_t at = 0;
    for (int64_t i = 0; i < questions.sequences(); ++i) {
      auto prompt = questions.single(i), labelled = whole.single(i);
      auto answer = labelled.labels.index({labelled.labels >= 0});
      ASSERT_EQ(answer.size(0), 3) << "two words and the end";
      torch::NoGradGuard no_grad;
      auto state = model->method().make_state(prompt, options);
      auto hidden = model->read(prompt, state).select(1, prompt.tail.size(1) - 1);
      double loss = 0;
      for (int64_t t = 0; t < 3; ++t) {
        auto token = answer.narrow(0, t, 1);
        auto chances = model->backbone()->logits(hidden).to(at::kDouble).log_softmax(-1);
        loss -= chances[0][token.item<int64_t>()].item<double>() / 3;
        hidden = model->read_next(token, at::ones({1}, at::kBool), state).squeeze(1);
      }
      EXPECT_NEAR(result.questions.at(at++).answer_loss, loss, 1e-5) << name << " " << i;
    }
    auto records = result_records(result, "test", name);
    ASSERT_NE(find(records, "answer_loss"), nullptr) << name;
    EXPECT_EQ(find(records, "answer_loss")->unit, "nats");
  }
}

TEST_F(EvaluatorTest, HeldOutLossIsTheMeanOverAnswerTokens) {
  auto model = make_model(config_, facts_.tokenizer());
  auto whole = held_out(model, loader(true, 8), 1, {}).loss;
  auto parts = held_out(model, loader(true, 3), 3, {}).loss;
  EXPECT_NEAR(whole, parts, 1e-5);
  EXPECT_NEAR(whole, std::log(double(facts_.tokenizer().vocabulary_size())), 0.5)
      << "untrained: about uniform";
  double mean = 0;  // every answer has as many tokens
  for (const auto& question : run(model).questions) mean += question.answer_loss / 8;
  EXPECT_NEAR(mean, whole, 1e-5);
}

}  // namespace
}  // namespace dsrsq
