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

}  // namespace
}  // namespace dsrsq
