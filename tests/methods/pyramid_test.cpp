#include "dsrsq/methods/pyramid.h"

#include <gtest/gtest.h>

#include <numeric>

namespace dsrsq {
namespace {

using Kept = std::vector<int64_t>;

// C = 30, W = 10, beta = 20: 20 a layer beside the window, from 2 x 20 - 1 = 39 to 20 / 20 = 1 by
// steps of 38 / 3: 39, 26.3, 13.7, 1; whole, and what is left over goes to the second layer.
TEST(Pyramid, LayersByHand) {
  EXPECT_EQ(pyramid_capacities(4, 30, 10, 200, 20), (Kept{39, 27, 13, 1}));
}

// 40 entries stand in front of the window, fewer than 2 x 25 - 1: the first layer keeps them all,
// the last gives what it would have had.
TEST(Pyramid, AShortContextFlattensIt) {
  EXPECT_EQ(pyramid_capacities(4, 35, 10, 50, 20), (Kept{40, 30, 20, 10}));
}

TEST(Pyramid, UniformWhereNoLayerCouldKeepTwiceTheMean) {
  EXPECT_EQ(pyramid_capacities(3, 40, 10, 50, 20), (Kept{30, 30, 30}));
  EXPECT_EQ(pyramid_capacities(3, 50, 10, 50, 20), (Kept{40, 40, 40}));  // everything
  EXPECT_EQ(pyramid_capacities(1, 20, 10, 500, 20), (Kept{10}));
}

TEST(Pyramid, KeepsTheBudgetToTheEntryAndNeverGrowsUpwards) {
  for (int64_t layers : {2, 3, 12, 30, 32})
    for (int64_t capacity : {9, 33, 64, 180, 700})
      for (int64_t context : {capacity, capacity + 5, 2 * capacity, 1500l, 16000l}) {
        if (context < capacity) continue;
        auto kept = pyramid_capacities(layers, capacity, 8, context, 20);
        EXPECT_EQ(std::accumulate(kept.begin(), kept.end(), int64_t{0}), layers * (capacity - 8))
            << layers << " " << capacity << " " << context;
        for (size_t l = 1; l < kept.size(); ++l) EXPECT_LE(kept[l], kept[l - 1]);
        EXPECT_LE(kept.front(), context - 8);
        EXPECT_GE(kept.back(), 0);
      }
}

}  // namespace
}  // namespace dsrsq
