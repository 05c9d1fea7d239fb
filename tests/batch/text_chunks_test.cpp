#include "dsrsq/batch/text_chunks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <set>

#include "dsrsq/batch/loader.h"
#include "dsrsq/core/error.h"
#include "dsrsq/data/synthetic.h"
#include "support/expect_tensor.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using dsrsq::testing::TemporaryFolder;
using dsrsq::testing::write_store;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Documents of 11, 4 and 3 tokens, no token twice in a document; a question in the test split.
class TextChunksTest : public ::testing::Test {
 protected:
  TextChunksTest() : tokenizer_(Tokenizer::from_json(build_word_tokenizer(words()), "words")) {
    write_store(path(), tokenizer_, {text(0, 11), text(3, 4), text(5, 3), asked()}, {0, 0, 0, 2});
    store_ = std::make_unique<Store>(path());
  }
  static std::vector<std::string> words() {
    std::vector<std::string> words;
    for (char letter = 'a'; letter < 'q'; ++letter) words.emplace_back(3, letter);
    return words;
  }
  static DocumentExample text(size_t first, size_t count) {
    DocumentExample example;
    for (size_t i = 0; i < count; ++i) example.document += " " + words()[first + i];
    example.questions.emplace_back();
    example.questions[0].id = concat("text ", first);
    return example;
  }
  static DocumentExample asked() {
    auto example = text(0, 5);
    example.questions[0].text = "aaa";
    example.questions[0].answers = {"bbb"};
    return example;
  }
  std::string path() const { return folder_ / "texts.h5"; }
  std::vector<int64_t> tokens(int64_t document) const {
    auto ids = store_->document_tokens(document);
    return {ids.begin(), ids.end()};
  }
  LoaderOptions options(int64_t chunk, int64_t maximum_context = 0) const {
    LoaderOptions options;
    options.chunk_tokens = chunk;
    options.maximum_context = maximum_context;
    options.batch_size = 2;
    options.shuffle = false;
    return options;
  }
  Loader loader(const LoaderOptions& options) const {
    return {path(), tokenizer_, PromptConfig{}, options};
  }

  TemporaryFolder folder_;
  Tokenizer tokenizer_;
  std::unique_ptr<Store> store_;
};

std::vector<int64_t> values(const at::Tensor& row) {
  auto flat = row.contiguous();
  return {flat.data_ptr<int64_t>(), flat.data_ptr<int64_t>() + flat.numel()};
}

TEST_F(TextChunksTest, ChunksCoverTheDocumentBehindTheFirstOne) {
  for (int64_t tokens = 0; tokens < 30; ++tokens)
    for (int64_t chunk = 1; chunk < 9; ++chunk)
      for (int64_t most : {0, 1, 5, 100}) {
        int64_t next = chunk;
        for (const auto& found : text_chunks(7, tokens, chunk, most)) {
          EXPECT_EQ(found.record, 7);
          EXPECT_EQ(found.begin, next);
          EXPECT_EQ(found.begin - found.query, chunk);
          EXPECT_LE(found.end - found.begin, chunk);
          EXPECT_EQ(found.query - found.first,
                    most == 0 ? found.query : std::min(most, found.query));
          next = found.end;
        }
        EXPECT_EQ(next, std::max(tokens, chunk)) << tokens << " tokens, chunks of " << chunk;
      }
}

TEST_F(TextChunksTest, ASequenceIsCandidatesThenTheQueryThenWhatIsPredicted) {
  TextCollator collator(*store_, tokenizer_);
  auto ids = tokens(0);
  ASSERT_EQ(ids.size(), 11u);
  auto batch = collator.collate({{0, 1, 5, 8, 11}, {0, 0, 0, 2, 3}});
  EXPECT_THAT(values(batch.context[0]), ElementsAre(ids[1], ids[2], ids[3], ids[4]));
  EXPECT_THAT(values(batch.questions[0][0]), ElementsAre(ids[5], ids[6], ids[7]));
  EXPECT_THAT(values(batch.tail[0]), ElementsAre(ids[5], ids[6], ids[7], ids[8], ids[9], ids[10]));
  EXPECT_THAT(values(batch.labels[0]), ElementsAre(-100, -100, ids[8], ids[9], ids[10], -100));
  EXPECT_THAT(values(batch.label_question[0]), ElementsAre(-1, -1, 0, 0, 0, -1));
  EXPECT_FALSE(batch.context_valid[1].any().item<bool>()) << "a chunk without candidates";
  EXPECT_THAT(values(batch.labels[1]), ElementsAre(-100, ids[2], -100, -100, -100, -100));
  EXPECT_NE(batch.sample_ids[0], batch.sample_ids[1]) << "noise of their own";
  EXPECT_EQ(batch.records[0][0].question, " fff ggg hhh");
}

// D2: what is to be predicted stands in nothing that the choice of tokens is made from.
TEST_F(TextChunksTest, WhoeverChoosesSeesNothingOfWhatIsPredicted) {
  auto data = loader(options(3));
  for (int64_t i = 0; i < data.pass_batches(); ++i) {
    auto batch = data.pass_batch(i);
    for (int64_t b = 0; b < batch.size(); ++b) {
      std::set<int64_t> seen;
      for (const auto& part : {batch.context[b].masked_select(batch.context_valid[b]),
                               batch.questions[b].masked_select(batch.questions_valid[b])})
        for (auto id : values(part)) seen.insert(id);
      for (auto label : values(batch.labels[b])) EXPECT_EQ(seen.count(label), 0u);
    }
  }
}

TEST_F(TextChunksTest, APassPredictsEveryTokenOnceButTheFirstChunks) {
  auto data = loader(options(3));
  EXPECT_TRUE(data.holds_texts());
  std::vector<int64_t> predicted;
  for (int64_t i = 0; i < data.pass_batches(); ++i) {
    auto batch = data.pass_batch(i);
    for (auto label : values(batch.labels))
      if (label >= 0) predicted.push_back(label);
  }
  std::vector<int64_t> expected;
  for (int64_t document : {0, 1, 2}) {
    auto ids = tokens(document);
    expected.insert(expected.end(), ids.begin() + 3, ids.end());
  }
  EXPECT_EQ(predicted, expected);
  EXPECT_EQ(data.sequences(), 4) << "3 chunks of the first, 1 of the second, none of the third";
  EXPECT_DOUBLE_EQ(data.mean_context_tokens(), (0 + 3 + 6 + 0) / 4.0);
  EXPECT_DOUBLE_EQ(loader(options(3, 2)).mean_context_tokens(), (0 + 2 + 2 + 0) / 4.0);
}

TEST_F(TextChunksTest, WhatCannotBeUsedIsADataErrorThatSaysWhy) {
  auto expect_error = [&](const LoaderOptions& wrong, const std::string& text) {
    try {
      auto data = loader(wrong);
      data.pass_batch(0);
      FAIL() << "nothing thrown, expected " << text;
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), HasSubstr(text));
    }
  };
  expect_error(options(11), "holds no text longer than data.chunk_tokens = 11");
  auto answers = options(3);
  answers.with_answers = false;
  expect_error(answers, "--context-lengths");
  // One question among the texts, and one text among questions.
  for (bool text_first : {true, false}) {
    auto examples = std::vector<DocumentExample>{text(0, 11), asked()};
    if (!text_first) std::swap(examples[0], examples[1]);
    write_store(path(), tokenizer_, examples, {0, 0});
    auto all = options(3);
    all.batch_size = 16;
    expect_error(all, "prepare them apart");
  }
}

}  // namespace
}  // namespace dsrsq
