#include "dsrsq/methods/kv_compress.h"

#include <gtest/gtest.h>

#include <limits>

namespace dsrsq {
namespace {

using Kept = std::vector<int64_t>;
constexpr float kProtected = std::numeric_limits<float>::infinity();

// Blocks of 2 in heads of 5 entries: the first block to go holds one. Head 0: 1, then {2, 3} for 3,
// then {10, protected}, never. Head 1: 2, {2.5, 2.6} for 2.6, {2.7, 2.8} for 2.8.
const std::vector<std::vector<float>> kHeads{{1, 2, 3, 10, kProtected}, {2, 2.5, 2.6, 2.7, 2.8}};

TEST(KvCompress, BlocksByHandOnTwoHeads) {
  EXPECT_EQ(cheapest_blocks(kHeads, 2, 10), (Kept{5, 5}));
  EXPECT_EQ(cheapest_blocks(kHeads, 2, 9), (Kept{4, 5}));  // the block that costs 1
  EXPECT_EQ(cheapest_blocks(kHeads, 2, 8), (Kept{4, 4}));  // 2
  EXPECT_EQ(cheapest_blocks(kHeads, 2, 7), (Kept{4, 2}));  // 2.6; whole, so 6 are left
  EXPECT_EQ(cheapest_blocks(kHeads, 2, 5), (Kept{4, 0}));  // 2.8 before 3
  EXPECT_EQ(cheapest_blocks(kHeads, 2, 3), (Kept{2, 0}));
  EXPECT_EQ(cheapest_blocks(kHeads, 2, 0), (Kept{2, 0}));  // what is protected stays
}

TEST(KvCompress, ABlockOfOneEvictsSingleEntries) {
  EXPECT_EQ(cheapest_blocks(kHeads, 1, 6), (Kept{3, 3}));  // 1, 2, 2, 2.5 go
}

}  // namespace
}  // namespace dsrsq
