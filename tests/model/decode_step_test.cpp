#include "dsrsq/model/decode_step.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>

#include "dsrsq/core/error.h"
#include "dsrsq/methods/standard.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::tiny_batch;
using testing::Tolerance;

struct StepCase {
  std::string name;
  bool sqa, rckv;
  std::string centroids = "codebook", weight = "attention_rate", position = "rope_reconstruct";
};

LanguageModel make(const StepCase& c) {
  if (!c.sqa && !c.rckv)
    return testing::tiny_language_model(
        testing::tiny_model(),
        std::make_shared<StandardMethod>(StandardConfig{}, testing::tiny_model()));
  auto config = testing::tiny_dsrsq(false, c.sqa, c.rckv);
  config.sqa.centroids = c.centroids;
  config.rckv.weight = c.weight;
  config.rckv.position = c.position;
  return testing::tiny_dsrsq_model(testing::tiny_model(), config);
}

Generated decode(LanguageModel& model, const Batch& batch, Decoding decoding, int32_t end = -1) {
  GenerateOptions options{.maximum_tokens = 9, .end_id = end};
  options.decoding = decoding;
  return generate(model, batch, {}, options);
}

void expect_same_state(const MethodState& found, const MethodState& wanted) {
  const Tolerance close{0, 1e-5};
  EXPECT_TENSOR_NEAR(found.next_order, wanted.next_order, testing::kExact);
  EXPECT_TENSOR_NEAR(found.next_position, wanted.next_position, testing::kExact);
  for (size_t i = 0; i < found.layers.size(); ++i) {
    const auto &a = found.layers[i], &b = wanted.layers[i];
    ASSERT_EQ(a.entries(), b.entries());
    EXPECT_TENSOR_NEAR(a.order.masked_fill(a.valid.logical_not(), 0),
                       b.order.masked_fill(b.valid.logical_not(), 0), testing::kExact);
    EXPECT_TENSOR_NEAR(a.valid.to(at::kInt), b.valid.to(at::kInt), testing::kExact);
    auto of_valid = a.valid.unsqueeze(1).unsqueeze(-1);
    EXPECT_TENSOR_NEAR(a.keys * of_valid, b.keys * of_valid, close);
    EXPECT_TENSOR_NEAR(a.values * of_valid, b.values * of_valid, close);
    ASSERT_EQ(a.mass.defined(), b.mass.defined());
    if (a.mass.defined()) {
      EXPECT_TENSOR_NEAR(a.mass * a.valid, b.mass * b.valid, close);
      EXPECT_TENSOR_NEAR(a.exposure * a.valid, b.exposure * b.valid, close);
    }
  }
}

class DecodeStepCases : public ::testing::TestWithParam<StepCase> {};

// One sequence has no padding; of three, two end before the third.
TEST_P(DecodeStepCases, ReservedRoomSaysWhatGrowingTensorsSay) {
  torch::NoGradGuard no_grad;
  auto model = make(GetParam());
  const std::vector<testing::TinySequence> three{{.context = 40, .tail = 6, .sample = 1},
                                                 {.context = 17, .tail = 3, .sample = 2},
                                                 {.context = 28, .tail = 5, .sample = 3}};
  for (const auto& batch : {tiny_batch(three), tiny_batch({three[0]})}) {
    auto free = decode(model, batch, Decoding::kEager);
    for (int32_t end : {-1, free.tokens[0][3]}) {
      auto wanted = decode(model, batch, Decoding::kEager, end);
      auto found = decode(model, batch, Decoding::kFixed, end);
      EXPECT_EQ(found.tokens, wanted.tokens);
      EXPECT_EQ(found.decoded_tokens, wanted.decoded_tokens);
      EXPECT_EQ(found.state_bytes, wanted.state_bytes);
      EXPECT_FALSE(found.recorded);
      expect_same_state(found.state, wanted.state);
    }
  }
}

TEST_P(DecodeStepCases, RecordedStepSaysTheSame) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU";
  torch::NoGradGuard no_grad;
  auto model = make(GetParam());
  model->to(at::kCUDA);
  const std::vector<testing::TinySequence> two{{.context = 40, .tail = 6, .sample = 1},
                                               {.context = 17, .tail = 3, .sample = 2}};
  for (const auto& host : {tiny_batch(two), tiny_batch({two[0]})}) {
    auto batch = host.to(at::kCUDA);
    auto wanted = decode(model, batch, Decoding::kEager);
    auto found = decode(model, batch, Decoding::kAuto);
    EXPECT_TRUE(found.recorded);
    EXPECT_EQ(found.tokens, wanted.tokens);
    EXPECT_EQ(found.state_bytes, wanted.state_bytes);
    expect_same_state(found.state, wanted.state);
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, DecodeStepCases,
    ::testing::Values(StepCase{"dense", false, false}, StepCase{"sqa", true, false},
                      StepCase{"sqa_segment", true, false, "segment"},
                      StepCase{"sqa_kmeans", true, false, "kmeans"}, StepCase{"rckv", false, true},
                      StepCase{"rckv_gate", false, true, "codebook", "gate"},
                      StepCase{"rckv_age", false, true, "codebook", "attention_rate", "age_bias"},
                      StepCase{"both", true, true},
                      StepCase{"both_segment", true, true, "segment"}),
    [](const auto& info) { return info.param.name; });

// What the prompt left is as it was: an answer is decoded from a copy of a stream's state.
TEST(DecodeStep, LeavesTheStateThatItWasCopiedFrom) {
  torch::NoGradGuard no_grad;
  auto model = make({"both", true, true});
  auto batch = tiny_batch({{.context = 40, .tail = 6, .sample = 1}});
  MethodState kept;
  auto hidden = testing::read_batch(model, batch, {}, &kept);
  std::vector<std::vector<int32_t>> said;
  for (auto decoding : {Decoding::kEager, Decoding::kFixed, Decoding::kFixed}) {
    Generated result;
    result.state = kept;
    GenerateOptions options{.maximum_tokens = 9, .end_id = -1};
    options.decoding = decoding;
    auto next =
        next_tokens(model->backbone()->logits(hidden.select(1, -1)), options, batch.sample_ids, 0);
    DecodeStep step(model, batch.sample_ids, options, result.state);
    said.emplace_back();
    for (int i = 0; i < 6; ++i) {
      next = step.next(next, at::ones({1}, at::kBool)).clone();
      said.back().push_back(int32_t(next.item<int64_t>()));
    }
    step.finish();
  }
  EXPECT_EQ(said[1], said[0]);
  EXPECT_EQ(said[2], said[0]);
}

TEST(DecodeStep, SaysWhyAStepCannotBeRecorded) {
  torch::NoGradGuard no_grad;
  auto model = make({"sqa", true, false});
  auto batch = tiny_batch({{.context = 20, .tail = 4, .sample = 1}});
  GenerateOptions options{.maximum_tokens = 4, .end_id = -1};
  options.decoding = Decoding::kFixed;
  PassOptions pass;
  pass.probe = Probe::kRandomRouting;
  EXPECT_THROW(generate(model, batch, pass, options), ConfigError);
  pass = {};
  pass.collect_stats = true;
  EXPECT_THROW(generate(model, batch, pass, options), ConfigError);
  options.temperature = 1;
  EXPECT_THROW(generate(model, batch, {}, options), ConfigError);
}

}  // namespace
}  // namespace dsrsq
