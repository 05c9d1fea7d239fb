#include "dsrsq/model/generate.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::read_batch;
using testing::tiny_batch;

const std::vector<testing::TinySequence> kSequences{{.context = 40, .tail = 6, .sample = 1},
                                                    {.context = 17, .tail = 3, .sample = 2},
                                                    {.context = 28, .tail = 5, .sample = 3}};

LanguageModel make() {
  return testing::tiny_dsrsq_model(testing::tiny_model(), testing::tiny_dsrsq(true, true, true));
}

// The greedy continuation by reading the whole, longer tail again for every token.
std::vector<int32_t> by_prefill(LanguageModel& model, testing::TinySequence sequence,
                                int64_t tokens) {
  torch::NoGradGuard no_grad;
  auto batch = tiny_batch({sequence});
  std::vector<int32_t> list;
  for (int64_t i = 0; i < tokens; ++i) {
    auto hidden = read_batch(model, batch);
    auto next = model->backbone()->logits(hidden.select(1, -1)).argmax(-1, true);
    list.push_back(int32_t(next.item<int64_t>()));
    batch.tail = at::cat({batch.tail, next}, 1);
    batch.tail_valid = at::ones_like(batch.tail, at::kBool);
  }
  return list;
}

TEST(Generate, EqualsGreedyPrefillOfEachSequenceAlone) {
  auto model = make();
  auto generated = generate(model, tiny_batch(kSequences), {}, {.maximum_tokens = 6, .end_id = -1});
  for (size_t b = 0; b < kSequences.size(); ++b)
    EXPECT_EQ(generated.tokens[b], by_prefill(model, kSequences[b], 6)) << b;
  EXPECT_EQ(generated.decoded_tokens, 3 * 5);
  EXPECT_EQ(generated.state_bytes, model->method().state_bytes(generated.state));
}

TEST(Generate, StopsAtTheEndTokenAndLeavesTheOthersAlone) {
  auto model = make();
  auto free = generate(model, tiny_batch(kSequences), {}, {.maximum_tokens = 6, .end_id = -1});
  auto end = free.tokens[1][2];  // what sequence 1 says third is now the end token
  auto stopped = generate(model, tiny_batch(kSequences), {}, {.maximum_tokens = 6, .end_id = end});
  for (size_t b = 0; b < 3; ++b) {
    auto expected = free.tokens[b];
    expected.erase(std::find(expected.begin(), expected.end(), end), expected.end());
    EXPECT_EQ(stopped.tokens[b], expected) << b;
  }
  EXPECT_LT(stopped.tokens[1].size(), 3u);
  // An answer may be nothing.
  auto at_once = generate(model, tiny_batch(kSequences), {},
                          {.maximum_tokens = 6, .end_id = free.tokens[0][0]});
  EXPECT_TRUE(at_once.tokens[0].empty());
}

TEST(Generate, StopsWhereItIsAskedTo) {
  auto model = make();
  auto free = generate(model, tiny_batch(kSequences), {}, {.maximum_tokens = 6, .end_id = -1});
  GenerateOptions options{.maximum_tokens = 6, .end_id = -1};
  options.stop = [&](const std::vector<int32_t>& tokens) {
    return tokens.size() == 3 &&
           tokens == std::vector<int32_t>(free.tokens[2].begin(), free.tokens[2].begin() + 3);
  };
  auto stopped = generate(model, tiny_batch(kSequences), {}, options);
  EXPECT_EQ(stopped.tokens[2].size(), 3u);  // what ended it is kept: the caller cuts its text
  EXPECT_EQ(stopped.tokens[1], free.tokens[1]);
}

// Of 4 tokens, in the order 2, 0, 3, 1 of probability, over many samples.
class NextTokens : public ::testing::Test {
 protected:
  static constexpr int64_t kSamples = 20000;
  // The share of each token.
  std::vector<double> shares(GenerateOptions options, int64_t step = 0) {
    auto logits = at::tensor({0.5f, -1.0f, 1.0f, 0.0f}).unsqueeze(0).expand({kSamples, 4});
    std::vector<int64_t> ids(kSamples);
    for (int64_t i = 0; i < kSamples; ++i) ids[size_t(i)] = i;
    drawn_ = next_tokens(logits, options, ids, step);
    auto counts = at::bincount(drawn_, {}, 4).to(at::kDouble) / double(kSamples);
    return {counts.data_ptr<double>(), counts.data_ptr<double>() + 4};
  }
  // softmax of the allowed logits at a temperature.
  void expect_softmax(const std::vector<double>& found, double temperature,
                      const std::vector<bool>& allowed) {
    const double logits[] = {0.5, -1.0, 1.0, 0.0};
    double total = 0;
    for (size_t i = 0; i < 4; ++i) total += allowed[i] ? std::exp(logits[i] / temperature) : 0;
    for (size_t i = 0; i < 4; ++i) {
      auto p = allowed[i] ? std::exp(logits[i] / temperature) / total : 0;
      EXPECT_NEAR(found[i], p, p > 0 ? 5 * std::sqrt(p * (1 - p) / kSamples) : 0) << i;
    }
  }
  at::Tensor drawn_;
};

TEST_F(NextTokens, TemperatureZeroIsGreedy) {
  EXPECT_EQ(shares({}), (std::vector<double>{0, 0, 1, 0}));
}

TEST_F(NextTokens, SamplesFollowTheTemperature) {
  expect_softmax(shares({.temperature = 1}), 1, {true, true, true, true});
  expect_softmax(shares({.temperature = 0.5}), 0.5, {true, true, true, true});
}

TEST_F(NextTokens, TopKAndTopPLeaveOutTheRest) {
  expect_softmax(shares({.temperature = 1, .top_k = 2}), 1, {true, false, true, false});
  // Probabilities .47, .29, .17, .06: two reach .6, one reaches .4, and one always stays.
  expect_softmax(shares({.temperature = 1, .top_p = 0.6}), 1, {true, false, true, false});
  expect_softmax(shares({.temperature = 1, .top_p = 0.4}), 1, {false, false, true, false});
  expect_softmax(shares({.temperature = 1, .top_p = 0}), 1, {false, false, true, false});
}

TEST_F(NextTokens, NoiseIsOfSeedSampleAndStep) {
  shares({.temperature = 1});
  auto first = drawn_;
  shares({.temperature = 1});
  EXPECT_TENSOR_EQUAL(drawn_, first);
  shares({.temperature = 1, .seed = 1});
  EXPECT_FALSE(at::equal(drawn_, first));
  shares({.temperature = 1}, 1);
  EXPECT_FALSE(at::equal(drawn_, first));
}

// What stands in front of every context is read like sinks; begin tokens in it are sinks.
TEST(Prefix, StandsInFrontOfTheContext) {
  torch::NoGradGuard no_grad;
  auto config = testing::tiny_model();
  config.sinks = 4;
  auto with = [&](const std::vector<int32_t>& prefix) {
    auto method = std::make_shared<DsrsqMethod>(testing::tiny_dsrsq(false, false, true), config, 3);
    LanguageModel model(Transformer(config, testing::kTinyVocabulary, 3), method,
                        testing::kTinyBegin, prefix);
    return read_batch(model, tiny_batch(kSequences));
  };
  auto plain = with({});
  EXPECT_TENSOR_EQUAL(with({testing::kTinyBegin, testing::kTinyBegin}), plain);
  auto other = with({7, 8});
  EXPECT_GT((other - plain).abs().max().item<double>(), 1e-3);
  EXPECT_GT((with({8, 7}) - other).abs().max().item<double>(), 1e-3);
}

}  // namespace
}  // namespace dsrsq
