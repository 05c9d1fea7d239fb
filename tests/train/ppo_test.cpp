#include "dsrsq/train/ppo.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "support/expect_tensor.h"
#include "support/gradcheck.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;
using testing::Tolerance;

// ---- advantages ----

at::Tensor doubles(std::vector<double> values) { return at::tensor(values, at::kDouble); }

TEST(LeaveOneOutAdvantage, ComparesADrawWithTheOthersOfItsQuestion) {
  auto advantage = leave_one_out_advantage(doubles({1, 2, 6, -1, -1, -1}), {}, 3);
  EXPECT_TENSOR_NEAR(advantage, doubles({1 - 4., 2 - 3.5, 6 - 1.5, 0, 0, 0}),
                     (Tolerance{0, 1e-12}));
}

TEST(LeaveOneOutAdvantage, ComparesWithTheSameBudgetOnly) {
  auto scores = doubles({1, 2, 6, 10, 3, 5, 7, 9});
  auto bin = at::tensor({0, 1, 0, 2, 4, 4, 4, 4}, at::kLong);
  auto advantage = leave_one_out_advantage(scores, bin, 4);
  EXPECT_TENSOR_NEAR(advantage,
                     doubles({1 - 6., 0, 6 - 1., 0, 3 - 7., 5 - 19. / 3, 7 - 17. / 3, 9 - 5.}),
                     (Tolerance{0, 1e-12}));
}

TEST(LeaveOneOutAdvantage, ASingleDrawHasNoOther) {
  EXPECT_TENSOR_EQUAL(leave_one_out_advantage(doubles({3, -4}), {}, 1), doubles({0, 0}));
}

// A_s = sum over l >= s of (discount lambda)^(l - s) delta_l.
TEST(StreamAdvantage, IsTheDoubleSum) {
  constexpr int64_t kRows = 5;
  auto values = normal("values", {3, kRows}).to(at::kDouble);
  auto scores = normal("scores", {3}).to(at::kDouble);
  for (auto [discount, lambda] : {std::pair{0.9, 0.8}, {1.0, 0.95}, {0.7, 0.0}, {0.0, 1.0}}) {
    auto advantage = stream_advantage(values, scores, discount, lambda);
    for (int64_t r = 0; r < 3; ++r)
      for (int64_t s = 0; s < kRows; ++s) {
        double expected = 0;
        for (auto l = s; l < kRows; ++l) {
          bool last = l + 1 == kRows;
          auto delta =
              (last ? scores[r].item<double>() : discount * values[r][l + 1].item<double>()) -
              values[r][l].item<double>();
          expected += std::pow(discount * lambda, double(l - s)) * delta;
        }
        EXPECT_NEAR(advantage[r][s].item<double>(), expected, 1e-12) << discount << " " << lambda;
      }
  }
}

TEST(StreamAdvantage, WithoutDiscountItIsTheScoreLessTheValue) {
  auto values = normal("values", {3, 4}).to(at::kDouble);
  auto scores = normal("scores", {3}).to(at::kDouble);
  EXPECT_TENSOR_NEAR(stream_advantage(values, scores, 1, 1), scores.unsqueeze(1) - values,
                     (Tolerance{0, 1e-12}));
}

// A context that is shorter than the batch's longest: as if it stood alone, whatever the values of
// rows that it does not have.
TEST(StreamAdvantage, RowsAfterTheEndChangeNothing) {
  auto values = normal("values", {2, 5}).to(at::kDouble);
  auto scores = normal("scores", {2}).to(at::kDouble);
  auto present = at::ones({2, 5}, at::kBool);
  present[1].slice(0, 3).fill_(false);
  auto together = stream_advantage(values, scores, 0.9, 0.8, present);
  auto alone = stream_advantage(values.narrow(1, 0, 3), scores, 0.9, 0.8);
  EXPECT_TENSOR_NEAR(together[1].narrow(0, 0, 3), alone[1], (Tolerance{0, 1e-12}));
  EXPECT_EQ(together[1].narrow(0, 3, 2).abs().max().item<double>(), 0);
  EXPECT_TENSOR_NEAR(together[0], stream_advantage(values, scores, 0.9, 0.8)[0],
                     (Tolerance{0, 1e-12}));
}

TEST(DampedTokenCost, AddsTheExcessWithinTheLimits) {
  PpoRewardConfig config;
  EXPECT_EQ(damped_token_cost(config, 0.7, 0.9), 0.7) << "no target: it is fixed";
  config.target_share = 0.25;
  config.dual_damping = 0.5;
  EXPECT_DOUBLE_EQ(damped_token_cost(config, 1, 0.375), 1 + 0.5 * 0.5 / 0.25);
  EXPECT_DOUBLE_EQ(damped_token_cost(config, 1, 0.125), 1 - 0.5 * 0.5 / 0.25);
  EXPECT_DOUBLE_EQ(damped_token_cost(config, 7.9, 1), 8);
  EXPECT_DOUBLE_EQ(damped_token_cost(config, -7.9, 0), -8);
}

// ---- the surrogate ----

struct SurrogateCase {
  at::Tensor old = normal("old", {3, 5}).to(at::kDouble) - 2;
  at::Tensor now = old + normal("change", {3, 5}).to(at::kDouble) * 0.4;
  at::Tensor advantage = normal("advantage", {3, 5}).to(at::kDouble);
  at::Tensor mask = at::ones({3, 5}, at::kBool);
  SurrogateCase() {
    mask[1].slice(0, 2).fill_(false);
    mask[2][0] = false;
  }
};

TEST(ClippedSurrogate, IsTheDefinition) {
  SurrogateCase c;
  constexpr double kClip = 0.2;
  auto found = clipped_surrogate(c.now, c.old, c.advantage, c.mask, kClip);
  double objective = 0, clipped = 0, kl = 0, deviation = 0, total = 0;
  for (int64_t r = 0; r < 3; ++r) {
    double sum = 0, count = 0;
    for (int64_t i = 0; i < 5; ++i) {
      if (!c.mask[r][i].item<bool>()) continue;
      auto ratio = std::exp((c.now[r][i] - c.old[r][i]).item<double>());
      auto a = c.advantage[r][i].item<double>();
      sum += std::min(ratio * a, std::min(std::max(ratio, 1 - kClip), 1 + kClip) * a);
      ++count;
      clipped += std::abs(ratio - 1) > kClip;
      kl += ratio - 1 - std::log(ratio);
      deviation = std::max(deviation, std::abs(ratio - 1));
    }
    objective += sum / count / 3;
    total += count;
  }
  ASSERT_GT(clipped, 0);
  ASSERT_LT(clipped, total);
  EXPECT_NEAR(found.objective.item<double>(), objective, 1e-12);
  EXPECT_NEAR(found.clip_fraction, clipped / total, 1e-12);
  EXPECT_NEAR(found.approximate_kl, kl / total, 1e-12);
  EXPECT_NEAR(found.ratio_deviation, deviation, 1e-12);
}

TEST(ClippedSurrogate, GradientIsZeroExactlyWhereItIsClipped) {
  SurrogateCase c;
  auto function = [&](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    return {clipped_surrogate(in[0], c.old, c.advantage, c.mask, 0.2).objective};
  };
  EXPECT_TRUE(testing::gradcheck(function, {c.now}, {0}));
  auto now = c.now.clone().requires_grad_();
  clipped_surrogate(now, c.old, c.advantage, c.mask, 0.2).objective.backward();
  int zero = 0, free = 0;
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t i = 0; i < 5; ++i) {
      auto ratio = std::exp((c.now[r][i] - c.old[r][i]).item<double>());
      auto a = c.advantage[r][i].item<double>();
      bool stands = !c.mask[r][i].item<bool>() || (a > 0 ? ratio > 1.2 : ratio < 0.8);
      ++(stands ? zero : free);
      EXPECT_EQ(now.grad()[r][i].item<double>() == 0, stands) << r << " " << i;
    }
  EXPECT_GT(zero, 4);
  EXPECT_GT(free, 0);
}

TEST(ClippedSurrogate, AtRatioOneItIsThePolicyGradient) {
  SurrogateCase c;
  auto now = c.old.clone().requires_grad_();
  auto found = clipped_surrogate(now, c.old, c.advantage, c.mask, 0.2);
  EXPECT_EQ(found.ratio_deviation, 0);
  EXPECT_EQ(found.approximate_kl, 0);
  EXPECT_EQ(found.clip_fraction, 0);
  found.objective.backward();
  auto weight = c.mask.to(at::kDouble) / c.mask.sum(1, true) / 3;
  EXPECT_TENSOR_NEAR(now.grad(), c.advantage * weight, (Tolerance{1e-12, 1e-15}));
}

// ---- the token cost ----

TEST(NextTokenCost, MovesTowardsTheTargetWithinItsLimits) {
  PpoRewardConfig config;
  EXPECT_EQ(next_token_cost(config, 0.7, 0.9, false, false), 0.7) << "no target: it is fixed";
  config.target_share = 0.25;
  config.dual_rate = 0.1;
  config.maximum_cost = 2;
  EXPECT_DOUBLE_EQ(next_token_cost(config, 1, 0.5, false, false), 1 + 0.1 / 0.25);
  EXPECT_DOUBLE_EQ(next_token_cost(config, 1, 0.125, false, false), 1 - 0.05 / 0.25);
  EXPECT_DOUBLE_EQ(next_token_cost(config, 1, 0.25, false, false), 1);
  EXPECT_LT(next_token_cost(config, 0.1, 0.01, false, false), 0) << "a bonus below the target";
  EXPECT_DOUBLE_EQ(next_token_cost(config, -7.9, 0, false, false), -8);
  EXPECT_DOUBLE_EQ(next_token_cost(config, 7.9, 1, false, false), 8) << "2 / .25";
}

TEST(NextTokenCost, StandsStillWhereTheBudgetCannotFollow) {
  PpoRewardConfig config;
  config.target_share = 0.25;
  EXPECT_EQ(next_token_cost(config, 1, 0.5, true, false), 1);
  EXPECT_EQ(next_token_cost(config, 1, 0.1, false, true), 1);
  EXPECT_LT(next_token_cost(config, 1, 0.1, true, false), 1) << "the other way is free";
  EXPECT_GT(next_token_cost(config, 1, 0.5, false, true), 1);
}

}  // namespace
}  // namespace dsrsq
