#include "dsrsq/bench/latent_suite.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "dsrsq/core/error.h"

namespace dsrsq::bench {
namespace {

TEST(BenchLatent, SuiteRecordsEveryMetricWithItsBaseline) {
  LatentSuiteOptions o;
  o.lengths = {20}, o.tokens = {30};
  o.latent_width = 8, o.layers = 2, o.heads = 4, o.kv_heads = 2, o.width = 8;
  o.segment = 5, o.history = 40;
  o.timing.minimum_rounds = o.timing.maximum_rounds = 1;
  std::set<std::string> projection, reading;
  for (const ResultRecord& r : run_latent_suite(o, at::kCPU)) {
    EXPECT_TRUE(std::isfinite(r.value) && r.value > 0) << r.metric;
    EXPECT_EQ(r.p10.has_value(), r.unit == "s");
    EXPECT_EQ(r.shape.at("latent_width"), 8);
    auto& found = r.case_name == "projection, n 30" ? projection : reading;
    if (&found == &reading) {
      EXPECT_EQ(r.case_name, "buffer of 20");
      EXPECT_EQ(r.shape.at("length"), 20);
    }
    // Which dense way is the fastest is not known beforehand.
    const auto baseline = r.baseline.starts_with("dense") ? "dense" : r.baseline;
    found.insert(r.method + " " + r.metric + (baseline.empty() ? "" : " / " + baseline));
  }
  std::set<std::string> expected = {"copy project", "copy bandwidth"};
  for (const std::string method : {"latent_project", "latent_project_contiguous", "aten_merged"})
    for (const std::string metric :
         {"project", "bandwidth", "bandwidth_share / copy", "project_speedup / aten"})
      expected.insert(method + " " + metric);
  expected.insert({"latent_project_by_head project",
                   "latent_project_by_head project_speedup / aten", "aten project"});
  EXPECT_EQ(projection, expected);
  expected = {"dense_products decode", "dense_sdpa decode"};
  for (const std::string position : {"absorbed", "rotated"}) {
    expected.insert("latent_attention decode_" + position + "_speedup / dense");
    for (const std::string metric :
         {"decode_" + position, "segment_" + position, "segment_" + position + "_backward"})
      expected.insert({"latent_attention " + metric, "aten " + metric,
                       "latent_attention " + metric + "_speedup / aten"});
  }
  EXPECT_EQ(reading, expected);
  o.kv_heads = 3;
  EXPECT_THROW(run_latent_suite(o, at::kCPU), ConfigError);
}

}  // namespace
}  // namespace dsrsq::bench
