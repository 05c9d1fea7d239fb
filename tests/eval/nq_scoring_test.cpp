#include "dsrsq/eval/nq_scoring.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

class NqFiles : public ::testing::Test {
 protected:
  std::string file(const std::string& name, const std::string& content) const {
    write_file_atomic(folder_ / name, content);
    return folder_ / name;
  }
  void expect_error(const std::string& prediction, const std::string& part) const {
    try {
      read_nq_predictions(file("bad.json", "{\"predictions\": [" + prediction + "]}"));
      FAIL() << prediction;
    } catch (const DataError& error) {
      EXPECT_THAT(error.what(), HasSubstr(part));
      EXPECT_THAT(error.what(), HasSubstr("bad.json: predictions[0]"));
    }
  }
  testing::TemporaryFolder folder_;
};

// What nq_eval.py itself computes: scripts/make_nq_pairs.py.
TEST_F(NqFiles, FiguresAreThoseOfTheOfficialScript) {
  auto made = json::parse(read_file(std::string(DSRSQ_SOURCE_DIR) + "/tests/eval/nq_pairs.json"));
  std::string pages;
  for (const auto& page : made["pages"]) pages += page.dump() + "\n";
  auto predictions =
      read_nq_predictions(file("p.json", json{{"predictions", made["predictions"]}}.dump()));
  auto gold = read_nq_gold(file("gold.jsonl", pages));
  ASSERT_EQ(gold.size(), 80u);
  std::map<std::string, double> ours;
  for (const auto& record : nq_records(gold, predictions, "x")) ours[record.metric] = record.value;
  const auto& official = made["figures"];
  int compared = 0;
  auto expect = [&](const std::string& metric, const std::string& name) {
    ASSERT_TRUE(official.contains(name)) << name;
    EXPECT_NEAR(ours.at(metric), official[name].get<double>(), 1e-12) << metric;
    ++compared;
  };
  for (const std::string kind : {"long", "short"}) {
    for (const std::string figure : {"f1", "precision", "recall"}) {
      expect("nq_" + kind + "_" + figure, kind + "-answer-" + figure);
      expect("nq_" + kind + "_best_" + figure, kind + "-best-threshold-" + figure);
    }
    expect("nq_" + kind + "_best_threshold", kind + "-best-threshold");
    for (auto [ending, target] : {std::pair{"50", "0.5"}, {"75", "0.75"}, {"90", "0.9"}}) {
      expect(concat("nq_", kind, "_recall_at_", ending),
             concat(kind, "-recall-at-precision>=", target));
      expect(concat("nq_", kind, "_precision_at_", ending),
             concat(kind, "-precision-at-precision>=", target));
    }
  }
  EXPECT_EQ(compared, 26);
}

NqLabel label(const NqSpan& long_answer, const std::vector<NqSpan>& shorts,
              const std::string& yes_no = "none") {
  return {long_answer, shorts, yes_no};
}

TEST(NqScoring, TwoAnnotatorsMakeAnAnswer) {
  NqSpan here{0, 9, 0, 2}, there{10, 19, 2, 4};
  NqGold gold{{label(here, {here}), label({}, {})}, {}};
  NqPrediction prediction{label(here, {here}), 1, 2};
  EXPECT_FALSE(score_long_answer(gold, prediction).has_gold);
  EXPECT_FALSE(score_long_answer(gold, prediction).is_right);
  EXPECT_TRUE(score_long_answer(gold, prediction, 1).is_right);
  gold.annotators.push_back(label(there, {}, "yes"));
  EXPECT_TRUE(score_long_answer(gold, prediction).is_right);
  EXPECT_TRUE(score_short_answer(gold, prediction).is_right) << "yes counts as a short answer";
  EXPECT_TRUE(score_short_answer(gold, {label({}, {}, "yes")}).is_right);
  EXPECT_FALSE(score_short_answer(gold, {label({}, {}, "no")}).is_right);
  EXPECT_FALSE(score_short_answer(gold, {label({}, {})}).has_prediction);
}

TEST(NqScoring, SpansAreSetsAndBytesGoFirst) {
  NqSpan a{0, 9, 0, 2}, b{10, 19, 2, 4}, a_tokens{-1, -1, 0, 2}, a_bytes{0, 9, 7, 8};
  NqGold gold{{label(a, {a, b}), label(a, {a, b})}, {}};
  EXPECT_TRUE(score_short_answer(gold, {label({}, {b, a_tokens})}).is_right);
  EXPECT_FALSE(score_short_answer(gold, {label({}, {a})}).is_right);
  EXPECT_FALSE(score_short_answer(gold, {label({}, {a, b, {20, 25, 4, 5}})}).is_right);
  EXPECT_TRUE(score_long_answer(gold, {label(a_bytes, {})}).is_right);
  EXPECT_TRUE(score_long_answer(gold, {label({1, 9, 0, 2}, {})}).is_right)
      << "the script falls back on tokens where bytes differ";
  EXPECT_FALSE(score_long_answer(gold, {label({1, 9, 0, 3}, {})}).is_right);
}

TEST(NqScoring, ThresholdsByHand) {
  // Four gold answers. By score: right, wrong, right, null prediction.
  auto figures = nq_figures({{true, true, true, 3},
                             {true, true, false, 2},
                             {true, true, true, 1},
                             {true, false, false, 0}});
  EXPECT_DOUBLE_EQ(figures.precision, 2.0 / 3);
  EXPECT_DOUBLE_EQ(figures.recall, 0.5);
  EXPECT_DOUBLE_EQ(figures.best_f1, 2 * (2.0 / 3) * 0.5 / (2.0 / 3 + 0.5));
  EXPECT_EQ(figures.best_threshold, 1);
  EXPECT_DOUBLE_EQ(figures.recall_at[0], 0.5);
  EXPECT_DOUBLE_EQ(figures.recall_at[2], 0.25);
  EXPECT_DOUBLE_EQ(figures.precision_at[2], 1);
  auto tied = nq_figures({{true, true, true, 1}, {true, true, false, 1}});
  EXPECT_DOUBLE_EQ(tied.recall_at[2], 0) << "equal scores are above a threshold together";
  EXPECT_DOUBLE_EQ(nq_figures({{false, false, false, 0}}).f1, 0);
}

TEST_F(NqFiles, WordsAreComparedWithTheAnnotatorsTexts) {
  json page{{"example_id", 7},
            {"document_text", "<P> The Red  House and Bob </P>"},
            {"annotations",
             {{{"long_answer", {{"start_token", 0}, {"end_token", 8}}},
               {"short_answers", {{{"start_token", 2}, {"end_token", 5}}}},
               {"yes_no_answer", "NONE"}},
              {{"long_answer", {{"start_token", -1}, {"end_token", -1}}},
               {"short_answers",
                {{{"start_token", 2}, {"end_token", 3}}, {{"start_token", 6}, {"end_token", 7}}}},
               {"yes_no_answer", "NONE"}}}}};
  auto gold = read_nq_gold(file("gold.jsonl", page.dump() + "\n")).at("7");
  EXPECT_EQ(gold.short_texts, (std::vector<std::string>{"Red  House", "Red, Bob"}));
  EXPECT_TRUE(score_short_text(gold, "the red house.").is_right);
  EXPECT_TRUE(score_short_text(gold, "Red, Bob").is_right);
  EXPECT_FALSE(score_short_text(gold, "Red").is_right);
  EXPECT_FALSE(score_short_text(gold, "the").has_prediction);
  EXPECT_FALSE(score_short_text(gold, "red house", 3).has_gold);
  auto records = nq_text_records({{"7", gold}}, {{"7", "red house"}}, "x");
  EXPECT_EQ(records[0].metric, "nq_short_text_f1");
  EXPECT_EQ(records[0].value, 1);
  EXPECT_THROW(nq_text_records({{"7", gold}}, {{"8", "red house"}}, "x"), DataError);
}

TEST_F(NqFiles, BadPredictionsAreNamed) {
  const std::string scores = "\"long_answer_score\": 0, \"short_answers_score\": 0";
  expect_error("{\"example_id\": 1}", "long_answer_score");
  expect_error("{" + scores + "}", "example_id");
  expect_error("{\"example_id\": 1.5, " + scores + "}", "example_id");
  expect_error("{\"example_id\": 1, \"long_answer\": {\"start_byte\": 3}, " + scores + "}",
               "one end");
  expect_error("{\"example_id\": 1, \"long_answer\": {\"start_token\": 3, \"end_token\": 3}, " +
                   scores + "}",
               "ends at token 3");
  expect_error("{\"example_id\": 1, \"yes_no_answer\": \"MAYBE\", " + scores + "}", "YES, NO");
  expect_error(
      "{\"example_id\": 1, \"yes_no_answer\": \"YES\", \"short_answers\": "
      "[{\"start_token\": 1, \"end_token\": 2}], " +
          scores + "}",
      "beside short answers");
  EXPECT_THROW(read_nq_predictions(file("list.json", "[]")), DataError);
  EXPECT_THROW(read_nq_gold(file("empty.jsonl", "\n")), DataError);
  try {
    read_nq_gold(file("gold.jsonl", "\n{\"example_id\": 1}\n"));
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("gold.jsonl:2"));
  }
}

}  // namespace
}  // namespace dsrsq
