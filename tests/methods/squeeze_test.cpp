#include "dsrsq/methods/squeeze.h"

#include <gtest/gtest.h>

namespace dsrsq {
namespace {

using Ints = std::vector<int64_t>;

TEST(Squeeze, ThreeMeansOnALine) {
  EXPECT_EQ(three_means({.9, .1, .5, .92, .12, .55}), (Ints{2, 0, 1, 2, 0, 1}));
  EXPECT_EQ(three_means({1, 2, 3}), (Ints{0, 1, 2}));
  EXPECT_EQ(three_means({0, 10, 10, 11, 50}), (Ints{0, 1, 1, 1, 2}));
  EXPECT_EQ(three_means({.5, .5, .7, .7}), (Ints{0, 0, 0, 0}));  // two values: nothing to compare
}

// Layers 0 and 3 change least: 0.4 of the mean of 100. The other four share the remaining 520.
TEST(Squeeze, BudgetsByHand) {
  const std::vector<double> similarity{.9, .1, .5, .92, .12, .55};
  EXPECT_EQ(squeezed_capacities(similarity, 100, 1000, 0.4), (Ints{40, 130, 130, 40, 130, 130}));
  // No layer holds more than the context's 110 entries: (600 - 440) / 2 go back.
  EXPECT_EQ(squeezed_capacities(similarity, 100, 110, 0.4), (Ints{80, 110, 110, 80, 110, 110}));
  EXPECT_EQ(squeezed_capacities(similarity, 100, 100, 0.4), Ints(6, 100));  // everything
  EXPECT_EQ(squeezed_capacities({.5, .5, .5}, 100, 1000, 0.4), Ints(3, 100));
}

}  // namespace
}  // namespace dsrsq
