#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "dsrsq/bench/attention_suite.h"
#include "dsrsq/bench/device.h"
#include "dsrsq/bench/timing.h"
#include "dsrsq/bench/train_suite.h"
#include "dsrsq/core/error.h"
#include "dsrsq/ops/cluster_route.h"

namespace dsrsq::bench {
namespace {

TEST(BenchTiming, QuantilesInterpolate) {
  EXPECT_DOUBLE_EQ(quantile({3}, .9), 3);
  EXPECT_DOUBLE_EQ(quantile({4, 1, 3, 2}, .5), 2.5);
  EXPECT_DOUBLE_EQ(quantile({0, 10}, .1), 1);
  EXPECT_DOUBLE_EQ(quantile({5, 1}, 1), 5);
}

TEST(BenchTiming, EveryContestantRunsInEveryRound) {
  std::string order;
  const std::vector<Contestant> contestants = {{"a", [&] { order += 'a'; }},
                                               {"b", [&] { order += 'b'; }}};
  TimingOptions options;
  options.minimum_rounds = options.maximum_rounds = 3;
  const auto timings = time_interleaved(contestants, at::kCPU, options);
  EXPECT_EQ(order, "aabbababab");  // twice each to warm up, then in turns
  ASSERT_EQ(timings.size(), 2u);
  for (const Timing& t : timings) {
    EXPECT_EQ(t.rounds, 3);
    EXPECT_LE(t.p10, t.median);
    EXPECT_LE(t.median, t.p90);
  }
}

// Against the mask itself.
TEST(BenchAttention, DensityIsTheShareOfVisiblePairs) {
  constexpr int64_t kTokens = 70, kClusters = 5, kWindow = 9, kSinks = 2;
  torch::manual_seed(3);
  const at::Tensor assignment = torch::randint(-1, kClusters, {2, 1, kTokens}, at::kLong);
  const at::Tensor routes = std::get<1>(torch::rand({2, 2, kTokens, kClusters}).topk(2, -1));
  double pairs = 0;
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < 2; ++h)
      for (int64_t q = 0; q < kTokens; ++q)
        for (int64_t j = 0; j <= q; ++j) {
          const auto cluster = assignment[b][0][j].item<int64_t>();
          const bool routed = (routes[b][h][q] == cluster).any().item<bool>() && cluster >= 0;
          pairs += q - j < kWindow || j < kSinks || routed;
        }
  const ClusterLoad load =
      cluster_load(assignment, routes.to(at::kInt), kClusters, kWindow, kSinks);
  EXPECT_NEAR(load.density, pairs / (4. * kTokens * (kTokens + 1) / 2), 1e-12);
  EXPECT_GE(load.balance, 1);
}

TEST(BenchAttention, BalancedKeysFillAllClustersAndSkewedOnesDoNot) {
  AttentionSuiteOptions o;
  o.heads = o.kv_heads = 1;
  const AttentionCase size{4000, 20};
  const auto largest = [&](const std::string& routing) {
    const AttentionData d = make_attention_data(o, size, routing, at::kCPU);
    const at::Tensor nearest =
        (at::matmul(d.k[0][0], d.means[0].t()) - d.means[0].pow(2).sum(-1) / 2).argmax(-1);
    return nearest.bincount({}, 20).max().item<double>() / 200;
  };
  EXPECT_LT(largest("balanced"), 1.5);
  EXPECT_GT(largest("skewed"), 3);
  EXPECT_THROW(make_attention_data(o, size, "other", at::kCPU), ConfigError);
}

TEST(BenchAttention, SuiteRecordsEveryMetricWithItsBaseline) {
  AttentionSuiteOptions o;
  o.cases = {{128, 4}};
  o.heads = 2, o.kv_heads = 1, o.width = 8, o.slots = 2, o.window = 16;
  o.timing.minimum_rounds = o.timing.maximum_rounds = 1;
  std::set<std::string> found;
  const auto records = run_attention_suite(o, at::kCPU);
  const auto read = parse_results(results_json(nlohmann::json::object(), records), "test");
  ASSERT_EQ(read.size(), records.size());
  for (size_t i = 0; i < read.size(); ++i) {
    const ResultRecord& r = read[i];
    EXPECT_EQ(r.p10, records[i].p10);
    EXPECT_EQ(r.p90, records[i].p90);
    EXPECT_EQ(r.p10.has_value(), r.metric == "forward" || r.metric == "forward_backward");
    EXPECT_TRUE(std::isfinite(r.value) && r.value > 0) << r.metric;
    EXPECT_EQ(r.shape.at("tokens"), 128);
    found.insert(r.method + " " + r.metric + (r.baseline.empty() ? "" : " / " + r.baseline));
  }
  EXPECT_EQ(found, (std::set<std::string>{"cluster_attention balance", "cluster_attention density",
                                          "cluster_attention forward",
                                          "cluster_attention forward_backward",
                                          "cluster_attention forward_backward_speedup / dense",
                                          "cluster_attention forward_speedup / dense",
                                          "dense forward", "dense forward_backward"}));
  o.aten = true;
  const auto more = run_attention_suite(o, at::kCPU);
  EXPECT_TRUE(std::any_of(more.begin(), more.end(), [](const ResultRecord& r) {
    return r.method == "cluster_attention_aten" && r.metric == "forward_backward_speedup";
  }));
  o.aten = false;
  o.cases[0].type = "bf16";
  EXPECT_EQ(run_attention_suite(o, at::kCPU)[0].case_name, "balanced, n 128, m 4, bf16");
  EXPECT_EQ(make_attention_data(o, o.cases[0], "balanced", at::kCPU).q.scalar_type(),
            at::kBFloat16);
  o.cases[0].type = "fp16";
  EXPECT_THROW(run_attention_suite(o, at::kCPU), ConfigError);
  o.cases[0].type = "";
  o.slots = 5;
  EXPECT_THROW(run_attention_suite(o, at::kCPU), ConfigError);
  o.slots = 2, o.kv_heads = 3;
  EXPECT_THROW(run_attention_suite(o, at::kCPU), ConfigError);
}

TEST(BenchAttention, CasesAreParsed) {
  const AttentionCase plain = parse_attention_case("16384:128");
  EXPECT_EQ(plain.tokens, 16384);
  EXPECT_EQ(plain.clusters, 128);
  EXPECT_EQ(plain.type, "");
  EXPECT_EQ(parse_attention_case("8192:32:bf16").type, "bf16");
  EXPECT_EQ(parse_attention_case("131072:auto").clusters, 384);
  EXPECT_EQ(parse_attention_case("65536:auto:bf16").clusters, 256);
  for (const char* wrong : {"", "8192", "8192:", ":8", "8192:x", "0:1", "8:0", "8:-1", "8 :1"})
    EXPECT_THROW(parse_attention_case(wrong), ConfigError) << wrong;
}

TEST(BenchTrain, CasesAreParsed) {
  EXPECT_EQ(parse_train_case("2x16384:auto").clusters, 128);
  const TrainCase size = parse_train_case("4x8192:128");
  EXPECT_EQ(size.batch, 4);
  EXPECT_EQ(size.tokens, 8192);
  EXPECT_EQ(size.clusters, 128);
  for (const char* wrong : {"", "4x8192", "4x8192:", "4x8192:128:1", "0x1:1", "a", "1x-2:8"})
    EXPECT_THROW(parse_train_case(wrong), ConfigError) << wrong;
}

// Both models learn: they start at the loss of a uniform guess.
TEST(BenchTrain, SuiteTrainsDenseAndSparse) {
  TrainSuiteOptions o;
  o.cases = {{2, 40, 6}};
  o.layers = 1, o.width = 16, o.heads = 2, o.mlp_width = 24, o.vocabulary = 50, o.slots = 2;
  o.window = 8;
  o.timing.minimum_rounds = o.timing.maximum_rounds = 2;
  std::set<std::string> found;
  const auto records = run_train_suite(o, at::kCPU);
  for (const ResultRecord& r : records) {
    EXPECT_EQ(r.case_name, "batch 2, n 40");
    EXPECT_TRUE(std::isfinite(r.value) && r.value > 0) << r.metric;
    if (r.metric == "loss") EXPECT_NEAR(r.value, std::log(50), .2);
    if (r.metric == "step") EXPECT_LE(r.p10.value(), r.p90.value());
    found.insert(r.method + " " + r.metric);
  }
  EXPECT_EQ(found, (std::set<std::string>{"dense step", "dense tokens_per_second", "dense loss",
                                          "sqa step", "sqa tokens_per_second", "sqa loss",
                                          "sqa step_speedup"}));
  o.slots = 7;
  EXPECT_THROW(run_train_suite(o, at::kCPU), ConfigError);
}

TEST(BenchTrain, SpeedupsAreOfTheSameCase) {
  ResultRecord own, other, stranger;
  own.case_name = other.case_name = "batch 1, n 8";
  own.method = "dense", other.method = "pytorch_eager";
  own.metric = other.metric = "step";
  own.value = 2, other.value = 3;
  stranger = other;
  stranger.case_name = "batch 2, n 8";
  const auto ratios = step_speedups({own}, {stranger, other});
  ASSERT_EQ(ratios.size(), 1u);
  EXPECT_EQ(ratios[0].metric, "step_speedup");
  EXPECT_EQ(ratios[0].baseline, "pytorch_eager");
  EXPECT_DOUBLE_EQ(ratios[0].value, 1.5);
}

TEST(BenchDevice, CpuIsNamedWithItsThreads) {
  EXPECT_EQ(device_name(at::kCPU).substr(0, 5), "cpu, ");
  EXPECT_TRUE(device_versions(at::kCPU).empty());
}

}  // namespace
}  // namespace dsrsq::bench
