#include "dsrsq/ops/reservoir_update.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "dsrsq/ops/noise.h"
#include "support/expect_tensor.h"
#include "support/retrieval_cases.h"

namespace dsrsq {
namespace {

using ops::reservoir_update;
using ops::ReservoirInputs;
using ops::ReservoirNoise;
using ops::ReservoirOptions;
using testing::test_devices;

constexpr double kNever = -std::numeric_limits<double>::infinity();

TEST(ReservoirUpdate, MatchesOracleIsRepeatableAndHasNoGradient) {
  testing::expect_op_cases(testing::reservoir_update_cases());
}

// `offered` tokens of each of `batch` sequences, ranks from `first` on, to an empty reservoir.
ReservoirInputs offer(int64_t batch, int64_t offered, at::Device device, int64_t first = 0) {
  ReservoirInputs in;
  in.held = at::empty({batch, 0}, at::TensorOptions(device).dtype(at::kDouble));
  in.rank = at::arange(first, first + offered, at::TensorOptions(device).dtype(at::kLong))
                .expand({batch, offered});
  in.valid = at::ones({batch, offered}, in.rank.options().dtype(at::kBool));
  return in;
}

at::Tensor longs(const std::vector<int64_t>& values) {
  return at::tensor(values, at::kLong).unsqueeze(0);
}

// By hand. Held 3, 1, 2; offered 2 (a tie: the held one is first), 5, padding, 1.5; four stay.
TEST(ReservoirUpdate, WorkedExample) {
  for (const at::Device device : test_devices()) {
    ReservoirInputs in = offer(1, 4, device);
    in.held = torch::tensor({{3., 1., 2.}}, at::kDouble).to(device);
    in.log_weight = torch::tensor({{2., 5., 9., 1.5}}, at::kDouble).to(device);
    in.valid[0][2] = false;
    const auto r = reservoir_update(in, {4, 0, {}});
    EXPECT_TENSOR_EQUAL(r.source.cpu(), longs({0, 2, 3, 4}));
    EXPECT_TENSOR_EQUAL(r.priority.cpu(), torch::tensor({{3., 2., 2., 5.}}, at::kDouble));
    EXPECT_TENSOR_EQUAL(r.accepted.cpu(), longs({0, 1, -1, -1}));
    EXPECT_TENSOR_EQUAL(r.slot.cpu(), longs({2, 3, -1, -1}));
    EXPECT_EQ(r.count.item<int64_t>(), 2);
    const auto three = reservoir_update(in, {3, 0, {}});
    EXPECT_TENSOR_EQUAL(three.source.cpu(), longs({0, 2, 3}));
    EXPECT_TENSOR_EQUAL(three.accepted.cpu(), longs({1, -1, -1}));
    EXPECT_TENSOR_EQUAL(three.slot.cpu(), longs({2, -1, -1}));
    // Room for all, the padding among them.
    EXPECT_TENSOR_EQUAL(reservoir_update(in, {9, 0, {}}).source.cpu(),
                        longs({0, 1, 2, 3, 4, 5, 6}));
  }
}

// Pearson's statistic of how often each token stays, corrected for the fixed number of those that
// do, is chi-square with N - 1 degrees of freedom where all are alike; with other weights compared
// with `expected` probabilities it is, for L = 1, exactly that.
double statistic(const at::Tensor& kept, const std::vector<double>& expected, double runs) {
  const at::Tensor counts =
      at::bincount(kept.cpu().reshape({-1}), {}, int64_t(expected.size())).to(at::kDouble);
  double sum = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    const double mean = expected[i] * runs, count = counts[int64_t(i)].item<double>();
    sum += (count - mean) * (count - mean) / mean;
  }
  return sum;
}

constexpr int64_t kRuns = 10000, kTokens = 20;

at::Tensor draw(const ReservoirInputs& in, int64_t capacity, double decay, at::Device device) {
  const at::Tensor samples = at::arange(kRuns, at::TensorOptions(device).dtype(at::kLong));
  return reservoir_update(in, {capacity, decay, ReservoirNoise{17, 0, 1, 0, samples}}).accepted;
}

TEST(ReservoirUpdate, EqualWeightsKeepEveryTokenAlike) {
  for (const at::Device device : test_devices()) {
    constexpr int64_t kLength = 6;
    const at::Tensor kept = draw(offer(kRuns, kTokens, device), kLength, 0, device);
    const std::vector<double> expected(kTokens, double(kLength) / kTokens);
    const double found = statistic(kept, expected, kRuns) * (kTokens - 1.) /
                         (kTokens * (1 - double(kLength) / kTokens));
    EXPECT_LT(found, 43.8);  // 99.9 % of chi-square with 19 degrees
    EXPECT_GT(found, 4.0);   // 0.01 %: not a fixed set that happens to be even
  }
}

// Of one place: token i stays with probability w_i / W. Weights from 1 to 39, and weights that
// decay gives.
TEST(ReservoirUpdate, WeightsAndDecayKeepTokensByTheirShare) {
  for (const at::Device device : test_devices())
    for (const double decay : {0., .15}) {
      ReservoirInputs in = offer(kRuns, kTokens, device);
      std::vector<double> weight;
      for (int64_t i = 0; i < kTokens; ++i)
        weight.push_back((decay > 0 ? 1. : 1. + 2. * double(i)) * std::exp(decay * double(i)));
      if (decay == 0) {
        in.log_weight = at::tensor(weight, at::kDouble).log().to(device).expand({kRuns, kTokens});
      }
      double total = 0;
      for (const double w : weight) total += w;
      for (double& w : weight) w /= total;
      const double found = statistic(draw(in, 1, decay, device), weight, kRuns);
      EXPECT_LT(found, 43.8) << decay;
      EXPECT_GT(found, 4.0) << decay;
    }
}

// Of two places, skewed weights: sampling without replacement, by brute force.
TEST(ReservoirUpdate, SkewedWeightsMatchBruteForce) {
  const std::vector<double> weight{.1, 3, 1, .02, 6};
  std::vector<double> expected(weight.size(), 0.);
  double total = 0;
  for (const double w : weight) total += w;
  for (size_t i = 0; i < weight.size(); ++i)
    for (size_t j = 0; j < weight.size(); ++j) {
      if (i == j) continue;
      const double p = weight[i] / total * weight[j] / (total - weight[i]);
      expected[i] += p;
      expected[j] += p;
    }
  for (const at::Device device : test_devices()) {
    ReservoirInputs in = offer(kRuns, int64_t(weight.size()), device);
    in.log_weight = at::tensor(weight, at::kDouble).log().to(device).expand({kRuns, 5});
    const at::Tensor counts =
        at::bincount(draw(in, 2, 0, device).cpu().reshape({-1}), {}, 5).to(at::kDouble);
    for (size_t i = 0; i < weight.size(); ++i) {
      const double deviation = std::sqrt(expected[i] * (1 - expected[i]) / double(kRuns));
      EXPECT_NEAR(counts[int64_t(i)].item<double>() / double(kRuns), expected[i], 4 * deviation)
          << "token " << i;
    }
  }
}

// The limits: decay 1 and no weight is a ring of the newest; no noise the largest weights.
TEST(ReservoirUpdate, RingAndLargestAreExact) {
  for (const at::Device device : test_devices()) {
    ReservoirInputs in = offer(2, 50, device, 1000);
    in.held = at::arange(990, 1000, in.held.options()).expand({2, 10});
    in.valid = in.valid.clone();
    in.valid[1].slice(0, 45).fill_(false);
    const auto ring = reservoir_update(in, {10, 1, {}});
    EXPECT_TENSOR_EQUAL(ring.priority[0].cpu(), at::arange(1040, 1050, at::kDouble));
    EXPECT_TENSOR_EQUAL(ring.priority[1].cpu(), at::arange(1035, 1045, at::kDouble));

    in.log_weight = at::randn({2, 50}, in.held.options()) * 3 + 995;
    const auto largest = reservoir_update(in, {10, 0, {}});
    const at::Tensor all =
        at::cat({in.held, in.log_weight->masked_fill(in.valid.logical_not(), kNever)}, 1);
    EXPECT_TENSOR_EQUAL(std::get<0>(largest.priority.sort(1, true)), std::get<0>(all.topk(10, 1)));
  }
}

// D21, and RCKV's draws: Gumbel noise of rank x layers + layer.
TEST(ReservoirUpdate, NoiseIsThatOfTheStream) {
  for (const at::Device device : test_devices()) {
    const ReservoirInputs in = offer(2, 30, device, 5);
    const std::vector<int64_t> ids{9, 4};
    const ReservoirNoise noise{3, 8, 4, 2, at::tensor(ids, at::kLong).to(device)};
    const auto r = reservoir_update(in, {30, 0, noise});
    for (size_t b = 0; b < 2; ++b) {
      const RandomStream stream(3, Purpose::kReservoir, 8, uint64_t(ids[b]));
      for (int64_t i = 0; i < 30; ++i)  // bit for bit, also on a GPU
        EXPECT_EQ(r.priority[int64_t(b)][i].item<double>(), stream.gumbel(uint64_t(i + 5) * 4 + 2));
    }
  }
}

// The rule that makes both choose the same: all bits of every priority are equal.
TEST(ReservoirUpdate, CpuAndGpuTakeTheSamePlaces) {
  torch::manual_seed(6);
  for (const at::Device device : test_devices()) {
    if (!device.is_cuda()) continue;
    for (int64_t step = 0; step < 50; ++step) {
      ReservoirInputs in = offer(8, 2048, at::kCPU, 1024 + 2048 * step);
      in.held = at::randn({8, 1024}, at::kDouble) * 2 + 1e-4 * 1024;
      in.log_weight = at::randn({8, 2048}, at::kDouble) * 2;
      in.valid = at::rand({8, 2048}) < .9;
      const at::Tensor samples = at::randint(1 << 20, {8}, at::kLong);
      const ReservoirInputs there{in.held.to(device), in.rank.to(device), in.valid.to(device),
                                  in.log_weight->to(device)};
      const auto own =
          reservoir_update(in, {1024, 1e-4, ReservoirNoise{5, uint64_t(step), 12, 7, samples}});
      const auto r = reservoir_update(
          there, {1024, 1e-4, ReservoirNoise{5, uint64_t(step), 12, 7, samples.to(device)}});
      EXPECT_TENSOR_EQUAL(r.source.cpu(), own.source);
      EXPECT_TENSOR_EQUAL(r.priority.cpu(), own.priority);
      EXPECT_TENSOR_EQUAL(r.accepted.cpu(), own.accepted);
      EXPECT_TENSOR_EQUAL(r.slot.cpu(), own.slot);
    }
  }
}

// Offered in pieces, the same tokens stay.
TEST(ReservoirUpdate, PiecesDoNotMatter) {
  for (const at::Device device : test_devices()) {
    const at::Tensor samples = at::arange(3, at::TensorOptions(device).dtype(at::kLong));
    std::vector<at::Tensor> ends;
    for (const int64_t piece : {1, 7, 70}) {
      at::Tensor held = at::empty({3, 0}, at::TensorOptions(device).dtype(at::kDouble));
      for (int64_t begin = 0; begin < 70; begin += piece) {
        ReservoirInputs in = offer(3, piece, device, begin);
        in.held = held;
        held = reservoir_update(in, {9, .03, ReservoirNoise{5, 2, 1, 0, samples}}).priority;
      }
      ends.push_back(held);
    }
    EXPECT_TENSOR_EQUAL(ends[1], ends[0]);
    EXPECT_TENSOR_EQUAL(ends[2], ends[0]);
  }
}

TEST(ReservoirUpdate, TenRunsAreTheSameBitsAlsoUnderAutocast) {
  for (const at::Device device : test_devices()) {
    ReservoirInputs in = offer(4, 3000, device);
    in.held = at::randint(0, 4, {4, 500}, in.held.options());  // ties
    in.log_weight = at::randint(0, 4, {4, 3000}, in.held.options());
    const auto first = reservoir_update(in, {700, 0, {}});
    at::autocast::set_autocast_enabled(device.type(), true);
    for (int run = 1; run < 10; ++run)
      EXPECT_TENSOR_EQUAL(reservoir_update(in, {700, 0, {}}).source, first.source);
    at::autocast::set_autocast_enabled(device.type(), false);
  }
}

TEST(ReservoirUpdate, WhatIsNoNumberIsTheSmallest) {
  for (const at::Device device : test_devices()) {
    ReservoirInputs in = offer(1, 4, device);
    in.log_weight = torch::tensor({{1., double(NAN), kNever, -5.}}, at::kDouble).to(device);
    EXPECT_TENSOR_EQUAL(reservoir_update(in, {2, 0, {}}).accepted.cpu(), longs({0, 3}));
    EXPECT_TENSOR_EQUAL(reservoir_update(in, {3, 0, {}}).accepted.cpu(), longs({0, 2, 3}));
  }
}

TEST(ReservoirUpdate, WrongArgumentsAreNamed) {
  const ReservoirInputs in = offer(2, 5, at::kCPU);
  const auto expect_error = [](const ReservoirInputs& wrong, const std::string& part,
                               const ReservoirOptions& options = {3, 0, {}}) {
    try {
      reservoir_update(wrong, options);
      ADD_FAILURE() << "no error where one about " << part << " was expected";
    } catch (const c10::Error& e) {
      EXPECT_NE(std::string(e.what_without_backtrace()).find(part), std::string::npos) << e.what();
    }
  };
  ReservoirInputs w = in;
  w.held = in.held.to(at::kFloat);
  expect_error(w, "held must be double [B, H]");
  w = in, w.rank = in.rank.slice(0, 1);
  expect_error(w, "rank must be int64 [2, E]");
  w = in, w.valid = in.valid.slice(1, 1);
  expect_error(w, "valid must be");
  w = in, w.log_weight = at::zeros({2, 5});
  expect_error(w, "log_weight must be");
  expect_error(in, "capacity >= 1", {0, 0, {}});
  const at::Tensor samples = at::zeros({2}, at::kLong);
  expect_error(in, "layer < layers", {3, 0, ReservoirNoise{0, 0, 2, 2, samples}});
  expect_error(in, "sample_ids must be", {3, 0, ReservoirNoise{0, 0, 1, 0, samples.slice(0, 1)}});
  w = in, w.valid = at::empty({2, 5}, at::TensorOptions(at::kMeta).dtype(at::kBool));
  expect_error(w, "put them on one device");
}

}  // namespace
}  // namespace dsrsq
