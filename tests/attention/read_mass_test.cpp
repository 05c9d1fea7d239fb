#include "dsrsq/attention/read_mass.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;
using testing::Tolerance;

TEST(FlaggedRows, StandSideBySide) {
  auto rows = at::tensor({-1, 0, -1, 1, 0, 2, -1, -1, -1, 0}, at::kLong).view({2, 5});
  auto found = flagged_rows(rows);
  ASSERT_EQ(found.count(), 3);
  EXPECT_TENSOR_EQUAL(found.index[0], at::tensor({1, 3, 4}, at::kLong));
  EXPECT_TENSOR_EQUAL(found.index[1], at::tensor({0, 4, 1}, at::kLong));
  EXPECT_TENSOR_EQUAL(found.question, at::tensor({0, 1, 0, 2, 0, -1}, at::kLong).view({2, 3}));
  auto x = normal("x", {2, 3, 5, 4});
  auto taken = take_rows(x, found);
  EXPECT_TENSOR_EQUAL(taken[0].select(1, 1), x[0].select(1, 3));
  EXPECT_TENSOR_EQUAL(taken[1].select(1, 1), x[1].select(1, 4));
  EXPECT_EQ(flagged_rows(at::full({2, 5}, -1, at::kLong)).count(), 0);
}

// Sums over heads and a question's rows land at the ranks of the keys, over calls, and the tensor
// grows.
TEST(ReadMass, SumsByRankAndGrows) {
  at::Tensor mass;
  auto expected = at::zeros({2, 2, 9}, at::kDouble);
  for (int64_t call = 0; call < 3; ++call) {
    auto keys = 3 + call, first = 2 * call;
    auto order = (at::arange(keys) + first).unsqueeze(0).expand({2, keys}).flip(1);
    auto logits = normal("logits", {2, 3, 4, keys}).requires_grad_();
    auto lse = at::logsumexp(logits, {-1}) + 0.3;  // other parts share the denominator
    auto question = at::tensor({1, -1, 0, 1, 0, 0, -1, -1}, at::kLong).view({2, 4});
    add_read_mass(mass, logits, lse, question, 2, order);
    ASSERT_EQ(mass.sizes(), (std::vector<int64_t>{2, 2, keys + first}));
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t h = 0; h < 3; ++h)
        for (int64_t t = 0; t < 4; ++t)
          for (int64_t j = 0; j < keys && question[b][t].item<int64_t>() >= 0; ++j)
            expected[b][question[b][t].item<int64_t>()][order[b][j].item<int64_t>()] +=
                std::exp(logits[b][h][t][j].item<double>() - lse[b][h][t].item<double>());
  }
  EXPECT_EQ(mass.scalar_type(), at::kFloat);
  EXPECT_FALSE(mass.requires_grad());
  EXPECT_TENSOR_NEAR(mass, expected, (Tolerance{1e-5, 1e-6}));
}

}  // namespace
}  // namespace dsrsq
