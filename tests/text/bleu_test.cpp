#include "dsrsq/text/bleu.h"

#include <cmath>

#include "dsrsq/core/error.h"
#include "metric_pairs.h"

namespace dsrsq {
namespace {

using Json = nlohmann::json;
using Strings = std::vector<std::string>;

TEST(Bleu, EqualsSacrebleuOnRandomPairs) {
  for (const Json& pair : testing::metric_pairs()["pairs"]) {
    SCOPED_TRACE(pair.dump());
    const std::string prediction = pair["prediction"];
    EXPECT_EQ(tokenize_13a(prediction), pair["tokens_13a"].get<std::string>());
    EXPECT_NEAR(sentence_bleu(prediction, pair["references"].get<Strings>()),
                pair["sentence_bleu"].get<double>(), testing::kMetricTolerance);
  }
}

TEST(Bleu, EqualsSacrebleuOnCorpora) {
  const Json& pairs = testing::metric_pairs()["pairs"];
  ASSERT_GE(testing::metric_pairs()["corpora"].size(), 20u);
  for (const Json& corpus : testing::metric_pairs()["corpora"]) {
    BleuCounts sum;
    for (size_t i = corpus["begin"]; i < corpus["end"]; ++i)
      sum += bleu_counts(pairs[i]["prediction"], pairs[i]["references"].get<Strings>());
    std::vector<int64_t> counts{sum.prediction_length, sum.reference_length};
    counts.insert(counts.end(), sum.matched.begin(), sum.matched.end());
    counts.insert(counts.end(), sum.total.begin(), sum.total.end());
    EXPECT_EQ(counts, corpus["counts"].get<std::vector<int64_t>>());
    EXPECT_NEAR(corpus_bleu(sum), corpus["bleu"].get<double>(), testing::kMetricTolerance);
  }
}

TEST(Bleu, EqualsTheSharedGoldenPairs) {
  const auto path = testing::shared_golden();
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no shared data at " << path;
  const Json golden = testing::read_json(path);
  ASSERT_FALSE(golden["pairs"].empty());
  for (const Json& pair : golden["pairs"]) {
    SCOPED_TRACE(pair.dump());
    const std::string prediction = pair["hyp"];
    const Strings references = pair["refs"];
    EXPECT_EQ(tokenize_13a(prediction), pair["tok13a"].get<std::string>());
    EXPECT_NEAR(sentence_bleu(prediction, references), pair["sentence_bleu"].get<double>() / 100,
                testing::kMetricTolerance);
    EXPECT_NEAR(corpus_bleu(bleu_counts(prediction, references)),
                pair["corpus_bleu"].get<double>() / 100, testing::kMetricTolerance);
  }
}

TEST(Bleu, ByHand) {
  EXPECT_DOUBLE_EQ(sentence_bleu("a b c d e", {"a b c d e"}), 1);
  // 3 of 4 words, 2 of 3, 1 of 2, and the fourth order smoothed to 1 / (2 * 1).
  EXPECT_DOUBLE_EQ(sentence_bleu("a b c x", {"a b c d"}),
                   std::pow(3.0 / 4 * 2.0 / 3 * 1.0 / 2 * 1.0 / 2, 0.25));
  EXPECT_DOUBLE_EQ(sentence_bleu("a b c d", {"a b c d e f g h"}), std::exp(-1.0)) << "brevity";
  EXPECT_EQ(corpus_bleu(bleu_counts("a b c", {"a b c"})), 0) << "no n-gram of order 4";
}

TEST(Bleu, WithoutAReference) {
  EXPECT_THROW(bleu_counts("x", {}), DataError);
  EXPECT_EQ(sentence_bleu("", {}), 1);
  EXPECT_EQ(sentence_bleu("x", {}), 0);
}

}  // namespace
}  // namespace dsrsq
