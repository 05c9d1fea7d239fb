#include "dsrsq/ops/attention_mass.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <string>

#include "support/attention_mass_cases.h"
#include "support/expect_tensor.h"

namespace dsrsq {
namespace {

using ops::attention_mass;
using ops::AttentionMassInputs;
using testing::test_devices;
using testing::Tolerance;

TEST(AttentionMass, MatchesOracleIsRepeatableAndHasNoGradient) {
  testing::expect_op_cases(testing::attention_mass_cases());
}

// Causal attention of `tokens` positions; lse is that of the softmax over what a query sees.
AttentionMassInputs causal_inputs(int64_t heads, int64_t kv_heads, int64_t tokens,
                                  at::Device device) {
  AttentionMassInputs in;
  in.q = at::randn({1, heads, tokens, 16});
  in.k = at::randn({1, kv_heads, tokens, 16});
  const at::Tensor later = at::ones({tokens, tokens}, at::kBool).triu(1);
  in.lse = at::matmul(in.q, in.k.repeat_interleave(heads / kv_heads, 1).transpose(-1, -2))
               .masked_fill(later, -INFINITY)
               .logsumexp(-1)
               .to(device);
  in.q = in.q.to(device);
  in.k = in.k.to(device);
  in.query_position = at::arange(tokens, at::TensorOptions(device).dtype(at::kLong)).unsqueeze(0);
  in.key_position = in.query_position;
  return in;
}

// By hand: of equal logits a query at position p gives each of its p + 1 keys 1 / (p + 1).
TEST(AttentionMass, WorkedExample) {
  for (const at::Device device : test_devices()) {
    AttentionMassInputs in = causal_inputs(1, 1, 3, device);
    in.q = at::zeros_like(in.q);
    in.lse = torch::tensor({1.f, 2.f, 3.f}).log().view({1, 1, 3}).to(device);
    const auto r = attention_mass(in, {1.0});
    const auto row = [&](std::vector<double> x) {
      return torch::tensor(x, at::kDouble).view({1, 1, 3}).to(device);
    };
    EXPECT_TENSOR_NEAR(r.mass, row({11. / 6, 5. / 6, 1. / 3}), (Tolerance{1e-5, 0}));
    EXPECT_TENSOR_NEAR(r.squared, row({49. / 36, 13. / 36, 1. / 9}), (Tolerance{1e-5, 0}));
  }
}

TEST(AttentionMass, EveryQueryGivesOne) {
  for (const at::Device device : test_devices()) {
    const auto r = attention_mass(causal_inputs(4, 2, 150, device), {1.0});
    EXPECT_NEAR(r.mass.sum().item<double>(), 4 * 150, .05);
    EXPECT_LT(r.squared.sum().item<double>(), 4 * 150);
  }
}

TEST(AttentionMass, RangesOfQueriesAddUpAndPaddingCountsNothing) {
  for (const at::Device device : test_devices()) {
    const AttentionMassInputs all = causal_inputs(2, 1, 140, device);
    const auto range = [&](int64_t begin, int64_t end) {
      AttentionMassInputs in = all;
      in.q = all.q.slice(2, begin, end);
      in.lse = all.lse.slice(2, begin, end);
      in.query_position = all.query_position.slice(1, begin, end);
      return attention_mass(in, {1.0});
    };
    const auto whole = range(0, 140), first = range(0, 75), last = range(75, 140);
    EXPECT_TENSOR_NEAR(first.mass + last.mass, whole.mass, (Tolerance{1e-5, 1e-5}));
    EXPECT_TENSOR_NEAR(first.squared + last.squared, whole.squared, (Tolerance{1e-5, 1e-5}));
    EXPECT_EQ(first.mass.slice(2, 75).abs().sum().item<float>(), 0.f);  // nothing leaks back

    AttentionMassInputs padded = all;
    padded.query_position = all.query_position.clone();
    padded.query_position.slice(1, 75).fill_(-1);
    EXPECT_TENSOR_NEAR(attention_mass(padded, {1.0}).mass, first.mass, (Tolerance{1e-6, 1e-6}));
  }
}

TEST(AttentionMass, RoutedToAllClustersIsDense) {
  for (const at::Device device : test_devices()) {
    AttentionMassInputs in = causal_inputs(2, 2, 130, device);
    const auto dense = attention_mass(in, {1.0});
    const auto ints = at::TensorOptions(device).dtype(at::kInt);
    in.assignment = at::randint(5, {1, 2, 130}, ints);
    in.routes = at::arange(5, ints).expand({1, 2, 130, 5});
    EXPECT_TENSOR_EQUAL(attention_mass(in, {1.0, 5, 0, 0}).mass, dense.mass);
    in.routes = at::full({1, 2, 130, 1}, -1, ints);
    const auto own = attention_mass(in, {1.0, 5, 1, 0});  // a window of the query alone
    EXPECT_LT(own.mass.sum().item<double>(), dense.mass.sum().item<double>());
    EXPECT_TENSOR_NEAR(own.squared, own.mass.square().view({1, 2, 130}), (Tolerance{1e-4, 1e-6}));
  }
}

TEST(AttentionMass, AutocastTakesMixedTypes) {
  for (const at::Device device : test_devices()) {
    AttentionMassInputs in = causal_inputs(1, 1, 20, device);
    in.k = in.k.to(at::kBFloat16).to(at::kFloat);
    const auto plain = attention_mass(in, {1.0});
    in.k = in.k.to(at::kBFloat16);
    EXPECT_THROW(attention_mass(in, {1.0}), c10::Error);
    at::autocast::set_autocast_enabled(device.type(), true);
    const auto r = attention_mass(in, {1.0});
    at::autocast::set_autocast_enabled(device.type(), false);
    at::autocast::clear_cache();
    EXPECT_TENSOR_EQUAL(r.mass, plain.mass);
  }
}

TEST(AttentionMass, WrongArgumentsAreNamed) {
  const AttentionMassInputs in = causal_inputs(2, 1, 6, at::kCPU);
  const auto expect_error = [](const AttentionMassInputs& wrong, const std::string& part,
                               int64_t clusters = 4) {
    try {
      attention_mass(wrong, {1.0, clusters, 1, 0});
      ADD_FAILURE() << "no error where one about " << part << " was expected";
    } catch (const c10::Error& e) {
      EXPECT_NE(std::string(e.what_without_backtrace()).find(part), std::string::npos) << e.what();
    }
  };
  AttentionMassInputs w = in;
  w.q = in.q[0];
  expect_error(w, "q must be floating [B, H, N_q, d]");
  w = in, w.k = in.k.slice(3, 0, 8);
  expect_error(w, "k must be");
  w = in, w.lse = in.lse.slice(2, 1);
  expect_error(w, "lse must be");
  w = in, w.query_position = in.query_position.to(at::kInt);
  expect_error(w, "query_position must be");
  w = in, w.key_position = in.key_position.slice(1, 1);
  expect_error(w, "key_position must be");
  w = in, w.key_bias = at::zeros({1, 1, 5});
  expect_error(w, "key_bias must be");
  w = in, w.routes = at::zeros({1, 2, 6, 2}, at::kInt);
  expect_error(w, "assignment and routes together");
  w.assignment = at::zeros({1, 1, 6}, at::kInt);
  expect_error(w, "k <= m = 1", 1);
  w.assignment = at::zeros({1, 1, 5}, at::kInt);
  expect_error(w, "assignment must be");
  EXPECT_THROW(attention_mass(in, {0.0}), c10::Error);
  w = in, w.lse = at::empty(in.lse.sizes(), at::TensorOptions(at::kMeta));
  expect_error(w, "put them on one device");
  for (const at::Device device : test_devices()) {
    if (!device.is_cuda()) continue;
    AttentionMassInputs wide = causal_inputs(2, 1, 6, device);
    wide.q = wide.q.repeat({1, 1, 1, 40}), wide.k = wide.k.repeat({1, 1, 1, 40});
    expect_error(wide, "at most 256");
  }
}

TEST(AttentionMass, TakesAnyWidth) {
  AttentionMassInputs in = causal_inputs(2, 2, 70, at::kCPU);
  in.q = in.q.slice(3, 0, 6), in.k = in.k.slice(3, 0, 6);
  const at::Tensor later = at::ones({70, 70}, at::kBool).triu(1);
  const at::Tensor score =
      at::matmul(in.q, in.k.transpose(-1, -2)).masked_fill(later, -INFINITY).to(at::kDouble);
  in.lse = score.logsumexp(-1).to(at::kFloat);
  const at::Tensor expected = score.softmax(-1).square().sum(2);
  for (const at::Device device : test_devices()) {
    AttentionMassInputs there = in;
    for (at::Tensor* x :
         {&there.q, &there.k, &there.lse, &there.query_position, &there.key_position})
      *x = x->to(device);
    EXPECT_TENSOR_NEAR(attention_mass(there, {1.0}).squared.cpu().to(at::kDouble), expected,
                       (Tolerance{1e-3, 1e-5}));
  }
}

}  // namespace
}  // namespace dsrsq
