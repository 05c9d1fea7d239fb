#include "dsrsq/ops/rotary.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "support/expect_tensor.h"
#include "support/op_case.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;
using testing::test_devices;

constexpr int64_t kBatch = 2, kHeads = 3, kTokens = 37;

// Each pair of numbers as a complex one, turned by position x frequency.
at::Tensor turned(const at::Tensor& x, const at::Tensor& positions, double base, double direction) {
  auto half = x.size(3) / 2;
  auto wide = x.to(at::kCPU, at::kDouble);
  auto frequency = at::pow(base, at::arange(half, at::kDouble) * (-2.0 / double(x.size(3))));
  auto angle = positions.to(at::kDouble).view({kBatch, 1, kTokens, 1}) * frequency * direction;
  auto pairs = at::complex(wide.narrow(3, 0, half), wide.narrow(3, half, half));
  auto out = pairs * at::polar(at::ones_like(angle), angle);
  return at::cat({at::real(out), at::imag(out)}, 3);
}

double error(const at::Tensor& actual, const at::Tensor& expected) {
  return ((actual.to(at::kCPU, at::kDouble) - expected).norm() / expected.norm()).item<double>();
}

TEST(Rotary, TurnsPairsByTheirPositionForwardAndBackward) {
  auto positions = at::stack({at::arange(kTokens), at::arange(kTokens) * 7 + 100000});
  for (int64_t width : {64, 128, 24})
    for (const auto device : test_devices())
      for (const auto type : {at::kFloat, at::kBFloat16})
        for (bool by_token :
             {false, true})  // heads of a token side by side, as a projection leaves
          for (bool inverse : {false, true}) {
            SCOPED_TRACE(device.str() + " width " + std::to_string(width));
            auto values = normal("x", {kBatch, kHeads, kTokens, width}).to(at::kBFloat16);
            auto weights = normal("d", values.sizes()).to(at::kBFloat16);
            auto laid_out = by_token ? values.transpose(1, 2).contiguous().transpose(1, 2) : values;
            auto x = laid_out.to(device, type).detach().requires_grad_(true);
            auto table = ops::rotary_table(positions.to(device), width, 10000);
            auto out = ops::rotate(x, table, inverse);
            ASSERT_EQ(out.scalar_type(), type);
            auto tolerance = type == at::kBFloat16 ? 3e-3 : 1e-6;
            auto direction = inverse ? -1.0 : 1.0;
            EXPECT_LE(error(out, turned(values, positions, 10000, direction)), tolerance);
            auto gradient = torch::autograd::grad({out}, {x}, {weights.to(device, type)})[0];
            EXPECT_LE(error(gradient, turned(weights, positions, 10000, -direction)), tolerance);
          }
}

// What yarn multiplies by goes away again, in bf16 too.
TEST(Rotary, TurningBackUndoesTheScale) {
  auto positions = at::arange(kTokens).unsqueeze(0).expand({kBatch, kTokens});
  for (const auto device : test_devices()) {
    auto x = normal("x", {kBatch, kHeads, kTokens, 64}).to(at::kBFloat16).to(device);
    auto table = ops::rotary_table(positions.to(device), 64, 10000);
    table = {table.cosine * 1.5, table.sine * 1.5, 1.5};
    auto there = ops::rotate(x, table);
    EXPECT_NEAR((there.to(at::kFloat).norm() / x.to(at::kFloat).norm()).item<double>(), 1.5, 1e-2);
    EXPECT_LE(error(ops::rotate(there, table, true), x.to(at::kCPU, at::kDouble)), 5e-3);
  }
}

}  // namespace
}  // namespace dsrsq
