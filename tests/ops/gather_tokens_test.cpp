#include "dsrsq/ops/gather_tokens.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>

#include "support/expect_tensor.h"
#include "support/retrieval_cases.h"

namespace dsrsq {
namespace {

using ops::gather_tokens;
using testing::test_devices;

TEST(GatherTokens, MatchesOracleIsRepeatableAndItsGradient) {
  testing::expect_op_cases(testing::gather_tokens_cases());
}

TEST(GatherTokens, WorkedExample) {
  for (const at::Device device : test_devices()) {
    const at::Tensor rows =
        torch::tensor({{{1.f, 2.f}, {3.f, 4.f}, {5.f, 6.f}}}).to(device).requires_grad_();
    const at::Tensor index = at::tensor({2, -1, 0, 2}, at::kLong).view({1, 4}).to(device);
    const at::Tensor out = gather_tokens(rows, index);
    EXPECT_TENSOR_EQUAL(out.detach().cpu(),
                        torch::tensor({{{5.f, 6.f}, {0.f, 0.f}, {1.f, 2.f}, {5.f, 6.f}}}));
    const at::Tensor weight = torch::tensor({{{1.f, 10.f}, {7.f, 7.f}, {2.f, 20.f}, {3.f, 30.f}}});
    (out * weight.to(device)).sum().backward();
    EXPECT_TENSOR_EQUAL(rows.grad().cpu(), torch::tensor({{{2.f, 20.f}, {0.f, 0.f}, {4.f, 40.f}}}));
  }
}

// Sums of many in a fixed order, in fp32 also of bf16 gradients: 1 + 300 x 2^-9 would stay 1 there.
TEST(GatherTokens, GradientsOfOneRowAreSummedInFp32) {
  for (const at::Device device : test_devices()) {
    const at::Tensor rows =
        at::zeros({2, 5, 70}, at::TensorOptions(device).dtype(at::kBFloat16)).requires_grad_();
    const at::Tensor index = at::full({2, 301}, 3, at::TensorOptions(device).dtype(at::kLong));
    at::Tensor d_out = at::full({2, 301, 70}, 1. / 512, rows.options().requires_grad(false));
    d_out.select(1, 0).fill_(1);
    const at::Tensor gradient =
        torch::autograd::grad({gather_tokens(rows, index)}, {rows}, {d_out})[0];
    EXPECT_TENSOR_EQUAL(gradient.select(1, 3).cpu(),
                        at::full({2, 70}, 1 + 300. / 512).to(at::kBFloat16));
    EXPECT_EQ(gradient.slice(1, 0, 3).abs().sum().item<float>(), 0.f);
  }
}

TEST(GatherTokens, TenBackwardPassesAreTheSameBits) {
  torch::manual_seed(2);
  for (const at::Device device : test_devices())
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      const at::Tensor rows = at::randn({2, 40, 33}).to(device, type).requires_grad_();
      const at::Tensor index = at::randint(-1, 7, {2, 500}, at::kLong).to(device);
      const at::Tensor d_out = at::randn({2, 500, 33}).to(device, type);
      const auto gradient = [&] {
        return torch::autograd::grad({gather_tokens(rows, index)}, {rows}, {d_out})[0];
      };
      const at::Tensor first = gradient();
      for (int run = 1; run < 10; ++run) EXPECT_TENSOR_EQUAL(gradient(), first);
    }
}

TEST(GatherTokens, TakesRowsAtAnyAddress) {
  const at::Tensor all = at::randn({3, 11, 21}).to(at::kBFloat16);
  const at::Tensor index = at::tensor({7, 0, -1, 7, 2, 1}, at::kLong).view({3, 2});
  for (const at::Device device : test_devices())
    for (const int64_t width : {1, 2, 8, 20}) {
      const at::Tensor rows = all.to(device).slice(1, 1, 9).slice(2, 1, 1 + width);
      const at::Tensor out = gather_tokens(rows, index.to(device)).cpu();
      EXPECT_TENSOR_EQUAL(out[0][0], all[0][8].slice(0, 1, 1 + width));
      EXPECT_TENSOR_EQUAL(out[2][1], all[2][2].slice(0, 1, 1 + width));
      EXPECT_EQ(out[1][0].abs().sum().item<float>(), 0.f);
    }
}

TEST(GatherTokens, AutocastChangesNothing) {
  const at::Tensor rows = at::randn({1, 4, 3});
  const at::Tensor index = at::tensor({1, 3}, at::kLong).view({1, 2});
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const at::Tensor out = gather_tokens(rows, index);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_TENSOR_EQUAL(out, rows.slice(1, 1, 4, 2));
}

TEST(GatherTokens, WrongArgumentsAreNamed) {
  const at::Tensor rows = at::randn({2, 4, 3}), index = at::zeros({2, 5}, at::kLong);
  const auto expect_error = [](const at::Tensor& x, const at::Tensor& at, const std::string& part) {
    try {
      gather_tokens(x, at);
      ADD_FAILURE() << "no error where one about " << part << " was expected";
    } catch (const c10::Error& e) {
      EXPECT_NE(std::string(e.what_without_backtrace()).find(part), std::string::npos) << e.what();
    }
  };
  expect_error(rows[0], index, "rows must be floating [B, N, D]");
  expect_error(rows.to(at::kLong), index, "rows must be floating");
  expect_error(rows, index.to(at::kInt), "index must be int64 [2, n]");
  expect_error(rows, index.slice(0, 1), "index must be");
  expect_error(rows, index + 4, "indices in [-1, 4), got 4");
  expect_error(rows, index - 2, "got -2");
  expect_error(rows, at::empty({2, 5}, at::TensorOptions(at::kMeta).dtype(at::kLong)),
               "put them on one device");
}

}  // namespace
}  // namespace dsrsq
