#include "dsrsq/methods/snapkv.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "methods/eviction_example.h"
#include "support/expect_tensor.h"

namespace dsrsq {
namespace {

using testing::Tolerance;

struct Exposed : SnapKvMethod {
  using SnapKvMethod::memory_of;
  using SnapKvMethod::score;
  using SnapKvMethod::SnapKvMethod;
};

constexpr double kInfinity = std::numeric_limits<double>::infinity();

at::Tensor scores(const EvictionConfig& config, int64_t budget, const at::Tensor& q,
                  const at::Tensor& k) {
  auto example = testing::eviction_example(q, k);
  Exposed method(config, testing::example_model(1, q.size(0), k.size(0)));
  PassOptions options;
  options.budget = budget;
  auto state = method.make_state(example.batch, options);
  return method.score(example.input, example.layer, method.memory_of(state))[0];
}

// The last query of head 0 attends 1/8, 2/8, 4/8, 1/8, that of head 1 everything alike.
at::Tensor queries() {
  return at::tensor({0., 0., 0., 1., 0., 0., 0., 0.}, at::kDouble).view({2, 4});
}
at::Tensor keys() {
  return at::tensor({0., std::log(2.), std::log(4.), 0.}, at::kDouble).view({1, 4});
}

TEST(SnapKv, ScoresByHandWithAWindowOfOne) {
  EvictionConfig config;
  config.window = 1;
  config.kernel = 1;
  EXPECT_TENSOR_NEAR(scores(config, 2, queries(), keys())[0],
                     at::tensor({.1875, .25, .375, kInfinity}, at::kDouble), (Tolerance{0, 1e-12}));
  config.kernel =
      3;  // of head 0 .25 .5 .5, of head 1 .25 thrice; the window's own .125 is not pooled
  EXPECT_TENSOR_NEAR(scores(config, 2, queries(), keys())[0],
                     at::tensor({.25, .375, .375, kInfinity}, at::kDouble), (Tolerance{0, 1e-12}));
  config.pooling = "mean";  // (0 + 1 + 2) / 24, 7 / 24, 6 / 24 and 2, 3, 2 twelfths
  EXPECT_TENSOR_NEAR(scores(config, 2, queries(), keys())[0],
                     at::tensor({(3 / 24. + 2 / 12.) / 2, (7 / 24. + 3 / 12.) / 2,
                                 (6 / 24. + 2 / 12.) / 2, kInfinity},
                                at::kDouble),
                     (Tolerance{0, 1e-12}));
}

TEST(SnapKv, RowsOfTheWindowAreCausalAndSummed) {
  EvictionConfig config;
  config.window = 2;
  config.kernel = 1;
  // Row 2 attends 1/7, 2/7, 4/7 of the tokens up to itself, row 3 as before.
  auto q = at::tensor({0., 0., 1., 1.}, at::kDouble).view({1, 4});
  EXPECT_TENSOR_NEAR(
      scores(config, 4, q, keys())[0],
      at::tensor({1 / 7. + 1 / 8., 2 / 7. + 2 / 8., kInfinity, kInfinity}, at::kDouble),
      (Tolerance{0, 1e-12}));
}

// Query heads 0 and 1 read with key-value head 0, 2 and 3 with head 1: nothing of one group is in
// the other's scores.
TEST(SnapKv, AKeyValueHeadIsScoredByItsOwnQueryHeads) {
  EvictionConfig config;
  config.window = 1;
  config.kernel = 1;
  auto q = at::zeros({4, 4}, at::kDouble);
  q.select(1, 3).copy_(at::tensor({1., 1., 0., 0.}, at::kDouble));
  auto k = at::cat({keys(), keys()}, 0);
  auto found = scores(config, 2, q, k);
  EXPECT_TENSOR_NEAR(found[0], at::tensor({.125, .25, .5, kInfinity}, at::kDouble),
                     (Tolerance{0, 1e-12}));
  EXPECT_TENSOR_NEAR(found[1], at::tensor({.25, .25, .25, kInfinity}, at::kDouble),
                     (Tolerance{0, 1e-12}));
}

TEST(SnapKv, TheWindowTakesAtMostHalfOfTheBudget) {
  EvictionConfig config;
  config.window = 32;
  config.kernel = 1;
  auto kept = [&](int64_t budget) {
    return scores(config, budget, queries(), keys()).isinf().sum().item<int64_t>();
  };
  EXPECT_EQ(kept(1), 1);
  EXPECT_EQ(kept(2), 1);
  EXPECT_EQ(kept(3), 1);
  EXPECT_EQ(kept(4), 2);
}

}  // namespace
}  // namespace dsrsq
