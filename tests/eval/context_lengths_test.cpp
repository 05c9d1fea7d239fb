#include "dsrsq/eval/context_lengths.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "dsrsq/core/error.h"
#include "dsrsq/data/synthetic.h"
#include "dsrsq/methods/standard.h"
#include "support/tiny.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using dsrsq::testing::feed_codebooks;
using dsrsq::testing::TemporaryFolder;
using dsrsq::testing::tiny_dsrsq;
using dsrsq::testing::tiny_model;
using dsrsq::testing::write_store;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Texts of 40, 33 and 16 tokens.
class ContextLengthsTest : public ::testing::Test {
 protected:
  ContextLengthsTest() : tokenizer_(Tokenizer::from_json(build_word_tokenizer(words()), "words")) {
    write_store(folder_ / "texts.h5", tokenizer_, {text(0, 40), text(7, 33), text(3, 16)},
                {2, 2, 2});
    store_ = std::make_unique<Store>(folder_ / "texts.h5");
    options_.lengths = {4, 12, 24};
    options_.scored_tokens = 8;
    options_.chunk_tokens = 4;
    options_.batch_size = 3;
  }
  static std::vector<std::string> words() {
    std::vector<std::string> words;
    for (char letter = 'a'; letter < 'q'; ++letter) words.emplace_back(3, letter);
    return words;
  }
  static DocumentExample text(size_t first, size_t count) {
    DocumentExample example;
    for (size_t i = 0; i < count; ++i) example.document += " " + words()[(first + i * i) % 16];
    example.questions.emplace_back();
    example.questions[0].id = concat("text ", first);
    return example;
  }
  LanguageModel model_with(std::shared_ptr<Method> method) const {
    Transformer backbone(tiny_model(), tokenizer_.vocabulary_size(), 3);
    return LanguageModel(backbone, std::move(method), tokenizer_.begin_id());
  }
  std::vector<ScoredText> score(LanguageModel& model) const {
    auto texts = find_scored_texts(*store_, "test", options_);
    score_texts(model, TextCollator(*store_, tokenizer_), PassOptions{}, options_, texts);
    return texts;
  }

  TemporaryFolder folder_;
  Tokenizer tokenizer_;
  std::unique_ptr<Store> store_;
  ContextLengthOptions options_;
};

TEST_F(ContextLengthsTest, TextsThatAreTooShortForOneLengthAreLeftOutOfAll) {
  auto texts = find_scored_texts(*store_, "test", options_);
  ASSERT_EQ(texts.size(), 2u);
  EXPECT_EQ(texts[0].tokens, 40);
  EXPECT_EQ(texts[1].id, "text 7");
  options_.maximum_texts = 1;
  EXPECT_EQ(find_scored_texts(*store_, "test", options_).size(), 1u);
}

// The same tokens are scored at each length, and just so many stand before them.
TEST_F(ContextLengthsTest, ChunksEndTheTextAtEveryLength) {
  auto texts = find_scored_texts(*store_, "test", options_);
  for (auto length : options_.lengths) {
    auto chunks = scored_chunks(texts[1], length, options_);
    ASSERT_EQ(chunks.size(), 2u);
    EXPECT_EQ(chunks[0].begin, 25);
    EXPECT_EQ(chunks[1].begin, 29);
    EXPECT_EQ(chunks[1].end, 33);
    for (const auto& chunk : chunks) {
      EXPECT_EQ(chunk.begin - chunk.first, length);
      EXPECT_EQ(chunk.begin - chunk.query, 4);
    }
  }
}

// One sequence [sinks][context][chunk] through the backbone at once, log softmax in fp64.
TEST_F(ContextLengthsTest, LossOfADenseReaderIsThatOfTheSequenceReadWhole) {
  auto model = model_with(std::make_shared<StandardMethod>(StandardConfig{}, tiny_model()));
  auto texts = score(model);
  at::NoGradGuard no_grad;
  for (const auto& text : texts)
    for (size_t n = 0; n < options_.lengths.size(); ++n) {
      double nats = 0;
      auto ids = store_->document_tokens(store_->document_of(text.record));
      for (int64_t begin = text.tokens - 8; begin < text.tokens; begin += 4) {
        std::vector<int64_t> sequence = model->front_ids();
        auto sinks = int64_t(sequence.size()), first = begin - options_.lengths[n];
        for (auto i = first; i < begin + 4; ++i) sequence.push_back(ids[size_t(i)]);
        auto size = int64_t(sequence.size());
        ReaderInput reader;
        reader.inputs = model->backbone()->embed(at::tensor(sequence, at::kLong).unsqueeze(0));
        reader.valid = at::ones({1, size}, at::kBool);
        reader.positions = reader.order = at::arange(size).unsqueeze(0);
        reader.segments = {size};
        auto state = model->method().make_state(Batch{}, PassOptions{});
        auto hidden = model->backbone()->forward(reader, model->method(), state);
        auto log_p = at::log_softmax(model->backbone()->logits(hidden[0]).to(at::kDouble), -1);
        for (int64_t i = begin; i < begin + 4; ++i)
          nats -= log_p[sinks + i - first - 1][ids[size_t(i)]].item<double>();
      }
      EXPECT_NEAR(text.loss[n], nats / 8, 1e-5 * nats) << text.id << ", " << options_.lengths[n];
      EXPECT_DOUBLE_EQ(text.tokens_read[n], double(options_.lengths[n]));
    }
}

// A text of a batch is scored as alone, the shortest context leaves nothing to choose from, and a
// retriever reads no more than its budget.
TEST_F(ContextLengthsTest, AllPartsOnNothingDependsOnTheBatch) {
  auto parts = tiny_dsrsq(true, true, true);
  parts.dsr.complexity = "none";
  parts.dsr.alpha = 0;
  auto model = model_with(std::make_shared<DsrsqMethod>(parts, tiny_model(), 3));
  feed_codebooks(model);
  auto together = score(model);
  options_.batch_size = 1;
  auto alone = score(model);
  for (size_t i = 0; i < together.size(); ++i)
    for (size_t n = 0; n < options_.lengths.size(); ++n) {
      EXPECT_TRUE(std::isfinite(together[i].loss[n]));
      EXPECT_NEAR(together[i].loss[n], alone[i].loss[n], 1e-4);
    }
  EXPECT_DOUBLE_EQ(together[0].tokens_read[0], 4) << "the query alone";
  EXPECT_DOUBLE_EQ(together[0].tokens_read[1], 4 + 8) << "all candidates";
  EXPECT_LE(together[0].tokens_read[2], double(4 + parts.dsr.budget));
  EXPECT_NE(together[0].loss[1], together[0].loss[2]) << "more to choose from";
}

TEST_F(ContextLengthsTest, RecordsHoldPerplexityAndThePairedDifference) {
  options_.lengths = {4};
  std::vector<ScoredText> better(8), worse(8);
  for (size_t i = 0; i < 8; ++i) {
    better[i].loss = {2.0 + 0.1 * double(i)};
    worse[i].loss = {2.5 + 0.1 * double(i)};
    better[i].tokens_read = worse[i].tokens_read = {4};
  }
  auto records = context_length_records(worse, options_, "context", "a", &better, "b");
  ASSERT_EQ(records.size(), 3u);
  EXPECT_EQ(records[0].metric, "loss_context_4");
  EXPECT_NEAR(records[0].value, 2.85, 1e-12);
  EXPECT_EQ(records[0].baseline, "b");
  EXPECT_NEAR(records[0].difference->value, 0.5, 1e-12);
  EXPECT_NEAR(records[0].difference->low, 0.5, 1e-12) << "paired: the texts' own spread is no part";
  EXPECT_EQ(records[1].metric, "perplexity_context_4");
  EXPECT_NEAR(records[1].value, std::exp(2.85), 1e-9);
  EXPECT_NEAR(*records[1].low, std::exp(*records[0].low), 1e-9);
  EXPECT_EQ(records[1].shape.at("texts"), 8);
  EXPECT_EQ(records[2].value, 4);
  EXPECT_FALSE(context_length_records(worse, options_, "context", "a", nullptr, "")[0].difference);
}

TEST_F(ContextLengthsTest, WhatCannotBeMeasuredIsOneClearLine) {
  auto expect_error = [&](std::vector<int64_t> lengths, int64_t scored, const std::string& text) {
    options_.lengths = std::move(lengths);
    options_.scored_tokens = scored;
    try {
      find_scored_texts(*store_, "test", options_);
      FAIL() << "nothing thrown, expected " << text;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(text));
    }
  };
  expect_error({}, 8, "--context-lengths");
  expect_error({8, 8}, 8, "rising");
  expect_error({3, 8}, 8, "none below data.chunk_tokens = 4");
  expect_error({4}, 6, "--scored-tokens: expected a multiple");
  expect_error({4, 4000}, 8, "the longest of 3 has 40");
}

}  // namespace
}  // namespace dsrsq
