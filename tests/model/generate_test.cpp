#include "dsrsq/model/generate.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>

#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::read_batch;
using testing::tiny_batch;

const std::vector<testing::TinySequence> kSequences{{.context = 40, .tail = 6, .sample = 1},
                                                    {.context = 17, .tail = 3, .sample = 2},
                                                    {.context = 28, .tail = 5, .sample = 3}};

LanguageModel make() {
  return testing::tiny_dsrsq_model(testing::tiny_model(), testing::tiny_dsrsq(true, true, true));
}

// The greedy continuation by reading the whole, longer tail again for every token.
std::vector<int32_t> by_prefill(LanguageModel& model, testing::TinySequence sequence,
                                int64_t tokens) {
  torch::NoGradGuard no_grad;
  auto batch = tiny_batch({sequence});
  std::vector<int32_t> list;
  for (int64_t i = 0; i < tokens; ++i) {
    auto hidden = read_batch(model, batch);
    auto next = model->backbone()->logits(hidden.select(1, -1)).argmax(-1, true);
    list.push_back(int32_t(next.item<int64_t>()));
    batch.tail = at::cat({batch.tail, next}, 1);
    batch.tail_valid = at::ones_like(batch.tail, at::kBool);
  }
  return list;
}

TEST(Generate, EqualsGreedyPrefillOfEachSequenceAlone) {
  auto model = make();
  auto generated = generate(model, tiny_batch(kSequences), {}, {.maximum_tokens = 6, .end_id = -1});
  for (size_t b = 0; b < kSequences.size(); ++b)
    EXPECT_EQ(generated.tokens[b], by_prefill(model, kSequences[b], 6)) << b;
  EXPECT_EQ(generated.decoded_tokens, 3 * 5);
  EXPECT_EQ(generated.state_bytes, model->method().state_bytes(generated.state));
}

TEST(Generate, StopsAtTheEndTokenAndLeavesTheOthersAlone) {
  auto model = make();
  auto free = generate(model, tiny_batch(kSequences), {}, {.maximum_tokens = 6, .end_id = -1});
  auto end = free.tokens[1][2];  // what sequence 1 says third is now the end token
  auto stopped = generate(model, tiny_batch(kSequences), {}, {.maximum_tokens = 6, .end_id = end});
  for (size_t b = 0; b < 3; ++b) {
    auto expected = free.tokens[b];
    expected.erase(std::find(expected.begin(), expected.end(), end), expected.end());
    EXPECT_EQ(stopped.tokens[b], expected) << b;
  }
  EXPECT_LT(stopped.tokens[1].size(), 3u);
}

}  // namespace
}  // namespace dsrsq
