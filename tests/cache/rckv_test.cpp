// The projections of RCKV; its reservoir is tested in rckv_reservoir_test.cpp.
#include "dsrsq/cache/rckv.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "support/expect_tensor.h"
#include "support/gradcheck.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;
using testing::Tolerance;

constexpr int64_t kKv = 2, kWidth = 6, kJoint = kKv * kWidth;
const AttentionShape kShape{/*layers=*/2, /*query_heads=*/4, kKv, kWidth};

Rckv make_rckv(int64_t width) {
  RckvConfig config;
  config.latent_width = width;
  return Rckv(config, kShape, 5);
}

// Keys of unequal directions, as real ones are: component i of a token scaled by 0.7^i, then mixed.
at::Tensor anisotropic(const std::string& name, int64_t tokens) {
  auto scale = at::pow(at::full({kJoint}, 0.7), at::arange(kJoint));
  auto joint =
      at::matmul(normal(name, {2, tokens, kJoint}) * scale, normal("mix", {kJoint, kJoint}));
  return joint.reshape({2, tokens, kKv, kWidth}).transpose(1, 2).contiguous();
}

at::Tensor joint_rows(const at::Tensor& x) {
  return x.transpose(1, 2).reshape({-1, kJoint}).to(at::kDouble);
}

TEST(Rckv, FullWidthRebuildsExactly) {
  auto rckv = make_rckv(kJoint);
  auto k = normal("k", {2, kKv, 9, kWidth});
  for (int64_t layer = 0; layer < 2; ++layer) {
    EXPECT_TENSOR_NEAR(rckv->rebuild_keys(layer, rckv->compress_keys(layer, k)), k,
                       (Tolerance{0, 1e-5}));
    EXPECT_TENSOR_NEAR(rckv->rebuild_values(layer, rckv->compress_values(layer, k)), k,
                       (Tolerance{0, 1e-5}));
    EXPECT_NEAR(rckv->compression_error(layer, k, k, at::ones({2, 9}, at::kBool)).item<double>(), 0,
                1e-6);
  }
}

// What attention accumulates in latent space, expanded, is what it would have accumulated over
// rebuilt values.
TEST(Rckv, AbsorbedReadOfValuesEqualsRebuiltRead) {
  auto rckv = make_rckv(5);
  auto latents = rckv->compress_values(1, normal("v", {2, kKv, 7, kWidth}));
  auto weights = at::softmax(normal("logits", {2, 4, 3, 7}), -1);
  auto absorbed = rckv->expand_values(1, at::matmul(weights, latents.unsqueeze(1)), 4);
  auto rebuilt = rckv->rebuild_values(1, latents);
  ASSERT_EQ(absorbed.sizes(), (std::vector<int64_t>{2, 4, 3, kWidth}));
  for (int64_t h = 0; h < 4; ++h)
    EXPECT_TENSOR_NEAR(absorbed.select(1, h),
                       at::matmul(weights.select(1, h), rebuilt.select(1, h / 2)),
                       (Tolerance{1e-4, 1e-5}));
}

TEST(Rckv, CompressesAllHeadsOfATokenJointly) {
  auto rckv = make_rckv(5);
  auto k = normal("k", {2, kKv, 4, kWidth});
  auto p = rckv->named_parameters()["key_projection_1"].detach().to(at::kDouble);
  EXPECT_TENSOR_NEAR(rckv->compress_keys(1, k).reshape({-1, 5}), at::matmul(joint_rows(k), p.t()),
                     (Tolerance{1e-5, 1e-5}));
}

// Orthonormal rows, and with them the four Penrose conditions of P+ = P^T.
TEST(Rckv, RowsAreOrthonormalAfterTheStep) {
  auto rckv = make_rckv(5);
  {
    at::NoGradGuard no_grad;
    for (auto& p : rckv->parameters()) p.add_(normal("update", p.sizes()) * 0.3);
  }
  auto moved = rckv->parameters()[0].detach().clone();
  rckv->after_step();
  for (const auto& parameter : rckv->parameters()) {
    auto p = parameter.detach().to(at::kDouble), inverse = p.t();
    auto eye = at::eye(5, at::kDouble), ppi = at::matmul(p, inverse), pip = at::matmul(inverse, p);
    Tolerance near{0, 1e-6};
    EXPECT_TENSOR_NEAR(ppi, eye, near);
    EXPECT_TENSOR_NEAR(at::matmul(ppi, p), p, near);
    EXPECT_TENSOR_NEAR(at::matmul(pip, inverse), inverse, near);
    EXPECT_TENSOR_NEAR(ppi.t(), ppi, near);
    EXPECT_TENSOR_NEAR(pip.t(), pip, near);
  }
  // The same row space, rows near where they were: the first is only rescaled.
  auto first = moved[0] / moved[0].norm();
  EXPECT_TENSOR_NEAR(rckv->parameters()[0][0], first, (Tolerance{0, 1e-5}));
  auto before = rckv->parameters()[0].detach().clone();
  rckv->after_step();
  EXPECT_TENSOR_NEAR(rckv->parameters()[0], before, (Tolerance{0, 1e-6}));
}

// A small step moves rows a little: none changes sign, whatever signs QR itself prefers.
TEST(Rckv, TheStepFlipsNoRow) {
  auto rckv = make_rckv(5);
  for (double sign : {1.0, -1.0}) {
    torch::NoGradGuard no_grad;
    for (auto& p : rckv->parameters())
      p.copy_(at::eye(5, kJoint) * sign + normal("small update", p.sizes()) * 0.02);
    rckv->after_step();
    for (const auto& p : rckv->parameters())
      EXPECT_TENSOR_NEAR(p, at::eye(5, kJoint) * sign, (Tolerance{0, 0.15}));
  }
}

TEST(Rckv, ErrorIsTheRelativeReconstructionError) {
  auto rckv = make_rckv(5);
  auto k = anisotropic("k", 9), v = anisotropic("v", 9);
  auto valid = at::ones({2, 9}, at::kBool);
  valid[1].slice(0, 4).fill_(false);
  auto error_of = [&](const at::Tensor& x, const char* name) {
    auto rows = joint_rows(x).index_select(0, valid.reshape(-1).nonzero().squeeze(1));
    auto p = rckv->named_parameters()[name].detach().to(at::kDouble);
    auto rebuilt = at::matmul(at::matmul(rows, p.t()), p);
    return ((rows - rebuilt).square().sum() / rows.square().sum()).item<double>();
  };
  auto expected = 0.5 * (error_of(k, "key_projection_0") + error_of(v, "value_projection_0"));
  EXPECT_NEAR(rckv->compression_error(0, k, v, valid).item<double>(), expected, 1e-5);
}

TEST(Rckv, GradientOfTheErrorReachesTheProjectionsOnly) {
  auto rckv = make_rckv(5);
  auto k = anisotropic("k", 9).requires_grad_(), v = anisotropic("v", 9).requires_grad_();
  rckv->compression_error(0, k, v, at::ones({2, 9}, at::kBool)).backward();
  EXPECT_FALSE(k.grad().defined());
  EXPECT_FALSE(v.grad().defined());
  for (const auto& parameter : rckv->named_parameters()) {
    bool own = parameter.key() == "key_projection_0" || parameter.key() == "value_projection_0";
    ASSERT_EQ(parameter.value().grad().defined(), own) << parameter.key();
    if (own) {
      EXPECT_GT(parameter.value().grad().norm().item<double>(), 1e-3);
    }
  }
  // Its direction: a step against it lowers the error.
  auto before = rckv->compression_error(0, k, v, at::ones({2, 9}, at::kBool)).item<double>();
  {
    at::NoGradGuard no_grad;
    for (auto& p : rckv->parameters())
      if (p.grad().defined()) p.sub_(p.grad() * 0.1);
  }
  rckv->after_step();
  EXPECT_LT(rckv->compression_error(0, k, v, at::ones({2, 9}, at::kBool)).item<double>(), before);
}

// Gradients flow through latents that are read.
TEST(Rckv, LatentsAreDifferentiable) {
  auto rckv = make_rckv(5);
  auto v = normal("v", {1, kKv, 3, kWidth}).to(at::kDouble);
  auto function = [&](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    return {rckv->rebuild_keys(0, rckv->compress_keys(0, in[0])),
            rckv->expand_values(
                0, rckv->compress_values(0, in[0]).unsqueeze(1).expand({1, 4, 3, 5}), 4)};
  };
  EXPECT_TRUE(testing::gradcheck(function, {v}, {0}));
}

// Eigenvalues of a symmetric matrix by Jacobi rotations: shares nothing with torch's eigh.
std::vector<double> jacobi_eigenvalues(const at::Tensor& matrix) {
  auto n = matrix.size(0);
  auto copy = matrix.to(at::kDouble).clone().contiguous();
  auto a = copy.accessor<double, 2>();
  for (int sweep = 0; sweep < 60; ++sweep)
    for (int64_t p = 0; p < n; ++p)
      for (int64_t q = p + 1; q < n; ++q) {
        if (std::abs(a[p][q]) < 1e-300) continue;
        auto theta = 0.5 * std::atan2(2 * a[p][q], a[q][q] - a[p][p]);
        auto c = std::cos(theta), s = std::sin(theta);
        for (int64_t i = 0; i < n; ++i) {
          auto x = a[i][p], y = a[i][q];
          a[i][p] = c * x - s * y;
          a[i][q] = s * x + c * y;
        }
        for (int64_t i = 0; i < n; ++i) {
          auto x = a[p][i], y = a[q][i];
          a[p][i] = c * x - s * y;
          a[q][i] = s * x + c * y;
        }
      }
  std::vector<double> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(a[i][i]);
  std::sort(values.begin(), values.end());
  return values;
}

double tail_share(const at::Tensor& rows, int64_t width) {
  auto values = jacobi_eigenvalues(at::matmul(rows.t(), rows));
  double tail = 0, total = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    total += values[i];
    if (int64_t(i) < int64_t(values.size()) - width) tail += values[i];
  }
  return tail / total;
}

TEST(Rckv, CalibrationReachesTheTailEnergy) {
  auto rckv = make_rckv(5);
  auto valid = at::ones({2, 30}, at::kBool);
  valid[0].slice(0, 20).fill_(false);
  auto k = anisotropic("k", 30), v = normal("v", {2, kKv, 30, kWidth});
  auto real = valid.reshape(-1).nonzero().squeeze(1);
  auto loud = [&](const at::Tensor& x) {  // padding must not count, whatever stands there
    return x * at::where(valid, 1.0, 50.0).unsqueeze(1).unsqueeze(-1);
  };
  rckv->begin_calibration();
  EXPECT_TRUE(rckv->calibrating());
  for (int64_t layer = 0; layer < 2; ++layer) {  // in two batches
    rckv->collect(layer, loud(k).narrow(0, 0, 1), loud(v).narrow(0, 0, 1), valid.narrow(0, 0, 1));
    rckv->collect(layer, loud(k).narrow(0, 1, 1), loud(v).narrow(0, 1, 1), valid.narrow(0, 1, 1));
  }
  rckv->finish_calibration();
  EXPECT_FALSE(rckv->calibrating());
  auto floor = 0.5 * (tail_share(joint_rows(k).index_select(0, real), 5) +
                      tail_share(joint_rows(v).index_select(0, real), 5));
  EXPECT_GT(floor, 0.01);
  EXPECT_NEAR(rckv->tail_energy().at(1), floor, 1e-6);
  EXPECT_NEAR(rckv->compression_error(1, k, v, valid).item<double>(), floor, 1e-5);

  // No other orthonormal projection is better: random ones, and small rotations of this one.
  auto best = rckv->parameters();
  std::vector<at::Tensor> optimum;
  for (const auto& p : best) optimum.push_back(p.detach().clone());
  for (int trial = 0; trial < 40; ++trial) {
    at::NoGradGuard no_grad;
    auto size = trial < 20 ? 10.0 : 0.05;
    for (size_t i = 0; i < best.size(); ++i)
      best[i].copy_(optimum[i] +
                    normal("trial " + std::to_string(trial * 10 + int(i)), optimum[i].sizes()) *
                        size);
    rckv->after_step();
    EXPECT_GT(rckv->compression_error(1, k, v, valid).item<double>(), floor + 1e-6);
  }
}

Rckv make_rckv_with(const std::string& position, const std::string& weight) {
  RckvConfig config;
  config.latent_width = 5;
  config.position = position;
  config.weight = weight;
  return Rckv(config, kShape, 5);
}

// q . (P^T z) of each head's slice, without rebuilding: grouped heads, 2 query heads a key-value
// head.
TEST(Rckv, AbsorbedQueriesMeetLatentsAsRebuiltKeys) {
  auto rckv = make_rckv_with("age_bias", "uniform");
  auto q = normal("q", {2, 4, 3, kWidth});
  auto latents = rckv->compress_keys(1, normal("k", {2, kKv, 7, kWidth}));
  auto absorbed = at::matmul(rckv->absorb_queries(1, q), latents.unsqueeze(1).transpose(-1, -2));
  auto rebuilt = rckv->rebuild_keys(1, latents);
  for (int64_t h = 0; h < 4; ++h)
    EXPECT_TENSOR_NEAR(absorbed.select(1, h),
                       at::matmul(q.select(1, h), rebuilt.select(1, h / 2).transpose(-1, -2)),
                       (Tolerance{1e-5, 1e-5}));
}

TEST(Rckv, AgeBiasIsByHeadAndPowerOfTwo) {
  auto rckv = make_rckv_with("age_bias", "uniform");
  auto table = rckv->named_parameters()["age_bias_1"];
  EXPECT_EQ(table.abs().max().item<double>(), 0);  // starts as no bias
  {
    at::NoGradGuard no_grad;
    table.copy_(normal("table", table.sizes()));
  }
  auto query = at::tensor({2000000000, 2000000001}, at::kLong).unsqueeze(0);
  std::vector<int64_t> ages{1, 2, 3, 4, 7, 8, 1023, 1024, 1025, 1 << 20, 1999999999};
  auto key = 2000000000 - at::tensor(ages, at::kLong).unsqueeze(0);
  auto bias = rckv->age_bias(1, query, key);
  ASSERT_EQ(bias.sizes(), (std::vector<int64_t>{1, 4, 2, int64_t(ages.size())}));
  for (int64_t h = 0; h < 4; ++h)
    for (int64_t t = 0; t < 2; ++t)
      for (size_t i = 0; i < ages.size(); ++i) {
        int64_t bucket = 0;
        for (auto age = ages[i] + t; age > 1; age /= 2) ++bucket;
        EXPECT_EQ(bias[0][h][t][int64_t(i)].item<float>(), table[h][bucket].item<float>())
            << ages[i] + t;
      }
  bias.sum().backward();
  EXPECT_GT(table.grad().abs().sum().item<double>(), 0);
}

// Parameters exist only where they are chosen (D23), and the gate starts nearly open.
TEST(Rckv, GateAndAgeBiasExistOnlyWhereChosen) {
  EXPECT_EQ(make_rckv_with("rope_reconstruct", "attention_rate")->parameters().size(), 4u);
  EXPECT_EQ(make_rckv_with("age_bias", "recency")->parameters().size(), 6u);
  auto rckv = make_rckv_with("rope_reconstruct", "gate");
  EXPECT_EQ(rckv->parameters().size(), 8u);
  auto k = rckv->compress_keys(0, normal("k", {2, kKv, 40, kWidth})),
       v = rckv->compress_values(0, normal("v", {2, kKv, 40, kWidth}));
  auto open = rckv->log_gate(0, k, v).exp();
  EXPECT_NEAR(open.mean().item<double>(), 0.9, 0.01);
  EXPECT_GT(open.std().item<double>(), 1e-4);  // no ties, so that a run without noise is defined
  rckv->log_gate(0, k, v).sum().backward();
  EXPECT_GT(rckv->named_parameters()["gate_weight_0"].grad().norm().item<double>(), 0);
  EXPECT_GT(rckv->named_parameters()["gate_bias_0"].grad().norm().item<double>(), 0);
}

}  // namespace
}  // namespace dsrsq
