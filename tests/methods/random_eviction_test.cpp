#include "dsrsq/methods/random_eviction.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <numeric>

#include "dsrsq/core/random.h"
#include "methods/kept_entries.h"

namespace dsrsq {
namespace {

// 2 sinks, 10 tokens of context, half of them kept: the five with the largest uniform number of
// (seed, layer, head, sample, place), drawn here one by one.
TEST(RandomEviction, KeepsTheLargestOfAStreamAHead) {
  torch::NoGradGuard no_grad;
  auto shape = testing::tiny_model();  // 2 layers, 2 key-value heads
  const uint64_t seed = 5;
  const int64_t sample = 7;
  auto model = testing::tiny_language_model(
      shape, std::make_shared<RandomEvictionMethod>(EvictionConfig{}, shape, int64_t(seed)));
  PassOptions options;
  options.budget_share = 0.5;
  MethodState state;
  testing::read_batch(model, testing::tiny_batch({{.context = 10, .tail = 2, .sample = sample}}),
                      options, &state);
  auto kept = testing::kept_ranks(state, 1, 2);
  std::set<std::set<int64_t>> choices;
  for (uint64_t layer = 0; layer < 2; ++layer)
    for (uint64_t head = 0; head < 2; ++head) {
      RandomStream stream(seed, Purpose::kSelection, 1 + 2 * layer + head, uint64_t(sample));
      std::vector<int64_t> place(10);
      std::iota(place.begin(), place.end(), 0);
      std::sort(place.begin(), place.end(), [&](int64_t a, int64_t b) {
        return stream.uniform(uint64_t(a)) > stream.uniform(uint64_t(b));
      });
      std::set<int64_t> expected{0, 1, 12, 13};  // what stands around the context
      for (size_t i = 0; i < 5; ++i) expected.insert(2 + place[i]);
      EXPECT_EQ(kept[layer][0][head], expected) << "layer " << layer << ", head " << head;
      choices.insert(expected);
    }
  EXPECT_EQ(choices.size(), 4u);
}

}  // namespace
}  // namespace dsrsq
