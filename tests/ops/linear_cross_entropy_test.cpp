#include "dsrsq/ops/linear_cross_entropy.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/ops/autocast.h"
#include "support/expect_tensor.h"
#include "support/gradcheck.h"
#include "support/op_case.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using ops::linear_cross_entropy;
using testing::normal;
using testing::test_devices;
using testing::Tolerance;

constexpr int64_t kRows = 37, kWidth = 16, kVocabulary = 67;  // no multiple of a vector

struct Problem {
  at::Tensor hidden = normal("hidden", {kRows, kWidth}),
             weight = normal("w", {kVocabulary, kWidth});
  at::Tensor targets = at::arange(kRows, at::kLong).mul(29).remainder(kVocabulary);
};

// The loss and its gradients, times 3.
std::vector<at::Tensor> run(const Problem& p, at::Device device, at::ScalarType type, bool autocast,
                            int64_t rows_at_once) {
  auto hidden = p.hidden.to(device, type).requires_grad_(true);
  auto weight = p.weight.to(device, type).requires_grad_(true);
  at::Tensor loss;
  {
    ops::AutocastGuard guard(device, autocast);
    loss = linear_cross_entropy(hidden, weight, p.targets.to(device), rows_at_once);
  }
  auto gradients = torch::autograd::grad({loss * 3}, {hidden, weight});
  return {loss.detach(), gradients[0], gradients[1]};
}

std::vector<at::Tensor> oracle(const Problem& p) {
  auto hidden = p.hidden.to(at::kDouble).requires_grad_(true);
  auto weight = p.weight.to(at::kDouble).requires_grad_(true);
  auto loss =
      -at::log_softmax(at::matmul(hidden, weight.t()), -1).gather(1, p.targets.unsqueeze(1)).sum();
  auto gradients = torch::autograd::grad({loss * 3}, {hidden, weight});
  return {loss.detach(), gradients[0], gradients[1]};
}

double error(const at::Tensor& actual, const at::Tensor& expected) {
  return ((actual.to(at::kCPU, at::kDouble) - expected).norm() / expected.norm()).item<double>();
}

TEST(LinearCrossEntropy, EqualsTheFormulaWhateverTheChunks) {
  Problem p;
  auto expected = oracle(p);
  for (const auto device : test_devices())
    for (int64_t rows : {0, 1, 8, 37, 100}) {
      auto exact = run(p, device, at::kFloat, false, rows);
      auto rounded = run(p, device, at::kFloat, true, rows);
      EXPECT_EQ(rounded[1].scalar_type(), at::kFloat);
      for (size_t i = 0; i < expected.size(); ++i) {
        EXPECT_LE(error(exact[i], expected[i]), 1e-5) << device << " " << rows << " result " << i;
        EXPECT_LE(error(rounded[i], expected[i]), 1e-2) << device << " " << rows << " result " << i;
      }
    }
  auto wide = run(p, at::kCPU, at::kDouble, false, 8);
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_LE(error(wide[i], expected[i]), 1e-12);
}

TEST(LinearCrossEntropy, WithoutGradientNoneIsMade) {
  Problem p;
  auto expected = oracle(p)[0];
  at::NoGradGuard no_grad;
  auto loss = linear_cross_entropy(p.hidden, p.weight.clone().requires_grad_(true), p.targets, 8);
  EXPECT_FALSE(loss.requires_grad());
  EXPECT_LE(error(loss, expected), 1e-6);
}

TEST(LinearCrossEntropy, NoRowsCostNothing) {
  Problem p;
  auto hidden = p.hidden.narrow(0, 0, 0).requires_grad_(true);
  auto loss = linear_cross_entropy(hidden, p.weight, p.targets.narrow(0, 0, 0));
  EXPECT_EQ(loss.item<float>(), 0.f);
  loss.backward();
}

TEST(LinearCrossEntropy, WrongArgumentsAreNamed) {
  Problem p;
  EXPECT_THROW(linear_cross_entropy(p.hidden, p.weight.t(), p.targets), c10::Error);
  EXPECT_THROW(linear_cross_entropy(p.hidden, p.weight, p.targets.to(at::kInt)), c10::Error);
  EXPECT_THROW(linear_cross_entropy(p.hidden, p.weight, p.targets.narrow(0, 1, 5)), c10::Error);
}

}  // namespace
}  // namespace dsrsq
