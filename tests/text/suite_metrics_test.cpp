#include "dsrsq/text/suite_metrics.h"

#include <gtest/gtest.h>

#include "dsrsq/core/error.h"
#include "metric_pairs.h"

namespace dsrsq {
namespace {

using Json = nlohmann::json;
using Strings = std::vector<std::string>;

// Of the packages rouge 1.0.1 and fuzzywuzzy 0.18, and of the formulas in Python:
// scripts/make_suite_pairs.py.
const Json& suite_pairs() {
  static const Json json =
      testing::read_json(std::string(DSRSQ_SOURCE_DIR) + "/tests/text/suite_pairs.json");
  return json;
}

double score(const std::string& metric, const std::string& prediction, const Strings& references,
             const Strings& classes = {}, const std::string& question = "") {
  return find_suite_metric(metric).score({prediction, references, classes, question});
}

TEST(SuiteMetrics, EqualPythonOnTheMetricPairs) {
  const Json& texts = testing::metric_pairs()["pairs"];
  const Json& scores = suite_pairs()["of_metric_pairs"];
  ASSERT_EQ(texts.size(), scores.size());
  ASSERT_EQ(texts.size(), 500u);
  for (size_t i = 0; i < texts.size(); ++i) {
    SCOPED_TRACE(texts[i].dump());
    const SuiteAnswer answer{texts[i]["prediction"], texts[i]["references"].get<Strings>()};
    ASSERT_EQ(scores[i].size(), 5u);
    for (const auto& [name, value] : scores[i].items())
      EXPECT_NEAR(find_suite_metric(name).score(answer), value.get<double>(), 1e-12) << name;
  }
}

TEST(SuiteMetrics, EqualPythonOnMadePairs) {
  std::map<std::string, std::pair<int, int>> seen;  // pairs, of them with a score
  for (const Json& pair : suite_pairs()["made"]) {
    SCOPED_TRACE(pair.dump());
    const std::string metric = pair["metric"];
    EXPECT_NEAR(score(metric, pair["prediction"], pair["references"].get<Strings>(),
                      pair.value("classes", Strings()), pair.value("question", "")),
                pair["score"].get<double>(), 1e-12);
    ++seen[metric].first;
    seen[metric].second += pair["score"].get<double>() > 0;
  }
  EXPECT_EQ(seen.size(), 6u);
  for (const auto& [metric, counts] : seen) {
    EXPECT_EQ(counts.first, 200) << metric;
    EXPECT_GT(counts.second, 10) << metric;
  }
}

TEST(SuiteMetrics, OverlapOfNothingIsZero) {
  EXPECT_EQ(score("overlap_f1", "the", {"a"}), 0) << "unlike token_f1";
  EXPECT_DOUBLE_EQ(score("overlap_f1", "the cat sat", {"x", "cat"}), 2.0 / 3);
}

TEST(SuiteMetrics, SetRougeLCountsWordsOnce) {
  // Common: a, b. R = 2 / 3, P = 2 / 2.
  EXPECT_NEAR(score("set_rouge_l", "a b b", {"a c b"}), 0.8, 1e-7);
  EXPECT_NEAR(score("set_rouge_l", "A b", {"a b"}), 0.5, 1e-7) << "case counts";
  EXPECT_EQ(score("set_rouge_l", "...", {"a"}), 0);
  EXPECT_EQ(score("set_rouge_l", "a", {""}), 0);
}

TEST(SuiteMetrics, CodeSimilarityTakesTheFirstLineThatIsCode) {
  EXPECT_EQ(score("code_similarity", "\n```python\n# x\n// y\nreturn x\nmore", {"return x"}), 1);
  EXPECT_EQ(score("code_similarity", "abcd", {"abxx"}), 0.5);
  EXPECT_EQ(score("code_similarity", "# nothing", {"x"}), 0);
  EXPECT_EQ(score("code_similarity", "", {""}), 1);
  EXPECT_EQ(score("code_similarity", "ä", {"ö"}), 0) << "code points, not bytes";
}

TEST(SuiteMetrics, ClassificationSharesThePointAmongTheNamed) {
  const Strings classes = {"Food", "Food and drink", "City"};
  EXPECT_EQ(score("classification", "Food and drink", {"Food and drink"}, classes), 1);
  EXPECT_EQ(score("classification", "Food and drink", {"Food"}, classes), 0.5);
  EXPECT_EQ(score("classification", "City", {"Food"}, classes), 0);
}

TEST(SuiteMetrics, NumbersAndParagraphs) {
  EXPECT_EQ(score("number_share", "5 of 17, so 5", {"5"}), 2.0 / 3);
  EXPECT_EQ(score("number_share", "none", {"5"}), 0);
  EXPECT_EQ(score("paragraph_share", "Paragraph 7", {"Paragraph 7"}), 1);
  EXPECT_EQ(score("paragraph_share", "7 or 8", {"段落8"}), 0.5);
  EXPECT_EQ(score("number_share",
                  "\xFF"
                  "5",
                  {"5"}),
            1)
      << "what a model cut is no error";
  EXPECT_THROW(score("paragraph_share", "7", {"paragraph 7"}), DataError);
}

TEST(SuiteMetrics, StringMatch) {
  EXPECT_EQ(score("string_match_all", "It is AB, and cd.", {"ab", "CD", "x"}), 2.0 / 3);
  EXPECT_EQ(score("string_match_part", "It is AB.", {"x", "ab"}), 1);
  EXPECT_EQ(score("string_match_part", "It is AB.", {"x"}), 0);
  EXPECT_EQ(score("string_match_all", "x", {}), 0);
}

TEST(SuiteMetrics, SingleLabel) {
  const Strings rooms = {"kitchen", "garden", "office"};
  EXPECT_EQ(score("single_label", "In the Kitchen. Not the garden.", {"kitchen"}, rooms, "q"), 1);
  EXPECT_EQ(score("single_label", "kitchen or garden", {"kitchen"}, rooms, "q"), 0);
  EXPECT_EQ(
      score("single_label", "garden, then kitchen", {"kitchen"}, rooms, "Where before the garden?"),
      1);
  EXPECT_EQ(score("single_label", "<context> kitchen", {"kitchen"}, rooms, "q"), 0);
}

TEST(SuiteMetrics, SingleLabelTakesListsAsSets) {
  const Strings things{"apple", "football", "milk", "nothing"};
  EXPECT_EQ(score("single_label", "milk and apple", {"apple,milk"}, things), 1);
  EXPECT_EQ(score("single_label", "apple", {"apple,milk"}, things), 0);
  EXPECT_EQ(score("single_label", "apple, milk, football", {"apple,milk"}, things), 0);
  EXPECT_EQ(score("single_label", "n,e", {"n,e"}, {"n,e", "s,e"}), 1) << "one label of qa19";
}

TEST(SuiteMetrics, HotpotGivesNothingForAHalfRightYes) {
  EXPECT_EQ(score("token_f1", "yes it is", {"yes"}), 0.5);
  EXPECT_EQ(score("hotpot_f1", "yes it is", {"yes"}), 0);
  EXPECT_EQ(score("hotpot_f1", "Yes.", {"yes"}), 1);
  EXPECT_EQ(score("hotpot_f1", "no", {"no one"}), 0);
  EXPECT_DOUBLE_EQ(score("hotpot_f1", "red house", {"the house"}), 2.0 / 3);
  EXPECT_EQ(score("hotpot_f1", "", {""}), 0);
}

TEST(SuiteMetrics, ChoicesAreLetters) {
  const std::string question = "Who?\n(A) Anna\n(B) Bob B.\n(C) Carl\n(D) Anna and Bob";
  const auto choose = [&](const std::string& metric, const std::string& prediction) {
    return score(metric, prediction, {"Bob B."}, {}, question);
  };
  EXPECT_EQ(choose("stated_choice", "The correct answer is (B) Bob"), 1);
  EXPECT_EQ(choose("stated_choice", "So: **The correct answer is B**."), 1);
  EXPECT_EQ(choose("stated_choice", "The correct answer is C, no: The correct answer is (B)"), 1)
      << "in brackets goes first";
  EXPECT_EQ(choose("stated_choice", "The correct answer is (A)"), 0);
  EXPECT_EQ(choose("stated_choice", "B"), 0);
  EXPECT_EQ(choose("stated_choice", "the correct answer is (B)"), 0) << "case counts";
  EXPECT_EQ(choose("first_choice", " (B) Bob"), 1);
  EXPECT_EQ(choose("first_choice", "Bob, so B."), 1);
  EXPECT_EQ(choose("first_choice", "D or B"), 0);
  EXPECT_EQ(choose("first_choice", "ABCD"), 0);
  EXPECT_THROW(score("first_choice", "A", {"Eve"}, {}, question), DataError);
  EXPECT_THROW(score("stated_choice", "The correct answer is A", {"A"}, {}, "no options"),
               DataError);
}

TEST(SuiteMetrics, FirstAnswerLine) {
  EXPECT_EQ(first_answer_line("\n\na b\nc"), "a b");
  EXPECT_EQ(first_answer_line("\n"), "");
  EXPECT_EQ(first_answer_line("a"), "a");
}

TEST(SuiteMetrics, UnknownNamesAreErrors) {
  try {
    find_suite_metric("overlap_f2");
    ADD_FAILURE();
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("did you mean overlap_f1?"), std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace dsrsq
