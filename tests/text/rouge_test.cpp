#include "dsrsq/text/rouge.h"

#include "../../src/text/porter_stemmer.h"
#include "metric_pairs.h"

namespace dsrsq {
namespace {

using Json = nlohmann::json;
using Strings = std::vector<std::string>;

void expect_score(const RougeScore& score, const Json& expected) {
  EXPECT_NEAR(score.precision, expected[0].get<double>(), testing::kMetricTolerance);
  EXPECT_NEAR(score.recall, expected[1].get<double>(), testing::kMetricTolerance);
  EXPECT_NEAR(score.f1, expected[2].get<double>(), testing::kMetricTolerance);
}

void expect_scores(const RougeScores& scores, const Json& expected) {
  expect_score(scores.rouge_1, expected[0]);
  expect_score(scores.rouge_2, expected[1]);
  expect_score(scores.rouge_l, expected[2]);
  expect_score(scores.rouge_lsum, expected[3]);
}

TEST(Rouge, EqualsRougeScoreOnRandomPairs) {
  for (const Json& pair : testing::metric_pairs()["pairs"]) {
    SCOPED_TRACE(pair.dump());
    const std::string prediction = pair["prediction"];
    const Strings references = pair["references"];
    expect_scores(rouge(prediction, references), pair["rouge"]);
    expect_scores(rouge(prediction, references, RougeStemmer::kPorter), pair["rouge_porter"]);
  }
}

TEST(Rouge, EqualsTheSharedGoldenPairs) {
  const auto path = testing::shared_golden();
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no shared data at " << path;
  const Json golden = testing::read_json(path);
  ASSERT_FALSE(golden["pairs"].empty());
  for (const Json& pair : golden["pairs"]) {
    SCOPED_TRACE(pair.dump());
    const RougeScores scores = rouge(pair["hyp"], pair["refs"].get<Strings>());
    expect_score(scores.rouge_1, pair["rouge"]["rouge1"]);
    expect_score(scores.rouge_2, pair["rouge"]["rouge2"]);
    expect_score(scores.rouge_l, pair["rouge"]["rougeL"]);
  }
}

TEST(Rouge, WithoutAReferenceNothingIsRight) {
  EXPECT_EQ(rouge("", {}).rouge_l.f1, 1);
  EXPECT_EQ(rouge("?!", {}).rouge_lsum.f1, 1);
  EXPECT_EQ(rouge("word", {}).rouge_1.f1, 0);
  EXPECT_EQ(rouge("", {""}).rouge_1.f1, 0) << "as the package has it";
}

TEST(PorterStemmer, EqualsNltk) {
  ASSERT_GT(testing::metric_pairs()["stems"].size(), 5000u);
  for (const Json& pair : testing::metric_pairs()["stems"])
    EXPECT_EQ(text::porter_stem(pair[0]), pair[1].get<std::string>()) << pair[0];
}

}  // namespace
}  // namespace dsrsq
