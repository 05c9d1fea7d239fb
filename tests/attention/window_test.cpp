#include "dsrsq/attention/window.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::Tolerance;

// Row by row from the definition, in double.
at::Tensor by_definition(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                         int64_t window, int64_t sinks) {
  auto group = q.size(1) / k.size(1);
  auto out = at::zeros_like(q);
  for (int64_t b = 0; b < q.size(0); ++b)
    for (int64_t h = 0; h < q.size(1); ++h)
      for (int64_t i = 0; i < q.size(2); ++i) {
        double total = 0;
        auto sum = at::zeros({q.size(3)}, q.options());
        for (int64_t j = 0; j <= i; ++j) {
          if (j < i - window && j >= sinks) continue;
          auto logit = q[b][h][i].dot(k[b][h / group][j]).item<double>();
          auto weight = std::exp(logit / std::sqrt(double(q.size(3))));
          total += weight;
          sum += v[b][h / group][j] * weight;
        }
        out[b][h][i] = sum / total;
      }
  return out;
}

TEST(WindowAttention, IsItsDefinition) {
  for (int64_t rows : {1, 3, 4, 5, 8, 9, 17})
    for (int64_t window : {1, 3, 4})
      for (int64_t sinks : {0, 2, 6}) {
        auto q = testing::normal("q", {2, 4, rows, 8}).to(at::kDouble);
        auto k = testing::normal("k", {2, 2, rows, 8}).to(at::kDouble);
        auto v = testing::normal("v", {2, 2, rows, 8}).to(at::kDouble);
        EXPECT_TENSOR_NEAR(window_attention(q, k, v, window, sinks),
                           by_definition(q, k, v, window, sinks), (Tolerance{0, 1e-12}))
            << rows << " rows, window " << window << ", sinks " << sinks;
      }
}

// Rank 4 with a window of 2 and one sink: ranks 0, 2, 3, 4; the key of rank 3 is padding.
TEST(WindowAttention, MaskByHand) {
  auto order = at::arange(6, at::kLong).unsqueeze(0);
  auto valid = torch::tensor({true, true, true, false, true, true}).unsqueeze(0);
  auto mask = window_mask(at::full({1, 1}, 4, at::kLong), order, valid, 2, 1);
  EXPECT_TENSOR_EQUAL(mask.view({6}), torch::tensor({true, false, true, false, true, false}));
}

}  // namespace
}  // namespace dsrsq
