#include "dsrsq/batch/prompt_limit.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

using ::testing::HasSubstr;

std::vector<int64_t> range(int64_t begin, int64_t end) {
  std::vector<int64_t> ids;
  for (int64_t i = begin; i < end; ++i) ids.push_back(i);
  return ids;
}

// Contexts 100, 101, ... of the given lengths with a tail of `tail` tokens each; the answer is the
// context's last token, the evidence its first two.
Batch batch_of(const std::vector<int64_t>& lengths, int64_t tail) {
  auto size = int64_t(lengths.size()), longest = *std::max_element(lengths.begin(), lengths.end());
  Batch batch;
  batch.context = at::zeros({size, longest}, at::kLong);
  batch.context_valid = at::zeros({size, longest}, at::kBool);
  batch.passage = at::full({size, longest}, -1, at::kLong);
  batch.evidence = at::zeros({size, 1, longest}, at::kBool);
  batch.answer_tokens = at::zeros({size, 1, longest}, at::kBool);
  batch.tail = at::ones({size, tail}, at::kLong);
  batch.tail_valid = at::ones({size, tail}, at::kBool);
  for (int64_t b = 0; b < size; ++b) {
    auto length = lengths[size_t(b)];
    batch.context[b].slice(0, 0, length).copy_(at::arange(100, 100 + length));
    batch.passage[b].slice(0, 0, length).copy_(at::arange(length).floor_divide(3));
    batch.context_valid[b].slice(0, 0, length).fill_(true);
    batch.evidence[b][0].slice(0, 0, 2).fill_(true);
    batch.answer_tokens[b][0][length - 1] = true;
  }
  return batch;
}

std::vector<int64_t> context_of(const Batch& batch, int64_t row) {
  auto kept = batch.context[row].masked_select(batch.context_valid[row]);
  return {kept.data_ptr<int64_t>(), kept.data_ptr<int64_t>() + kept.numel()};
}

TEST(PromptLimit, MiddleKeepsBothEndsOfThePromptExactly) {
  // As LongBench cuts: ids[:half] + ids[-half:] of the whole prompt.
  for (int64_t limit : {12, 13, 20, 21}) {
    for (int64_t prefix : {0, 3, 5}) {
      for (int64_t tail : {1, 4}) {
        auto whole = range(-prefix, 0);
        for (auto id : range(100, 130)) whole.push_back(id);
        for (auto id : range(1000, 1000 + tail)) whole.push_back(id);
        std::vector<int64_t> expected;
        for (int64_t i = 0; i < int64_t(whole.size()); ++i)
          if (i < limit / 2 || i >= int64_t(whole.size()) - limit / 2)
            if (auto id = whole[size_t(i)]; id >= 100 && id < 1000) expected.push_back(id);
        auto cut = limit_prompt(batch_of({30}, tail), {limit, prefix, 0, Truncation::kMiddle});
        EXPECT_EQ(context_of(cut, 0), expected) << limit << " " << prefix << " " << tail;
      }
    }
  }
}

TEST(PromptLimit, RightAndLeftKeepOneEnd) {
  // 10 - 2 of the prefix - 3 of the tail.
  auto right = limit_prompt(batch_of({9}, 3), {10, 2, 0, Truncation::kRight});
  EXPECT_EQ(context_of(right, 0), range(100, 105));
  auto left = limit_prompt(batch_of({9}, 3), {10, 2, 0, Truncation::kLeft});
  EXPECT_EQ(context_of(left, 0), range(104, 109));
}

TEST(PromptLimit, WhatFitsStaysAndOthersOfTheBatchAreCut) {
  auto batch = batch_of({4, 9}, 3);
  auto cut = limit_prompt(batch, {7, 0, 0, Truncation::kRight});
  EXPECT_EQ(context_of(cut, 0), range(100, 104));
  EXPECT_EQ(context_of(cut, 1), range(100, 104));
  EXPECT_TRUE(
      at::equal(limit_prompt(batch, {12, 0, 0, Truncation::kMiddle}).context, batch.context));
  EXPECT_TRUE(at::equal(limit_prompt(batch, {}).context, batch.context));
  EXPECT_EQ(context_of(limit_prompt(batch, {10, 0, 2, Truncation::kRight}), 1), range(100, 109))
      << "two of the three tokens of the tail do not count";
}

TEST(PromptLimit, MarksAndPassagesMoveAlong) {
  // Kept: 100, 101 and 108, of the passages 0, 0 and 2.
  auto cut = limit_prompt(batch_of({9, 2}, 1), {4, 0, 0, Truncation::kMiddle});
  EXPECT_EQ(context_of(cut, 0), (std::vector<int64_t>{100, 101, 108}));
  EXPECT_TRUE(at::equal(cut.answer_tokens[0][0], torch::tensor({false, false, true})));
  EXPECT_TRUE(at::equal(cut.evidence[0][0], torch::tensor({true, true, false})));
  EXPECT_TRUE(at::equal(cut.passage, at::tensor({0, 0, 2, 0, 0, -1}, at::kLong).view({2, 3})));
  EXPECT_TRUE(at::equal(cut.answer_tokens[1][0], torch::tensor({false, true, false})));
  auto lost = limit_prompt(batch_of({9}, 1), {4, 0, 0, Truncation::kRight});
  EXPECT_FALSE(lost.answer_tokens.any().item<bool>()) << "an answer that was cut off is not there";
}

TEST(PromptLimit, APromptThatFillsTheLimitLeavesOneToken) {
  for (auto side : {Truncation::kRight, Truncation::kMiddle})
    EXPECT_EQ(context_of(limit_prompt(batch_of({9}, 8), {6, 4, 0, side}), 0), range(100, 101));
}

TEST(PromptLimit, ASentenceEncoderIsRefused) {
  auto batch = batch_of({9}, 3);
  batch.encoder.windows = at::zeros({1, 1, 1}, at::kLong);
  try {
    limit_prompt(batch, {7, 0, 0, Truncation::kRight});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("eval.maximum_prompt"));
  }
  EXPECT_THROW(parse_truncation("centre"), ConfigError);
}

}  // namespace
}  // namespace dsrsq
