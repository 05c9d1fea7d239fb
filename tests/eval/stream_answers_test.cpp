#include "dsrsq/eval/stream_answers.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dsrsq/core/error.h"
#include "dsrsq/model/generate.h"
#include "dsrsq/registry.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

// A stream of more than one chunk, in the words of TinyFacts, read with untrained weights.
class StreamAnswersTest : public ::testing::Test {
 protected:
  StreamAnswersTest() : config_(testing::tiny_config(facts_)) {
    config_.prompt.question = "{question}";
    config_.prompt.end_answer = false;
    config_.dsrsq.sqa.enabled = false;  // an untrained codebook is empty
    config_.dsrsq.rckv.noise = "none";  // drawn by a number that a prefix alone does not have
    config_.selectors.bm25_passage = 16;
    FactStreamConfig stream;
    stream.tokens = 5000;
    stream.segment = 64;
    stream.facts = 30;
    stream.updates = 15;
    stream.probed_facts = 5;
    stream.controls = 3;
    stream.distractors = 3;
    stream.names = 12;
    stream.attributes = 8;
    stream.values = 24;
    stream.filler_words = 16;
    stream_ = make_fact_stream(stream);
    model_ = make_model(config_, facts_.tokenizer());
    model_->eval();
    options_.budget = 24;
    options_.segment = config_.dsrsq.rckv.segment;
    options_.batch_size = 32;
    options_.maximum_tokens = 2;
    options_.selector = config_.selectors;
  }
  std::vector<StreamAnswer> answer(StreamChoice choice) {
    options_.choice = choice;
    return answer_stream(model_, facts_.tokenizer(), config_.prompt, stream_, options_, "test");
  }
  Batch prefix_batch(const StreamProbe& probe) {
    return collate_text(facts_.tokenizer(), config_.prompt,
                        {{stream_.text.substr(0, size_t(probe.prefix_bytes)), probe.question}});
  }
  PassOptions pass() const {
    PassOptions pass;
    pass.budget = options_.budget;
    pass.select_per_segment = false;
    return pass;
  }
  // The way of every other evaluation: the whole prefix as the context of one question.
  void expect_as_generated(LanguageModel model, StreamChoice choice) {
    auto answers = answer(choice);
    ASSERT_EQ(answers.size(), stream_.probes.size());
    for (size_t p = 0; p < answers.size(); p += 5) {
      auto made = generate(model, prefix_batch(stream_.probes[p]), pass(),
                           {2, facts_.tokenizer().end_id()});
      EXPECT_EQ(answers[p].prediction, facts_.tokenizer().decode(made.tokens[0])) << p;
    }
  }

  testing::TinyFacts facts_;
  RunConfig config_;
  FactStream stream_;
  LanguageModel model_{nullptr};
  StreamOptions options_;
};

TEST_F(StreamAnswersTest, TheRetrieverOverAllChunksChoosesAsOverOneContext) {
  expect_as_generated(model_, StreamChoice::kRetrieved);
}

TEST_F(StreamAnswersTest, Bm25ChoosesAsTheSelectorDoes) {
  expect_as_generated(with_method(model_, "bm25", config_), StreamChoice::kBm25);
}

TEST_F(StreamAnswersTest, DoesNotDependOnTheBatchSize) {
  auto some = answer(StreamChoice::kRetrieved);
  options_.batch_size = 7;
  auto all = answer(StreamChoice::kRetrieved);
  for (size_t p = 0; p < all.size(); ++p) {
    EXPECT_EQ(some[p].prediction, all[p].prediction);
    for (size_t c = 0; c < all[p].scored.candidates.size(); ++c)
      EXPECT_NEAR(some[p].scored.candidates[c], all[p].scored.candidates[c], 1e-5);
  }
}

// Candidates by one pass over question and answer instead of token by token.
TEST_F(StreamAnswersTest, CandidatesHaveTheirTeacherForcedLikelihood) {
  at::NoGradGuard no_grad;
  auto answers = answer(StreamChoice::kRetrieved);
  for (size_t p = 0; p < answers.size(); p += 7) {
    const auto& probe = stream_.probes[p];
    auto values = probe.values;
    values.insert(values.end(), probe.distractors.begin(), probe.distractors.end());
    std::vector<double> likelihood;
    for (const auto& value : values) {
      auto batch = prefix_batch(probe);
      auto ids = encode_template(facts_.tokenizer(), config_.prompt.answer, "{answer}", value);
      auto targets = at::tensor(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong);
      auto asked = batch.tail.size(1), told = targets.size(0);
      batch.tail = at::cat({batch.tail, targets.unsqueeze(0)}, 1);
      batch.tail_valid = at::ones_like(batch.tail, at::kBool);
      auto state = model_->method().make_state(batch, pass());
      auto hidden = model_->read(batch, state).narrow(1, asked - 1, told);
      auto log_p = at::log_softmax(model_->backbone()->logits(hidden)[0], -1);
      likelihood.push_back(std::exp(log_p.gather(1, targets.unsqueeze(1)).sum().item<double>()));
    }
    auto sum = std::accumulate(likelihood.begin(), likelihood.end(), 0.0);
    const auto& shares = answers[p].scored.candidates;
    ASSERT_EQ(shares.size(), values.size());
    for (size_t c = 0; c < shares.size(); ++c) EXPECT_NEAR(shares[c], likelihood[c] / sum, 1e-6);
  }
}

TEST_F(StreamAnswersTest, WhatIsReadChangesWhatIsAnswered) {
  auto nothing = answer(StreamChoice::kNothing), window = answer(StreamChoice::kWindow);
  double change = 0;
  for (size_t p = 0; p < window.size(); ++p)
    change += std::abs(window[p].scored.candidates[0] - nothing[p].scored.candidates[0]);
  EXPECT_GT(change / double(window.size()), 1e-4);
}

TEST_F(StreamAnswersTest, WhatComesLaterChangesNoAnswer) {
  auto whole = stream_;
  auto cut = stream_.probes.size() / 2;
  for (auto choice : {StreamChoice::kRetrieved, StreamChoice::kWindow, StreamChoice::kRandom,
                      StreamChoice::kBm25, StreamChoice::kOracle}) {
    stream_ = whole;
    auto all = answer(choice);
    stream_.probes.resize(cut);
    stream_.text.resize(size_t(stream_.probes.back().prefix_bytes));
    auto some = answer(choice);
    for (size_t p = 0; p < some.size(); ++p)
      for (size_t c = 0; c < some[p].scored.candidates.size(); ++c)
        EXPECT_NEAR(some[p].scored.candidates[c], all[p].scored.candidates[c], 1e-6);
  }
}

TEST_F(StreamAnswersTest, EveryRowReadsTheBudget) {
  for (auto choice : {StreamChoice::kRetrieved, StreamChoice::kWindow, StreamChoice::kRandom,
                      StreamChoice::kBm25, StreamChoice::kOracle}) {
    auto answers = answer(choice);
    for (size_t p = 0; p < answers.size(); ++p) {
      auto words = std::count(stream_.text.begin(),
                              stream_.text.begin() + stream_.probes[p].prefix_bytes, ' ');
      EXPECT_EQ(answers[p].scored.available, words);
      EXPECT_EQ(answers[p].scored.attended, std::min<int64_t>(options_.budget, words));
    }
  }
  for (const auto& own : answer(StreamChoice::kNothing)) EXPECT_EQ(own.scored.attended, 0);
}

TEST_F(StreamAnswersTest, TheWindowHoldsWhatWasJustSaidAndTheOracleAlways) {
  auto window = answer(StreamChoice::kWindow), oracle = answer(StreamChoice::kOracle);
  for (size_t p = 0; p < window.size(); ++p) {
    const auto& probe = stream_.probes[p];
    if (probe.is_control()) {
      EXPECT_EQ(window[p].evidence_recall, -1);
      continue;
    }
    EXPECT_EQ(oracle[p].evidence_recall, 1);
    if (probe.lag + 8 <= options_.budget) EXPECT_EQ(window[p].evidence_recall, 1);
    if (probe.lag >= options_.budget) EXPECT_EQ(window[p].evidence_recall, 0);
  }
}

TEST_F(StreamAnswersTest, AModelWithoutRetrieverIsRefusedAndReadsTheWindow) {
  config_.dsrsq.dsr.enabled = false;
  model_ = make_model(config_, facts_.tokenizer());
  EXPECT_THROW(answer(StreamChoice::kRetrieved), ConfigError);
  EXPECT_EQ(answer(StreamChoice::kWindow).size(), stream_.probes.size());
}

// Scores by hand: three probes of one fact, and the answer that is right twice.
TEST(AnswerConstantly, IsRightWhereItHappensToBeAndStaleAfterwards) {
  FactStream stream;
  auto add = [&](int64_t update, int64_t lag) {
    StreamProbe probe;
    probe.values = {"a", "b"};
    probe.update = update;
    probe.lag = lag;
    probe.distractors = {"c", "d"};
    stream.probes.push_back(probe);
  };
  add(0, 0);
  add(0, 10);
  add(1, 0);
  auto answers = answer_constantly(stream);
  ASSERT_EQ(answers.size(), 3u);
  for (const auto& own : answers) {
    EXPECT_EQ(own.prediction, "a");
    EXPECT_EQ(own.scored.candidates, std::vector<double>(4, 0.25));
    EXPECT_FALSE(own.scored.foresees);
  }
  EXPECT_TRUE(answers[0].scored.right);
  EXPECT_FALSE(answers[2].scored.right);
  EXPECT_TRUE(answers[2].scored.stale);
  EXPECT_FALSE(answers[1].scored.stale);
  stream.probes.push_back(stream.probes.back());
  stream.probes.push_back(stream.probes.back());  // now "b" is right three times of five
  EXPECT_EQ(answer_constantly(stream)[0].prediction, "b");
  EXPECT_TRUE(answer_constantly(stream)[0].scored.foresees);
}

}  // namespace
}  // namespace dsrsq
