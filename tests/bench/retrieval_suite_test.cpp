#include "dsrsq/bench/retrieval_suite.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <set>
#include <string>

#include "dsrsq/bench/graph.h"
#include "dsrsq/core/error.h"
#include "dsrsq/ops/retrieval_topk.h"
#include "support/expect_tensor.h"
#include "support/op_case.h"

namespace dsrsq::bench {
namespace {

TEST(BenchRetrieval, CasesAreParsed) {
  const RetrievalCase size = parse_retrieval_case("1000:64:20:bf16");
  EXPECT_EQ(size.tokens, 1000);
  EXPECT_EQ(size.width, 64);
  EXPECT_EQ(size.picks, 20);
  EXPECT_EQ(size.type, "bf16");
  EXPECT_EQ(parse_retrieval_case("8:4:2").type, "");
  for (const char* wrong : {"", "8", "8:4", "8:4:", "0:4:2", "8:x:2", "8:4:-1", "8:4:2:bf16:1"})
    EXPECT_THROW(parse_retrieval_case(wrong), ConfigError) << wrong;
}

TEST(BenchRetrieval, SuiteRecordsEveryMetricWithItsBaseline) {
  RetrievalSuiteOptions o;
  o.cases = {{700, 16, 40, ""}, {300, 8, 300, "bf16"}};
  o.model_width = 12, o.context = 90, o.context_picks = 15, o.held = 20, o.offered = 50;
  o.timing.minimum_rounds = o.timing.maximum_rounds = 2;
  std::set<std::string> found;
  for (const ResultRecord& r : run_retrieval_suite(o, at::kCPU)) {
    EXPECT_TRUE(std::isfinite(r.value) && r.value > 0) << r.metric;
    if (r.p10) {
      EXPECT_LE(*r.p10, r.value);
      EXPECT_GE(*r.p90, r.value);
    }
    // As many of the picks as fp32 has; bf16 rows are the same numbers to both.
    if (r.metric == "agreement") EXPECT_EQ(r.value, 1) << r.case_name;
    if (r.case_name == "n 300, r 8, k 300, bf16") continue;
    found.insert(r.method + " " + r.metric + (r.baseline.empty() ? "" : " / " + r.baseline));
  }
  EXPECT_EQ(found, (std::set<std::string>{
                       "copy bandwidth",
                       "copy time",
                       "gather forward",
                       "gather forward_backward",
                       "gather_tokens forward",
                       "gather_tokens forward_backward",
                       "gather_tokens forward_backward_speedup / gather",
                       "gather_tokens forward_speedup / gather",
                       "matmul_topk time",
                       "reservoir_update time",
                       "reservoir_update time_speedup / topk_of_priorities",
                       "retrieval_topk agreement",
                       "retrieval_topk bound / copy",
                       "retrieval_topk bound_ratio / copy",
                       "retrieval_topk time",
                       "retrieval_topk time_speedup / matmul_topk",
                       "subset_log_prob forward",
                       "subset_log_prob forward_backward",
                       "subset_log_prob forward_backward_speedup / subset_log_prob_aten",
                       "subset_log_prob forward_speedup / subset_log_prob_aten",
                       "subset_log_prob_aten forward",
                       "subset_log_prob_aten forward_backward",
                       "topk_of_priorities time"}));
  o.cases = {{10, 4, 11, ""}};
  EXPECT_THROW(run_retrieval_suite(o, at::kCPU), ConfigError);
  o.cases = {{10, 4, 2, "fp16"}};
  EXPECT_THROW(run_retrieval_suite(o, at::kCPU), ConfigError);
}

// A replay works on what stands in memory then, as a run would.
TEST(BenchGraph, ReplaysAsOftenAsItWasRecorded) {
  for (const at::Device device : testing::test_devices()) {
    at::Tensor x = at::zeros({3}, at::TensorOptions(device));
    const auto work = recorded([&] { x.add_(1); }, device, 4);
    x.zero_();
    work();
    work();
    synchronize(device);
    EXPECT_TRUE((x == 8).all().item<bool>());
  }
}

TEST(BenchGraph, HoldsRetrieval) {
  for (const at::Device device : testing::test_devices()) {
    const auto options = at::TensorOptions(device);
    ops::RetrievalTopkInputs in{at::randn({1, 1, 8}, options),
                                at::randn({1, 5000, 8}, options),
                                at::full({1}, 30, options.dtype(at::kLong)),
                                {},
                                {}};
    at::Tensor index = at::zeros({1, 30}, options.dtype(at::kLong));
    const auto work = recorded(
        [&] {
          index.copy_(ops::retrieval_topk(in, {30, 1, {}}).index);
        },
        device, 2);
    in.query.neg_();
    work();
    synchronize(device);
    EXPECT_TENSOR_EQUAL(index, ops::retrieval_topk(in, {30, 1, {}}).index);
  }
}

}  // namespace
}  // namespace dsrsq::bench
