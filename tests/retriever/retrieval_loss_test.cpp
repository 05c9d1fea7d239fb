#include "dsrsq/retriever/retrieval_loss.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "dsrsq/retriever/subset.h"
#include "support/expect_tensor.h"
#include "support/gradcheck.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;

constexpr double kNever = -std::numeric_limits<double>::infinity();

at::Tensor evidence() {
  auto marks = at::zeros({2, 2, 9}, at::kBool);
  marks[0][0].slice(0, 2, 5).fill_(true);
  marks[0][1][7] = true;
  marks[1][0][0] = true;  // [1][1] has none
  return marks;
}

RetrievalLoss loss_of(const at::Tensor& phi) {
  return softmax_retrieval_loss(phi, target_distribution(evidence()));
}

TEST(TargetDistribution, ScalesRowsToOneAndKeepsEmptyOnes) {
  auto mass = at::tensor({0.f, 3.f, 1.f, 0.f, 0.f, 0.f, 2e-4f, 0.f, 6e-4f}).view({1, 3, 3});
  EXPECT_TENSOR_NEAR(
      target_distribution(mass),
      at::tensor({0., 0.75, 0.25, 0., 0., 0., 0.25, 0., 0.75}, at::kDouble).view({1, 3, 3}),
      (testing::Tolerance{1e-6, 0}));
  auto uniform = target_distribution(evidence());
  EXPECT_TENSOR_NEAR(uniform[0][0].slice(0, 2, 5), at::full({3}, 1.0 / 3),
                     (testing::Tolerance{1e-6, 0}));
  EXPECT_EQ(uniform[1][1].abs().sum().item<double>(), 0);
}

TEST(SoftmaxRetrievalLoss, IsTheMeanLogSoftmaxOverEvidence) {
  auto phi = normal("phi", {2, 2, 9}) * 3;
  phi[1].slice(1, 6).fill_(kNever);
  auto loss = loss_of(phi);
  double expected = 0;
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t q = 0; q < 2; ++q) {
      double total = 0, sum = 0, members = 0;
      for (int64_t i = 0; i < 9; ++i) total += std::exp(phi[b][q][i].item<double>());
      for (int64_t i = 0; i < 9; ++i)
        if (evidence()[b][q][i].item<bool>())
          sum += phi[b][q][i].item<double>() - std::log(total), members += 1;
      if (members > 0) expected -= sum / members;
    }
  EXPECT_NEAR(loss.sum.item<double>(), expected, 1e-4);
  EXPECT_EQ(loss.count.item<double>(), 3);
}

// d KL(target || softmax phi) / d phi = softmax phi - target, for a target of any shape.
TEST(SoftmaxRetrievalLoss, ItsGradientIsThatOfTheKlDivergence) {
  auto phi = (normal("phi", {2, 1, 7}) * 2).to(at::kDouble).requires_grad_();
  auto target = target_distribution(normal("attention", {2, 1, 7}).square()).to(at::kDouble);
  softmax_retrieval_loss(phi, target).sum.backward();
  EXPECT_TENSOR_NEAR(phi.grad(), at::softmax(phi.detach(), -1) - target,
                     (testing::Tolerance{1e-6, 1e-7}));
}

TEST(SoftmaxRetrievalLoss, GradientRaisesEvidenceAndLowersTheRest) {
  auto phi = normal("phi", {2, 2, 9}).to(at::kDouble);
  auto function = [&](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    return {loss_of(in[0]).sum};
  };
  EXPECT_TRUE(testing::gradcheck(function, {phi}, {0}));
  auto flat = at::zeros({2, 2, 9}).requires_grad_();
  loss_of(flat).sum.backward();
  auto has = evidence().any(-1, true).expand_as(flat);
  EXPECT_TRUE((flat.grad().masked_select(evidence()) < 0).all().item<bool>());
  EXPECT_TRUE((flat.grad().masked_select(evidence().logical_not().logical_and(has)) > 0)
                  .all()
                  .item<bool>());
  EXPECT_EQ(flat.grad().masked_select(has.logical_not()).abs().sum().item<double>(), 0);
}

TEST(SoftmaxRetrievalLoss, PaddingGivesNoNaN) {
  auto phi = normal("phi", {2, 2, 9});
  phi.slice(2, 6).fill_(kNever);
  phi[1].fill_(kNever);  // a document without tokens
  auto marks = evidence();
  marks.slice(2, 6).fill_(false);
  marks[1].fill_(false);
  auto leaf = phi.clone().requires_grad_();
  // As the retriever makes it: -inf by masking, so that padding's own gradient is cut there.
  auto loss = softmax_retrieval_loss(leaf.nan_to_num().masked_fill(phi == kNever, kNever),
                                     target_distribution(marks));
  EXPECT_TRUE(loss.sum.isfinite().item<bool>());
  loss.sum.backward();
  EXPECT_TRUE(leaf.grad().isfinite().all().item<bool>());
}

// ---- over inclusion probabilities ----

struct Inclusion {
  at::Tensor score = (normal("score", {1, 9}) * 2).requires_grad_();
  at::Tensor perturbed = (score.detach() + normal("noise", {1, 9})).to(at::kDouble);
  at::Tensor log_p() const {
    return log_inclusion_probability(score, perturbed, at::tensor({3}, at::kLong)).unsqueeze(1);
  }
};

TEST(InclusionRetrievalLoss, IsTheMeanLogProbabilityOfTheTarget) {
  Inclusion made;
  auto marks = evidence().slice(0, 0, 1).slice(1, 0, 1);  // 2, 3, 4
  auto loss = inclusion_retrieval_loss(made.log_p(), target_distribution(marks));
  auto log_p = made.log_p().detach().to(at::kDouble)[0][0];
  EXPECT_NEAR(loss.sum.item<double>(), -(log_p[2] + log_p[3] + log_p[4]).item<double>() / 3, 1e-5);
  EXPECT_EQ(loss.count.item<double>(), 1);
  loss.sum.backward();
  // It asks for the target alone: no negatives.
  auto gradient = made.score.grad()[0];
  for (int64_t i = 0; i < 9; ++i) EXPECT_EQ(gradient[i].item<double>() < 0, i >= 2 && i < 5) << i;
  EXPECT_EQ(gradient.masked_select(marks[0][0].logical_not()).abs().sum().item<double>(), 0);
}

TEST(InclusionRetrievalLoss, TokensThatAreNoCandidatesGiveNoNaN) {
  Inclusion made;
  auto log_p = made.log_p();
  auto padded = at::cat({log_p, at::full({1, 1, 3}, kNever)}, 2);
  auto marks = at::zeros({1, 1, 12}, at::kBool);
  marks[0][0][5] = true;
  auto loss = inclusion_retrieval_loss(padded, target_distribution(marks));
  loss.sum.backward();
  EXPECT_NEAR(loss.sum.item<double>(), -log_p[0][0][5].item<double>(), 1e-6);
  EXPECT_TRUE(made.score.grad().isfinite().all().item<bool>());
}

}  // namespace
}  // namespace dsrsq
