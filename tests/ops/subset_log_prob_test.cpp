#include "dsrsq/ops/subset_log_prob.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>
#include <string>

#include "dsrsq/ops/reference.h"
#include "dsrsq/retriever/subset.h"
#include "support/expect_tensor.h"
#include "support/retrieval_cases.h"

namespace dsrsq {
namespace {

using testing::test_devices;
using testing::Tolerance;

constexpr double kNever = -std::numeric_limits<double>::infinity();

TEST(SubsetLogProbOperator, MatchesOracleIsRepeatableAndItsGradient) {
  testing::expect_op_cases(testing::subset_log_prob_cases());
}

TEST(SubsetLogProbOperator, LongRowsMatchOracleAndAreRepeatable) {
  for (const auto& op_case : testing::long_subset_log_prob_cases()) {
    testing::expect_parity(op_case);
    testing::expect_repeatable(op_case);
  }
}

// By hand: of weights 1, 2, 5 the last, then the first: 5/8, 1/3.
TEST(SubsetLogProbOperator, WorkedExample) {
  for (const at::Device device : test_devices()) {
    const at::Tensor score = torch::tensor({{1.f, 2.f, 5.f}}).log().to(device).requires_grad_();
    const at::Tensor candidate = at::tensor({2, 0, 0}, at::kLong).view({1, 3}).to(device);
    const at::Tensor mask = at::tensor({1, 1, 0}, at::kInt).to(at::kBool).view({1, 3}).to(device);
    const at::Tensor log_prob = ops::subset_log_prob(score, candidate, mask);
    EXPECT_TENSOR_NEAR(log_prob.detach(),
                       torch::tensor({{std::log(5. / 8), std::log(1. / 3), 0.}}, at::kDouble),
                       (Tolerance{1e-6, 1e-6}));
    log_prob.sum().backward();
    // 1 (picked) minus the shares 1/8 and 1/3, and so on.
    EXPECT_TENSOR_NEAR(
        score.grad(),
        torch::tensor({{1 - 1. / 8 - 1. / 3, -2. / 8 - 2. / 3, 1 - 5. / 8}}, at::kDouble),
        (Tolerance{1e-6, 1e-6}));
  }
}

// Against the composition of torch's operators that dsr.kernel: aten takes, forward and backward,
// in fp32 with weights of both signs.
TEST(SubsetLogProbOperator, AgreesWithThePlainOperators) {
  torch::manual_seed(4);
  for (const at::Device device : test_devices()) {
    const at::Tensor score = (at::randn({6, 2000}) * 4).to(device);
    score.slice(0, 3).slice(1, 1500).fill_(kNever);
    const at::Tensor noisy = score + at::rand_like(score);
    SubsetPicks picks{std::get<1>(noisy.topk(700, 1)), {}};
    picks.mask = at::arange(700, picks.candidate.options()).unsqueeze(0) <
                 at::tensor({700, 1, 0, 512, 513, 600}, at::kLong).to(device).unsqueeze(1);
    picks.candidate = picks.candidate.masked_fill(picks.mask.logical_not(), 0);
    const at::Tensor weight = at::randn({6, 700}).to(device);
    const at::Tensor own = score.clone().requires_grad_(), plain = score.clone().requires_grad_();
    const at::Tensor found = ops::subset_log_prob(own, picks.candidate, picks.mask);
    const at::Tensor expected = subset_log_prob(plain, picks);
    EXPECT_TENSOR_NEAR(found.detach(), expected.detach(), (Tolerance{1e-5, 2e-5}));
    (found * weight).sum().backward();
    (expected * weight).sum().backward();
    EXPECT_TENSOR_NEAR(own.grad(), plain.grad().nan_to_num(), (Tolerance{1e-4, 1e-4}));
  }
}

TEST(SubsetLogProbOperator, ARowThatPicksEverythingHadNoChoice) {
  for (const at::Device device : test_devices()) {
    at::Tensor score = at::randn({2, 4}).to(device);
    score[1][2] = kNever;
    score.requires_grad_();
    const at::Tensor candidate =
        at::tensor({2, 0, 3, 1, 3, 0, 1, 0}, at::kLong).view({2, 4}).to(device);
    at::Tensor mask = at::ones({2, 4}, candidate.options().dtype(at::kBool));
    mask[1][3] = false;
    const at::Tensor log_prob = ops::subset_log_prob(score, candidate, mask);
    EXPECT_EQ(log_prob.abs().sum().item<float>(), 0.f);
    log_prob.sum().backward();
    EXPECT_EQ(score.grad().abs().sum().item<float>(), 0.f);
  }
}

TEST(SubsetLogProbOperator, ExtremeScoresAreFiniteWithFiniteGradients) {
  for (const at::Device device : test_devices()) {
    at::Tensor score = at::full({1, 64}, -60.f).to(device);
    score.slice(1, 0, 8).fill_(60);
    score.requires_grad_();
    const at::Tensor candidate = at::tensor({63, 0, 20, 1}, at::kLong).view({1, 4}).to(device);
    const at::Tensor mask = at::ones_like(candidate, at::kBool);
    const at::Tensor log_prob = ops::subset_log_prob(score, candidate, mask);
    EXPECT_NEAR(log_prob[0][0].item<double>(), -120 - std::log(8), 1e-3);
    EXPECT_NEAR(log_prob[0][3].item<double>(), -std::log(7), 1e-4);
    log_prob.sum().backward();
    EXPECT_TRUE(score.grad().isfinite().all().item<bool>());
    EXPECT_NEAR(score.grad()[0][63].item<double>(), 1, 1e-4);
  }
}

TEST(SubsetLogProbOperator, TenRunsAreTheSameBits) {
  for (const at::Device device : test_devices()) {
    const at::Tensor score = at::randn({3, 5000}).to(device).requires_grad_();
    const at::Tensor candidate = std::get<1>(score.detach().topk(900, 1));
    const at::Tensor mask = at::ones_like(candidate, at::kBool);
    const at::Tensor weight = at::randn({3, 900}).to(device);
    const auto run = [&] {
      const at::Tensor log_prob = ops::subset_log_prob(score, candidate, mask);
      return std::vector<at::Tensor>{log_prob.detach(),
                                     torch::autograd::grad({log_prob}, {score}, {weight})[0]};
    };
    const auto first = run();
    for (int i = 1; i < 10; ++i) {
      const auto again = run();
      EXPECT_TENSOR_EQUAL(again[0], first[0]);
      EXPECT_TENSOR_EQUAL(again[1], first[1]);
    }
  }
}

TEST(SubsetLogProbOperator, AutocastMakesScoresFp32) {
  for (const at::Device device : test_devices()) {
    const at::Tensor score = at::randn({2, 9}).to(at::kBFloat16).to(device);
    const at::Tensor candidate = at::tensor({1, 2, 8, 0}, at::kLong).view({2, 2}).to(device);
    const at::Tensor mask = at::ones_like(candidate, at::kBool);
    EXPECT_THROW(ops::subset_log_prob(score, candidate, mask), c10::Error);
    at::autocast::set_autocast_enabled(device.type(), true);
    const at::Tensor log_prob = ops::subset_log_prob(score, candidate, mask);
    at::autocast::set_autocast_enabled(device.type(), false);
    at::autocast::clear_cache();
    EXPECT_EQ(log_prob.scalar_type(), at::kFloat);
    EXPECT_TENSOR_EQUAL(log_prob, ops::subset_log_prob(score.to(at::kFloat), candidate, mask));
  }
}

TEST(SubsetLogProbOperator, WrongArgumentsAreNamed) {
  const at::Tensor score = at::randn({2, 4}), candidate = at::zeros({2, 1}, at::kLong);
  const at::Tensor mask = at::ones({2, 1}, at::kBool);
  const auto expect_error = [](const at::Tensor& x, const at::Tensor& c, const at::Tensor& m,
                               const std::string& part) {
    try {
      ops::subset_log_prob(x, c, m);
      ADD_FAILURE() << "no error where one about " << part << " was expected";
    } catch (const c10::Error& e) {
      EXPECT_NE(std::string(e.what_without_backtrace()).find(part), std::string::npos) << e.what();
    }
  };
  expect_error(score[0], candidate, mask, "score must be fp32 or double [R, M]");
  expect_error(score.to(at::kHalf), candidate, mask, "score must be fp32 or double");
  expect_error(score, candidate.to(at::kInt), mask, "candidate must be int64");
  expect_error(score, candidate.slice(0, 1), mask, "candidate must be int64");
  expect_error(score, candidate, mask.to(at::kLong), "mask must be bool");
  expect_error(score, candidate + 4, mask, "candidates in [0, 4), got 4");
  expect_error(score, candidate, at::empty({2, 1}, at::TensorOptions(at::kMeta).dtype(at::kBool)),
               "put them on one device");
}

}  // namespace
}  // namespace dsrsq
