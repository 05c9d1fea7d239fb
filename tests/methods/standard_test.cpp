#include "dsrsq/methods/standard.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

std::vector<int64_t> chosen(const StandardConfig& config, const std::vector<int64_t>& contexts,
                            int64_t sequence) {
  std::vector<testing::TinySequence> sequences;
  for (auto context : contexts)
    sequences.push_back({.context = context, .sample = int64_t(sequences.size())});
  auto batch = testing::tiny_batch(sequences);
  StandardMethod method(config, testing::tiny_model());
  auto state = method.make_state(batch, {});
  auto selected = method.select(batch, {}, state);
  EXPECT_EQ(selected.slots(), selected.index.size(1));
  auto list = selected.index[sequence].masked_select(selected.mask[sequence]).contiguous();
  return {list.data_ptr<int64_t>(), list.data_ptr<int64_t>() + list.numel()};
}

std::vector<int64_t> range(int64_t begin, int64_t end) {
  std::vector<int64_t> list;
  for (auto i = begin; i < end; ++i) list.push_back(i);
  return list;
}

std::vector<int64_t> operator+(std::vector<int64_t> first, const std::vector<int64_t>& second) {
  first.insert(first.end(), second.begin(), second.end());
  return first;
}

TEST(Standard, CutsTheMiddle) {
  StandardConfig config{.window = 14, .truncation = "middle", .reserved = 4};  // room for 10
  EXPECT_EQ(chosen(config, {30, 21, 10, 4}, 0), range(0, 5) + range(25, 30));
  EXPECT_EQ(chosen(config, {30, 21, 10, 4}, 1),
            range(0, 5) + range(16, 21));  // by its own length, not the batch's
  EXPECT_EQ(chosen(config, {30, 21, 10, 4}, 2), range(0, 10));
  EXPECT_EQ(chosen(config, {30, 21, 10, 4}, 3), range(0, 4));
  config.window = 13;  // an odd room: the beginning gets the extra token
  EXPECT_EQ(chosen(config, {30}, 0), range(0, 5) + range(26, 30));
}

TEST(Standard, CutsTheLeft) {
  StandardConfig config{.window = 14, .truncation = "left", .reserved = 4};
  EXPECT_EQ(chosen(config, {30, 21, 4}, 0), range(20, 30));
  EXPECT_EQ(chosen(config, {30, 21, 4}, 1), range(11, 21));
  EXPECT_EQ(chosen(config, {30, 21, 4}, 2), range(0, 4));
}

TEST(Standard, ReservesAtMostHalfOfTheWindow) {
  StandardConfig config{.window = 8, .truncation = "left", .reserved = 128};
  EXPECT_EQ(chosen(config, {30}, 0), range(26, 30));
}

TEST(Standard, ReadsAllThatFits) {
  StandardConfig config{.window = 40, .truncation = "middle", .reserved = 10};
  EXPECT_EQ(chosen(config, {30, 12}, 0), range(0, 30));
  EXPECT_EQ(chosen(config, {30, 12}, 1), range(0, 12));
}

}  // namespace
}  // namespace dsrsq
