#include "dsrsq/ops/causal_conv.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/ops/noise.h"

namespace dsrsq {
namespace {

at::Tensor values(const char* name, at::IntArrayRef shape) {
  return ops::initial_normal(name, shape, 1.0, 3).to(at::kDouble);
}

// The sum as it is written, one element at a time.
at::Tensor by_hand(const at::Tensor& x, const at::Tensor& taps, const at::Tensor& tail) {
  auto width = taps.size(1);
  auto out = at::zeros_like(x);
  for (int64_t b = 0; b < x.size(0); ++b)
    for (int64_t t = 0; t < x.size(1); ++t)
      for (int64_t i = 0; i < width; ++i) {
        auto from = t - (width - 1) + i;
        if (from >= 0)
          out[b][t] += taps.select(1, i) * x[b][from];
        else if (tail.defined())
          out[b][t] += taps.select(1, i) * tail[b][width - 1 + from];
      }
  return out;
}

TEST(CausalConv, EqualsTheSumWrittenOut) {
  auto x = values("x", {2, 6, 5}), taps = values("taps", {5, 4}), tail = values("tail", {2, 3, 5});
  EXPECT_TRUE(at::allclose(ops::causal_conv(x, taps, {}), by_hand(x, taps, {}), 0, 1e-12));
  EXPECT_TRUE(at::allclose(ops::causal_conv(x, taps, tail), by_hand(x, taps, tail), 0, 1e-12));
}

TEST(CausalConv, GradientsEqualThoseOfConv1d) {
  auto x = values("x", {3, 9, 4}).requires_grad_(true),
       taps = values("taps", {4, 8}).requires_grad_(true);
  auto weight = values("weight", {3, 9, 4});
  auto own = torch::autograd::grad({(ops::causal_conv(x, taps, {}) * weight).sum()}, {x, taps});
  auto padded = at::constant_pad_nd(x, {0, 0, 7, 0}).transpose(1, 2);
  auto reference = at::conv1d(padded, taps.unsqueeze(1), {}, at::IntArrayRef{1}, at::IntArrayRef{0},
                              at::IntArrayRef{1}, 4);
  auto expected = torch::autograd::grad({(reference.transpose(1, 2) * weight).sum()}, {x, taps});
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(at::allclose(own[i], expected[i], 0, 1e-10)) << i;
}

TEST(CausalConv, AChunkAfterItsTailEqualsTheWhole) {
  auto x = values("x", {2, 12, 5}), taps = values("taps", {5, 4});
  auto whole = ops::causal_conv(x, taps, {});
  auto first = x.narrow(1, 0, 7);
  auto tail = ops::next_conv_tail(first, {}, 4);
  EXPECT_TRUE(at::allclose(ops::causal_conv(x.narrow(1, 7, 5), taps, tail), whole.narrow(1, 7, 5),
                           0, 1e-12));
}

}  // namespace
}  // namespace dsrsq
