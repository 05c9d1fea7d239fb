#include "dsrsq/ops/latent_attention.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <string>

#include "support/expect_tensor.h"
#include "support/latent_attention_cases.h"

namespace dsrsq {
namespace {

using ops::latent_attention;
using ops::LatentAttentionInputs;
using ops::LatentAttentionOptions;
using testing::test_devices;
using testing::Tolerance;

TEST(LatentAttention, MatchesOracleAndIsRepeatable) {
  for (const auto& op_case : testing::latent_attention_cases()) {
    testing::expect_parity(op_case);
    testing::expect_repeatable(op_case);
  }
}

TEST(LatentAttention, TakesAnyWidthOnACpu) {
  for (const auto& op_case : testing::latent_attention_cpu_cases()) {
    const auto expected = op_case.oracle(op_case.inputs), found = op_case.call(op_case.inputs);
    for (size_t i = 0; i < found.size(); ++i)
      EXPECT_TENSOR_NEAR(found[i], expected[i], op_case.tolerance) << op_case.name;
    if (!op_case.differentiable.empty()) testing::expect_gradients(op_case);
  }
}

LatentAttentionInputs plain_inputs(int64_t heads, int64_t kv_heads, int64_t tokens, int64_t slots,
                                   at::Device device) {
  const auto random = [&](at::IntArrayRef sizes) { return at::randn(sizes).to(device); };
  LatentAttentionInputs in;
  in.q = random({1, heads, tokens, 64});
  in.key_latents = random({1, slots, 32});
  in.value_latents = random({1, slots, 32});
  in.key_projection = random({32, kv_heads * 64}) / 8;
  in.value_projection = random({32, kv_heads * 64}) / 8;
  return in;
}

LatentAttentionOptions rotating(double base = 10000) {
  LatentAttentionOptions options{.125};
  for (int64_t i = 0; i < 32; ++i) options.frequencies.push_back(std::pow(base, -double(i) / 32));
  return options;
}

at::Tensor longs(int64_t begin, int64_t end, at::Device device) {
  return at::arange(begin, end, at::TensorOptions(device).dtype(at::kLong)).unsqueeze(0);
}

// By hand: equal logits, so each of L slots weighs 1 / L, and lse = log L.
TEST(LatentAttention, WorkedExample) {
  for (const at::Device device : test_devices()) {
    LatentAttentionInputs in = plain_inputs(2, 2, 1, 3, device);
    in.q = at::zeros_like(in.q);
    in.value_latents = at::zeros_like(in.value_latents);
    in.value_latents.select(2, 5).copy_(torch::tensor({1.f, 2.f, 6.f}).unsqueeze(0));
    const auto r = latent_attention(in, {1.0});
    const at::Tensor row = in.value_projection[5] * 3;  // the mean of 1, 2 and 6
    EXPECT_TENSOR_NEAR(r.out.view({128}), row, (Tolerance{1e-4, 1e-5}));
    EXPECT_TENSOR_NEAR(r.lse, at::full({1, 2, 1}, std::log(3.)), (Tolerance{1e-5, 0}));
  }
}

// D13: what is absorbed and what is rebuilt differ by rounding alone. Positions 0 turn nothing.
TEST(LatentAttention, AbsorbedEqualsRebuilt) {
  for (const at::Device device : test_devices())
    for (const int64_t tokens : {1, 90}) {
      LatentAttentionInputs in = plain_inputs(4, 2, tokens, 150, device);
      const auto absorbed = latent_attention(in, {.125});
      in.positions = at::zeros({1, 150}, at::TensorOptions(device).dtype(at::kLong));
      const auto rebuilt = latent_attention(in, rotating());
      EXPECT_TENSOR_NEAR(absorbed.out, rebuilt.out, (Tolerance{0, 1e-4}));
      EXPECT_TENSOR_NEAR(absorbed.lse, rebuilt.lse, (Tolerance{0, 1e-4}));
    }
}

// Both are turned by the same amount: only distances count, also far from the start.
TEST(LatentAttention, RotationSeesDistancesAlone) {
  for (const at::Device device : test_devices()) {
    LatentAttentionInputs in = plain_inputs(2, 2, 1, 70, device);
    const auto options = rotating();
    const auto turned = [&](int64_t position) {
      const at::Tensor angle =
          at::tensor(options.frequencies, at::kDouble).to(device) * double(position);
      const at::Tensor c = angle.cos(), s = angle.sin(), x = in.q.to(at::kDouble);
      const at::Tensor a = x.slice(3, 0, 32), b = x.slice(3, 32);
      return at::cat({a * c - b * s, b * c + a * s}, 3).to(at::kFloat);
    };
    const auto read = [&](int64_t shift) {
      LatentAttentionInputs there = in;
      there.q = turned(100 + shift);
      there.positions = longs(shift, shift + 70, device);
      return latent_attention(there, options);
    };
    const auto near = read(0), far = read(int64_t{1} << 30);
    EXPECT_TENSOR_NEAR(far.out, near.out, (Tolerance{0, 2e-4}));
    EXPECT_GT((latent_attention(in, {.125}).out - near.out).abs().max().item<double>(), 1e-2);
  }
}

// A token that is masked (brought back by the retriever, say) counts for nothing, wherever it is;
// duplicates count twice.
TEST(LatentAttention, MaskedSlotsAreNotThere) {
  for (const at::Device device : test_devices())
    for (const int64_t tokens : {1, 80}) {
      const LatentAttentionInputs in = plain_inputs(2, 1, tokens, 200, device);
      LatentAttentionInputs masked = in, shorter = in, twice = in;
      masked.valid = longs(0, 200, device).remainder(3) != 1;
      const at::Tensor left = masked.valid->view({-1}).nonzero().squeeze(1);
      for (at::Tensor* x : {&shorter.key_latents, &shorter.value_latents})
        *x = x->index_select(1, left);
      const auto expected = latent_attention(shorter, {.125});
      const auto found = latent_attention(masked, {.125});
      EXPECT_TENSOR_NEAR(found.out, expected.out, (Tolerance{1e-4, 1e-5}));
      EXPECT_TENSOR_NEAR(found.lse, expected.lse, (Tolerance{1e-4, 1e-5}));
      for (at::Tensor* x : {&twice.key_latents, &twice.value_latents}) *x = at::cat({*x, *x}, 1);
      const auto once = latent_attention(in, {.125}), both = latent_attention(twice, {.125});
      EXPECT_TENSOR_NEAR(both.out, once.out, (Tolerance{1e-4, 1e-5}));
      EXPECT_TENSOR_NEAR(both.lse, once.lse + std::log(2.), (Tolerance{1e-4, 1e-5}));
    }
}

// Ages share a bucket from each power of two to the next; the last bucket has no end.
TEST(LatentAttention, AgesFallIntoBuckets) {
  for (const at::Device device : test_devices()) {
    LatentAttentionInputs in = plain_inputs(2, 2, 1, 1, device);
    in.age_bias = at::arange(10, at::TensorOptions(device).dtype(at::kFloat)).view({2, 5});
    in.key_order = longs(1000, 1001, device);
    const double base = latent_attention(
                            [&] {
                              LatentAttentionInputs none = in;
                              none.age_bias = none.key_order = none.query_order = std::nullopt;
                              return none;
                            }(),
                            {.125})
                            .lse[0][1][0]
                            .item<double>();
    const std::vector<std::pair<int64_t, int64_t>> bucket_of = {
        {-5, 0}, {0, 0},  {1, 0},  {2, 1},   {3, 1},
        {4, 2},  {15, 3}, {16, 4}, {999, 4}, {int64_t{1} << 40, 4}};
    for (const auto& [age, bucket] : bucket_of) {
      in.query_order = longs(1000 + age, 1001 + age, device);
      EXPECT_NEAR(latent_attention(in, {.125}).lse[0][1][0].item<double>() - base, 5. + bucket,
                  1e-4)
          << age;
    }
  }
}

// Gradients of the device's own types against those of the oracle.
TEST(LatentAttention, GradientsMatchTheOracle) {
  for (const auto& op_case : testing::latent_attention_cases()) {
    if (op_case.inputs[0].numel() == 0 || op_case.inputs[1].numel() == 0) continue;
    const auto gradients = [&](const testing::TensorFunction& function, at::Device device,
                               bool wide) {
      auto inputs = testing::to_device(op_case.inputs, device);
      std::vector<at::Tensor> leaves;
      for (at::Tensor& x : inputs) {
        if (!x.defined() || !x.is_floating_point()) continue;
        if (wide) x = x.to(at::kDouble);
        x = x.detach().clone().requires_grad_(true);
        leaves.push_back(x);
      }
      const auto outputs = function(inputs);
      const at::Tensor weight =
          at::arange(outputs[0].numel(), at::TensorOptions(device).dtype(at::kDouble)).sin();
      const at::Tensor lse = outputs[1].masked_fill(outputs[1].isneginf(), 0);
      (outputs[0].to(at::kDouble).reshape(-1) * weight).sum().add(lse.sum() * .1).backward();
      std::vector<at::Tensor> found;
      for (const at::Tensor& leaf : leaves) found.push_back(leaf.grad());
      return found;
    };
    const auto expected = gradients(op_case.oracle, at::kCPU, true);
    for (const at::Device device : test_devices()) {
      SCOPED_TRACE(op_case.name + " on " + device.str());
      const auto found = gradients(op_case.call, device, false);
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < found.size(); ++i) {
        SCOPED_TRACE("gradient " + std::to_string(i));
        ASSERT_TRUE(found[i].defined());
        if (!expected[i].defined() || expected[i].numel() == 0) continue;
        const double size = expected[i].abs().max().item<double>();
        const double share = op_case.inputs[0].scalar_type() == at::kBFloat16 ? 1e-2 : 1e-3;
        EXPECT_TENSOR_NEAR(found[i], expected[i], (Tolerance{share, share * size + 1e-6}));
      }
    }
  }
}

TEST(LatentAttention, TenRunsAreEqual) {
  for (const at::Device device : test_devices())
    for (const int64_t tokens : {1, 100})
      for (const bool rotated : {false, true}) {
        LatentAttentionInputs in = plain_inputs(4, 2, tokens, 1000, device);
        for (at::Tensor* x : {&in.q, &in.key_latents, &in.value_latents})
          *x = x->to(at::kBFloat16).requires_grad_(true);
        in.key_projection.requires_grad_(true);
        if (rotated) in.positions = longs(0, 1000, device);
        at::Tensor out, lse, d_q, d_p;
        for (int run = 0; run < 10; ++run) {
          const auto r = latent_attention(in, rotated ? rotating() : LatentAttentionOptions{.125});
          const auto g =
              torch::autograd::grad({r.out.sum() + r.lse.sum()}, {in.q, in.key_projection});
          if (run == 0) {
            out = r.out, lse = r.lse, d_q = g[0], d_p = g[1];
            continue;
          }
          EXPECT_TENSOR_EQUAL(r.out, out);
          EXPECT_TENSOR_EQUAL(r.lse, lse);
          EXPECT_TENSOR_EQUAL(g[0], d_q);
          EXPECT_TENSOR_EQUAL(g[1], d_p);
        }
      }
}

TEST(LatentAttention, AutocastReadsQueriesInBf16AndLatentsAsTheyAre) {
  for (const at::Device device : test_devices()) {
    LatentAttentionInputs in = plain_inputs(2, 2, 1, 40, device);
    LatentAttentionInputs narrow = in;
    narrow.q = in.q.to(at::kBFloat16);
    const auto expected = latent_attention(narrow, {.125});
    at::autocast::set_autocast_enabled(device.type(), true);
    const auto r = latent_attention(in, {.125});
    at::autocast::set_autocast_enabled(device.type(), false);
    at::autocast::clear_cache();
    EXPECT_TENSOR_EQUAL(r.out, expected.out);
    EXPECT_TENSOR_EQUAL(r.lse, expected.lse);
  }
}

TEST(LatentAttention, WrongArgumentsAreNamed) {
  const LatentAttentionInputs in = plain_inputs(4, 2, 3, 5, at::kCPU);
  const auto expect_error = [](const LatentAttentionInputs& wrong, const std::string& part,
                               const LatentAttentionOptions& options = {.125}) {
    try {
      latent_attention(wrong, options);
      ADD_FAILURE() << "no error where one about " << part << " was expected";
    } catch (const c10::Error& e) {
      EXPECT_NE(std::string(e.what_without_backtrace()).find(part), std::string::npos) << e.what();
    }
  };
  LatentAttentionInputs w = in;
  w.q = in.q[0];
  expect_error(w, "q must be floating [B, H, T, d]");
  w = in, w.key_latents = in.key_latents.to(at::kBFloat16);
  expect_error(w, "key_latents must be");
  w = in, w.value_latents = in.value_latents.slice(1, 1);
  expect_error(w, "value_latents must be");
  w = in, w.key_projection = in.key_projection.slice(1, 0, 100);
  expect_error(w, "key_projection must be");
  w = in, w.key_projection = in.key_projection.repeat({1, 3});  // 6 heads
  expect_error(w, "a divisor of 4");
  w = in, w.value_projection = in.value_projection.slice(0, 1);
  expect_error(w, "value_projection must be");
  w = in, w.valid = at::ones({1, 5}, at::kInt);
  expect_error(w, "valid must be");
  w = in, w.key_bias = at::zeros({1, 4});
  expect_error(w, "key_bias must be");
  w = in, w.age_bias = at::zeros({4, 8});
  expect_error(w, "together");
  w.query_order = longs(0, 3, at::kCPU), w.key_order = longs(0, 4, at::kCPU);
  expect_error(w, "key_order must be");
  w.age_bias = at::zeros({4, 63});
  expect_error(w, "A <= 62");
  expect_error(in, "positions where there are frequencies", rotating());
  w = in, w.positions = longs(0, 5, at::kCPU);
  auto few = rotating();
  few.frequencies.pop_back();
  expect_error(w, "d / 2 frequencies", few);
  expect_error(in, "scale > 0", {0.});
  w = in, w.key_latents = at::empty(in.key_latents.sizes(), at::TensorOptions(at::kMeta));
  expect_error(w, "put them on one device");
  for (const at::Device device : test_devices()) {
    if (!device.is_cuda()) continue;
    LatentAttentionInputs odd = plain_inputs(4, 2, 3, 5, device);
    odd.key_latents = odd.key_latents.slice(2, 0, 20);
    odd.value_latents = odd.value_latents.slice(2, 0, 20);
    odd.key_projection = odd.key_projection.slice(0, 0, 20);
    odd.value_projection = odd.value_projection.slice(0, 0, 20);
    expect_error(odd, "c is 32, 64 or 128");
  }
}

}  // namespace
}  // namespace dsrsq
