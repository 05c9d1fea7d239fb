// What eviction methods score by: sums of probabilities that are never formed, against those of an
// explicit softmax in fp64.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "dsrsq/methods/h2o.h"
#include "support/expect_tensor.h"
#include "support/op_case.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;
using testing::Tolerance;

constexpr int64_t kSinks = 2, kHeads = 4, kKv = 2, kWidth = 8, kContext = 37;

struct Exposed : H2oMethod {
  using H2oMethod::attention_mass;
  using H2oMethod::H2oMethod;
  using H2oMethod::memory_of;
  using H2oMethod::observation_window;
  using H2oMethod::window_mass;
};

// Two sequences of 37 and 20 context tokens behind the sinks, padded at the end.
struct Scene {
  Batch batch;
  AttentionInput input;
  at::Tensor probability;  // [B, H, T, T] fp64; 0 in padded rows

  Scene(at::Device device, at::ScalarType type) {
    auto tokens = kSinks + kContext;
    auto valid = at::ones({2, tokens}, at::kBool);
    valid[1].slice(0, kSinks + 20).fill_(false);
    batch.context = at::zeros({2, kContext}, at::kLong);
    batch.context_valid = valid.slice(1, kSinks);
    batch = batch.to(device);
    input.q = (normal("window q", {2, kHeads, tokens, kWidth}) * 2).to(device, type);
    input.k = (normal("window k", {2, kKv, tokens, kWidth}) * 2).to(device, type);
    input.v = normal("window v", {2, kKv, tokens, kWidth}).to(device, type);
    input.valid = valid.to(device);
    input.padded = true;
    input.order = input.positions = (input.valid.cumsum(1) - 1).clamp_min(0);
    input.segments = {tokens, 0};
    auto q = input.q.cpu().to(at::kDouble), k = input.k.cpu().to(at::kDouble);
    auto logits = at::matmul(q, k.repeat_interleave(kHeads / kKv, 1).transpose(-1, -2)) /
                  std::sqrt(double(kWidth));
    auto hidden = at::ones({tokens, tokens}, at::kBool).triu(1);
    probability =
        at::softmax(logits.masked_fill(hidden, -INFINITY), -1) * valid.view({2, 1, tokens, 1});
  }

  // Over the rows of `rows` bool [B, T] and the context's entries, of each query head.
  at::Tensor sums(const at::Tensor& rows, bool squared) const {
    auto own = squared ? probability.square() : probability;
    return (own * rows.view({2, 1, -1, 1})).sum(2).slice(2, kSinks);
  }
};

TEST(EvictionWindow, SumsAreThoseOfTheSoftmax) {
  torch::NoGradGuard no_grad;
  EvictionConfig config;
  config.window = 5;
  for (const auto device : testing::test_devices()) {
    for (const auto type : {at::kFloat, at::kDouble}) {
      if (type == at::kDouble && device.is_cuda()) continue;
      Scene scene(device, type);
      Exposed method(config, testing::tiny_model());
      PassOptions options;
      options.budget_share = 0.2;  // windows of 3 and of 2 rows
      auto state = method.make_state(scene.batch, options);
      method.attend(scene.input, state);
      auto& memory = method.memory_of(state);
      auto& layer = state.layers[0];
      // Once with the log-sum-exp of the prefill, once where there was none.
      if (device.is_cpu()) EXPECT_TRUE(memory.lse.defined());
      for (bool found : {memory.lse.defined(), false}) {
        SCOPED_TRACE(device.str() + (found ? ", fused" : "") + " " + c10::toString(type));
        if (!found) memory.lse = at::Tensor();
        auto bound = type == at::kDouble ? 1e-12 : device.is_cuda() ? 1e-3 : 1e-5;
        auto near = [&](const at::Tensor& actual, const at::Tensor& expected) {
          // What padding is given is masked by whoever ranks.
          auto own = scene.batch.context_valid.cpu().unsqueeze(1);
          EXPECT_TENSOR_NEAR(actual.cpu().to(at::kDouble) * own, expected * own,
                             (Tolerance{bound, bound}));
        };
        auto all = method.attention_mass(scene.input, layer, memory);
        auto every = at::ones({2, kSinks + kContext}, at::kBool);
        auto of_group = [](const at::Tensor& x) {
          return x.view({2, kKv, kHeads / kKv, kContext}).sum(2);
        };
        near(all.mass, of_group(scene.sums(every, false)));
        near(all.squared, of_group(scene.sums(every, true)));

        auto last = at::zeros({2, kSinks + kContext}, at::kBool);
        last[0].slice(0, kSinks + kContext - 3).fill_(true);
        last[1].slice(0, kSinks + 20 - 2, kSinks + 20).fill_(true);
        auto window = method.observation_window(scene.input, memory);
        auto observed = method.window_mass(scene.input, layer, memory, window);
        near(observed.mass, scene.sums(last, false));
        near(observed.squared, scene.sums(last, true));
      }
    }
  }
}

}  // namespace
}  // namespace dsrsq
