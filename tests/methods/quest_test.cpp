#include "dsrsq/methods/quest.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/methods/oracle_attention.h"
#include "methods/eviction_example.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::Tolerance;

// Two pages of two keys of width 2, the last one half padding.
TEST(Quest, BoundsAndScoresByHand) {
  auto keys = at::tensor({1., -2., 3., 0., -1., 5., 9., 9.}, at::kDouble).view({1, 1, 4, 2});
  auto valid = torch::tensor({true, true, true, false}).view({1, 4});
  auto bounds = page_bounds(keys, valid, 2);
  EXPECT_TENSOR_EQUAL(bounds[0][0],
                      at::tensor({1., -2., 3., 0., -1., 5., -1., 5.}, at::kDouble).view({2, 2, 2}));
  auto q = at::tensor({2., -1.}, at::kDouble).view({1, 1, 1, 2});
  // Page 0: 2 x 3 + -1 x -2 = 8, more than any of its keys gives (4 and 6). Page 1: -2 - 5.
  EXPECT_TENSOR_EQUAL(page_scores(q, bounds).view({2}), at::tensor({8., -7.}, at::kDouble));
}

TEST(Quest, BoundsAreUpperBounds) {
  auto keys = testing::normal("k", {2, 2, 13, 8});
  auto q = testing::normal("q", {2, 4, 3, 8});
  auto scores = page_scores(q, page_bounds(keys, at::ones({2, 13}, at::kBool), 4));
  auto logits = at::matmul(q, keys.repeat_interleave(2, 1).transpose(2, 3));
  for (int64_t i = 0; i < 13; ++i)
    EXPECT_TRUE((logits.select(3, i) <= scores.select(3, i / 4) + 1e-5).all().item<bool>());
}

struct Exposed : QuestMethod {
  using QuestMethod::QuestMethod;
  using QuestMethod::reads;
};

TEST(Quest, DenseLayersArePaidByTheOthers) {
  Exposed method(EvictionConfig{}, QuestConfig{}, testing::example_model(10, 1, 1));
  SelectiveReadMemory memory;
  memory.context = {100};
  auto at_budget = [&](int64_t budget) {
    memory.budget = {budget};
    std::vector<int64_t> counts;
    for (int64_t l = 0; l < 10; ++l) counts.push_back(method.reads(l, memory)[0]);
    return counts;
  };
  using Counts = std::vector<int64_t>;
  // 500 reads: two whole contexts, 300 for eight layers.
  EXPECT_EQ(at_budget(50), (Counts{100, 100, 37, 37, 37, 37, 37, 37, 37, 37}));
  EXPECT_EQ(at_budget(20), (Counts{100, 11, 11, 11, 11, 11, 11, 11, 11, 11}));
  EXPECT_EQ(at_budget(10), Counts(10, 10));
  EXPECT_EQ(at_budget(100), Counts(10, 100));
}

// One token decoded reads a gathered set, several read under a mask: the same.
TEST(OracleAttention, AttendsTheHighestLogitsOfEachHead) {
  torch::NoGradGuard no_grad;
  auto model = testing::example_model(1, 2, 1);
  OracleAttentionMethod method(EvictionConfig{}, model);
  auto keys = at::tensor({.1, .9, -.5, .4, .3}, at::kDouble).view({1, 5});
  auto values = at::tensor({1., 2., 3., 4., 5.}, at::kDouble).view({1, 5});
  auto example = testing::eviction_example(at::zeros({2, 5}, at::kDouble), keys, values);
  PassOptions options;
  options.budget = 2;
  options.collect_stats = true;
  auto state = method.make_state(example.batch, options);
  method.attend(example.input, state);
  auto dense = state.stats.attended_pairs.item<int64_t>();
  AttentionInput next = example.input;
  next.q = at::tensor({1., -1.}, at::kDouble).view({1, 2, 1, 1});
  next.k = at::full({1, 1, 1, 1}, .2, at::kDouble);
  next.v = at::full({1, 1, 1, 1}, 6., at::kDouble);
  next.valid = at::ones({1, 1}, at::kBool);
  next.order = next.positions = at::full({1, 1}, 5, at::kLong);
  next.segments = {1};
  auto copy = state;
  auto out = method.attend(next, state);
  auto expected = [](std::vector<std::pair<double, double>> read, double sign) {
    double sum = 0, weight = 0;
    for (auto [key, value] : read) {
      sum += std::exp(sign * key) * value;
      weight += std::exp(sign * key);
    }
    return sum / weight;
  };
  auto first = expected({{.9, 2}, {.4, 4}, {.2, 6}}, 1);     // q = 1: keys .9 and .4
  auto second = expected({{-.5, 3}, {.1, 1}, {.2, 6}}, -1);  // q = -1: keys -.5 and .1
  EXPECT_NEAR(out[0][0].item<double>(), first, 1e-12);
  EXPECT_NEAR(out[0][1].item<double>(), second, 1e-12);
  EXPECT_EQ(state.stats.attended_pairs.item<int64_t>() - dense, 6);
  // The same token with another behind it, in one chunk.
  auto two = next;
  auto twice = [](const at::Tensor& x, int64_t dim) { return at::cat({x, x}, dim); };
  two.q = twice(next.q, 2);
  two.k = twice(next.k, 2);
  two.v = twice(next.v, 2);
  two.valid = twice(next.valid, 1);
  two.order = two.positions = at::tensor({5, 6}, at::kLong).view({1, 2});
  two.segments = {2};
  auto both = method.attend(two, copy);
  EXPECT_TENSOR_NEAR(both.narrow(2, 0, 1), out, (Tolerance{0, 1e-12}));
}

}  // namespace
}  // namespace dsrsq
