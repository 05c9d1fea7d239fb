#include "dsrsq/text/task_metrics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "../../src/text/lower_case.h"
#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

using Json = nlohmann::json;
using Strings = std::vector<std::string>;

Json read_json(const std::filesystem::path& path) {
  std::ifstream file(path);
  EXPECT_TRUE(file.good()) << path;
  return Json::parse(file);
}

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
  const char* folder = std::getenv("DSRSQ_SHARED_DATA");
  const std::filesystem::path root =
      folder != nullptr ? folder : std::string(DSRSQ_SOURCE_DIR) + "/../shared/data";
  const std::filesystem::path path = root / "metrics_golden" / "golden.json";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no shared data at " << path;
  const Json json = read_json(path);
  ASSERT_FALSE(json["pairs"].empty());
  for (const Json& pair : json["pairs"]) {
    SCOPED_TRACE(pair.dump());
    EXPECT_EQ(exact_match(pair["hyp"], pair["refs"].get<Strings>()), pair["em"].get<double>());
    EXPECT_DOUBLE_EQ(token_f1(pair["hyp"], pair["refs"].get<Strings>()), pair["f1"].get<double>());
  }
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

TEST(Bootstrap, IsDeterministicInTheSeed) {
  std::vector<double> values;
  for (int i = 0; i < 50; ++i) values.push_back(i % 3 == 0);
  const Interval a = bootstrap_mean(values, 0.95, 500, 7);
  const Interval b = bootstrap_mean(values, 0.95, 500, 7);
  const Interval c = bootstrap_mean(values, 0.95, 500, 8);
  EXPECT_EQ(a.low, b.low);
  EXPECT_EQ(a.high, b.high);
  EXPECT_TRUE(a.low != c.low || a.high != c.high);
  EXPECT_DOUBLE_EQ(a.mean, 17.0 / 50);
}

TEST(Bootstrap, MatchesTheNormalApproximation) {
  std::vector<double> values;
  for (int i = 0; i < 400; ++i) values.push_back(i % 4 == 0);
  const Interval interval = bootstrap_mean(values, 0.95, 4000, 1);
  const double half_width = 1.96 * std::sqrt(0.25 * 0.75 / 400);
  EXPECT_NEAR(interval.low, 0.25 - half_width, 0.006);
  EXPECT_NEAR(interval.high, 0.25 + half_width, 0.006);
  const Interval narrow = bootstrap_mean(values, 0.5, 4000, 1);
  EXPECT_LT(narrow.high - narrow.low, 0.5 * (interval.high - interval.low));
}

TEST(Bootstrap, ConstantValuesGiveAPoint) {
  const Interval interval = bootstrap_mean({0.5, 0.5, 0.5});
  EXPECT_EQ(interval.low, 0.5);
  EXPECT_EQ(interval.mean, 0.5);
  EXPECT_EQ(interval.high, 0.5);
}

TEST(Bootstrap, RefusesWhatHasNoInterval) {
  EXPECT_THROW(bootstrap_mean({}), DataError);
  EXPECT_THROW(bootstrap_mean({1}, 0.95, 0), ConfigError);
  EXPECT_THROW(bootstrap_mean({1}, 1.0), ConfigError);
  EXPECT_THROW(bootstrap_mean({1}, std::nan("")), ConfigError);
}

}  // namespace
}  // namespace dsrsq
