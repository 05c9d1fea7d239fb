// The reservoir of RCKV (D12): who is kept, and that nobody else is.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string>

#include "dsrsq/cache/rckv.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;
using testing::Tolerance;

const AttentionShape kShape{/*layers=*/1, /*query_heads=*/2, /*key_value_heads=*/2,
                            /*head_width=*/4};

// By rckv.kernel.
class Reservoir : public ::testing::TestWithParam<const char*> {
 protected:
  static RckvConfig settings(int64_t length) {
    RckvConfig config;
    config.latent_width = 3;
    config.buffer_length = length;
    config.kernel = GetParam();
    return config;
  }
};
INSTANTIATE_TEST_SUITE_P(Kernels, Reservoir, ::testing::Values("native", "aten"),
                         [](const auto& info) { return std::string(info.param); });

// Tokens of rank [begin, end) of `samples` sequences. Token t's key is a function of t; ||value||
// is 1.
LeavingEntries offer(int64_t begin, int64_t end, int64_t samples) {
  auto place = at::arange(begin, end).unsqueeze(0).expand({samples, end - begin});
  auto keys = normal("stream", {2, 1000, 4})
                  .slice(1, begin, end)
                  .unsqueeze(0)
                  .expand({samples, 2, end - begin, 4});
  auto values = at::zeros({samples, 2, end - begin, 4});
  values.select(1, 0).select(-1, 0).fill_(1);
  auto zeros = at::zeros({samples, end - begin});
  return {keys,  values, place + 7, place, at::ones({samples, end - begin}, at::kBool),
          zeros, zeros,  {}};
}

std::vector<int64_t> ids(int64_t samples) {
  std::vector<int64_t> list;
  for (int64_t i = 0; i < samples; ++i) list.push_back(i);
  return list;
}

void insert(const Rckv& rckv, LatentBuffer& buffer, const LeavingEntries& o,
            const std::vector<int64_t>& samples, uint64_t step = 0) {
  rckv->insert(0, buffer, o, samples, step);
}

// How often each of `tokens` tokens is among the kept ones.
std::vector<double> inclusion(const Rckv& rckv, const LeavingEntries& o, int64_t tokens,
                              int64_t samples) {
  LatentBuffer buffer;
  insert(rckv, buffer, o, ids(samples));
  auto counts = at::bincount(buffer.order.masked_select(buffer.valid), {}, tokens).to(at::kDouble);
  return {counts.data_ptr<double>(), counts.data_ptr<double>() + tokens};
}

// Uniform weights: each of N tokens is kept with probability L / N. Pearson's statistic of the
// counts, corrected for the fixed number of picks ((N - 1) / (N (1 - L / N)) turns it into
// chi-square with N - 1 degrees of freedom).
TEST_P(Reservoir, UniformWeightsKeepEveryTokenAlike) {
  constexpr int64_t kTokens = 20, kLength = 6, kSamples = 6000;
  auto config = settings(kLength);
  config.weight = "uniform";
  Rckv rckv(config, kShape, 5);
  auto counts = inclusion(rckv, offer(0, kTokens, kSamples), kTokens, kSamples);
  double expected = double(kSamples * kLength) / kTokens, statistic = 0;
  for (auto count : counts) statistic += (count - expected) * (count - expected) / expected;
  statistic *= (kTokens - 1.0) / (kTokens * (1 - double(kLength) / kTokens));
  EXPECT_LT(statistic, 43.8);  // 99.9 % of chi-square with 19 degrees
  EXPECT_GT(statistic, 4.0);   // 0.01 %: not a fixed set that happens to be even
}

// Weighted sampling without replacement, by brute force: P(first = i) = w_i / W, then among the
// rest.
std::vector<double> brute_force_pairs(const std::vector<double>& w) {
  std::vector<double> result(w.size(), 0.0);
  double total = 0;
  for (auto x : w) total += x;
  for (size_t i = 0; i < w.size(); ++i)
    for (size_t j = 0; j < w.size(); ++j) {
      if (i == j) continue;
      auto p = w[i] / total * w[j] / (total - w[i]);
      result[i] += p;
      result[j] += p;
    }
  return result;
}

TEST_P(Reservoir, AttentionRateWeightsMatchBruteForce) {
  constexpr int64_t kSamples = 20000;
  auto config = settings(2);
  config.prior_mass = 0.5;
  config.prior_exposure = 2;
  Rckv rckv(config, kShape, 5);
  auto o = offer(0, 5, kSamples);
  // w = (mass + prior) / (exposure + prior) x ||v||, by hand.
  std::vector<float> mass{0.1f, 3, 1, 0, 6}, exposure{4, 10, 2, 0, 30}, norm{1, 1, 2, 0.5f, 3};
  std::vector<double> w;
  for (size_t i = 0; i < 5; ++i) w.push_back((mass[i] + 0.5) / (exposure[i] + 2.0) * norm[i]);
  o.mass = at::tensor(mass).unsqueeze(0).expand({kSamples, 5});
  o.exposure = at::tensor(exposure).unsqueeze(0).expand({kSamples, 5});
  o.values = o.values * at::tensor(norm).view({1, 1, 5, 1});
  auto counts = inclusion(rckv, o, 5, kSamples);
  auto expected = brute_force_pairs(w);
  for (size_t i = 0; i < 5; ++i) {
    auto deviation = std::sqrt(expected[i] * (1 - expected[i]) / kSamples);
    EXPECT_NEAR(counts[i] / kSamples, expected[i], 4 * deviation) << "token " << i;
  }
  EXPECT_GT(expected[2] - expected[0], 0.2);  // the weights do differ
}

TEST_P(Reservoir, WithoutNoiseTheLargestWeightsStay) {
  auto config = settings(3);
  config.noise = "none";
  Rckv rckv(config, kShape, 5);
  auto o = offer(0, 6, 2);
  o.mass = at::tensor({1.f, 9.f, 3.f, 8.f, 2.f, 7.f, 9.f, 1.f, 8.f, 2.f, 7.f, 3.f}).view({2, 6});
  o.exposure = at::full({2, 6}, 4.f);
  LatentBuffer buffer;
  insert(rckv, buffer, o, {0, 1});
  EXPECT_TENSOR_EQUAL(buffer.order, at::tensor({1, 3, 5, 0, 2, 4}, at::kLong).view({2, 3}));
  EXPECT_TENSOR_EQUAL(buffer.positions, buffer.order + 7);
  // By another implementation: to rounding.
  const testing::Tolerance rounding{1e-6, 1e-6};
  EXPECT_TENSOR_NEAR(buffer.keys, gather_entries(rckv->compress_keys(0, o.keys), buffer.order, 1),
                     rounding);
  EXPECT_TENSOR_NEAR(buffer.values,
                     gather_entries(rckv->compress_values(0, o.values), buffer.order, 1), rounding);
}

// The stream in pieces of 1, 7 and 100 tokens: the same tokens, latents and priorities are held at
// every common point, never more than L, oldest first, and no token twice.
TEST_P(Reservoir, ChunkingDoesNotMatter) {
  constexpr int64_t kLength = 9, kTokens = 70;
  auto config = settings(kLength);
  config.weight = "uniform";
  config.decay = 0.03;
  Rckv rckv(config, kShape, 5);
  std::vector<LatentBuffer> ends;
  for (int64_t piece : {1, 7, 70}) {
    LatentBuffer buffer;
    for (int64_t begin = 0; begin < kTokens; begin += piece) {
      insert(rckv, buffer, offer(begin, std::min(kTokens, begin + piece), 3), {5, 6, 7}, 2);
      ASSERT_LE(buffer.order.size(1), kLength);
      ASSERT_EQ(buffer.keys.size(1), buffer.order.size(1));
      auto list = buffer.order.contiguous();
      for (int64_t b = 0; b < 3; ++b)  // strictly rising: oldest first and unique
        ASSERT_TRUE((list[b].slice(0, 1) > list[b].slice(0, 0, -1)).all().item<bool>());
    }
    ends.push_back(buffer);
  }
  for (size_t i = 1; i < ends.size(); ++i) {
    EXPECT_TENSOR_EQUAL(ends[i].order, ends[0].order);
    EXPECT_TENSOR_EQUAL(ends[i].priority, ends[0].priority);
    EXPECT_TENSOR_NEAR(ends[i].keys, ends[0].keys, (Tolerance{0, 1e-6}));
  }
  EXPECT_FALSE(
      at::equal(ends[0].order[0], ends[0].order[1]));  // each sequence has noise of its own
}

// D21: a sequence's noise is its own, whatever batch slot it has; another step draws again.
TEST_P(Reservoir, NoiseIsOfTheSampleNotOfTheSlot) {
  auto config = settings(5);
  config.weight = "uniform";
  Rckv rckv(config, kShape, 5);
  LatentBuffer both, alone, later;
  insert(rckv, both, offer(0, 40, 2), {8, 3});
  insert(rckv, alone, offer(0, 40, 1), {3});
  insert(rckv, later, offer(0, 40, 1), {3}, 1);
  EXPECT_TENSOR_EQUAL(both.order[1], alone.order[0]);
  EXPECT_FALSE(at::equal(later.order, alone.order));
}

// With one draw for all layers, a token that is dropped would be lost in all of them at once.
TEST_P(Reservoir, NoiseIsOfTheLayer) {
  auto config = settings(8);
  config.weight = "uniform";
  auto shape = kShape;
  shape.layers = 2;
  Rckv rckv(config, shape, 5);
  LatentBuffer buffers[2];
  for (int64_t layer = 0; layer < 2; ++layer)
    rckv->insert(layer, buffers[layer], offer(0, 40, 4), ids(4), 0);
  EXPECT_FALSE(at::equal(buffers[0].order, buffers[1].order));
}

TEST_P(Reservoir, DecayFavoursTheRecent) {
  auto mean_rank = [&](double decay) {
    auto config = settings(5);
    config.weight = "uniform";
    config.decay = decay;
    Rckv rckv(config, kShape, 5);
    LatentBuffer buffer;
    insert(rckv, buffer, offer(0, 100, 200), ids(200));
    return buffer.order.to(at::kDouble).mean().item<double>();
  };
  EXPECT_NEAR(mean_rank(0), 49.5, 3);  // standard error about .9
  EXPECT_GT(mean_rank(0.05), 65);
  EXPECT_NEAR(mean_rank(1e3), 97, 1e-9);  // a ring: the last five
}

TEST_P(Reservoir, PaddingNeverEnters) {
  auto config = settings(6);
  config.weight = "uniform";
  Rckv rckv(config, kShape, 5);
  LatentBuffer buffer;
  for (int64_t begin = 0; begin < 40; begin += 8) {
    auto o = offer(begin, begin + 8, 2);
    o.valid[0].slice(0, 0, 6).fill_(false);  // two real tokens a piece
    o.valid[1].fill_(false);                 // none at all
    insert(rckv, buffer, o, {0, 1});
    auto of_first = buffer.order[0].masked_select(buffer.valid[0]);
    EXPECT_EQ(
        of_first.numel(),
        std::min<int64_t>(6, (begin / 8 + 1) * 2));  // real tokens are not displaced by padding
    EXPECT_TRUE((of_first.remainder(8) >= 6).all().item<bool>());
    EXPECT_FALSE(buffer.valid[1].any().item<bool>());
  }
}

TEST_P(Reservoir, GradientsFlowThroughKeptLatents) {
  auto config = settings(3);
  config.weight = "uniform";
  Rckv rckv(config, kShape, 5);
  auto o = offer(0, 8, 1);
  o.keys = o.keys.clone().requires_grad_();
  LatentBuffer buffer;
  insert(rckv, buffer, o, {0});
  buffer.keys.square().sum().backward();
  auto touched = o.keys.grad().abs().sum({0, 1, 3}) > 0;
  for (int64_t t = 0; t < 8; ++t)
    EXPECT_EQ(touched[t].item<bool>(), (buffer.order[0] == t).any().item<bool>()) << t;
}

// recency: a ring of the newest L, whatever noise, decay and weights say.
TEST_P(Reservoir, RecencyIsARing) {
  constexpr int64_t kLength = 6;
  for (const char* noise : {"gumbel", "none"}) {
    auto config = settings(kLength);
    config.weight = "recency";
    config.noise = noise;
    Rckv rckv(config, kShape, 5);
    LatentBuffer buffer;
    for (int64_t begin = 0; begin < 50; begin += 7) {
      auto o = offer(begin, begin + 7, 2);
      o.valid[1].select(0, 3).fill_(false);  // padding does not push real tokens out
      o.mass = normal("mass", {2, 7}).abs() * 100;
      insert(rckv, buffer, o, {0, 1});
    }
    EXPECT_TENSOR_EQUAL(buffer.order[0], at::arange(50, 56));
    EXPECT_TENSOR_EQUAL(buffer.order[1], at::tensor({49, 50, 51, 53, 54, 55}, at::kLong));
    EXPECT_TRUE(buffer.valid.all().item<bool>());
  }
}

// Without noise the L largest of log w + decay t of the whole stream stay, also where t is so large
// that fp32 could not tell the weights apart: compared with a sort of rebased priorities.
TEST_P(Reservoir, DecayKeepsPrecisionInLongStreams) {
  constexpr int64_t kLength = 8, kTokens = 200, kFirst = 4'000'000'000;
  auto config = settings(kLength);
  config.noise = "none";
  config.decay = 0.05;
  Rckv rckv(config, kShape, 5);
  auto mass = normal("mass", {kTokens}).abs() * 5;
  LatentBuffer buffer;
  for (int64_t begin = 0; begin < kTokens; begin += 20) {
    auto o = offer(begin, begin + 20, 1);
    o.mass = mass.slice(0, begin, begin + 20).unsqueeze(0);
    o.order = o.order + kFirst;
    insert(rckv, buffer, o, {0});
  }
  std::vector<std::pair<double, int64_t>> ranked;
  for (int64_t t = 0; t < kTokens; ++t) {
    auto rate = (mass[t].item<double>() + config.prior_mass) / config.prior_exposure;
    ranked.emplace_back(-(std::log(rate) + config.decay * double(t)), t);  // ||v|| is 1
  }
  std::sort(ranked.begin(), ranked.end());
  std::set<int64_t> expected, kept;
  for (int64_t i = 0; i < kLength; ++i) expected.insert(ranked[size_t(i)].second);
  for (int64_t i = 0; i < kLength; ++i) kept.insert(buffer.order[0][i].item<int64_t>() - kFirst);
  EXPECT_EQ(kept, expected);
  EXPECT_LT(*expected.begin(), kTokens - kLength);  // not simply the newest
}

TEST_P(Reservoir, BiasEntersAndStaysWithItsEntry) {
  auto config = settings(4);
  config.weight = "uniform";
  Rckv rckv(config, kShape, 5);
  LatentBuffer buffer;
  insert(rckv, buffer, offer(0, 6, 2), {0, 1});
  EXPECT_FALSE(buffer.bias.defined());
  auto bias = normal("bias", {2, 12}).requires_grad_();
  auto o = offer(6, 18, 2);
  o.bias = bias;
  insert(rckv, buffer, o, {0, 1});
  ASSERT_EQ(buffer.bias.sizes(), buffer.order.sizes());
  at::Tensor expected = at::zeros({2, 4}), touched = at::zeros({2, 12});
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t i = 0; i < 4; ++i) {
      auto rank = buffer.order[b][i].item<int64_t>();
      if (rank < 6) continue;
      expected[b][i] = bias[b][rank - 6].detach();
      touched[b][rank - 6] = 1;
    }
  EXPECT_TENSOR_EQUAL(buffer.bias.detach(), expected);
  EXPECT_GT(touched.sum().item<double>(), 2);
  buffer.bias.sum().backward();
  EXPECT_TENSOR_EQUAL(bias.grad(), touched);
}

// gate: log w is the gate of the latents, and no gradient passes through who is kept.
TEST_P(Reservoir, GateWeighsByItsLatents) {
  auto config = settings(3);
  config.weight = "gate";
  config.noise = "none";
  Rckv rckv(config, kShape, 5);
  auto parameters = rckv->named_parameters();
  {
    at::NoGradGuard no_grad;
    parameters["gate_weight_0"].copy_(at::tensor({1.f, -2.f, .5f, 3.f, 0.f, 1.f}));
  }
  auto o = offer(0, 9, 2);
  o.values = normal("values", {2, 2, 9, 4});
  LatentBuffer buffer;
  insert(rckv, buffer, o, {0, 1});
  EXPECT_FALSE(buffer.priority.requires_grad());
  EXPECT_FALSE(buffer.bias.defined());  // it is computed where the latent is read
  auto joint = [](const at::Tensor& x) {
    return x.transpose(1, 2).reshape({2, 9, 8}).to(at::kDouble);
  };
  auto z =
      at::cat({at::matmul(joint(o.keys), parameters["key_projection_0"].to(at::kDouble).t()),
               at::matmul(joint(o.values), parameters["value_projection_0"].to(at::kDouble).t())},
              -1);
  auto logit = (z * parameters["gate_weight_0"].to(at::kDouble)).sum(-1) +
               parameters["gate_bias_0"].to(at::kDouble);
  auto weight = (1 / (1 + (-logit).exp())).detach();  // [2, 9]
  auto best = std::get<0>(std::get<1>(weight.topk(3, 1)).sort(1));
  EXPECT_TENSOR_EQUAL(buffer.order, best);
  EXPECT_TENSOR_NEAR(buffer.priority, weight.gather(1, best).log(), (Tolerance{1e-5, 1e-5}));
  EXPECT_TENSOR_NEAR(rckv->log_gate(0, buffer.keys, buffer.values), weight.gather(1, best).log(),
                     (Tolerance{1e-5, 1e-5}));
}

// The two implementations keep the same entries, by weights, noise and padding of every kind, with
// the same gradients.
TEST(ReservoirKernels, KeepTheSame) {
  for (const char* weight : {"attention_rate", "uniform", "gate", "recency"})
    for (double decay : {0.0, 0.02}) {
      SCOPED_TRACE(std::string(weight) + " decay " + std::to_string(decay));
      std::vector<LatentBuffer> ends;
      std::vector<at::Tensor> gradients;
      for (const char* kernel : {"native", "aten"}) {
        RckvConfig config;
        config.latent_width = 3;
        config.buffer_length = 12;
        config.weight = weight;
        config.decay = decay;
        config.kernel = kernel;
        Rckv rckv(config, kShape, 5);
        auto keys = normal("all keys", {3, 2, 90, 4}).requires_grad_();
        LatentBuffer buffer;
        for (int64_t begin = 0; begin < 90; begin += 9) {
          auto o = offer(begin, begin + 9, 3);
          o.keys = keys.slice(2, begin, begin + 9);
          o.values = normal("values " + std::to_string(begin), {3, 2, 9, 4});
          o.valid[1].slice(0, 5).fill_(false);
          o.valid[2].fill_(begin < 18);
          o.mass = normal("mass " + std::to_string(begin), {3, 9}).abs();
          if (begin > 30) o.bias = normal("bias " + std::to_string(begin), {3, 9});
          insert(rckv, buffer, o, {4, 9, 1}, 3);
        }
        (buffer.keys * buffer.valid.unsqueeze(-1)).square().sum().backward();
        ends.push_back(buffer);
        gradients.push_back(keys.grad());
      }
      auto valid = ends[1].valid;
      EXPECT_TENSOR_EQUAL(ends[0].valid, valid);
      EXPECT_TENSOR_EQUAL(ends[0].order * valid, ends[1].order * valid);
      EXPECT_TENSOR_EQUAL(ends[0].positions * valid, ends[1].positions * valid);
      Tolerance near{1e-6, 1e-6};
      // A gate weighs latents, which the two project by different sums.
      EXPECT_TENSOR_NEAR(ends[0].priority, ends[1].priority,
                         std::string(weight) == "gate" ? near : (Tolerance{0, 0}));
      auto of_valid = [&](const at::Tensor& x) { return x.detach() * valid.unsqueeze(-1); };
      EXPECT_TENSOR_NEAR(of_valid(ends[0].keys), of_valid(ends[1].keys), near);
      EXPECT_TENSOR_NEAR(of_valid(ends[0].values), of_valid(ends[1].values), near);
      EXPECT_TENSOR_EQUAL(ends[0].bias * valid, ends[1].bias * valid);
      EXPECT_TENSOR_NEAR(gradients[0], gradients[1], near);
    }
}

}  // namespace
}  // namespace dsrsq
