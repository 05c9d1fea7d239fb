#include "dsrsq/text/task_metrics.h"

#include <gtest/gtest.h>

#include "../../src/text/lower_case.h"
#include "metric_pairs.h"

namespace dsrsq {
namespace {

using Json = nlohmann::json;
using Strings = std::vector<std::string>;
using testing::read_json;

const Json& golden() {
  static const Json json =
      read_json(std::string(DSRSQ_SOURCE_DIR) + "/tests/text/golden/metrics_golden.json");
  return json;
}

TEST(TaskMetrics, EqualTheSquadScript) {
  ASSERT_GT(golden()["pairs"].size(), 30u);
  for (const Json& pair : golden()["pairs"]) {
    SCOPED_TRACE(pair.dump());
    const std::string prediction = pair["prediction"];
    const Strings references = pair["references"];
    EXPECT_EQ(normalize_answer(prediction), pair["normalized"].get<std::string>());
    EXPECT_EQ(exact_match(prediction, references), pair["em"].get<double>());
    EXPECT_DOUBLE_EQ(token_f1(prediction, references), pair["f1"].get<double>());
  }
}

TEST(TaskMetrics, EqualTheSharedGoldenPairs) {
  const auto path = testing::shared_golden();
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no shared data at " << path;
  const Json json = read_json(path);
  ASSERT_FALSE(json["pairs"].empty());
  for (const Json& pair : json["pairs"]) {
    SCOPED_TRACE(pair.dump());
    EXPECT_EQ(exact_match(pair["hyp"], pair["refs"].get<Strings>()), pair["em"].get<double>());
    EXPECT_DOUBLE_EQ(token_f1(pair["hyp"], pair["refs"].get<Strings>()), pair["f1"].get<double>());
  }
}

TEST(TaskMetrics, EqualTorchmetricsOnRandomPairs) {
  ASSERT_EQ(testing::metric_pairs()["pairs"].size(), 500u);
  for (const Json& pair : testing::metric_pairs()["pairs"]) {
    SCOPED_TRACE(pair.dump());
    const std::string prediction = pair["prediction"];
    const Strings references = pair["references"];
    EXPECT_EQ(exact_match(prediction, references), pair["em"].get<double>());
    EXPECT_NEAR(token_f1(prediction, references), pair["f1"].get<double>(),
                testing::kMetricTolerance);
    EXPECT_EQ(subspan_exact_match(prediction, references), pair["subspan_em"].get<double>());
  }
}

TEST(TaskMetrics, SubspanIsOfNormalisedText) {
  EXPECT_EQ(subspan_exact_match("It was the Eiffel-Tower, in Paris.", {"Louvre", "eiffeltower"}),
            1);
  EXPECT_EQ(subspan_exact_match("theatre", {"The Atre"}), 1) << "also inside a word";
  EXPECT_EQ(subspan_exact_match("Paris", {"in Paris"}), 0);
  EXPECT_EQ(subspan_exact_match("x", {"the"}), 1) << "nothing is in everything";
  EXPECT_EQ(subspan_exact_match("", {}), 1);
  EXPECT_EQ(subspan_exact_match("x", {}), 0);
}

TEST(TaskMetrics, MaximaOfEmAndF1AreTakenOverReferences) {
  EXPECT_EQ(exact_match("b", {"a x", "b", "c"}), 1);
  EXPECT_DOUBLE_EQ(token_f1("b c", {"x", "b"}), 2.0 / 3);
  EXPECT_EQ(exact_match("", {}), 1);
  EXPECT_EQ(token_f1("the", {}), 1);
  EXPECT_EQ(token_f1("word", {}), 0);
}

TEST(LowerCase, EqualsPython) {
  ASSERT_GT(golden()["lower"].size(), 20u);
  for (const Json& pair : golden()["lower"]) {
    EXPECT_EQ(text::lower_case(pair[0].get<std::string>()), pair[1].get<std::string>()) << pair[0];
  }
  EXPECT_EQ(text::lower_case("A\xFFZ"), "a\xEF\xBF\xBDz");
}

}  // namespace
}  // namespace dsrsq
