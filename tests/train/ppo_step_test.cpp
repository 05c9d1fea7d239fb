// Whole steps of PPO on a small policy, with a scorer in place of a reader.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <functional>
#include <ostream>

#include "dsrsq/core/error.h"
#include "dsrsq/retriever/dsr_policy.h"
#include "dsrsq/train/ppo.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using ::testing::HasSubstr;
using testing::normal;

at::Tensor doubles(std::vector<double> values) { return at::tensor(values, at::kDouble); }

constexpr int64_t kModel = 12, kTokens = 24, kSegment = 8;

PolicyInput make_input(bool per_segment) {
  PolicyInput input;
  input.context = normal("context", {2, kTokens, kModel});
  input.context_valid = at::ones({2, kTokens}, at::kBool);
  input.context_valid[1].slice(0, 20).fill_(false);
  input.questions = normal("question", {2, 1, 3, kModel});
  input.questions_valid = at::ones({2, 1, 3}, at::kBool);
  input.question_weights = at::ones({2, 1, 3});
  input.table_mean = at::zeros({kModel});
  input.sample_ids = {4, 9};
  input.per_segment = per_segment;
  return input;
}

// Pays for every fourth token, so that each segment has something to find.
constexpr int64_t kGood = 6;
class PaysForSomeTokens : public RolloutScorer {
 public:
  at::Tensor score(const Rollouts& rollouts) override {
    auto good = (rollouts.selected.index % 4 == 0).logical_and(rollouts.selected.mask);
    auto scores = good.sum(1).to(at::kDouble) / double(kGood);
    return poison ? scores.index_fill(0, at::tensor({1}, at::kLong), poison_value) : scores;
  }
  at::Tensor score_without(const Rollouts& rollouts) override {
    auto good = (rollouts.selected.index % 4 == 0).logical_and(rollouts.selected.mask);
    auto of_group = at::zeros({good.size(0), rollouts.groups}, at::kDouble)
                        .scatter_add_(1, rollouts.group_of_slot.clamp_min(0),
                                      good.to(at::kDouble) / double(kGood));
    auto found = good.sum(1, true).to(at::kDouble) / double(kGood) - of_group;
    return poison_groups ? found * poison_value : found;
  }
  bool poison = false, poison_groups = false;
  double poison_value = NAN;
};

struct Setting {
  std::string baseline = "rloo", credit = "shared";
  bool learned = false, per_segment = false;
};

std::ostream& operator<<(std::ostream& out, const Setting& s) {
  return out << s.baseline << " " << s.credit << " " << s.learned << " " << s.per_segment;
}

struct Learner {
  explicit Learner(const Setting& setting, const std::function<void(PpoConfig&)>& change = {})
      : input(make_input(setting.per_segment)) {
    DsrConfig dsr_config;
    dsr_config.width = 8;
    dsr_config.budget = 6;
    dsr_config.alpha = setting.learned ? 1 : 0;
    dsr_config.budget_minimum = setting.learned ? 2 : 0;
    dsr_config.complexity = setting.learned ? "learned" : "none";
    dsr_config.input = "embedding";
    dsr_config.temperature = 0.2;
    dsr = Dsr(dsr_config, kModel, 5);
    policy = std::make_unique<DsrPolicy>(dsr, kSegment, 3);
    config.baseline = setting.baseline;
    config.credit = setting.credit;
    config.learning_rate = 1e-2;
    if (change) change(config);
    std::vector<NamedParameter> parameters;
    for (const auto& item : dsr->named_parameters()) {
      NamedParameter parameter;
      parameter.name = item.key();
      parameter.tensor = item.value();
      parameters.push_back(std::move(parameter));
    }
    ppo = std::make_unique<Ppo>(config, *policy, parameters, 3, at::kCPU);
  }
  std::map<std::string, double> step(int64_t index) { return ppo->step(input, scorer, index); }
  std::map<std::string, at::Tensor> weights() const {
    std::map<std::string, at::Tensor> found;
    for (const auto& item : dsr->named_parameters())
      found[item.key()] = item.value().detach().clone();
    return found;
  }
  PolicyInput input;
  Dsr dsr{nullptr};
  std::unique_ptr<DsrPolicy> policy;
  PpoConfig config;
  std::unique_ptr<Ppo> ppo;
  PaysForSomeTokens scorer;
};

using Weights = std::map<std::string, at::Tensor>;

void expect_same(const Weights& a, const Weights& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : a) {
    ASSERT_TRUE(b.count(name)) << name;
    EXPECT_TRUE(at::equal(tensor, b.at(name))) << name;
  }
}

Weights copies(const Weights& state) {
  Weights copied;
  for (const auto& [name, tensor] : state) copied[name] = tensor.clone();
  return copied;
}

const Setting kSettings[] = {
    {"rloo", "shared", false, false},   {"value", "shared", false, true},
    {"greedy", "shared", false, false}, {"rloo", "span_loo", false, false},
    {"rloo", "shared", true, false},    {"value", "shared", true, true},
    {"greedy", "shared", true, true},   {"value", "span_loo", true, false}};

std::string setting_name(const ::testing::TestParamInfo<Setting>& info) {
  const auto& s = info.param;
  return s.baseline + "_" + s.credit + (s.learned ? "_learned" : "") +
         (s.per_segment ? "_segments" : "");
}

class PpoStep : public ::testing::TestWithParam<Setting> {};

TEST_P(PpoStep, TheFirstRatioIsOneAndTheScoreRises) {
  Learner learner(GetParam());
  double first = 0, last = 0;
  for (int64_t step = 0; step < 60; ++step) {
    auto metrics = learner.step(step);
    ASSERT_EQ(metrics.at("ppo/first_ratio_deviation"), 0) << step;
    for (const auto& [name, value] : metrics) ASSERT_TRUE(std::isfinite(value)) << name;
    auto score = metrics.at("ppo/task_score");
    if (step < 10) first += score / 10;
    if (step >= 50) last += score / 10;
  }
  EXPECT_GT(last, first + 0.1);
}

// Critic, optimiser and token cost: whatever a later step depends on is in the state.
TEST_P(PpoStep, RestoredFromItsStateItContinuesBitEqual) {
  auto cost = [](PpoConfig& config) { config.reward.target_share = 0.2; };
  auto change = GetParam().learned ? std::function<void(PpoConfig&)>(cost) : nullptr;
  Learner straight(GetParam(), change), resumed(GetParam(), change);
  for (int64_t step = 0; step < 3; ++step) straight.step(step);
  auto state = copies(straight.ppo->state());
  auto weights = straight.weights();
  {
    torch::NoGradGuard no_grad;
    for (auto& item : resumed.dsr->named_parameters()) item.value().copy_(weights.at(item.key()));
  }
  resumed.ppo->load_state(state);
  for (int64_t step = 3; step < 6; ++step) EXPECT_EQ(straight.step(step), resumed.step(step));
  expect_same(straight.weights(), resumed.weights());
  expect_same(straight.ppo->state(), resumed.ppo->state());
  EXPECT_EQ(straight.ppo->token_cost(), resumed.ppo->token_cost());
  if (GetParam().learned) {
    EXPECT_NE(straight.ppo->token_cost(), 0) << "the test would not see it lost";
  }
}

TEST_P(PpoStep, ANonFiniteRewardStopsBeforeAnyUpdate) {
  Learner learner(GetParam());
  learner.step(0);
  auto weights = learner.weights();
  auto state = copies(learner.ppo->state());
  for (double value : {double(NAN), double(INFINITY)}) {
    learner.scorer.poison = true;
    learner.scorer.poison_value = value;
    try {
      learner.step(17);
      FAIL() << "no error";
    } catch (const DivergedError& error) {
      EXPECT_THAT(error.what(), HasSubstr("step 17"));
      EXPECT_THAT(error.what(), HasSubstr("ppo.learning_rate"));
    }
    expect_same(weights, learner.weights());
    expect_same(state, learner.ppo->state());
  }
  learner.scorer.poison = false;
  EXPECT_NO_THROW(learner.step(1));
}

INSTANTIATE_TEST_SUITE_P(Settings, PpoStep, ::testing::ValuesIn(kSettings), setting_name);

TEST(Ppo, ANonFiniteScoreWithoutAGroupStopsToo) {
  Learner learner({"rloo", "span_loo", false, false});
  auto weights = learner.weights();
  learner.scorer.poison_groups = true;
  try {
    learner.step(17);
    FAIL() << "no error";
  } catch (const DivergedError& error) {
    EXPECT_THAT(error.what(), HasSubstr("step 17"));
  }
  expect_same(weights, learner.weights());
}

TEST(Ppo, EpochsEndWhereThePolicyHasMovedTooFar) {
  auto far = [](PpoConfig& config) {
    config.epochs = 6;
    config.maximum_kl = 1e-12;
  };
  Learner stopped({}, far);
  EXPECT_EQ(stopped.step(0).at("ppo/epochs"), 1) << "one update, then the stop";
  Learner one({}, [](PpoConfig& config) { config.epochs = 1; });
  one.step(0);
  expect_same(stopped.weights(), one.weights());
  Learner all({}, [](PpoConfig& config) {
    config.epochs = 6;
    config.maximum_kl = 1e9;
  });
  auto metrics = all.step(0);
  EXPECT_EQ(metrics.at("ppo/epochs"), 6);
  EXPECT_GT(metrics.at("ppo/approximate_kl"), 0);
}

TEST(Ppo, TheSameBatchGivesTheSameUpdate) {
  Learner a({}), b({});
  EXPECT_EQ(a.step(4), b.step(4));
  expect_same(a.weights(), b.weights());
  Learner c({});
  c.step(5);
  EXPECT_FALSE(
      at::equal(a.weights().at("context_projection"), c.weights().at("context_projection")));
}

TEST(Ppo, MetricsSayWhatTheRolloutsWere) {
  Learner learner({"rloo", "shared", true, false}, [](PpoConfig& config) {
    config.reward.token_cost = 0.5;
    config.rollouts = 8;
  });
  auto rollouts = learner.policy->sample(learner.input, 8, 3, 1);
  auto metrics = learner.step(3);
  auto score = learner.scorer.score(rollouts).mean().item<double>();
  auto share = rollouts.share.mean().item<double>();
  EXPECT_NEAR(metrics.at("ppo/task_score"), score, 1e-12);
  EXPECT_NEAR(metrics.at("ppo/token_share"), share, 1e-12);
  EXPECT_NEAR(metrics.at("ppo/reward"), score - 0.5 * share, 1e-12);
  EXPECT_EQ(metrics.at("ppo/token_cost"), 0.5);
  EXPECT_EQ(learner.ppo->token_cost(), 0.5) << "without a target it stays";
  double shares = 0;
  for (size_t bin = 0; bin < 5; ++bin) {
    auto of_bin = (rollouts.bin == int64_t(bin)).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(metrics.at(concat("ppo/budget_share_", bin)), of_bin, 1e-12);
    EXPECT_EQ(metrics.at(concat("ppo/budget_tokens_", bin)),
              double(learner.policy->budget_bins()[bin]));
    shares += of_bin;
  }
  EXPECT_NEAR(shares, 1, 1e-12);
}

// The cost decides how much is read: under a high one the smallest bin wins, under none the
// largest.
TEST(Ppo, TheTokenCostTrainsTheBudget) {
  auto mean_share = [](double cost) {
    Learner learner({"rloo", "shared", true, false},
                    [&](PpoConfig& config) { config.reward.token_cost = cost; });
    double share = 0;
    for (int64_t step = 0; step < 80; ++step) {
      auto metrics = learner.step(step);
      if (step >= 70) share += metrics.at("ppo/token_share") / 10;
    }
    return share;
  };
  auto free = mean_share(0), dear = mean_share(20);
  EXPECT_GT(free, 0.4);
  EXPECT_LT(dear, 0.2);
}

// Dual ascent swings around the target: without it this policy reads over .4 and, at the highest
// cost, .09.
TEST(Ppo, TheMeanShareOfTokensIsTheTarget) {
  constexpr double kTarget = 0.2;
  Learner learner({"rloo", "shared", true, false}, [&](PpoConfig& config) {
    config.reward.target_share = kTarget;
    config.reward.dual_rate = 0.1;
    config.learning_rate = 1e-3;
  });
  double share = 0;
  for (int64_t step = 0; step < 400; ++step) {
    auto metrics = learner.step(step);
    ASSERT_LE(std::abs(metrics.at("ppo/token_cost")), 2 / kTarget);
    if (step >= 200) share += metrics.at("ppo/token_share") / 200;
  }
  EXPECT_NEAR(share, kTarget, 0.25 * kTarget);
}

// Every draw of a question is worth the same.
class PaysByQuestion : public PaysForSomeTokens {
 public:
  at::Tensor score(const Rollouts& rollouts) override {
    return doubles({0.25, 0.75}).repeat_interleave(rollouts.draws, 0);
  }
};

TEST(Ppo, DrawsThatAreAllAlikeTeachNothing) {
  for (const char* baseline : {"rloo", "greedy"})
    for (bool learned : {false, true}) {
      Learner learner({baseline, "shared", learned, false},
                      [](PpoConfig& config) { config.entropy = config.budget_entropy = 0; });
      PaysByQuestion scorer;
      auto before = learner.weights();
      for (int64_t step = 0; step < 3; ++step) learner.ppo->step(learner.input, scorer, step);
      expect_same(before, learner.weights());
    }
}

class PaysAlways : public RolloutScorer {
 public:
  at::Tensor score(const Rollouts& rollouts) override {
    return at::full({rollouts.budget.size(0)}, 0.7, at::kDouble);
  }
  at::Tensor score_without(const Rollouts& rollouts) override {
    return at::zeros({rollouts.budget.size(0), rollouts.groups}, at::kDouble);
  }
};

// With a discount, the value of row s of 3 is what is paid at the end, discounted.
TEST(Ppo, TheCriticLearnsWhatIsPaid) {
  for (double discount : {1.0, 0.5}) {
    Learner learner({"value", "shared", false, true}, [&](PpoConfig& config) {
      config.discount = discount;
      config.value_weight = 1;
    });
    PaysAlways scorer;
    std::map<std::string, double> first, last;
    for (int64_t step = 0; step < 120; ++step) {
      last = learner.ppo->step(learner.input, scorer, step);
      if (step == 0) first = last;
    }
    EXPECT_LT(last.at("ppo/value_loss"), 0.05 * first.at("ppo/value_loss"));
    Critic critic(learner.policy->feature_width(), 3);
    auto state = learner.ppo->state();
    torch::NoGradGuard no_grad;
    for (auto& item : critic->named_parameters())
      item.value().copy_(state.at("weight.critic." + item.key()));
    auto rollouts = learner.policy->sample(learner.input, 4, 500, 1);
    auto values = critic->forward(learner.policy->evaluate(learner.input, rollouts).features);
    for (int64_t row = 0; row < 3; ++row)
      EXPECT_NEAR(values.select(1, row).mean().item<double>(),
                  0.7 * std::pow(discount, double(2 - row)), 0.06)
          << row;
  }
}

TEST(Ppo, LoadingAnotherKindOfStateIsAnErrorThatNamesTheEntry) {
  Learner value({"value", "shared", false, false}), rloo({});
  value.step(0);
  rloo.step(0);
  auto expect_error = [](Learner& learner, const Weights& state, const std::string& name) {
    try {
      learner.ppo->load_state(state);
      ADD_FAILURE() << "no error for " << name;
    } catch (const CheckpointError& error) {
      EXPECT_THAT(error.what(), HasSubstr(name));
    }
  };
  expect_error(value, rloo.ppo->state(), "critic");
  expect_error(rloo, value.ppo->state(), "critic");
  expect_error(rloo, {}, "token_cost");
  auto misshapen = copies(rloo.ppo->state());
  misshapen["token_cost"] = at::zeros({3}, at::kDouble);
  expect_error(rloo, misshapen, "token_cost");
  auto surplus = copies(rloo.ppo->state());
  surplus["first.nothing"] = at::zeros({2});
  expect_error(rloo, surplus, "first.nothing");
}

TEST(Critic, StartsAtZeroAndFitsATarget) {
  Critic critic(4, 3);
  auto features = normal("features", {6, 2, 4});
  EXPECT_EQ(critic->forward(features).abs().sum().item<double>(), 0);
  EXPECT_EQ(critic->forward(features).sizes(), (std::vector<int64_t>{6, 2}));
  auto again = Critic(4, 3), other = Critic(4, 4);
  EXPECT_TRUE(at::equal(critic->parameters()[0], again->parameters()[0]));
  EXPECT_FALSE(at::equal(critic->parameters()[0], other->parameters()[0]));
}

}  // namespace
}  // namespace dsrsq
