#include "dsrsq/ops/cluster_attention.h"

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "dsrsq/ops/cluster_route.h"
#include "dsrsq/ops/reference.h"
#include "support/expect_tensor.h"
#include "support/gradcheck.h"
#include "support/op_case.h"

namespace dsrsq {
namespace {

using ops::cluster_attention;
using ops::ClusterAttention;
using ops::ClusterAttentionOptions;
using testing::test_devices;

struct Shape {
  std::string name;
  int64_t batch, heads, kv_heads, queries, keys, width, clusters, slots, window, sinks;
  bool skewed = false;  // one cluster has 90 % of the keys, half have none, some keys are in none
  bool biased = false;
};

struct Inputs {
  at::Tensor q, k, v, assignment, routes;
  std::optional<at::Tensor> key_bias;
  ClusterAttentionOptions options;

  Inputs to(at::Device device, at::ScalarType type) const {
    const auto cast = [&](const at::Tensor& x) { return x.to(device, type); };
    const auto bias_type = type == at::kDouble ? at::kDouble : at::kFloat;
    return {cast(q),
            cast(k),
            cast(v),
            assignment.to(device),
            routes.to(device),
            key_bias.has_value() ? std::optional(key_bias->to(device, bias_type)) : std::nullopt,
            options};
  }
};

// Values that bf16 holds exactly, so that every precision starts from the same numbers.
Inputs make_inputs(const Shape& s) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(
      static_cast<uint64_t>(s.keys * 31 + s.clusters * 7 + s.width));
  const auto normal = [&](at::IntArrayRef shape) {
    return at::randn(shape, generator, at::TensorOptions(at::kFloat))
        .to(at::kBFloat16)
        .to(at::kFloat);
  };
  const std::vector<int64_t> by_key = {s.batch, s.kv_heads, s.keys};
  const auto fp32 = at::TensorOptions(at::kFloat);
  Inputs in;
  in.q = normal({s.batch, s.heads, s.queries, s.width});
  in.k = normal({s.batch, s.kv_heads, s.keys, s.width});
  in.v = normal({s.batch, s.kv_heads, s.keys, s.width});
  at::Tensor draw = at::rand(by_key, generator, fp32) * s.clusters;
  at::Tensor score = at::rand({s.batch, s.heads, s.queries, s.clusters}, generator, fp32);
  if (s.skewed) {
    const at::Tensor u = at::rand(by_key, generator, fp32);
    draw = at::where(u < .9, at::zeros_like(draw), draw / 2);
    draw = at::where(u > .98, at::full_like(draw, -1), draw);
    score.select(-1, 0) += .5;
  }
  in.assignment = draw.floor().to(at::kInt);
  in.routes = std::get<1>(score.topk(s.slots, -1)).to(at::kInt);
  if (s.skewed) {  // some slots are unused
    in.routes = in.routes.masked_fill(at::rand(in.routes.sizes(), generator, fp32) < .1, -1);
  }
  if (s.biased) in.key_bias = at::randn(by_key, generator, fp32);
  in.options = {s.clusters, s.window, s.sinks, 1 / std::sqrt(static_cast<double>(s.width))};
  return in;
}

std::vector<Shape> shapes() {
  return {
      {"one token", 1, 2, 1, 1, 1, 64, 4, 2, 128, 4},
      {"63", 2, 4, 2, 63, 63, 64, 4, 2, 16, 4, false, true},
      {"65", 2, 4, 2, 65, 65, 64, 8, 8, 16, 4, false, true},
      {"clusters alone", 1, 2, 2, 500, 500, 64, 8, 3, 0, 0},
      {"1000 of width 128", 1, 4, 2, 1000, 1000, 128, 8, 3, 128, 4, false, true},
      {"skewed, a chunk of queries", 1, 2, 2, 700, 1000, 64, 16, 4, 100, 70, true, true},
      {"clusters of several passes", 1, 2, 1, 1500, 1500, 64, 3, 2, 100, 4, false, true},
      {"more clusters than a block has threads", 1, 2, 2, 600, 600, 64, 600, 8, 32, 4},
  };
}

ClusterAttention call(const Inputs& in) {
  return cluster_attention(in.q, in.k, in.v, in.assignment, in.routes, in.key_bias, in.options);
}
ClusterAttention oracle(const Inputs& in) {
  return ops::reference::cluster_attention(in.q, in.k, in.v, in.assignment, in.routes, in.key_bias,
                                           in.options);
}

// The outputs and the gradients of a random weighting of `out`.
std::vector<at::Tensor> run(Inputs in, const at::Tensor& weighting,
                            ClusterAttention (*function)(const Inputs&)) {
  std::vector<at::Tensor> leaves = {in.q, in.k, in.v};
  if (in.key_bias.has_value()) leaves.push_back(*in.key_bias);
  for (at::Tensor& leaf : leaves) leaf = leaf.detach().clone().requires_grad_(true);
  in.q = leaves[0], in.k = leaves[1], in.v = leaves[2];
  if (in.key_bias.has_value()) in.key_bias = leaves[3];
  const ClusterAttention r = function(in);
  EXPECT_FALSE(r.lse.requires_grad());
  std::vector<at::Tensor> results = {r.out.detach(), r.lse};
  const at::Tensor d_out = weighting.to(r.out.device(), r.out.scalar_type());
  for (const at::Tensor& gradient : torch::autograd::grad({r.out}, leaves, {d_out})) {
    results.push_back(gradient);
  }
  return results;
}

double error(const at::Tensor& actual, const at::Tensor& expected) {
  const at::Tensor x = actual.to(at::kCPU, at::kDouble), y = expected.to(at::kDouble);
  const at::Tensor difference = at::where(x == y, at::zeros_like(x), x - y);  // infinities agree
  const at::Tensor scale = at::where(y.isfinite(), y, at::zeros_like(y)).norm();
  return difference.norm().item<double>() / std::max(scale.item<double>(), 1.0);
}

// The same formula composed of torch's operators in the precision under test.
ClusterAttention composition(const Inputs& in) {
  const int64_t group = in.q.size(1) / in.k.size(1);
  const at::Tensor cluster = in.assignment.repeat_interleave(group, 1).unsqueeze(2).unsqueeze(-1);
  const auto longs = in.q.options().dtype(at::kLong);
  const at::Tensor p = at::arange(in.k.size(2) - in.q.size(2), in.k.size(2), longs).unsqueeze(1);
  const at::Tensor j = at::arange(in.k.size(2), longs);
  const at::Tensor sees = (in.routes.unsqueeze(3) == cluster)
                              .any(-1)
                              .logical_or(j < in.options.sinks)
                              .logical_or(p - j < in.options.window)
                              .logical_and(j <= p)
                              .logical_and(cluster.squeeze(-1) >= 0);
  at::Tensor score =
      at::matmul(in.q, in.k.repeat_interleave(group, 1).transpose(-1, -2)) * in.options.scale;
  if (in.key_bias.has_value()) {
    score = score + in.key_bias->to(score.scalar_type()).repeat_interleave(group, 1).unsqueeze(2);
  }
  score = score.masked_fill(sees.logical_not(), -INFINITY);
  const at::Tensor weight = score.softmax(-1).masked_fill(sees.logical_not(), 0);
  return {at::matmul(weight, in.v.repeat_interleave(group, 1)), score.detach().logsumexp(-1)};
}

TEST(ClusterAttention, ErrsAtMostTwiceAsMuchAsTorchsOperatorsInTheSameType) {
  for (const Shape& shape : shapes()) {
    const Inputs in = make_inputs(shape);
    const at::Tensor weighting = at::randn_like(in.q).to(at::kBFloat16);
    const auto expected = run(in, weighting, oracle);
    for (const at::Device device : test_devices()) {
      SCOPED_TRACE(shape.name + " on " + device.str());
      const Inputs there = in.to(device, at::kBFloat16);
      const auto actual = run(there, weighting, call);
      const auto other = run(there, weighting, composition);
      ASSERT_EQ(actual.size(), expected.size());
      for (size_t i = 0; i < actual.size(); ++i) {
        const bool nan_there = other[i].isnan().any().item<bool>();  // of queries that see no key
        const double bound = nan_there ? 2e-2 : 2 * error(other[i], expected[i]) + 1e-5;
        EXPECT_LE(error(actual[i], expected[i]), bound) << "result " << i;
      }
    }
  }
}

TEST(ClusterAttention, ExactInFp32OnTheCpu) {
  for (const Shape& shape : shapes()) {
    SCOPED_TRACE(shape.name);
    const Inputs in = make_inputs(shape);
    const at::Tensor weighting = at::randn_like(in.q);
    const auto expected = run(in, weighting, oracle);
    const auto actual = run(in, weighting, call);
    for (size_t i = 0; i < actual.size(); ++i) EXPECT_LE(error(actual[i], expected[i]), 1e-5);
  }
}

// By plain tensor operations: no device, type or width is left out.
TEST(ClusterAttentionPlain, MatchesTheOracleInEveryTypeOnEveryDevice) {
  auto all = shapes();
  all.push_back({"of any width", 2, 4, 2, 300, 333, 6, 40, 20, 3, 200, true, true});
  for (const Shape& shape : all) {
    const Inputs in = make_inputs(shape);
    const at::Tensor weighting = at::randn_like(in.q).to(at::kBFloat16).to(at::kFloat);
    const auto expected = run(in.to(at::kCPU, at::kDouble), weighting, oracle);
    for (const at::Device device : test_devices()) {
      for (const auto& [type, bound] : std::vector<std::pair<at::ScalarType, double>>{
               {at::kDouble, 1e-9}, {at::kFloat, 1e-5}, {at::kBFloat16, 1e-2}}) {
        SCOPED_TRACE(shape.name + " on " + device.str() + " in " + c10::toString(type));
        Inputs there = in.to(device, type);
        there.options.plain = true;
        const auto actual = run(there, weighting, call);
        for (size_t i = 0; i < actual.size(); ++i)
          EXPECT_LE(error(actual[i], expected[i]), bound) << "result " << i;
      }
    }
  }
}

// Autocast rounds what goes in, nothing on the way, and nothing in the backward pass.
TEST(ClusterAttentionPlain, AutocastRoundsTheInputsAlone) {
  for (const at::Device device : test_devices()) {
    Inputs in = make_inputs({"", 1, 2, 1, 300, 300, 24, 4, 2, 8, 1, false, true});
    in.options.plain = true;
    const at::Tensor weighting = at::randn_like(in.q);
    const auto expected = run(in.to(device, at::kBFloat16), weighting, call);
    at::autocast::set_autocast_enabled(device.type(), true);
    const auto actual = run(in.to(device, at::kFloat), weighting, call);
    at::autocast::set_autocast_enabled(device.type(), false);
    at::autocast::clear_cache();
    for (size_t i = 0; i < actual.size(); ++i)
      EXPECT_TENSOR_EQUAL(actual[i].to(expected[i].scalar_type()), expected[i]);
  }
}

TEST(ClusterAttention, GradientsMatchCentralDifferences) {
  Inputs in =
      make_inputs({"", 1, 2, 1, 5, 7, 4, 3, 2, 2, 1, false, true}).to(at::kCPU, at::kDouble);
  const auto function = [&](const std::vector<at::Tensor>& x) -> std::vector<at::Tensor> {
    return {cluster_attention(x[0], x[1], x[2], in.assignment, in.routes, x[3], in.options).out};
  };
  EXPECT_TRUE(testing::gradcheck(function, {in.q, in.k, in.v, *in.key_bias}, {0, 1, 2, 3}));
}

// The softmax over the union with other keys, whose part comes as out and log-sum-exp.
void expect_joined(bool plain) {
  Inputs in = make_inputs({"", 2, 4, 2, 40, 60, 64, 4, 2, 5, 1, true});
  in.options.plain = plain;
  const at::Tensor other_k = at::randn({2, 4, 11, 64}), other_v = at::randn({2, 4, 11, 64});
  const auto part = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const at::Tensor score = at::matmul(q, k.transpose(-1, -2)) * in.options.scale;
    return ClusterAttention{at::matmul(score.softmax(-1), v), score.logsumexp(-1)};
  };
  for (const at::Device device : test_devices()) {
    const auto type = device.is_cuda() ? at::kBFloat16 : at::kFloat;
    const Inputs there = in.to(device, type);
    const auto other = part(there.q, other_k.to(device, type), other_v.to(device, type));
    const auto actual = cluster_attention(there.q, there.k, there.v, there.assignment, there.routes,
                                          std::nullopt, there.options, other);
    const auto own = oracle(in);
    const auto rest = part(in.q.to(at::kDouble), other_k.to(at::kDouble), other_v.to(at::kDouble));
    const at::Tensor lse = at::logaddexp(own.lse, rest.lse);
    const at::Tensor out = own.out * (own.lse - lse).exp().unsqueeze(-1) +
                           rest.out * (rest.lse - lse).exp().unsqueeze(-1);
    EXPECT_LE(error(actual.out, out), device.is_cuda() ? 1e-2 : 1e-5);
    EXPECT_LE(error(actual.lse, lse), device.is_cuda() ? 1e-2 : 1e-5);
  }
  // Gradients of all that takes part, the other part's keys and values among them.
  Inputs small =
      make_inputs({"", 1, 2, 1, 5, 7, 4, 3, 2, 2, 1, false, true}).to(at::kCPU, at::kDouble);
  const auto function = [&](const std::vector<at::Tensor>& x) -> std::vector<at::Tensor> {
    return {cluster_attention(x[0], x[1], x[2], small.assignment, small.routes, x[3], small.options,
                              part(x[0], x[4], x[5]))
                .out};
  };
  EXPECT_TRUE(testing::gradcheck(
      function,
      {small.q, small.k, small.v, *small.key_bias, at::randn({1, 2, 3, 4}, at::kDouble),
       at::randn({1, 2, 3, 4}, at::kDouble)},
      {0, 1, 2, 3, 4, 5}));
}
TEST(ClusterAttention, JoinsAnotherPartOfTheSoftmax) { expect_joined(false); }
TEST(ClusterAttentionPlain, JoinsAnotherPartOfTheSoftmax) { expect_joined(true); }

TEST(ClusterAttention, AllClustersIsDenseAttention) {
  for (const at::Device device : test_devices()) {
    const auto type = device.is_cuda() ? at::kBFloat16 : at::kFloat;
    const Inputs in = make_inputs({"", 1, 2, 2, 300, 300, 64, 8, 8, 16, 2}).to(device, type);
    const at::Tensor dense =
        at::scaled_dot_product_attention(in.q.to(at::kDouble), in.k.to(at::kDouble),
                                         in.v.to(at::kDouble), {}, 0.0, /*is_causal=*/true);
    EXPECT_LE(error(call(in).out, dense.cpu()), device.is_cuda() ? 4e-3 : 1e-5);
  }
}

// A later key, its cluster and its query change nothing before them, not by a bit.
TEST(ClusterAttention, NothingLeaksFromTheFuture) {
  constexpr int64_t kCut = 200;
  for (const at::Device device : test_devices()) {
    const Inputs in =
        make_inputs({"", 1, 2, 2, 300, 300, 64, 8, 3, 16, 2}).to(device, at::kBFloat16);
    Inputs other = in;
    for (at::Tensor* x : {&other.q, &other.k, &other.v}) {
      *x = x->clone();
      x->slice(2, kCut).mul_(-3).add_(1);
    }
    other.routes = other.routes.clone();
    other.routes.slice(2, kCut).copy_(in.routes.slice(2, 0, 300 - kCut));
    const ClusterAttention a = call(in), b = call(other);
    EXPECT_TENSOR_EQUAL(b.out.slice(2, 0, kCut), a.out.slice(2, 0, kCut));
    EXPECT_TENSOR_EQUAL(b.lse.slice(2, 0, kCut), a.lse.slice(2, 0, kCut));
    EXPECT_FALSE(at::equal(b.out.slice(2, kCut), a.out.slice(2, kCut)));
  }
}

TEST(ClusterAttention, TenRunsGiveTheSameBits) {
  for (const at::Device device : test_devices()) {
    const Inputs in = make_inputs({"", 1, 4, 2, 700, 1000, 64, 16, 4, 100, 4, true, true})
                          .to(device, at::kBFloat16);
    const at::Tensor weighting = at::randn_like(in.q);
    const auto first = run(in, weighting, call);
    for (int i = 1; i < 10; ++i) {
      const auto again = run(in, weighting, call);
      for (size_t r = 0; r < first.size(); ++r) EXPECT_TENSOR_EQUAL(again[r], first[r]);
    }
  }
}

void expect_zeros_without_a_key(bool plain) {
  for (const at::Device device : test_devices()) {
    Inputs in = make_inputs({"", 1, 1, 1, 80, 80, 64, 4, 2, 8, 1}).to(device, at::kBFloat16);
    in.options.plain = plain;
    in.assignment.fill_(-1);
    const auto r = run(in, at::ones_like(in.q), call);
    EXPECT_EQ(r[0].abs().sum().item<float>(), 0.f);
    EXPECT_TRUE(r[1].isneginf().all().item<bool>());
    for (size_t i = 2; i < r.size(); ++i) EXPECT_EQ(r[i].abs().sum().item<float>(), 0.f);
  }
}

TEST(ClusterAttention, QueryThatSeesNoKeyGetsZerosAndNoGradient) {
  expect_zeros_without_a_key(false);
}
TEST(ClusterAttention, PlainQueryThatSeesNoKeyGetsZerosAndNoGradient) {
  expect_zeros_without_a_key(true);
}

TEST(ClusterAttention, AutocastComputesInBf16AndKeepsGradients) {
  for (const at::Device device : test_devices()) {
    const Inputs in = make_inputs({"", 1, 2, 2, 70, 70, 64, 4, 2, 8, 1}).to(device, at::kFloat);
    const at::Tensor q = in.q.clone().requires_grad_(true);
    at::autocast::set_autocast_enabled(device.type(), true);
    const at::Tensor out =
        cluster_attention(q, in.k, in.v, in.assignment, in.routes, in.key_bias, in.options).out;
    at::autocast::set_autocast_enabled(device.type(), false);
    at::autocast::clear_cache();
    EXPECT_EQ(out.scalar_type(), at::kBFloat16);
    EXPECT_GT(torch::autograd::grad({out.sum()}, {q})[0].abs().sum().item<float>(), 0.f);
  }
}

// Each wrong argument is named before anything runs.
TEST(ClusterAttention, WrongArgumentsAreNamed) {
  const Inputs in = make_inputs({"", 1, 2, 1, 6, 9, 64, 4, 2, 2, 1, false, true});
  const auto expect_error = [](const Inputs& wrong, const std::string& part) {
    try {
      call(wrong);
      ADD_FAILURE() << "no error where one about " << part << " was expected";
    } catch (const c10::Error& e) {
      EXPECT_NE(std::string(e.what_without_backtrace()).find(part), std::string::npos) << e.what();
    }
  };
  Inputs w = in;
  w.q = in.q[0];
  expect_error(w, "q must be floating [B, H, N_q, d]");
  w = in, w.k = in.k.slice(3, 0, 32);
  expect_error(w, "k must be");
  w = in, w.k = in.k.slice(2, 0, 5);
  expect_error(w, "N >= 6");
  w = in, w.v = in.v.to(at::kBFloat16);
  expect_error(w, "v must be like k");
  w = in, w.assignment = in.assignment.to(at::kLong);
  expect_error(w, "assignment must be int32");
  w = in, w.routes = in.routes.slice(2, 1);
  expect_error(w, "routes must be int32");
  w = in, w.options.clusters = 1;
  expect_error(w, "k <= m = 1");
  w = in, w.key_bias = in.key_bias->to(at::kBFloat16);
  expect_error(w, "key_bias must be");
  try {
    cluster_attention(in.q, in.k, in.v, in.assignment, in.routes, in.key_bias, in.options,
                      ClusterAttention{in.q, in.q});
    ADD_FAILURE() << "no error where one about other was expected";
  } catch (const c10::Error& e) {
    EXPECT_NE(std::string(e.what_without_backtrace()).find("other must be"), std::string::npos);
  }
  w = in, w.options.window = -1;
  expect_error(w, "window >= 0");
  w = in, w.routes = at::empty(in.routes.sizes(), at::TensorOptions(at::kMeta).dtype(at::kInt));
  expect_error(w, "put them on one device");
  for (const at::Device device : test_devices()) {
    if (!device.is_cuda()) continue;
    expect_error(in.to(device, at::kFloat), "bf16 of width 64 or 128");
  }
}

// On the CPU alone from here: lengths about its blocks and tiles, and what must not change a bit.
TEST(ClusterAttentionCpu, EveryLengthMatchesTheOracle) {
  for (const int64_t n : {1, 63, 65, 1000, 4097}) {
    for (const bool skewed : {false, true}) {
      SCOPED_TRACE(n);
      if (n == 4097 && !skewed) continue;  // the oracle is slow
      const int64_t heads = n > 1000 ? 1 : 4, width = n > 1000 ? 24 : 64;
      const Inputs in = make_inputs(
          {"", 1, heads, heads > 1 ? heads / 2 : 1, n, n, width, 8, 3, 40, 5, skewed, true});
      const at::Tensor weighting = at::randn_like(in.q);
      const auto expected = run(in, weighting, oracle), actual = run(in, weighting, call);
      for (size_t i = 0; i < actual.size(); ++i)
        EXPECT_LE(error(actual[i], expected[i]), 1e-5) << "result " << i;
    }
  }
}

// All clusters of every query: the window and the sinks name keys again.
TEST(ClusterAttentionCpu, KeysOfSeveralReasonsCountOnce) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    Inputs in = make_inputs({"", 2, 2, 1, 150, 333, 48, 4, 4, 0, 0}).to(at::kCPU, type);
    const at::Tensor expected = oracle(in).out;
    const std::vector<std::pair<int64_t, int64_t>> reasons = {
        {0, 0}, {20, 50}, {0, 333}, {333, 333}};
    for (const auto& [window, sinks] : reasons) {
      in.options.window = window, in.options.sinks = sinks;
      EXPECT_LE(error(call(in).out, expected), type == at::kFloat ? 1e-6 : 4e-3);
    }
  }
}

TEST(ClusterAttentionCpu, BiasOfMinusInfinityHidesAKey) {
  Inputs in = make_inputs({"", 1, 4, 2, 200, 200, 32, 4, 2, 16, 4, false, true});
  in.key_bias->slice(2, 0, 200, 3).fill_(-INFINITY);
  in.key_bias->slice(2, 0, 40).fill_(-INFINITY);  // the first queries see nothing
  const at::Tensor weighting = at::randn_like(in.q);
  const auto expected = run(in, weighting, oracle), actual = run(in, weighting, call);
  for (size_t i = 0; i < actual.size(); ++i) EXPECT_LE(error(actual[i], expected[i]), 1e-5) << i;
  EXPECT_EQ(actual[0].slice(2, 0, 40).abs().max().item<float>(), 0.f);
}

// Blocks, tiles and the order of clusters are of the shape, not of the threads or of what follows.
TEST(ClusterAttentionCpu, BitsDependNeitherOnThreadsNorOnTheFuture) {
  constexpr int64_t kCut = 2000;
  const Inputs in = make_inputs({"", 1, 2, 1, 4200, 4200, 32, 16, 4, 100, 4, true, true});
  const at::Tensor weighting = at::randn_like(in.q);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = run(in, weighting, call);
  at::set_num_threads(2);
  for (int i = 0; i < 10; ++i) {
    const auto two = run(in, weighting, call);
    for (size_t r = 0; r < one.size(); ++r) EXPECT_TENSOR_EQUAL(two[r], one[r]);
  }
  at::set_num_threads(threads);
  Inputs other = in;
  for (at::Tensor* x : {&other.q, &other.k, &other.v, &*other.key_bias}) {
    *x = x->clone();
    x->slice(2, kCut).mul_(-3).add_(1);
  }
  other.assignment = other.assignment.clone();
  other.assignment.slice(2, kCut).fill_(3);
  const ClusterAttention a = call(in), b = call(other);
  EXPECT_TENSOR_EQUAL(b.out.slice(2, 0, kCut), a.out.slice(2, 0, kCut));
  EXPECT_TENSOR_EQUAL(b.lse.slice(2, 0, kCut), a.lse.slice(2, 0, kCut));
  EXPECT_FALSE(at::equal(b.out.slice(2, kCut), a.out.slice(2, kCut)));
}

TEST(ClusterAttentionCpu, NoQueriesAndWrongClusters) {
  const Inputs in = make_inputs({"", 1, 2, 1, 6, 9, 16, 4, 2, 2, 1});
  Inputs none = in;
  none.q = in.q.slice(2, 0, 0), none.routes = in.routes.slice(2, 0, 0);
  EXPECT_EQ(call(none).out.numel(), 0);
  Inputs wrong = in;
  wrong.assignment = at::full_like(in.assignment, 4);
  EXPECT_THROW(call(wrong), c10::Error);
  wrong = in;
  wrong.routes = at::full_like(in.routes, 4);
  EXPECT_THROW(call(wrong), c10::Error);
}

// A number that is none reaches the output of the queries that see it, and no other's.
TEST(ClusterAttentionCpu, NanIsNotHidden) {
  for (const bool plain : {false, true}) {
    Inputs in = make_inputs({"", 1, 1, 1, 100, 100, 16, 4, 4, 0, 0});
    in.options.plain = plain;
    in.k[0][0][60].fill_(NAN);
    const at::Tensor out = call(in).out;
    EXPECT_FALSE(out.slice(2, 0, 60).isnan().any().item<bool>());
    EXPECT_TRUE(out.slice(2, 60).isnan().all().item<bool>());
  }
}

TEST(ClusterRoute, AnyNumberOfSlotsWithTiesToTheLowest) {
  const at::Tensor q = at::randn({1, 2, 70, 20}), c = at::randn({1, 1, 40, 20});
  const at::Tensor score = at::matmul(q.to(at::kDouble), c.to(at::kDouble).transpose(-1, -2));
  for (const int64_t k : {1, 2, 3, 7, 16, 17, 40}) {
    const at::Tensor best = std::get<1>(score.topk(k, -1)).to(at::kInt);
    EXPECT_TENSOR_EQUAL(ops::cluster_route(q, c, k), best);
  }
  const at::Tensor equal = c.slice(2, 0, 1).expand({1, 1, 40, 20});
  for (const int64_t k : {4, 20}) {
    EXPECT_TENSOR_EQUAL(ops::cluster_route(q, equal, k),
                        at::arange(k, at::TensorOptions(at::kInt)).expand({1, 2, 70, k}));
  }
}

TEST(ClusterRoute, TakesTheClustersOfGreatestScoreBestFirst) {
  for (const at::Device device : test_devices()) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      for (const int64_t width : {64, 128}) {
        for (const int64_t m : {8, 100, 384}) {
          const at::Tensor q = at::randn({2, 4, 131, width}).to(type).to(device);
          const at::Tensor c = at::randn({2, 2, m, width}).to(device);
          const at::Tensor routes = ops::cluster_route(q, c, 5);
          ASSERT_EQ(routes.scalar_type(), at::kInt);
          const at::Tensor score = at::matmul(
              q.to(at::kDouble), c.to(at::kDouble).repeat_interleave(2, 1).transpose(-1, -2));
          const at::Tensor got = score.gather(-1, routes.to(at::kLong));
          const at::Tensor best = std::get<0>(score.topk(5, -1));
          // Near ties may fall otherwise where scores are rounded.
          const double slack = type == at::kFloat ? 1e-4 : .02 * std::sqrt(double(width));
          EXPECT_LE((best - got).abs().max().item<double>(), slack);
          const at::Tensor sorted = std::get<0>(routes.sort(-1));
          EXPECT_TRUE((sorted.slice(-1, 1) > sorted.slice(-1, 0, 4)).all().item<bool>());
        }
      }
    }
    EXPECT_THROW(ops::cluster_route(at::randn({1, 1, 2, 8}, at::TensorOptions(device)),
                                    at::randn({1, 1, 3, 8}, at::TensorOptions(device)), 4),
                 c10::Error);
  }
}

}  // namespace
}  // namespace dsrsq
