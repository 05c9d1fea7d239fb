#include "dsrsq/objective/task_loss.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "support/expect_tensor.h"

namespace dsrsq {
namespace {

class TaskLossTest : public ::testing::Test {
 protected:
  TaskLossTest() {
    TransformerConfig config;
    config.layers = 1;
    config.width = 16;
    config.heads = config.key_value_heads = 2;
    config.mlp_width = 24;
    backbone_ = Transformer(config, 11, 3);
    torch::manual_seed(1);
    hidden_ = torch::randn({2, 4, 16}).requires_grad_();
    batch_.labels = torch::tensor({{-100, 3, 7, -100}, {0, -100, -100, -100}}, torch::kLong);
  }
  Transformer backbone_{nullptr};
  at::Tensor hidden_;
  Batch batch_;
};

TEST_F(TaskLossTest, IsTheCrossEntropyOfTheLabelledPositionsSummed) {
  auto loss = task_loss(backbone_, hidden_, batch_);
  EXPECT_EQ(loss.count, 3);
  auto log_p = at::log_softmax(backbone_->logits(hidden_).to(torch::kDouble), -1);
  auto expected = -(log_p[0][1][3] + log_p[0][2][7] + log_p[1][0][0]).item<double>();
  EXPECT_NEAR(loss.sum.item<double>(), expected, 1e-5);
}

TEST_F(TaskLossTest, OnlyLabelledPositionsGetAGradient) {
  task_loss(backbone_, hidden_, batch_).sum.backward();
  auto touched = hidden_.grad().abs().sum(-1) > 0;
  EXPECT_TENSOR_EQUAL(touched, batch_.labels >= 0);
}

TEST_F(TaskLossTest, RowsAddUp) {
  auto whole = task_loss(backbone_, hidden_, batch_);
  double sum = 0;
  for (int64_t row = 0; row < 2; ++row) {
    Batch part;
    part.labels = batch_.labels.narrow(0, row, 1);
    sum += task_loss(backbone_, hidden_.narrow(0, row, 1), part).sum.item<double>();
  }
  EXPECT_NEAR(sum, whole.sum.item<double>(), 1e-5);
}

// ---- all other tokens ----

struct Reading {
  SelectedTokens selected;
  Batch batch;
  at::Tensor context_hidden, tail_hidden;
};

// Two reader segments; the first sequence reads 2 3 4 | 5 9, the second 0 1 | 2 3 with a masked
// slot between what stands side by side.
Reading reading() {
  Reading made;
  made.selected.index = torch::tensor({{2, 3, 4, 5, 9}, {0, 1, 0, 2, 3}}, torch::kLong);
  made.selected.mask = torch::ones({2, 5}, torch::kBool);
  made.selected.mask[1][2] = false;
  made.selected.lengths = {3, 2};
  made.batch.context = torch::arange(20).remainder(11).view({2, 10});
  made.batch.context_valid = torch::ones({2, 10}, torch::kBool);
  made.batch.tail = torch::tensor({{4, 5, 6, 7}, {8, 9, 0, 0}}, torch::kLong);
  made.batch.tail_valid = torch::ones({2, 4}, torch::kBool);
  made.batch.tail_valid[1].slice(0, 2).fill_(false);
  // Position 2 of the first tail answers; what it predicts is the task's.
  made.batch.labels = torch::full({2, 4}, -100, torch::kLong);
  made.batch.labels[0][2] = 7;
  torch::manual_seed(2);
  made.context_hidden = torch::randn({2, 5, 16});
  made.tail_hidden = torch::randn({2, 4, 16});
  return made;
}

// (hidden, target) pairs by the definition, one sequence after another.
std::vector<std::pair<at::Tensor, int64_t>> predicted(const Reading& made) {
  std::vector<std::pair<at::Tensor, int64_t>> pairs;
  for (int64_t b = 0; b < 2; ++b) {
    std::vector<int64_t> slots;
    for (int64_t j = 0; j < 5; ++j)
      if (made.selected.mask[b][j].item<bool>()) slots.push_back(j);
    for (size_t j = 1; j < slots.size(); ++j) {
      auto token = made.selected.index[b][slots[j]].item<int64_t>();
      if (made.selected.index[b][slots[j - 1]].item<int64_t>() + 1 == token)
        pairs.emplace_back(made.context_hidden[b][slots[j - 1]],
                           made.batch.context[b][token].item<int64_t>());
    }
    for (int64_t t = 0; t + 1 < 4; ++t)
      if (made.batch.tail_valid[b][t + 1].item<bool>() &&
          made.batch.labels[b][t].item<int64_t>() < 0)
        pairs.emplace_back(made.tail_hidden[b][t], made.batch.tail[b][t + 1].item<int64_t>());
  }
  return pairs;
}

TEST_F(TaskLossTest, LanguageLossIsThatOfAllOtherTokens) {
  auto made = reading();
  auto pairs = predicted(made);
  EXPECT_EQ(pairs.size(), 9u);  // 3 + 3 of contexts, 2 + 1 of tails
  double expected = 0;
  for (const auto& [hidden, target] : pairs)
    expected -=
        at::log_softmax(backbone_->logits(hidden).to(torch::kDouble), -1)[target].item<double>();
  auto loss =
      language_loss(backbone_, made.context_hidden, made.tail_hidden, made.selected, made.batch);
  EXPECT_EQ(loss.count, double(pairs.size()));
  EXPECT_NEAR(loss.sum.item<double>(), expected, 1e-4);
}

TEST_F(TaskLossTest, LanguageLossWithoutContextIsThatOfTheTail) {
  auto made = reading();
  made.selected = {torch::zeros({2, 0}, torch::kLong), torch::zeros({2, 0}, torch::kBool), {}};
  auto loss = language_loss(backbone_, torch::zeros({2, 0, 16}), made.tail_hidden, made.selected,
                            made.batch);
  EXPECT_EQ(loss.count, 3);
  made.batch.tail_valid.fill_(false);
  EXPECT_EQ(language_loss(backbone_, torch::zeros({2, 0, 16}), made.tail_hidden, made.selected,
                          made.batch)
                .count,
            0);
}

}  // namespace
}  // namespace dsrsq
