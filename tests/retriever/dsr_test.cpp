#include "dsrsq/retriever/dsr.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;
using testing::Tolerance;

constexpr int64_t kModel = 10;

Dsr make_dsr(const std::string& input = "embedding_conv") {
  DsrConfig config;
  config.width = 6;
  config.conv_width = 3;
  config.input = input;
  config.temperature = 0.2;
  return Dsr(config, kModel, 5);
}

at::Tensor mean() { return normal("mean", {kModel}) * 3; }  // far from 0: centring matters

at::Tensor parameter(const Dsr& dsr, const char* name) {
  return dsr->named_parameters()[name].detach().to(at::kDouble);
}

double cosine(const at::Tensor& x, const at::Tensor& y) {
  return (x.dot(y) / (x.norm() * y.norm())).item<double>();
}

TEST(Dsr, ScoresAreCosinesOverTemperature) {
  for (const char* input : {"embedding_conv", "embedding"}) {
    auto dsr = make_dsr(input);
    auto context = normal("context", {2, 7, kModel}) + mean(),
         question = normal("question", {2, 2, 4, kModel}) + mean();
    auto valid = at::ones({2, 7}, at::kBool), question_valid = at::ones({2, 2, 4}, at::kBool);
    valid[1].slice(0, 5).fill_(false);
    question_valid[0][1].slice(0, 2).fill_(false);
    auto inputs = dsr->context_inputs(context, mean());
    auto phi = dsr->scores(dsr->encode_questions(question, question_valid.to(at::kFloat), mean()),
                           dsr->encode_context(inputs, mean()), valid);
    ASSERT_EQ(phi.sizes(), (std::vector<int64_t>{2, 2, 7}));
    EXPECT_EQ(phi.scalar_type(), at::kFloat);
    auto wide = (context - mean()).to(at::kDouble);
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t q = 0; q < 2; ++q) {
        auto tokens = question_valid[b][q].sum().item<int64_t>();
        auto pooled = (question[b][q].slice(0, 0, tokens) - mean()).to(at::kDouble).mean(0);
        auto asked = at::matmul(parameter(dsr, "question_projection"), pooled);
        for (int64_t i = 0; i < 7; ++i) {
          if (!valid[b][i].item<bool>()) {
            EXPECT_EQ(phi[b][q][i].item<float>(), -std::numeric_limits<float>::infinity());
            continue;
          }
          auto y = wide[b][i];
          if (std::string(input) == "embedding_conv") {  // tap 2 is the token itself
            y = at::zeros({kModel}, at::kDouble);
            for (int64_t tap = 0; tap < 3; ++tap)
              if (i - 2 + tap >= 0)
                y = y + parameter(dsr, "conv").select(1, tap) * wide[b][i - 2 + tap];
          }
          EXPECT_NEAR(phi[b][q][i].item<double>(),
                      cosine(asked, at::matmul(parameter(dsr, "context_projection"), y)) / 0.2,
                      2e-5);
        }
      }
  }
}

TEST(Dsr, QuestionsArePooledByWeight) {
  auto dsr = make_dsr();
  auto question = normal("question", {1, 1, 3, kModel}),
       weights = at::tensor({2.f, 0.f, 1.f}).view({1, 1, 3});
  auto centred = (question[0][0] - mean()).to(at::kDouble);
  auto expected = at::matmul(parameter(dsr, "question_projection"), centred[0] * 2 + centred[2]);
  EXPECT_TENSOR_NEAR(dsr->encode_questions(question, weights, mean())[0][0],
                     expected / expected.norm(), (Tolerance{0, 1e-5}));
}

// By hand: 8 context tokens, token 3 occurs three times, token 4 never; padding counts nowhere.
TEST(QuestionWeights, RarityDiscountsWhatTheContextRepeats) {
  auto context = at::tensor({3, 3, 5, 3, 6, 7, 8, 9, 4, 4}, at::kLong).view({1, 10});
  auto context_valid = (at::arange(10) < 8).view({1, 10});
  auto questions = at::tensor({3, 4, 5, 4}, at::kLong).view({1, 1, 4});
  auto valid = at::tensor({1, 1, 1, 0}, at::kLong).view({1, 1, 4}).to(at::kBool);
  auto weights = question_weights("rarity", questions, valid, context, context_valid);
  auto expected =
      at::tensor({std::log(8.0 / 4) / std::log(8.0), 1.0, std::log(8.0 / 2) / std::log(8.0), 0.0},
                 at::kDouble)
          .view({1, 1, 4});
  EXPECT_TENSOR_NEAR(weights, expected, (Tolerance{0, 1e-6}));
  EXPECT_TENSOR_EQUAL(question_weights("mean", questions, valid, context, context_valid),
                      valid.to(at::kFloat));
}

TEST(Dsr, EqualStartSharesValuesNotStorage) {
  DsrConfig config;
  config.width = 6;
  config.start = "equal";
  Dsr dsr(config, kModel, 5);
  auto question = dsr->named_parameters()["question_projection"],
       context = dsr->named_parameters()["context_projection"];
  EXPECT_TENSOR_EQUAL(question, context);
  EXPECT_TRUE(question.is_leaf() && context.is_leaf());
  torch::NoGradGuard no_grad;
  question.add_(1);
  EXPECT_FALSE(at::equal(question, context));
  config.start = "independent";
  Dsr apart(config, kModel, 5);
  EXPECT_FALSE(at::equal(apart->named_parameters()["question_projection"],
                         apart->named_parameters()["context_projection"]));
}

TEST(Dsr, EncodingsAreUnitVectors) {
  auto dsr = make_dsr();
  auto context =
      dsr->encode_context(dsr->context_inputs(normal("context", {2, 7, kModel}), mean()), mean());
  EXPECT_TENSOR_NEAR(context.norm(2, -1), at::ones({2, 7}), (Tolerance{0, 1e-6}));
  auto absent =
      dsr->encode_questions(normal("question", {2, 1, 4, kModel}), at::zeros({2, 1, 4}), mean());
  EXPECT_TRUE(absent.isfinite().all().item<bool>());
}

// What the reader gathers at a token depends on that token and those before it.
TEST(Dsr, ContextInputsAreCausal) {
  auto dsr = make_dsr();
  auto context = normal("context", {1, 9, kModel});
  auto changed = context.clone();
  changed.select(1, 5).add_(1);
  auto before = dsr->context_inputs(context, mean()), after = dsr->context_inputs(changed, mean());
  EXPECT_TENSOR_EQUAL(after.slice(1, 0, 5), before.slice(1, 0, 5));
  for (int64_t i : {5, 6, 7})
    EXPECT_GT((after - before).select(1, i).abs().max().item<double>(), 1e-3);
  EXPECT_TENSOR_EQUAL(after.slice(1, 8), before.slice(1, 8));
}

TEST(Dsr, EmbeddingInputHasNoConvolution) {
  auto dsr = make_dsr("embedding");
  EXPECT_FALSE(dsr->named_parameters().contains("conv"));
  auto context = normal("context", {1, 9, kModel});
  EXPECT_TENSOR_EQUAL(dsr->context_inputs(context, mean()), context);
  EXPECT_TRUE(make_dsr()->named_parameters().contains("conv"));
}

TEST(Dsr, TemperatureIsClampedAndLearned) {
  auto dsr = make_dsr();
  EXPECT_NEAR(dsr->temperature(), 0.2, 1e-6);
  auto unit = at::ones({1, 1, 1}), valid = at::ones({1, 1}, at::kBool);
  dsr->scores(unit, unit, valid).sum().backward();
  EXPECT_NEAR(dsr->named_parameters()["log_temperature"].grad().item<double>(), -5,
              1e-4);  // d exp(-x) / dx at .2
  for (auto [value, expected] : {std::pair{1e-4, 0.02}, {50.0, 1.0}}) {
    at::NoGradGuard no_grad;
    dsr->named_parameters()["log_temperature"].fill_(std::log(value));
    EXPECT_NEAR(dsr->temperature(), expected, 1e-6);
    EXPECT_NEAR(dsr->scores(unit, unit, valid).item<double>(), 1 / expected, 1e-4);
  }
}

TEST(Dsr, GradientReachesEveryParameter) {
  auto dsr = make_dsr();
  auto phi = dsr->scores(
      dsr->encode_questions(normal("question", {1, 1, 4, kModel}), at::ones({1, 1, 4}), mean()),
      dsr->encode_context(dsr->context_inputs(normal("context", {1, 7, kModel}), mean()), mean()),
      at::ones({1, 7}, at::kBool));
  phi.square().sum().backward();
  for (const auto& one : dsr->named_parameters()) {
    ASSERT_TRUE(one.value().grad().defined()) << one.key();
    EXPECT_GT(one.value().grad().norm().item<double>(), 1e-4) << one.key();
  }
}

}  // namespace
}  // namespace dsrsq
