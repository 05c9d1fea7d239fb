#include "dsrsq/ops/latent_project.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>

#include "dsrsq/ops/autocast.h"
#include "support/expect_tensor.h"
#include "support/latent_project_cases.h"

namespace dsrsq {
namespace {

using ops::latent_project;
using ops::latent_project_into;
using ops::LatentProjectInputs;
using testing::test_devices;
using testing::Tolerance;

TEST(LatentProject, MatchesOracleIsRepeatableAndHasGradients) {
  testing::expect_op_cases(testing::latent_project_cases());
}

LatentProjectInputs by_head(int64_t heads, int64_t tokens, at::Device device, at::ScalarType type) {
  const auto random = [&](at::IntArrayRef sizes) { return at::randn(sizes).to(device, type); };
  return {random({2, heads, tokens, 64}), random({2, heads, tokens, 64}),
          at::randn({128, heads * 64}).to(device) / 16, std::nullopt};
}

// In the slots named, and nowhere else.
void expect_own_slots(at::Device device, at::ScalarType source_type) {
  at::NoGradGuard no_grad;
  for (const auto type : {at::kBFloat16, at::kFloat}) {
    const LatentProjectInputs in = by_head(3, 70, device, source_type);
    const auto found = latent_project(in);
    at::Tensor slots = at::stack(
        {at::randperm(90, at::kLong).slice(0, 0, 70), at::randperm(90, at::kLong).slice(0, 0, 70)});
    slots.select(1, 5).fill_(-1);
    slots.select(1, 11).fill_(90);  // neither is a slot
    const auto old = at::TensorOptions(device).dtype(type);
    at::Tensor keys = at::full({2, 90, 64}, 7, old), values = at::full({2, 90, 64}, 8, old);
    at::Tensor expected_keys = keys.clone(), expected_values = values.clone();
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t t = 0; t < 70; ++t) {
        const auto slot = slots[b][t].item<int64_t>();
        if (slot < 0 || slot >= 90) continue;
        expected_keys[b][slot].copy_(found.keys[b][t]);
        expected_values[b][slot].copy_(found.values[b][t]);
      }
    const auto version = keys._version();
    latent_project_into(in, slots.to(device), keys, values);
    EXPECT_GT(keys._version(), version);
    EXPECT_TENSOR_EQUAL(keys, expected_keys);
    EXPECT_TENSOR_EQUAL(values, expected_values);
  }
}
TEST(LatentProject, WritesItsSlotsAlone) {
  for (const at::Device device : test_devices()) expect_own_slots(device, at::kBFloat16);
}
TEST(LatentProject, PlainProductsToTheirSlots) {
  for (const at::Device device : test_devices()) expect_own_slots(device, at::kFloat);
}

// P (W x) = (P W) x: what a block's input gives at once is what its keys and values give.
TEST(LatentProject, MergedEqualsProjectedTwice) {
  for (const at::Device device : test_devices()) {
    const at::Tensor x = at::randn({2, 40, 128}).to(device);
    const auto random = [&](at::IntArrayRef sizes) { return at::randn(sizes).to(device) / 12; };
    const at::Tensor w_k = random({192, 128}), w_v = random({192, 128});
    const at::Tensor b_k = random({192}), b_v = random({192});
    const at::Tensor p_k = random({32, 192}), p_v = random({32, 192});
    const auto heads = [](const at::Tensor& y) { return y.view({2, 40, 3, 64}).transpose(1, 2); };
    const auto twice =
        latent_project({heads(at::matmul(x, w_k.t()) + b_k), heads(at::matmul(x, w_v.t()) + b_v),
                        at::cat({p_k, p_v}), std::nullopt});
    const auto merged =
        latent_project({x, std::nullopt, at::cat({at::matmul(p_k, w_k), at::matmul(p_v, w_v)}),
                        at::cat({at::mv(p_k, b_k), at::mv(p_v, b_v)})});
    EXPECT_TENSOR_NEAR(merged.keys, twice.keys, (Tolerance{1e-4, 1e-5}));
    EXPECT_TENSOR_NEAR(merged.values, twice.values, (Tolerance{1e-4, 1e-5}));
  }
}

TEST(LatentProject, AutocastKeepsTypes) {
  for (const at::Device device : test_devices()) {
    const LatentProjectInputs in = by_head(2, 9, device, at::kFloat);
    const auto plain = latent_project(in);
    const ops::AutocastGuard autocast(device, true);
    EXPECT_TENSOR_EQUAL(latent_project(in).keys, plain.keys);
  }
}

TEST(LatentProject, TenRunsAreEqual) {
  for (const at::Device device : test_devices()) {
    const LatentProjectInputs in = by_head(12, 700, device, at::kBFloat16);
    const auto first = latent_project(in);
    for (int run = 1; run < 10; ++run) {
      const auto again = latent_project(in);
      EXPECT_TENSOR_EQUAL(again.keys, first.keys);
      EXPECT_TENSOR_EQUAL(again.values, first.values);
    }
  }
}

TEST(LatentProject, WrongArgumentsAreNamed) {
  const LatentProjectInputs in = by_head(2, 5, at::kCPU, at::kFloat);
  const auto expect_error = [](const auto& call, const std::string& part) {
    try {
      call();
      ADD_FAILURE() << "no error where one about " << part << " was expected";
    } catch (const c10::Error& e) {
      EXPECT_NE(std::string(e.what_without_backtrace()).find(part), std::string::npos) << e.what();
    }
  };
  const auto wrong = [&](const LatentProjectInputs& w, const std::string& part) {
    expect_error([&] { latent_project(w); }, part);
  };
  LatentProjectInputs w = in;
  w.source = in.source[0][0];
  wrong(w, "source must be floating");
  w = in, w.value_source = in.source.to(at::kBFloat16);
  wrong(w, "value_source must be like source");
  w = in, w.weight = in.weight.slice(0, 0, 5);
  wrong(w, "weight must be");
  w = in, w.bias = at::zeros({5});
  wrong(w, "bias must be");
  w = in, w.weight = at::empty(in.weight.sizes(), at::TensorOptions(at::kMeta));
  wrong(w, "put them on one device");

  at::Tensor slots = at::zeros({2, 5}, at::kLong), keys = at::zeros({2, 8, 64});
  at::Tensor values = keys.clone();
  const auto into = [&](at::Tensor s, at::Tensor k, at::Tensor v, const std::string& part) {
    expect_error([&] { latent_project_into(in, s, k, v); }, part);
  };
  into(slots.to(at::kInt), keys, values, "slots must be int64");
  into(slots, keys.transpose(0, 1), values, "keys must be contiguous");
  into(slots, keys, values.slice(1, 1), "values must be like keys");
  w = in, w.weight = in.weight.clone().requires_grad_(true);
  expect_error([&] { latent_project_into(w, slots, keys, values); }, "without gradient");
}

}  // namespace
}  // namespace dsrsq
