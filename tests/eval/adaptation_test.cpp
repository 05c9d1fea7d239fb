#include "dsrsq/eval/adaptation.h"

#include <gtest/gtest.h>

#include <cmath>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

ProbeAnswer probe(int64_t fact, int64_t update, int64_t lag, bool right) {
  ProbeAnswer answer;
  answer.fact = fact;
  answer.update = update;
  answer.lag = lag;
  answer.right = right;
  answer.candidates = {1, 0};
  answer.available = 100;
  return answer;
}
ProbeAnswer control(int64_t fact, bool right) { return probe(fact, -1, -1, right); }

TEST(JensenShannon, IsThatWorkedByHand) {
  EXPECT_DOUBLE_EQ(jensen_shannon_divergence({0.3, 0.7}, {0.3, 0.7}), 0);
  EXPECT_DOUBLE_EQ(jensen_shannon_divergence({1, 0}, {0, 1}), std::log(2.0));
  // Middle (3/4, 1/4): 1/2 ln(4/3) + 1/2 (1/2 ln(2/3) + 1/2 ln 2) = 3/4 ln(4/3).
  EXPECT_NEAR(jensen_shannon_divergence({1, 0}, {0.5, 0.5}), 0.75 * std::log(4.0 / 3), 1e-15);
  EXPECT_THROW(jensen_shannon_divergence({1}, {0.5, 0.5}), DataError);
}

// Remission under 6-mercaptopurine, weeks (Freireich et al. 1963); the table of survival is in
// Kleinbaum and Klein, Survival Analysis, chapter 2.
TEST(KaplanMeier, GivesTheTextbookTable) {
  std::vector<Duration> weeks;
  for (double t : {6, 6, 6, 7, 10, 13, 16, 22, 23}) weeks.push_back({t, true});
  for (double t : {6, 9, 10, 11, 17, 19, 20, 25, 32, 32, 34, 35}) weeks.push_back({t, false});
  auto curve = kaplan_meier(weeks);
  const std::vector<SurvivalStep> expected{{6, .8571, 21},  {7, .8067, 17},  {10, .7529, 15},
                                           {13, .6902, 12}, {16, .6275, 11}, {22, .5378, 7},
                                           {23, .4482, 6}};
  ASSERT_EQ(curve.size(), expected.size());
  for (size_t i = 0; i < curve.size(); ++i) {
    EXPECT_EQ(curve[i].time, expected[i].time);
    EXPECT_EQ(curve[i].at_risk, expected[i].at_risk);
    EXPECT_NEAR(curve[i].survival, expected[i].survival, 5e-5);
  }
  EXPECT_EQ(median_survival(curve), 23);
}

TEST(KaplanMeier, HasNoMedianWhereMoreThanHalfOutliveAll) {
  EXPECT_EQ(median_survival(kaplan_meier({{1, true}, {2, false}, {3, false}})), std::nullopt);
  EXPECT_EQ(median_survival(kaplan_meier({{1, true}, {2, false}})), 1);
  EXPECT_EQ(median_survival({}), std::nullopt);
  // 3/4, 1/2 with four and three at risk.
  EXPECT_EQ(median_survival(kaplan_meier({{1, true}, {2, true}, {3, false}, {3, false}}), 3), 2);
  EXPECT_EQ(median_survival(kaplan_meier({{1, true}, {2, true}, {3, false}, {3, false}}), 4),
            std::nullopt);
}

TEST(CorrectnessArea, IsThatOfTheLogarithmOfTheLag) {
  // x = log2(1 + lag / 512) = 0, 1, 2: 1 + 1/2 over 2.
  EXPECT_DOUBLE_EQ(correctness_area({{0, 1}, {512, 1}, {1536, 0}}, 512), 0.75);
  EXPECT_DOUBLE_EQ(correctness_area({{0, 1}, {700, 1}}, 512), 1);
  EXPECT_DOUBLE_EQ(correctness_area({{0, 0}}, 512), 0);
}

TEST(Adaptation, RetentionIsNormalisedBetweenNeverShownAndInWindow) {
  // In the window 4/4, never shown 1/4; lag 10: 2/4 -> (1/2 - 1/4) / (3/4) = 1/3; lag 20: 0, below
  // never shown -> 0. Lag 15 is no S 2^j.
  std::vector<ProbeAnswer> probes;
  for (int64_t f = 0; f < 4; ++f) {
    probes.push_back(probe(f, 0, 0, true));
    probes.push_back(probe(f, 0, 10, f < 2));
    probes.push_back(probe(f, 0, 15, true));
    probes.push_back(probe(f, 0, 20, false));
    probes.push_back(control(10 + f, f == 0));
  }
  Adaptation adaptation(probes, 10);
  EXPECT_EQ(adaptation.lags(), (std::vector<int64_t>{0, 10, 20}));
  EXPECT_DOUBLE_EQ(*adaptation.accuracy(10), 0.5);
  EXPECT_DOUBLE_EQ(*adaptation.never_shown(), 0.25);
  EXPECT_DOUBLE_EQ(*adaptation.retention(), 1.0 / 6);
}

TEST(Adaptation, RetentionIsNoneWhereTheWindowTellsNothing) {
  std::vector<ProbeAnswer> probes;
  for (int64_t f = 0; f < 10; ++f) {
    probes.push_back(probe(f, 0, 0, f < 1));
    probes.push_back(probe(f, 0, 10, f < 1));
    probes.push_back(control(10 + f, false));
  }
  EXPECT_EQ(Adaptation(probes, 10).retention(), std::nullopt);  // .1 - 0 < .2
  for (auto& one : probes) one.right = one.update >= 0 && one.fact < 2;
  EXPECT_DOUBLE_EQ(*Adaptation(probes, 10).retention(), 1);  // .2 - 0
}

TEST(Adaptation, ConsistencyComparesWhatWasNotStatedInBetween) {
  auto with = [](ProbeAnswer one, std::vector<double> candidates) {
    one.candidates = std::move(candidates);
    return one;
  };
  // Pairs: (1,0)-(1,0) equal, both right: 1. (1,0)-(0,1), opposite: 0. After the update one probe,
  // no pair; another fact (1,0)-(1/2,1/2), both wrong: 1 - 3/4 ln(4/3) / ln 2. Controls: none.
  Adaptation adaptation(
      {with(probe(0, 0, 0, true), {1, 0}), with(probe(0, 0, 10, true), {1, 0}),
       with(probe(0, 0, 20, true), {0, 1}), with(probe(0, 1, 0, true), {1, 0}),
       with(probe(1, 0, 0, false), {1, 0}), with(probe(1, 0, 10, false), {0.5, 0.5}),
       control(2, false), control(2, false)},
      10);
  auto third = 1 - 0.75 * std::log2(4.0 / 3);
  EXPECT_NEAR(*adaptation.consistency(false), (1 + 0 + third) / 3, 1e-15);
  EXPECT_NEAR(*adaptation.consistency(true), 1.0 / 3, 1e-15);
}

TEST(Adaptation, SpeedIsTheAreaAfterAnUpdateLessWhatWasSaidBefore) {
  // Fact 0: wrong, right, right at x = 0, 1, log2 3: (1/2 + (log2 3 - 1)) / log2 3.
  // Fact 1: all right, but it said so before the update, too: 1 - 1.
  // Fact 2 has no update.
  auto foreseeing = probe(1, 0, 0, false);
  foreseeing.foresees = true;
  Adaptation adaptation(
      {probe(0, 0, 0, true), probe(0, 1, 0, false), probe(0, 1, 10, true), probe(0, 1, 20, true),
       foreseeing, probe(1, 1, 0, true), probe(1, 1, 10, true), probe(2, 0, 0, true)},
      10);
  auto range = std::log2(3.0);
  EXPECT_NEAR(*adaptation.adaptation_speed(), (range - 0.5) / range / 2, 1e-15);
  EXPECT_EQ(Adaptation({probe(0, 0, 0, true)}, 10).adaptation_speed(), std::nullopt);
}

TEST(Adaptation, HalfLivesAreOfAdoptionAndOfMemory) {
  // Adoption after an update: at 0, at 10, never until 20: 1, 2/3, 1/3 -> 10.
  // Memory, of all statements: facts 0 and 1 and 2 lose their first value at 10, at 20, not until
  // 40; updates lose theirs: fact 0 not until 10 (censored), fact 1 at 0, fact 2 at 0.
  //   0: 4/6; 10: 5th is censored there, of 4 at risk 1 lost: 4/6 x 3/4 = 1/2 -> 10.
  // Five times over, so that enough are at risk.
  std::vector<ProbeAnswer> probes;
  for (int64_t f = 0; f < 15; f += 3)
    for (const auto& one :
         {probe(f, 0, 0, true), probe(f, 0, 10, false), probe(f, 1, 0, true), probe(f, 1, 10, true),
          probe(f + 1, 0, 0, true), probe(f + 1, 0, 20, false), probe(f + 1, 1, 0, false),
          probe(f + 1, 1, 10, true), probe(f + 2, 0, 0, true), probe(f + 2, 0, 40, true),
          probe(f + 2, 1, 0, false), probe(f + 2, 1, 20, false)})
      probes.push_back(one);
  Adaptation adaptation(probes, 10);
  EXPECT_EQ(adaptation.half_life(), 10);
  EXPECT_EQ(adaptation.memory_half_life(), 10);
  probes.resize(12);  // once: the same curves of too few
  EXPECT_EQ(Adaptation(probes, 10).half_life(), std::nullopt);
  EXPECT_EQ(Adaptation(probes, 10).memory_half_life(), std::nullopt);
}

TEST(Adaptation, StaleAnswersAndTokensReadAreShares) {
  auto stale = probe(0, 1, 0, false);
  stale.stale = true;
  stale.attended = 10;
  auto long_text = probe(0, 1, 10, true);
  long_text.attended = 20;
  long_text.available = 500;
  Adaptation adaptation({probe(0, 0, 0, false), stale, long_text}, 10);
  EXPECT_DOUBLE_EQ(*adaptation.stale_rate(), 0.5);
  EXPECT_DOUBLE_EQ(*adaptation.token_efficiency(), 30.0 / 700);
}

const ResultRecord* find(const std::vector<ResultRecord>& records, const std::string& metric) {
  for (const auto& record : records)
    if (record.metric == metric) return &record;
  return nullptr;
}

// Always the same answer: consistent, and nothing else.
TEST(AdaptationRecords, AConstantAnswerIsConsistentAndAdaptsToNothing) {
  std::vector<ProbeAnswer> probes;
  for (int64_t f = 0; f < 20; ++f) {
    for (int64_t update : {0, 1})
      for (int64_t lag : {0, 10, 20}) {
        probes.push_back(probe(f, update, lag, f == 0 && update == 1));
        probes.back().foresees = f == 0 && update == 0;
      }
    probes.push_back(control(100 + f, false));
  }
  auto records = adaptation_records(Adaptation(probes, 10), "stream", "constant");
  EXPECT_EQ(find(records, "consistency")->value, 1);
  EXPECT_LT(find(records, "consistency_right")->value, 0.1);
  EXPECT_NEAR(find(records, "adaptation_speed")->value, 0, 1e-12);
  EXPECT_EQ(find(records, "retention"), nullptr);
  EXPECT_EQ(find(records, "half_life"), nullptr);
}

TEST(AdaptationRecords, IntervalsDrawWholeFacts) {
  // Ten probes of each of two facts agree: facts, not probes, are what is independent, so that half
  // of all draws hold one fact alone and the interval spans everything.
  std::vector<ProbeAnswer> probes;
  for (int64_t f = 0; f < 2; ++f) {
    for (int64_t i = 0; i < 10; ++i) probes.push_back(probe(f, 1, 10, f == 0));
    for (auto& one : probes) one.stale = one.fact == 1;
  }
  auto records = adaptation_records(Adaptation(probes, 10), "stream", "row");
  const auto* stale = find(records, "stale_rate");
  EXPECT_EQ(stale->value, 0.5);
  EXPECT_EQ(stale->low, 0);
  EXPECT_EQ(stale->high, 1);
  EXPECT_EQ(stale->shape.at("probes"), 20);
  EXPECT_EQ(stale->shape.at("facts"), 2);
  const auto* accuracy = find(records, "accuracy_lag_10");
  EXPECT_EQ(accuracy->shape.at("lag"), 10);
  EXPECT_EQ(accuracy->value, 0.5);
}

}  // namespace
}  // namespace dsrsq
