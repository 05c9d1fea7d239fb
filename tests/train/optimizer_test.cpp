#include "dsrsq/train/optimizer.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/nn/utils/clip_grad.h>
#include <torch/optim/adamw.h>
#include <torch/types.h>

#include <cmath>
#include <functional>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

at::Tensor weight(std::vector<float> values) {
  return torch::tensor(values).set_requires_grad(true);
}

at::Tensor copy_of(const at::Tensor& tensor) { return tensor.detach().clone(); }

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  return a.dtype() == b.dtype() && at::equal(a.detach(), b.detach());
}

// Gradients as a function of the step only, so that two optimizers can be given the same ones.
at::Tensor gradient_at(int64_t step, const at::Tensor& like) {
  const at::Tensor index = torch::arange(like.numel(), torch::kFloat).view(like.sizes());
  return torch::sin(index * 0.7 + static_cast<double>(step) * 1.3) * 0.5;
}

void set_gradients(AdamW& optimizer, int64_t step) {
  for (NamedParameter& parameter : optimizer.parameters())
    parameter.tensor.mutable_grad() = gradient_at(step, parameter.tensor);
}

std::vector<NamedParameter> two_parameters() {
  torch::manual_seed(3);
  return {{"layer.0.weight", torch::randn({7, 5}).set_requires_grad(true), 1.0, true, false},
          {"layer.0.bias", torch::randn({5}).set_requires_grad(true), 0.5, false, false}};
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing was thrown";
}

TEST(AdamW, FollowsTorchOverFiveStepsWithTwoGroups) {
  OptimizerConfig config;
  config.learning_rate = 0.01;
  AdamW optimizer(config, two_parameters());
  std::vector<at::Tensor> theirs;
  for (const NamedParameter& p : optimizer.parameters())
    theirs.push_back(copy_of(p.tensor).set_requires_grad(true));
  const auto options = [&](double rate, double decay) {
    return std::make_unique<torch::optim::AdamWOptions>(torch::optim::AdamWOptions(rate)
                                                            .betas({config.beta1, config.beta2})
                                                            .eps(config.epsilon)
                                                            .weight_decay(decay));
  };
  std::vector<torch::optim::OptimizerParamGroup> groups;
  groups.emplace_back(std::vector<at::Tensor>{theirs[0]}, options(0.01, config.weight_decay));
  groups.emplace_back(std::vector<at::Tensor>{theirs[1]}, options(0.005, 0.0));
  torch::optim::AdamW oracle(groups);

  for (int64_t step = 0; step < 5; ++step) {
    set_gradients(optimizer, step);
    for (at::Tensor& tensor : theirs) tensor.mutable_grad() = gradient_at(step, tensor);
    const at::Tensor norm = optimizer.gradient_norm();
    const double expected_norm = torch::nn::utils::clip_grad_norm_(theirs, config.clip);
    EXPECT_NEAR(norm.item<double>(), expected_norm, 1e-5 * expected_norm);
    ASSERT_GT(expected_norm, config.clip) << "clipping must act in this test";
    optimizer.clip_gradients(norm);
    optimizer.step(1.0);
    oracle.step();
    for (size_t i = 0; i < theirs.size(); ++i)
      EXPECT_TRUE(at::allclose(optimizer.parameters()[i].tensor, theirs[i], 1e-5, 1e-6))
          << "step " << step << ", parameter " << i;
  }
}

TEST(AdamW, FirstStepByHand) {
  OptimizerConfig config;
  config.learning_rate = 0.1;
  config.weight_decay = 0.5;
  AdamW optimizer(config, {{"w", weight({1, -2}), 2.0, true, false}});
  optimizer.parameters()[0].tensor.mutable_grad() = torch::tensor({4.0f, -0.25f});
  optimizer.step(0.5);
  // Rate 0.1 * 0.5 * 2 = 0.1: decay by 1 - 0.1 * 0.5, then a step of the rate against the sign of
  // the gradient.
  const at::Tensor w = optimizer.parameters()[0].tensor;
  EXPECT_NEAR(w[0].item<float>(), 0.95f - 0.1f, 1e-6);
  EXPECT_NEAR(w[1].item<float>(), -1.9f + 0.1f, 1e-6);
  const auto state = optimizer.state();
  ASSERT_EQ(state.size(), 3u);
  EXPECT_NEAR(state.at("first.w")[0].item<float>(), 0.1f * 4, 1e-6);
  EXPECT_NEAR(state.at("second.w")[0].item<float>(), 0.05f * 16, 1e-6);
  EXPECT_EQ(state.at("step.w").item<float>(), 1);
  EXPECT_EQ(state.at("step.w").dim(), 0);
  EXPECT_EQ(optimizer.bytes(), 2 * 8 + 4);
}

TEST(AdamW, NormAndClip) {
  OptimizerConfig config;
  AdamW optimizer(config, {{"a", weight({0, 0}), 1, false, false},
                           {"b", weight({0}), 1, false, false},
                           {"frozen", weight({0}), 1, false, true},
                           {"unused", weight({0}), 1, false, false}});
  EXPECT_EQ(optimizer.gradient_norm().item<float>(), 0);
  auto& p = optimizer.parameters();
  p[0].tensor.mutable_grad() = torch::tensor({3.0f, 0.0f});
  p[1].tensor.mutable_grad() = torch::tensor({-4.0f});
  p[2].tensor.mutable_grad() = torch::tensor({100.0f});
  const at::Tensor norm = optimizer.gradient_norm();
  EXPECT_EQ(norm.dim(), 0);
  EXPECT_EQ(norm.scalar_type(), at::kFloat);
  EXPECT_FLOAT_EQ(norm.item<float>(), 5);
  optimizer.clip_gradients(norm);
  EXPECT_NEAR(p[0].tensor.grad()[0].item<float>(), 0.6f, 1e-6);
  EXPECT_NEAR(p[1].tensor.grad()[0].item<float>(), -0.8f, 1e-6);
  EXPECT_EQ(p[2].tensor.grad()[0].item<float>(), 100) << "frozen: its gradient is not ours";
  EXPECT_LE(optimizer.gradient_norm().item<float>(), 1.0f);

  p[0].tensor.mutable_grad() = torch::tensor({0.3f, 0.0f});
  p[1].tensor.mutable_grad() = torch::tensor({0.4f});
  optimizer.clip_gradients(optimizer.gradient_norm());
  EXPECT_EQ(p[0].tensor.grad()[0].item<float>(), 0.3f) << "below the limit nothing changes";
  p[0].tensor.mutable_grad() = torch::tensor({NAN, 0.0f});
  EXPECT_TRUE(std::isnan(optimizer.gradient_norm().item<float>()));
}

TEST(AdamW, SkipsFrozenParametersAndThoseWithoutGradient) {
  AdamW optimizer(OptimizerConfig{}, two_parameters());
  set_gradients(optimizer, 0);
  optimizer.step(1.0);  // both have momentum now
  auto& p = optimizer.parameters();
  const at::Tensor before[] = {copy_of(p[0].tensor), copy_of(p[1].tensor)};
  const at::Tensor moment = copy_of(optimizer.state().at("first.layer.0.bias"));
  optimizer.zero_gradients();
  EXPECT_FALSE(p[0].tensor.grad().defined());
  set_gradients(optimizer, 1);
  p[0].tensor.mutable_grad().reset();
  p[1].frozen = true;
  optimizer.step(1.0);
  EXPECT_TRUE(same_bits(p[0].tensor, before[0]));
  EXPECT_TRUE(same_bits(p[1].tensor, before[1]));
  EXPECT_TRUE(same_bits(optimizer.state().at("first.layer.0.bias"), moment));
  EXPECT_EQ(optimizer.state().at("step.layer.0.bias").item<float>(), 1);
  p[1].frozen = false;
  optimizer.step(1.0);
  EXPECT_FALSE(same_bits(p[1].tensor, before[1])) << "thawed parameters go on";
}

TEST(AdamW, ResumeIsBitEqual) {
  AdamW straight(OptimizerConfig{}, two_parameters());
  for (int64_t step = 0; step < 6; ++step)
    set_gradients(straight, step), straight.step(1.0 / (1.0 + static_cast<double>(step)));

  AdamW first(OptimizerConfig{}, two_parameters());
  for (int64_t step = 0; step < 3; ++step)
    set_gradients(first, step), first.step(1.0 / (1.0 + static_cast<double>(step)));
  std::map<std::string, at::Tensor> saved;
  for (const auto& [name, tensor] : first.state()) saved[name] = tensor.clone();
  std::vector<NamedParameter> parameters;
  for (const NamedParameter& p : first.parameters()) {
    parameters.push_back(p);
    parameters.back().tensor = copy_of(p.tensor).set_requires_grad(true);
  }
  AdamW second(OptimizerConfig{}, parameters);
  second.load_state(saved);
  for (const auto& [name, tensor] : second.state())
    EXPECT_TRUE(same_bits(tensor, saved.at(name))) << name;
  for (int64_t step = 3; step < 6; ++step)
    set_gradients(second, step), second.step(1.0 / (1.0 + static_cast<double>(step)));
  for (size_t i = 0; i < 2; ++i)
    EXPECT_TRUE(same_bits(second.parameters()[i].tensor, straight.parameters()[i].tensor)) << i;
  EXPECT_EQ(saved.at("step.layer.0.bias").item<float>(), 3)
      << "load_state copies: the map is not changed by later steps";
}

TEST(AdamW, LoadStateNamesWhatIsWrongAndChangesNothing) {
  AdamW source(OptimizerConfig{}, two_parameters());
  set_gradients(source, 0);
  source.step(1.0);
  const auto whole = source.state();
  AdamW optimizer(OptimizerConfig{}, two_parameters());
  const auto message = [&](const std::map<std::string, at::Tensor>& state) {
    return message_of([&] { optimizer.load_state(state); });
  };
  auto state = whole;
  state.erase("second.layer.0.bias");
  EXPECT_NE(message(state).find("second.layer.0.bias is missing"), std::string::npos)
      << message(state);
  state = whole;
  state["first.other"] = torch::zeros({1});
  EXPECT_NE(message(state).find("first.other belongs to no parameter"), std::string::npos)
      << message(state);
  state = whole;
  state["first.layer.0.weight"] = torch::zeros({5, 7});
  EXPECT_NE(message(state).find("first.layer.0.weight: expected shape [7, 5]"), std::string::npos)
      << message(state);
  state = whole;
  state["step.layer.0.bias"] = torch::zeros({}, torch::kDouble);
  EXPECT_NE(message(state).find("step.layer.0.bias: expected"), std::string::npos)
      << message(state);
  EXPECT_THROW(optimizer.load_state(state), CheckpointError);
  EXPECT_TRUE(optimizer.state().empty());
  optimizer.load_state(whole);
  optimizer.load_state({});
  EXPECT_TRUE(optimizer.state().empty()) << "an optimizer saved before its first step";
}

TEST(AdamW, GradientsOfAnotherLayoutReachTheRightElements) {
  const at::Tensor gradient =
      torch::arange(6, torch::kFloat).view({3, 2}).t() - 2.5;  // strides (1, 2)
  std::vector<at::Tensor> results;
  for (const at::Tensor& g : {gradient, gradient.contiguous()}) {
    AdamW optimizer(OptimizerConfig{},
                    {{"w", torch::ones({2, 3}).set_requires_grad(true), 1, true, false}});
    optimizer.parameters()[0].tensor.mutable_grad() = g;
    optimizer.step(1.0);
    results.push_back(copy_of(optimizer.parameters()[0].tensor));
  }
  ASSERT_FALSE(gradient.is_contiguous());
  EXPECT_TRUE(same_bits(results[0], results[1]));
}

TEST(AdamW, KeepsFp32WeightsUnderBf16Autocast) {
  AdamW optimizer(OptimizerConfig{},
                  {{"w", torch::ones({4, 4}).set_requires_grad(true), 1, true, false}});
  const at::Tensor w = optimizer.parameters()[0].tensor;
  const at::Tensor before = copy_of(w);
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const at::Tensor out = torch::mm(torch::ones({2, 4}), w);
  const at::ScalarType computed = out.scalar_type();
  out.to(at::kFloat).sum().backward();
  const at::Tensor norm = optimizer.gradient_norm();
  optimizer.clip_gradients(norm);
  optimizer.step(1.0);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(computed, at::kBFloat16) << "autocast must act in this test";
  EXPECT_EQ(norm.scalar_type(), at::kFloat);
  EXPECT_EQ(w.scalar_type(), at::kFloat);
  EXPECT_EQ(optimizer.state().at("first.w").scalar_type(), at::kFloat);
  // 1 - 5e-5 is not a bf16 number: an update in bf16 would be lost.
  EXPECT_FALSE(same_bits(w, before));
  EXPECT_NEAR(w[0][0].item<float>(), 1 - 5e-5 * 1.1, 1e-6);
}

TEST(AdamW, RejectsParametersThatCannotBeUpdatedRight) {
  const at::Tensor tied = weight({1});
  EXPECT_THROW(AdamW(OptimizerConfig{}, {{"a", weight({1})}, {"a", weight({1})}}), Error);
  EXPECT_THROW(AdamW(OptimizerConfig{}, {{"a", tied}, {"b", tied}}), Error);
  EXPECT_THROW(AdamW(OptimizerConfig{}, {{"a", torch::ones({2}, torch::kBFloat16)}}), Error);
  EXPECT_THROW(AdamW(OptimizerConfig{}, {{"a", torch::ones({4, 4}).slice(1, 0, 2)}}), Error);
}

TEST(LearningRate, WarmsUpThenFollowsTheCosine) {
  OptimizerConfig config;
  config.warmup_steps = 4;
  config.final_share = 0.1;
  const int64_t total = 14;  // the cosine runs over steps 3 to 13
  EXPECT_DOUBLE_EQ(learning_rate_share(config, 0, total), 0.25);
  EXPECT_DOUBLE_EQ(learning_rate_share(config, 3, total), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate_share(config, 8, total), 0.55);
  EXPECT_DOUBLE_EQ(learning_rate_share(config, 13, total), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate_share(config, 50, total), 0.1);
  for (int64_t step = 4; step < total; ++step)
    EXPECT_LT(learning_rate_share(config, step, total),
              learning_rate_share(config, step - 1, total))
        << step;
  config.warmup_steps = 0;
  EXPECT_DOUBLE_EQ(learning_rate_share(config, 0, total), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate_share(config, 0, 1), 1.0);
}

TEST(LearningRate, ConstantThenLinear) {
  OptimizerConfig config;
  config.schedule = "constant_linear";
  config.warmup_steps = 2;
  config.constant_share = 0.5;
  config.final_share = 0.0;
  const int64_t total = 21;  // constant to step 10.5, then linear to step 20
  EXPECT_DOUBLE_EQ(learning_rate_share(config, 0, total), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate_share(config, 10, total), 1.0);
  EXPECT_NEAR(learning_rate_share(config, 15, total), 1 - 4.5 / 9.5, 1e-12);
  EXPECT_DOUBLE_EQ(learning_rate_share(config, 20, total), 0.0);
  config.constant_share = 1.0;
  EXPECT_DOUBLE_EQ(learning_rate_share(config, 20, total), 1.0);
  config.schedule = "sawtooth";
  EXPECT_THROW(learning_rate_share(config, 3, total), ConfigError);
  EXPECT_THROW(learning_rate_share(OptimizerConfig{}, -1, total), Error);
}

TEST(OptimizerConfig, LoadsAndRejects) {
  OptimizerConfig config;
  const VisitFields visit = [&](ConfigVisitor& v) { v.group("optimizer", config, "Optimizer."); };
  load_config_text("optimizer: {schedule: constant_linear, learning_rate: 0.001, clip: 0}\n",
                   "test.yaml", visit);
  EXPECT_EQ(config.schedule, "constant_linear");
  EXPECT_EQ(config.learning_rate, 0.001);
  EXPECT_EQ(config.clip, 0);
  EXPECT_THROW(load_config_text("optimizer: {schedule: step}\n", "test.yaml", visit), ConfigError);
  EXPECT_THROW(load_config_text("optimizer: {beta2: 1.0}\n", "test.yaml", visit), ConfigError);
  EXPECT_THROW(load_config_text("optimizer: {learning_rate: 0}\n", "test.yaml", visit),
               ConfigError);
}

}  // namespace
}  // namespace dsrsq
