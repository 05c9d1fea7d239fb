#include "dsrsq/bench/trained_suite.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <map>

#include "dsrsq/core/error.h"
#include "dsrsq/methods/standard.h"
#include "support/tiny.h"

namespace dsrsq::bench {
namespace {

using namespace dsrsq::testing;

class TrainedSuite : public ::testing::Test {
 protected:
  TrainedSuite() {
    torch::manual_seed(5);
    for (int64_t i = 0; i < 400; ++i)
      text.push_back(int32_t(torch::randint(2, kTinyVocabulary, {1}).item<int64_t>()));
    options.tokens = 96;
    options.clusters = 6;
    options.slots = {1, 3, 6};
    options.window = 4;
    options.sequences = 2;
    options.codebook_rounds = 2;
    options.timing.minimum_rounds = options.timing.maximum_rounds = 1;
    options.timing.seconds = 0;
  }
  std::vector<ResultRecord> run() {
    auto model = tiny_language_model(
        tiny_model(), std::make_shared<StandardMethod>(StandardConfig{}, tiny_model()));
    return run_trained_suite(options, model, text);
  }

  std::vector<int32_t> text;
  TrainedSuiteOptions options;
};

TEST_F(TrainedSuite, AllClustersAreDenseAndFewerKeepLess) {
  std::map<std::string, double> found;
  for (const auto& r : run()) {
    ASSERT_TRUE(std::isfinite(r.value)) << r.method << " " << r.metric;
    found[r.method + " " + std::to_string(int(r.shape.at("slots"))) + " " + r.metric] = r.value;
  }
  for (const std::string method : {"cluster_attention", "blocks"}) {
    EXPECT_NEAR(found.at(method + " 6 mass_recall"), 1, 1e-5) << method;
    EXPECT_NEAR(found.at(method + " 6 density"), 1, 1e-9) << method;
    EXPECT_NEAR(found.at(method + " 6 loss_gap"), 0, 1e-5) << method;
    double before = found.at("window 0 mass_recall");
    for (const std::string slots : {" 1", " 3"}) {
      const double recall = found.at(method + slots + " mass_recall");
      EXPECT_GT(recall, before) << method << slots;
      EXPECT_LT(recall, .999) << method << slots;
      EXPECT_GT(std::abs(found.at(method + slots + " loss_gap")), 1e-4) << method << slots;
      before = recall;
    }
  }
  EXPECT_EQ(found.at("dense 0 loss") + found.at("window 0 loss_gap"), found.at("window 0 loss"));
  EXPECT_GT(found.at("cluster_attention 3 forward"), 0);
  EXPECT_GT(found.at("cluster_attention 3 forward_speedup"), 0);
}

TEST_F(TrainedSuite, RefusesShortTextsAndMoreSlotsThanClusters) {
  options.tokens = 200;
  EXPECT_THROW(run(), ConfigError);
  options.tokens = 96;
  options.slots = {7};
  EXPECT_THROW(run(), ConfigError);
}

}  // namespace
}  // namespace dsrsq::bench
