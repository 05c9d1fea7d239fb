#include "dsrsq/batch/loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <set>

#include "dsrsq/core/error.h"
#include "support/expect_tensor.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using dsrsq::testing::TinyFacts;
using ::testing::HasSubstr;

class LoaderTest : public ::testing::Test {
 protected:
  Loader loader(LoaderOptions options) const {
    return {facts_.store_path(), facts_.tokenizer(), PromptConfig{}, options};
  }
  LoaderOptions options(int64_t batch_size, int64_t questions = 2) const {
    LoaderOptions options;
    options.batch_size = batch_size;
    options.questions_per_sequence = questions;
    return options;
  }
  TinyFacts facts_;
};

void expect_same(const Batch& a, const Batch& b) {
  EXPECT_EQ(a.sample_ids, b.sample_ids);
  EXPECT_TENSOR_EQUAL(a.context, b.context);
  EXPECT_TENSOR_EQUAL(a.tail, b.tail);
  EXPECT_TENSOR_EQUAL(a.labels, b.labels);
  EXPECT_TENSOR_EQUAL(a.questions, b.questions);
  EXPECT_TENSOR_EQUAL(a.evidence, b.evidence);
}

TEST_F(LoaderTest, QuestionsOfADocumentShareASequence) {
  EXPECT_EQ(loader(options(4, 1)).sequences(), 96);
  EXPECT_EQ(loader(options(4, 2)).sequences(), 48);
  EXPECT_EQ(loader(options(4, 3)).sequences(), 48) << "4 questions: 3 and 1";
  EXPECT_EQ(loader(options(4, 100)).sequences(), 24) << "never over the border of a document";
  for (const auto& records : loader(options(16, 3)).stream_batch(0).records)
    for (const auto& record : records) EXPECT_EQ(record.document, records[0].document);
}

TEST_F(LoaderTest, AStreamBatchIsAFunctionOfItsIndex) {
  auto one = loader(options(4)), two = loader(options(4));
  auto fifth = one.stream_batch(5);
  one.stream_batch(100);
  expect_same(one.stream_batch(5), fifth);
  expect_same(two.stream_batch(5), fifth);
  EXPECT_NE(one.stream_batch(6).sample_ids, fifth.sample_ids);
}

TEST_F(LoaderTest, TwoSmallBatchesAreOneLargeBatch) {
  auto small = loader(options(4)), large = loader(options(8));
  auto whole = large.stream_batch(7).sample_ids;
  auto joined = small.stream_batch(14).sample_ids;
  auto rest = small.stream_batch(15).sample_ids;
  joined.insert(joined.end(), rest.begin(), rest.end());
  EXPECT_EQ(joined, whole);
}

// 48 sequences, 5 a batch: epochs end inside a batch.
TEST_F(LoaderTest, AnEpochVisitsEverySequenceOnceInANewOrder) {
  auto data = loader(options(5));
  std::vector<int64_t> visited;
  for (int64_t i = 0; i < 20; ++i)
    for (auto id : data.stream_batch(i).sample_ids) visited.push_back(id);
  std::vector<int64_t> first(visited.begin(), visited.begin() + 48),
      second(visited.begin() + 48, visited.begin() + 96);
  EXPECT_EQ(std::set<int64_t>(first.begin(), first.end()).size(), 48u);
  EXPECT_EQ(std::set<int64_t>(second.begin(), second.end()).size(), 48u);
  EXPECT_NE(first, second);
  EXPECT_FALSE(std::is_sorted(first.begin(), first.end()));
}

TEST_F(LoaderTest, TheSeedDecidesTheOrder) {
  auto other = options(8);
  other.seed = 1;
  EXPECT_NE(loader(other).stream_batch(0).sample_ids,
            loader(options(8)).stream_batch(0).sample_ids);
}

TEST_F(LoaderTest, WithoutShufflingTheStreamIsInFileOrder) {
  auto ordered = options(24, 100);
  ordered.shuffle = false;
  auto ids = loader(ordered).stream_batch(0).sample_ids;
  EXPECT_EQ(ids.size(), 24u);
  EXPECT_TRUE(std::is_sorted(ids.begin(), ids.end()));
}

TEST_F(LoaderTest, APassVisitsEverySequenceOnceInOrderAndItsLastBatchIsSmaller) {
  auto test = options(3, 1);
  test.split = "test";
  auto data = loader(test);
  ASSERT_EQ(data.sequences(), 8);
  ASSERT_EQ(data.pass_batches(), 3);
  std::vector<int64_t> visited;
  for (int64_t i : {2, 0, 1}) expect_same(data.pass_batch(i), data.pass_batch(i));
  for (int64_t i = 0; i < 3; ++i)
    for (auto id : data.pass_batch(i).sample_ids) visited.push_back(id);
  EXPECT_EQ(data.pass_batch(2).size(), 2);
  EXPECT_EQ(visited, data.store().records_of_split("test"));
  EXPECT_EQ(data.single(5).sample_ids, std::vector<int64_t>{visited[5]});
}

TEST_F(LoaderTest, MaximumSequencesTakesTheFirst) {
  auto few = options(4, 1);
  few.split = "test";
  few.maximum_sequences = 5;
  EXPECT_EQ(loader(few).sequences(), 5);
  EXPECT_EQ(loader(few).pass_batches(), 2);
}

TEST_F(LoaderTest, AnotherTokenizerIsADataError) {
  auto other = Tokenizer::from_json(build_word_tokenizer({"one", "two"}), "other");
  try {
    Loader data(facts_.store_path(), other, PromptConfig{}, options(4));
    FAIL() << "no error";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("another tokenizer"));
    EXPECT_THAT(error.what(), HasSubstr(facts_.store_path()));
  }
}

TEST_F(LoaderTest, AnUnknownSplitIsADataErrorThatNamesTheKnownOnes) {
  auto unknown = options(4);
  unknown.split = "dev";
  try {
    loader(unknown);
    FAIL() << "no error";
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("dev"));
    EXPECT_THAT(error.what(), HasSubstr("validation"));
  }
}

}  // namespace
}  // namespace dsrsq
