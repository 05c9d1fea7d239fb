#include "dsrsq/objective/schedule.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

TEST(LossWeights, ConstantIsFullFromTheFirstStep) {
  LossConfig config;
  config.ramp = "constant";
  EXPECT_DOUBLE_EQ(loss_weights(config, 0).at("compression"), config.weight.compression);
}

TEST(LossConfig, ARampThatIsNotBuiltYetIsAnErrorThatSaysSo) {
  LossConfig config;
  try {
    load_config_text("ramp: cosine\n", "test.yaml",
                     [&](ConfigVisitor& v) { config.visit_fields(v); });
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("test.yaml:1:7"));
    EXPECT_THAT(error.what(), HasSubstr("not built yet"));
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
  auto options = stage_options(stage, 7);
  EXPECT_TRUE(options.training);
  EXPECT_EQ(options.step, 7);
  EXPECT_FALSE(options.sqa);
  EXPECT_TRUE(options.rckv);
  EXPECT_EQ(options.budget, 32);
  EXPECT_FALSE(options.select_per_segment);
  EXPECT_TRUE(options.force_evidence);
  EXPECT_DOUBLE_EQ(options.random_rest, 0.5);
  EXPECT_EQ(options.clusters_per_query, 3);
  auto standard = stage_options(StageConfig{}, 0);
  EXPECT_TRUE(standard.select_per_segment);
  EXPECT_FALSE(standard.force_evidence);
  EXPECT_EQ(standard.budget, 0);
}

}  // namespace
}  // namespace dsrsq
