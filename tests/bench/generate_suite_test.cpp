#include "dsrsq/bench/generate_suite.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <map>
#include <set>

#include "dsrsq/bench/profiled_flops.h"
#include "dsrsq/core/error.h"

namespace dsrsq::bench {
namespace {

GenerateSuiteOptions small() {
  GenerateSuiteOptions o;
  o.layers = 2, o.width = 32, o.heads = 2, o.mlp_width = 48, o.vocabulary = 50;
  o.clusters = 6, o.slots = 2, o.window = 8;
  o.latent_width = 8, o.buffer = 12, o.segment = 32, o.budget = 32;
  o.question = 5, o.answer = 4;
  o.minimum_rounds = o.maximum_rounds = 2;
  o.cases = {{1, 100}, {2, 40}};
  return o;
}

using Values = std::map<std::string, double>;  // "case method metric"
Values values_of(const std::vector<ResultRecord>& records) {
  Values values;
  for (const auto& r : records) {
    auto added = values.emplace(r.case_name + " " + r.method + " " + r.metric, r.value);
    EXPECT_TRUE(added.second) << added.first->first << " stands twice";
  }
  return values;
}

class GenerateSuiteTest : public ::testing::Test {
 protected:
  static const std::vector<ResultRecord>& records() {
    static const auto records = run_generate_suite(small(), at::kCPU);
    return records;
  }
};

TEST_F(GenerateSuiteTest, EveryCaseAndMethodHasItsRecords) {
  const std::set<std::string> always = {"prefill",       "prefill_tokens_per_second",
                                        "token_latency", "decode_tokens_per_second",
                                        "peak_memory",   "bytes_held",
                                        "bytes_shared",  "prefill_flops",
                                        "token_flops",   "prefill_flops_attention"};
  const std::set<std::string> counted = {"prefill_flops_counted", "prefill_flops_profiler"};
  const std::set<std::string> ratios = {"prefill_speedup", "decode_speedup"};
  std::map<std::pair<std::string, std::string>, std::set<std::string>> found;
  for (const auto& r : records()) {
    found[{r.case_name, r.method}].insert(r.metric);
    if (!r.metric.starts_with("break_even")) EXPECT_TRUE(std::isfinite(r.value)) << r.metric;
    if (r.metric == "prefill") EXPECT_LE(r.p10.value(), r.p90.value());
  }
  for (const std::string method : {"dense", "sqa", "rckv", "all"})
    for (const std::string name : {"batch 1, n 100", "batch 2, n 40"}) {
      auto expected = always;
      if (name == "batch 1, n 100") expected.insert(counted.begin(), counted.end());
      if (method != "dense") expected.insert(ratios.begin(), ratios.end());
      auto& metrics = found[{name, method}];
      metrics.erase("peak_memory");  // not where the process's peak cannot be reset
      expected.erase("peak_memory");
      EXPECT_EQ(metrics, expected) << name << ", " << method;
    }
  for (const std::string method : {"sqa", "rckv", "all"})
    for (const std::string name : {"batch 1", "batch 2"})
      EXPECT_EQ((found[{name, method}]),
                (std::set<std::string>{"break_even_prefill", "break_even_decode"}));
}

// Keys and values of every token against those of the sinks, the window, the question and latents.
TEST_F(GenerateSuiteTest, BytesHeldAreThoseOfWhatIsKept) {
  auto values = values_of(records());
  const auto o = small();
  const auto sinks = TransformerConfig{}.sinks;
  const double entry = 2.0 * double(o.layers * o.width) * 4;  // fp32 key and value of a token
  // The last token of an answer is not read again.
  const auto tokens = double(sinks + 100 + o.question + o.answer - 1);
  EXPECT_GE(values["batch 1, n 100 dense bytes_held"], tokens * entry);
  EXPECT_LT(values["batch 1, n 100 dense bytes_held"], 1.5 * tokens * entry);
  EXPECT_LT(values["batch 1, n 100 rckv bytes_held"], .6 * tokens * entry);
  EXPECT_EQ(values["batch 1, n 100 dense bytes_shared"], 0);
  EXPECT_GT(values["batch 1, n 100 sqa bytes_shared"], 0);
}

// Analytic against what the attention layers counted: exact where no cluster decides.
TEST_F(GenerateSuiteTest, AnalyticFlopsAreThoseOfThePairsThatWereAttended) {
  auto values = values_of(records());
  for (const std::string method : {"dense", "rckv"})
    EXPECT_NEAR(values["batch 1, n 100 " + method + " prefill_flops"],
                values["batch 1, n 100 " + method + " prefill_flops_counted"],
                1e-9 * values["batch 1, n 100 dense prefill_flops"])
        << method;
  for (const std::string method : {"sqa", "all"})
    EXPECT_NEAR(values["batch 1, n 100 " + method + " prefill_flops"] /
                    values["batch 1, n 100 " + method + " prefill_flops_counted"],
                1, .1)
        << method << ": clusters are not equally full";
}

// The profiler sees all of a dense prefill but the fused attention of the context. The question is
// read behind it, under a mask, by plain products over all keys.
TEST_F(GenerateSuiteTest, ProfilerCountsAllButFusedAttention) {
  auto values = values_of(records());
  auto dense = [&](const std::string& metric) {
    return values["batch 1, n 100 dense prefill_flops" + metric];
  };
  EXPECT_GT(dense("_attention"), .05 * dense(""));
  const auto o = small();
  const auto keys = TransformerConfig{}.sinks + 100 + o.question;
  const auto question = 4.0 * double(o.layers * o.width * o.question * keys);
  EXPECT_NEAR(dense("_profiler"), dense("") - dense("_attention") + question, 1e-6 * dense(""));
}

TEST(GenerateWork, DenseIsTheTriangle) {
  TransformerConfig model;
  model.layers = 3;
  DsrsqConfig none;
  none.dsr.enabled = none.sqa.enabled = none.rckv.enabled = false;
  none.rckv.segment = 7;
  auto work = expected_work(model, none, 50, 6);
  const double tokens = double(model.sinks) + 56;
  EXPECT_DOUBLE_EQ(work.prefill.attended_pairs, 3 * tokens * (tokens + 1) / 2);
  EXPECT_DOUBLE_EQ(work.prefill.reader_tokens, tokens);
  EXPECT_DOUBLE_EQ(work.prefill.latent_pairs, 0);
  EXPECT_DOUBLE_EQ(work.token.attended_pairs, 3 * (tokens + 1));
  EXPECT_DOUBLE_EQ(work.token.reader_tokens, 1);
}

// What a decoded token costs with all parts on does not depend on the context, once it is long.
TEST(GenerateWork, ATokenBehindALongContextCostsTheSame) {
  TransformerConfig model;
  DsrsqConfig all;
  all.sqa.clusters = 32;
  auto near = expected_work(model, all, 8192, 16), far = expected_work(model, all, 131072, 16);
  EXPECT_DOUBLE_EQ(near.token.attended_pairs, far.token.attended_pairs);
  EXPECT_DOUBLE_EQ(near.token.latent_pairs, far.token.latent_pairs);
  EXPECT_DOUBLE_EQ(near.prefill.attended_pairs, far.prefill.attended_pairs);
  EXPECT_DOUBLE_EQ(far.prefill.context_tokens, 131072) << "all of it is scored";
}

TEST(GenerateBreakEven, IsTheFirstLengthFromWhichOnAMethodStaysFaster) {
  std::vector<ResultRecord> records;
  auto add = [&](const std::string& method, double batch, double tokens, double speedup) {
    ResultRecord r;
    r.method = method;
    r.metric = "prefill_speedup";
    r.shape = {{"batch", batch}, {"tokens", tokens}};
    r.value = speedup;
    records.push_back(r);
  };
  for (auto [tokens, speedup] : std::map<double, double>{{4, 1.2}, {8, .9}, {16, 1.1}, {32, 3}})
    add("falls back once", 1, tokens, speedup);
  add("always", 1, 4, 2), add("always", 1, 8, 2);
  add("never", 1, 4, 2), add("never", 1, 8, .5);
  add("always", 2, 8, .5);
  std::map<std::pair<std::string, std::string>, double> found;
  for (const auto& r : break_even(records)) {
    EXPECT_EQ(r.metric, "break_even_prefill");
    EXPECT_EQ(r.baseline, "dense");
    found[{r.case_name, r.method}] = r.value;
  }
  ASSERT_EQ(found.size(), 4u);
  EXPECT_EQ((found[{"batch 1", "falls back once"}]), 16);
  EXPECT_EQ((found[{"batch 1", "always"}]), 4);
  EXPECT_TRUE(std::isnan(found[{"batch 1", "never"}]));
  EXPECT_TRUE(std::isnan(found[{"batch 2", "always"}])) << "batches are apart";
}

TEST(GenerateProfiler, CountsProductsAndNothingElse) {
  auto a = at::ones({3, 5}), b = at::ones({5, 7});
  auto batched = at::ones({2, 3, 5});
  EXPECT_EQ(profiled_matmul_flops([&] { at::mm(a, b); }), 2 * 3 * 5 * 7);
  EXPECT_EQ(profiled_matmul_flops([&] { at::linear(batched, b.t()); }), 2 * 2 * 3 * 5 * 7);
  EXPECT_EQ(profiled_matmul_flops([&] { at::bmm(batched, batched.transpose(1, 2)); }),
            2 * 2 * 3 * 5 * 3);
  EXPECT_EQ(profiled_matmul_flops([&] { (a + a).softmax(1); }), 0);
  EXPECT_THROW(profiled_matmul_flops([&] { at::mm(a, a); }), c10::Error);
  EXPECT_EQ(profiled_matmul_flops([&] { at::mm(a, b); }), 2 * 3 * 5 * 7) << "after an error";
}

TEST(GenerateCases, AreParsedAndChecked) {
  EXPECT_EQ(parse_generate_case("4x16384").batch, 4);
  EXPECT_EQ(parse_generate_case("4x16384").tokens, 16384);
  for (const char* wrong : {"", "4", "4x", "x4", "4x8x2", "0x8", "8x-1", "4x8 "})
    EXPECT_THROW(parse_generate_case(wrong), ConfigError) << wrong;
  auto expect_error = [](GenerateSuiteOptions o, const std::string& option) {
    try {
      run_generate_suite(o, at::kCPU);
      FAIL() << "nothing thrown, expected " << option;
    } catch (const ConfigError& error) {
      EXPECT_THAT(error.what(), ::testing::HasSubstr(option));
    }
  };
  auto o = small();
  o.cases.clear();
  expect_error(o, "--generate-cases");
  o = small();
  o.methods = {"dense", "denser"};
  expect_error(o, "denser");
  o = small();
  o.answer = 1;
  expect_error(o, "--answer");
  o = small();
  o.slots = 7;
  expect_error(o, "--slots");
  o = small();
  o.latent_width = 32;
  expect_error(o, "--generate-latent-width");
}

}  // namespace
}  // namespace dsrsq::bench
