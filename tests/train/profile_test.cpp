#include "dsrsq/train/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

using Kind = ProfileEvent::Kind;
using ::testing::HasSubstr;

constexpr int64_t kMs = 1'000'000;

ProfileEvent event(const std::string& name, Kind kind, int64_t begin, int64_t end,
                   uint64_t thread = 1) {
  return {name, kind, thread, begin * kMs, end * kMs};
}

// One step of 100 ms: data 0 to 10 without any operator; forward 10 to 60 with a product that calls
// a copy, and one of our operators that calls a torch one; a worker's operator while the trainer
// waits, 60 to 80; nothing after it.
std::vector<ProfileEvent> one_step(int64_t at) {
  return {event("step", Kind::kPhase, at, at + 100),
          event("data", Kind::kPhase, at, at + 10),
          event("forward", Kind::kPhase, at + 10, at + 60),
          event("choose", Kind::kPhase, at + 10, at + 20),
          event("aten::mm", Kind::kOperator, at + 20, at + 40),
          event("aten::copy_", Kind::kOperator, at + 25, at + 30),
          event("dsrsq::cluster_assign", Kind::kOperator, at + 40, at + 60),
          event("aten::empty", Kind::kOperator, at + 40, at + 44),
          event("aten::addmm", Kind::kOperator, at + 60, at + 80, 2),
          event("kernel", Kind::kDevice, at + 30, at + 50, 9),
          event("kernel", Kind::kDevice, at + 40, at + 60, 10)};
}

TEST(ProfileSummary, SplitsAStepIntoTorchOwnAndOutside) {
  auto summary = summarise_profile(one_step(0));
  EXPECT_EQ(summary.steps, 1);
  EXPECT_DOUBLE_EQ(summary.step_seconds, 0.100);
  EXPECT_DOUBLE_EQ(summary.outside_seconds, 0.040);  // 0-20, 80-100
  EXPECT_DOUBLE_EQ(summary.own_seconds, 0.016);      // ours without the torch call in it
  EXPECT_DOUBLE_EQ(summary.torch_seconds, 0.044);
  EXPECT_DOUBLE_EQ(summary.device_seconds, 0.030);  // overlapping kernels count once
}

TEST(ProfileSummary, PhasesNestAndSayWhatNoOperatorCovers) {
  auto phases = summarise_profile(one_step(0)).phases;
  ASSERT_EQ(phases.size(), 3u);
  EXPECT_EQ(phases[0].name, "data");
  EXPECT_DOUBLE_EQ(phases[0].unaccounted, 0.010);
  EXPECT_EQ(phases[1].name, "forward");
  EXPECT_DOUBLE_EQ(phases[1].seconds, 0.050);
  EXPECT_DOUBLE_EQ(phases[1].unaccounted, 0.010);
  EXPECT_EQ(phases[2].name, "forward/choose");
}

TEST(ProfileSummary, OperatorsCountTheirOwnTimeOnly) {
  auto operators = summarise_profile(one_step(0)).operators;
  ASSERT_EQ(operators.size(), 5u);
  auto seconds = [&](const std::string& name) {
    for (const auto& row : operators)
      if (row.name == name) return row.seconds;
    return -1.0;
  };
  EXPECT_DOUBLE_EQ(seconds("aten::mm"), 0.015);
  EXPECT_DOUBLE_EQ(seconds("aten::copy_"), 0.005);
  EXPECT_DOUBLE_EQ(seconds("dsrsq::cluster_assign"), 0.016);
  EXPECT_EQ(operators[0].name, "aten::addmm");
}

TEST(ProfileSummary, StepsAreAveraged) {
  auto events = one_step(0);
  auto second = one_step(150);
  events.insert(events.end(), second.begin(), second.end());
  events.push_back(event("aten::later", Kind::kOperator, 300, 310));  // after the last step
  auto summary = summarise_profile(events);
  EXPECT_EQ(summary.steps, 2);
  EXPECT_DOUBLE_EQ(summary.step_seconds, 0.100);
  EXPECT_DOUBLE_EQ(summary.outside_seconds, 0.040);
  EXPECT_DOUBLE_EQ(summary.own_seconds, 0.016);
  EXPECT_DOUBLE_EQ(summary.phases[0].calls, 1);
}

TEST(ProfileSummary, NoStepIsAnError) {
  EXPECT_THROW(summarise_profile({event("aten::mm", Kind::kOperator, 0, 1)}), Error);
}

TEST(ProfileMarkdown, ShowsTheSplitInMilliseconds) {
  auto text = profile_markdown(summarise_profile(one_step(0)));
  EXPECT_THAT(text, HasSubstr("| whole | 100.000 | 100.0 % |"));
  EXPECT_THAT(text, HasSubstr("| outside both | 40.000 | 40.0 % |"));
  EXPECT_THAT(text, HasSubstr("| device busy | 30.000 | 30.0 % |"));
  EXPECT_THAT(text, HasSubstr("| forward/choose | 10.000 | 10.0 % | 10.000 | 1.0 |"));
  EXPECT_THAT(text, HasSubstr("| `aten::mm` | 15.000 |"));
}

TEST(ProfileSteps, ParsesSkipAndCount) {
  auto steps = parse_profile_steps("3:2");
  EXPECT_EQ(steps.skip, 3);
  EXPECT_EQ(steps.count, 2);
  for (const auto* wrong :
       {"", "3", "3:", ":2", "-1:2", "3:0", "3:2x", "a:b", "3:99999999999999999999"})
    EXPECT_THROW(parse_profile_steps(wrong), ConfigError) << wrong;
}

}  // namespace
}  // namespace dsrsq
