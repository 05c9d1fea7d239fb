#include "dsrsq/objective/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

using ::testing::HasSubstr;

TEST(LossWeights, RampLinearlyToTheirFullStrength) {
  LossConfig config;
  config.weight = {1.0, 0.5, 0.3, 0.2};
  config.ramp_steps = 100;
  auto first = loss_weights(config, 0), half = loss_weights(config, 49),
       last = loss_weights(config, 99);
  EXPECT_DOUBLE_EQ(first.at("retrieval"), 0.005);
  EXPECT_DOUBLE_EQ(half.at("retrieval"), 0.25);
  EXPECT_DOUBLE_EQ(half.at("compression"), 0.15);
  EXPECT_DOUBLE_EQ(half.at("compute"), 0.1);
  EXPECT_DOUBLE_EQ(last.at("retrieval"), 0.5);
  EXPECT_DOUBLE_EQ(loss_weights(config, 5000).at("retrieval"), 0.5) << "never above the weight";
  for (const auto& weights : {first, half, last})
    EXPECT_DOUBLE_EQ(weights.at("task"), 1.0) << "the task does not ramp";
}

TEST(LossWeights, EveryRampHasItsShape) {
  LossConfig config;
  config.ramp_steps = 8;
  auto share = [&](const std::string& ramp, int64_t step) {
    config.ramp = ramp;
    return loss_weights(config, step).at("compression") / config.weight.compression;
  };
  for (int64_t step : {0, 1, 3, 5, 6, 7, 8, 100}) {
    auto progress = std::min(1.0, double(step + 1) / 8);
    EXPECT_NEAR(share("linear", step), progress, 1e-12) << step;
    EXPECT_NEAR(share("constant", step), 1, 1e-12) << step;
    EXPECT_NEAR(share("cosine", step), std::pow(std::sin(M_PI_2 * progress), 2), 1e-12) << step;
    EXPECT_NEAR(share("step", step), step < 7 ? 0 : 1, 1e-12) << step;
  }
  config.ramp = "step";
  EXPECT_DOUBLE_EQ(loss_weights(config, 0).at("task"), config.weight.task);
}

TEST(LossWeights, ComputeAlsoHasBetaOne) {
  LossConfig config;
  config.ramp = "constant";
  config.compute_tokens = 3;
  EXPECT_DOUBLE_EQ(loss_weights(config, 0).at("compute"), 3 * config.weight.compute);
}

TEST(LossConfig, AnUnknownRampIsAnErrorThatNamesTheOthers) {
  LossConfig config;
  try {
    load_config_text("ramp: cubic\n", "test.yaml",
                     [&](ConfigVisitor& v) { config.visit_fields(v); });
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("test.yaml:1:7"));
    for (const char* ramp : {"linear", "constant", "cosine", "step"})
      EXPECT_THAT(error.what(), HasSubstr(ramp));
  }
}

std::vector<StageConfig> three_stages() {
  std::vector<StageConfig> stages(3);
  stages[0].steps = 5;
  stages[1].steps = 1;
  stages[2].steps = 10;
  return stages;
}

TEST(Stages, EachStepFallsIntoOne) {
  auto stages = three_stages();
  EXPECT_EQ(total_steps(stages), 16);
  const std::vector<std::array<int64_t, 3>> expected{
      {0, 0, 0}, {4, 0, 0}, {5, 1, 5}, {6, 2, 6}, {15, 2, 6}};
  for (auto [step, index, first] : expected) {
    auto position = stage_at(stages, step);
    EXPECT_EQ(position.index, static_cast<size_t>(index)) << "step " << step;
    EXPECT_EQ(position.first_step, first) << "step " << step;
  }
  EXPECT_EQ(stage_at(stages, 16).index, 2u) << "after the end: the last one";
}

TEST(Stages, OptionsSayWhatTheStageSays) {
  StageConfig stage;
  stage.sqa = false;
  stage.budget = 32;
  stage.selection = "global";
  stage.force_evidence = true;
  stage.random_rest = 0.5;
  stage.clusters_per_query = 3;
  stage.sample = true;
  auto options = stage_options(stage, 0, 7, LossConfig{}, 0);
  EXPECT_TRUE(options.training);
  EXPECT_EQ(options.step, 7);
  EXPECT_FALSE(options.sqa);
  EXPECT_TRUE(options.rckv);
  EXPECT_EQ(options.budget, 32);
  EXPECT_FALSE(options.select_per_segment);
  EXPECT_TRUE(options.force_evidence);
  EXPECT_DOUBLE_EQ(options.random_rest, 0.5);
  EXPECT_EQ(options.clusters_per_query, 3);
  EXPECT_TRUE(options.sample);
  EXPECT_FALSE(options.budget_learns) << "only reward trains the budget";
  stage.ppo = true;
  EXPECT_TRUE(stage_options(stage, 0, 7, LossConfig{}, 0).budget_learns);
  EXPECT_FALSE(options.read_everything);
  auto standard = stage_options(StageConfig{}, 0, 0, LossConfig{}, 0);
  EXPECT_TRUE(standard.sqa);
  EXPECT_TRUE(standard.rckv);
  EXPECT_FALSE(standard.sample);
  EXPECT_FALSE(standard.read_everything);
  EXPECT_TRUE(standard.select_per_segment);
  EXPECT_FALSE(standard.force_evidence);
  EXPECT_EQ(standard.budget, 0);
}

TEST(Stages, ATeacherReadsEverything) {
  StageConfig stage;
  stage.selection = "all";
  EXPECT_TRUE(stage_options(stage, 0, 0, LossConfig{}, 0).read_everything);
}

TEST(Stages, WhatIsEmptyIsAsTheLossSays) {
  LossConfig loss;
  loss.retrieval_form = "inclusion";
  loss.retrieval_target = "attention";
  loss.retrieval_negatives = "batch";
  StageConfig stage;
  auto taken = stage_options(stage, 0, 0, loss, 0).retrieval;
  EXPECT_EQ(taken.form, "inclusion");
  EXPECT_EQ(taken.target, "attention");
  EXPECT_EQ(taken.negatives, "batch");
  stage.retrieval_form = "printed";
  stage.retrieval_target = "evidence_or_attention";
  stage.retrieval_negatives = "sequence";
  auto own = stage_options(stage, 0, 0, loss, 0).retrieval;
  EXPECT_EQ(own.form, "printed");
  EXPECT_EQ(own.target, "evidence_or_attention");
  EXPECT_EQ(own.negatives, "sequence");
}

// ---- the buffer, little by little ----

StageConfig buffer_stage(double from, double to, int64_t steps) {
  StageConfig stage;
  stage.buffer_from = from;
  stage.buffer_to = to;
  stage.steps = steps;
  return stage;
}

double buffer_share(const StageConfig& stage, int64_t begin, int64_t end, int64_t seed = 0) {
  constexpr int64_t kFirst = 300;  // of the stage
  double on = 0;
  for (auto step = begin; step < end; ++step)
    on += stage_options(stage, kFirst, kFirst + step, LossConfig{}, seed).rckv;
  return on / double(end - begin);
}

TEST(BufferSchedule, TheShareOfStepsIsWhatTheStageSays) {
  constexpr int64_t kSteps = 4000;
  for (double share : {0.0, 0.25, 0.7, 1.0})
    EXPECT_NEAR(buffer_share(buffer_stage(share, share, kSteps), 0, kSteps), share,
                4 * std::sqrt(share * (1 - share) / kSteps));
  // Linear over the stage: quarters of a ramp from .2 to 1 have .3, .5, .7 and .9 in the mean.
  auto ramp = buffer_stage(0.2, 1, kSteps);
  for (int64_t quarter = 0; quarter < 4; ++quarter) {
    auto share = 0.3 + 0.2 * double(quarter);
    EXPECT_NEAR(buffer_share(ramp, quarter * kSteps / 4, (quarter + 1) * kSteps / 4), share,
                4 * std::sqrt(share * (1 - share) / (kSteps / 4)))
        << quarter;
  }
  EXPECT_EQ(buffer_share(buffer_stage(0, 1, 5), 0, 1), 0) << "the first step has `from`";
  EXPECT_EQ(buffer_share(buffer_stage(0, 1, 5), 4, 5), 1) << "the last one has `to`";
  auto off = buffer_stage(1, 1, 10);
  off.rckv = false;
  EXPECT_EQ(buffer_share(off, 0, 10), 0);
}

TEST(BufferSchedule, TheCoinIsOfSeedAndStepAlone) {
  auto half = buffer_stage(0.5, 0.5, 64);
  auto coins = [&](int64_t first, int64_t seed) {
    std::vector<bool> found;
    for (int64_t step = 100; step < 164; ++step)
      found.push_back(stage_options(half, first, step, LossConfig{}, seed).rckv);
    return found;
  };
  EXPECT_EQ(coins(100, 3), coins(60, 3)) << "wherever the stage began";
  EXPECT_NE(coins(100, 3), coins(100, 4));
}

}  // namespace
}  // namespace dsrsq
