#include "dsrsq/objective/hybrid.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "support/expect_tensor.h"

namespace dsrsq {
namespace {

LossTerm term(const at::Tensor& sum, double count) { return {sum, count}; }

TEST(HybridLoss, IsTheWeightedSumOfMeans) {
  LossTerms terms{{"task", term(torch::tensor(6.0f), 3)},
                  {"retrieval", term(torch::tensor(10.0f), 4)}};
  auto loss =
      hybrid_loss(terms, {{"task", 1.0}, {"retrieval", 0.5}}, {{"task", 3}, {"retrieval", 4}});
  EXPECT_FLOAT_EQ(loss.item<float>(), 6.0f / 3 + 0.5f * 10.0f / 4);
}

// Micro-batches of 5 and 2 values: the mean over all 7, not the mean of two means.
TEST(HybridLoss, MicroBatchesGiveTheGradientOfTheWholeBatch) {
  auto whole = torch::randn({7}, torch::kDouble).requires_grad_();
  auto parts = whole.detach().clone().requires_grad_();
  const std::map<std::string, double> weights{{"task", 1.0}, {"retrieval", 0.3}};
  const std::map<std::string, double> totals{{"task", 7}, {"retrieval", 3}};
  auto terms = [](const at::Tensor& x, int64_t retrieval) {
    return LossTerms{{"task", term(x.pow(2).sum(), double(x.size(0)))},
                     {"retrieval", term(x.narrow(0, 0, retrieval).exp().sum(), double(retrieval))}};
  };
  // The retrieval term counts the first 3 of 7; cut into 5 and 2, all of them are in the first
  // part.
  auto loss = hybrid_loss(terms(whole, 3), weights, totals);
  loss.backward();
  auto first = hybrid_loss(terms(parts.narrow(0, 0, 5), 3), weights, totals);
  first.backward();
  auto second = hybrid_loss(terms(parts.narrow(0, 5, 2), 0), weights, totals);
  second.backward();
  EXPECT_NEAR((first + second).item<double>(), loss.item<double>(), 1e-12);
  EXPECT_TRUE(at::allclose(parts.grad(), whole.grad(), 1e-12, 1e-12));
}

TEST(HybridLoss, ATermThatNothingCountsForIsLeftOut) {
  LossTerms terms{{"task", term(torch::tensor(6.0f), 3)},
                  {"retrieval", term(torch::tensor(NAN), 0)}};
  auto loss =
      hybrid_loss(terms, {{"task", 1.0}, {"retrieval", 0.5}}, {{"task", 3}, {"retrieval", 0}});
  EXPECT_FLOAT_EQ(loss.item<float>(), 2.0f);
}

TEST(HybridLoss, AnUnknownTermIsAnErrorNotSilence) {
  LossTerms terms{{"tsak", term(torch::tensor(6.0f), 3)}};
  EXPECT_THROW(hybrid_loss(terms, {{"task", 1.0}}, {{"tsak", 3}}), c10::Error);
  EXPECT_THROW(hybrid_loss(terms, {{"tsak", 1.0}}, {{"task", 3}}), c10::Error);
}

}  // namespace
}  // namespace dsrsq
