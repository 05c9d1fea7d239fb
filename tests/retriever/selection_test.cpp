#include "dsrsq/retriever/selection.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;
using testing::Tolerance;

constexpr float kNever = -std::numeric_limits<float>::infinity();

at::Tensor scores(const std::vector<int64_t>& lengths, int64_t tokens) {
  auto score = normal("scores", {int64_t(lengths.size()), tokens});
  for (size_t b = 0; b < lengths.size(); ++b) score[int64_t(b)].slice(0, lengths[b]).fill_(kNever);
  return score;
}

std::vector<int64_t> chosen(const SelectedTokens& selected, int64_t b) {
  auto list = selected.index[b].masked_select(selected.mask[b]).contiguous();
  return {list.data_ptr<int64_t>(), list.data_ptr<int64_t>() + list.numel()};
}

// The best `count` of [begin, end) by sorting on the host, in document order.
std::vector<int64_t> best(const at::Tensor& row, int64_t begin, int64_t end, int64_t count) {
  std::vector<int64_t> list;
  for (auto i = begin; i < std::min(end, row.size(0)); ++i)
    if (row[i].item<float>() > kNever) list.push_back(i);
  std::sort(list.begin(), list.end(),
            [&](int64_t x, int64_t y) { return row[x].item<float>() > row[y].item<float>(); });
  list.resize(std::min(list.size(), size_t(count)));
  std::sort(list.begin(), list.end());
  return list;
}

TEST(SelectTop, TakesTheBestOfTheWholeContextInDocumentOrder) {
  auto score = scores({30, 12, 3}, 30);
  auto selected = select_top(score, at::tensor({5, 8, 8}, at::kLong), 4, false);
  EXPECT_EQ(chosen(selected, 0), best(score[0], 0, 30, 5));
  EXPECT_EQ(chosen(selected, 1), best(score[1], 0, 30, 8));
  EXPECT_EQ(chosen(selected, 2), (std::vector<int64_t>{0, 1, 2}));  // no more than there are
  EXPECT_EQ(selected.lengths, (std::vector<int64_t>{4, 4}));
  EXPECT_EQ(selected.slots(), selected.index.size(1));
  EXPECT_EQ(selected.index.masked_select(selected.mask.logical_not()).abs().sum().item<int64_t>(),
            0);
}

TEST(SelectTop, ABudgetOverTheContextTakesAll) {
  auto score = scores({10, 7}, 10);
  for (bool per_segment : {false, true})
    for (int64_t budget : {10, 1000}) {
      auto selected = select_top(score, at::full({2}, budget, at::kLong), 4, per_segment);
      EXPECT_EQ(chosen(selected, 0), best(score[0], 0, 10, 10)) << per_segment << " " << budget;
      EXPECT_EQ(chosen(selected, 1), best(score[1], 0, 10, 7)) << per_segment << " " << budget;
    }
}

TEST(SelectTop, EachSegmentGivesItsShare) {
  auto score = scores({12, 8}, 12);
  auto selected = select_top(score, at::tensor({6, 4}, at::kLong), 4, true);
  ASSERT_EQ(selected.lengths.size(), 3u);
  std::vector<int64_t> expected;
  for (int64_t s = 0; s < 3; ++s)
    for (auto i : best(score[0], 4 * s, 4 * s + 4, 2)) expected.push_back(i);
  EXPECT_EQ(chosen(selected, 0), expected);
  expected.clear();
  for (int64_t s = 0; s < 2; ++s)
    for (auto i : best(score[1], 4 * s, 4 * s + 4, 2)) expected.push_back(i);
  EXPECT_EQ(chosen(selected, 1), expected);
  // Slots of segment s hold tokens of segment s only.
  int64_t begin = 0;
  for (size_t s = 0; s < 3; ++s) {
    auto part = selected.index.slice(1, begin, begin + selected.lengths[s]);
    auto inside = (part >= int64_t(4 * s)).logical_and(part < int64_t(4 * s + 4));
    EXPECT_TRUE(
        inside.logical_or(selected.mask.slice(1, begin, begin + selected.lengths[s]).logical_not())
            .all()
            .item<bool>());
    begin += selected.lengths[s];
  }
}

// A sequence's tokens do not depend on how long its neighbours are.
TEST(SelectTop, PaddingDoesNotChangeTheChoice) {
  auto score = scores({40, 9}, 40);
  for (bool per_segment : {false, true})
    for (int64_t budget : {3, 5, 7, 9}) {
      auto both = select_top(score, at::full({2}, budget, at::kLong), 4, per_segment);
      auto alone = select_top(score.narrow(0, 1, 1).narrow(1, 0, 9),
                              at::full({1}, budget, at::kLong), 4, per_segment);
      EXPECT_EQ(chosen(both, 1), chosen(alone, 0)) << per_segment << " " << budget;
    }
}

// Whole runs by the log-sum-exp of their scores; the last run is cut at the budget, from its
// beginning.
TEST(SpanScore, TakesRunsInOrder) {
  auto score = at::tensor({0.f, 3.f, 0.f, 2.f, 2.f, 2.f, -1.f, 2.5f, -1.f, 9.f, kNever, kNever})
                   .view({1, 12});
  // Runs of 3: log-sum-exp about 3.1, 3.1 (2 + log 3 = 3.0986 against 3.0949), 2.6, 9.
  EXPECT_EQ(chosen(select_top(span_score(score, 3), at::tensor({1}, at::kLong), 12, false), 0),
            (std::vector<int64_t>{9}));
  EXPECT_EQ(chosen(select_top(span_score(score, 3), at::tensor({3}, at::kLong), 12, false), 0),
            (std::vector<int64_t>{3, 4, 9}));
  EXPECT_EQ(chosen(select_top(span_score(score, 3), at::tensor({6}, at::kLong), 12, false), 0),
            (std::vector<int64_t>{0, 1, 3, 4, 5, 9}));
  EXPECT_TENSOR_EQUAL(span_score(score, 3) == kNever, score == kNever);
  EXPECT_TENSOR_EQUAL(span_score(score, 1), score);
}

TEST(SelectAll, KeepsEveryTokenInSegments) {
  auto valid = at::ones({2, 10}, at::kBool);
  valid[1].slice(0, 6).fill_(false);
  auto selected = select_all(valid, 4);
  EXPECT_EQ(selected.lengths, (std::vector<int64_t>{4, 4, 2}));
  EXPECT_EQ(selected.slots(), 10);
  EXPECT_TENSOR_EQUAL(selected.mask, valid);
  EXPECT_TENSOR_EQUAL(selected.index[1], at::arange(10));
}

TEST(Budget, FollowsTheFormula) {
  auto complexity = at::tensor({0.f, 0.5f, 1.f});
  EXPECT_TENSOR_EQUAL(token_budget(512, 0.5, complexity), at::tensor({512, 640, 768}, at::kLong));
  EXPECT_TENSOR_EQUAL(token_budget(100, 0, complexity), at::tensor({100, 100, 100}, at::kLong));
}

TEST(Complexity, EntropyIsOneWhereScoresAreFlatAndZeroWhereOneStandsOut) {
  auto phi = scores({8, 8, 5}, 8);
  phi[0].fill_(3);
  phi[1].fill_(0);
  phi[1][2] = 200;
  auto questions = at::full({3}, 7, at::kLong);
  auto complexity = question_complexity("entropy", phi, questions);
  EXPECT_NEAR(complexity[0].item<double>(), 1, 1e-6);
  EXPECT_NEAR(complexity[1].item<double>(), 0, 1e-6);
  double total = 0, entropy = 0;  // padding is no token
  for (int64_t i = 0; i < 5; ++i) total += std::exp(phi[2][i].item<double>());
  for (int64_t i = 0; i < 5; ++i) {
    auto p = std::exp(phi[2][i].item<double>()) / total;
    entropy -= p * std::log(p);
  }
  EXPECT_NEAR(complexity[2].item<double>(), entropy / std::log(5.0), 1e-6);
}

TEST(Complexity, LengthAndNone) {
  auto phi = scores({8, 8}, 8);
  auto questions = at::tensor({16, 200}, at::kLong);
  EXPECT_TENSOR_NEAR(question_complexity("length", phi, questions), at::tensor({0.25f, 1.f}),
                     testing::kExact);
  EXPECT_TENSOR_NEAR(question_complexity("none", phi, questions), at::zeros({2}), testing::kExact);
}

}  // namespace
}  // namespace dsrsq
