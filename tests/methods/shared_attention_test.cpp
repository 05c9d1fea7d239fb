#include "dsrsq/methods/shared_attention.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "dsrsq/core/error.h"
#include "dsrsq/methods/standard.h"
#include "methods/eviction_example.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using ::testing::HasSubstr;
using testing::read_batch;
using testing::tiny_batch;
using testing::Tolerance;

// Head width 1, so that a logit is q x k: two heads share one key-value head.
AttentionInput example(const std::vector<double>& q, const std::vector<double>& k,
                       const std::vector<double>& v, int64_t first, int64_t layer) {
  AttentionInput input;
  auto tokens = int64_t(v.size());
  auto tensor = [&](const std::vector<double>& x, int64_t heads) {
    return at::tensor(x, at::kDouble).view({1, heads, tokens, 1});
  };
  if (!q.empty()) {
    input.q = tensor(q, 2);
    input.k = tensor(k, 1);
  }
  input.v = tensor(v, 1);
  input.valid = at::ones({1, tokens}, at::kBool);
  input.order = input.positions = at::arange(first, first + tokens, at::kLong).unsqueeze(0);
  input.segments = {tokens};
  input.layer = layer;
  return input;
}

TEST(SharedAttention, TheSpanAttendsWithItsSourcesProbabilitiesByHand) {
  torch::NoGradGuard no_grad;
  SharedAttentionMethod method({.source = 0, .layers = 2}, testing::example_model(3, 2, 1));
  auto state = method.make_state(tiny_batch({{.context = 1}}), {});
  const double ln2 = std::log(2.0), ln3 = std::log(3.0);
  // Tokens 0 and 1, keys ln 2 and ln 3. Head 0 asks with 1: token 1 weighs 2/5 and 3/5. Head 1
  // asks with 0: 1/2 and 1/2.
  auto out = method.attend(example({1, 1, 0, 0}, {ln2, ln3}, {10, 20}, 0, 0), state);
  EXPECT_TENSOR_NEAR(out.view({4}), at::tensor({10., 16., 10., 15.}, at::kDouble),
                     (Tolerance{0, 1e-12}));
  // Layers 1 and 2 have values of their own.
  out = method.attend(example({}, {}, {100, 200}, 0, 1), state);
  EXPECT_TENSOR_NEAR(out.view({4}), at::tensor({100., 160., 100., 150.}, at::kDouble),
                     (Tolerance{0, 1e-12}));
  out = method.attend(example({}, {}, {-5, 5}, 0, 2), state);
  EXPECT_TENSOR_NEAR(out.view({4}), at::tensor({-5., 1., -5., 0.}, at::kDouble),
                     (Tolerance{0, 1e-12}));
  method.end_segment(state);
  // Token 2, key ln 5: head 0 weighs 2/10, 3/10 and 5/10, head 1 a third each.
  out = method.attend(example({1, 0}, {std::log(5.0)}, {30}, 2, 0), state);
  EXPECT_TENSOR_NEAR(out.view({2}), at::tensor({23., 20.}, at::kDouble), (Tolerance{0, 1e-12}));
  out = method.attend(example({}, {}, {300}, 2, 1), state);
  EXPECT_TENSOR_NEAR(out.view({2}), at::tensor({230., 200.}, at::kDouble), (Tolerance{0, 1e-12}));
  out = method.attend(example({}, {}, {1}, 2, 2), state);
  EXPECT_TENSOR_NEAR(out.view({2}), at::tensor({1., 1. / 3}, at::kDouble), (Tolerance{0, 1e-12}));
}

TransformerConfig four_layers() {
  auto model = testing::tiny_model();
  model.layers = 4;
  return model;
}

LanguageModel sharing(const SharedAttentionConfig& config) {
  return testing::tiny_language_model(
      four_layers(), std::make_shared<SharedAttentionMethod>(config, four_layers()));
}

TEST(SharedAttention, LayersOfTheSpanHaveNoQueriesAndKeys) {
  auto names = [](LanguageModel model) {
    std::set<std::string> all;
    for (const auto& item : model->backbone()->named_parameters()) all.insert(item.key());
    return all;
  };
  auto shared = names(sharing({.source = 1, .layers = 1}));
  auto dense = names(testing::tiny_language_model(
      four_layers(), std::make_shared<StandardMethod>(StandardConfig{}, four_layers())));
  std::set<std::string> missing;
  for (const auto& name : dense)
    if (shared.count(name) == 0) missing.insert(name);
  EXPECT_EQ(missing, (std::set<std::string>{"block_2_query", "block_2_key"}));
  EXPECT_LT(shared.size(), dense.size());
}

// 2 sinks, 11 tokens of context, 3 of the question: 16 entries, of which a layer keeps keys and
// values of 2 heads x 8 fp32; beside them positions and order (int64) and validity, and the
// convolution's tail.
TEST(SharedAttention, CachesHalfALayerOfTheSpan) {
  torch::NoGradGuard no_grad;
  auto model = sharing({.source = 0, .layers = 3});
  MethodState state;
  read_batch(model, tiny_batch({{.context = 11, .tail = 3}}), {}, &state);
  const int64_t half = 16 * 2 * 8 * 4, bookkeeping = 16 * (8 + 8 + 1), tails = 4 * 3 * 32 * 4;
  EXPECT_EQ(model->method().state_bytes(state), 2 * half + bookkeeping + 3 * half + tails);
}

// Weights of a dense model in which a layer's queries and keys already give the probabilities of
// the layer before it: both have the same input only where the layer between adds nothing.
TEST(SharedAttention, EqualsDenseAttentionWhereTheLayersWouldAgree) {
  torch::NoGradGuard no_grad;
  auto config = four_layers();
  config.conv_width = 0;
  auto dense = testing::tiny_language_model(
      config, std::make_shared<StandardMethod>(StandardConfig{}, config));
  dense->to(at::kDouble);
  auto weights = dense->backbone()->named_parameters();
  for (const char* part : {"block_1_output", "block_1_down"}) weights[part].zero_();
  for (const char* part : {"query", "key", "attention_norm"})
    weights[std::string("block_2_") + part].copy_(weights[std::string("block_1_") + part]);
  LanguageModel shared(dense->backbone(),
                       std::make_shared<SharedAttentionMethod>(
                           SharedAttentionConfig{.source = 1, .layers = 1}, config),
                       testing::kTinyBegin);
  auto batch = tiny_batch({{.context = 20, .tail = 5, .sample = 1}, {.context = 7, .sample = 2}});
  MethodState of_dense, of_shared;
  auto valid = batch.tail_valid.unsqueeze(-1);
  EXPECT_TENSOR_NEAR(read_batch(shared, batch, {}, &of_shared) * valid,
                     read_batch(dense, batch, {}, &of_dense) * valid, (Tolerance{0, 1e-9}));
  auto ids = testing::token_ids("next", {2});
  auto open = at::ones({2}, at::kBool);
  EXPECT_TENSOR_NEAR(shared->read_next(ids, open, of_shared), dense->read_next(ids, open, of_dense),
                     (Tolerance{0, 1e-9}));
  EXPECT_LT(shared->method().state_bytes(of_shared), dense->method().state_bytes(of_dense));
}

TEST(SharedAttention, AMethodThatNeedsTheKeysSaysSo) {
  auto model = sharing({.source = 1, .layers = 2});
  try {
    LanguageModel other(model->backbone(),
                        std::make_shared<StandardMethod>(StandardConfig{}, four_layers()),
                        testing::kTinyBegin);
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("standard attends with the queries and keys of layer 2"));
  }
}

TEST(SharedAttention, TheSpanLiesWithinTheModel) {
  EXPECT_THROW(SharedAttentionMethod({.source = 2, .layers = 2}, four_layers()), ConfigError);
  TransformerConfig paper;
  paper.layers = 32;
  auto span = SharedAttentionConfig{}.resolved(paper);
  EXPECT_EQ(span.source, 22);
  EXPECT_EQ(span.layers, 4);
  span = SharedAttentionConfig{}.resolved(testing::tiny_model());
  EXPECT_EQ(span.source, 0);
  EXPECT_EQ(span.layers, 1);
}

}  // namespace
}  // namespace dsrsq
