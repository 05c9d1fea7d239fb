#include "dsrsq/methods/streaming_llm.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "methods/kept_entries.h"

namespace dsrsq {
namespace {

using Ranks = std::set<int64_t>;

Ranks kept(int64_t sinks, double share) {
  torch::NoGradGuard no_grad;
  StreamingLlmConfig own;
  own.sinks = sinks;
  auto shape = testing::tiny_model();  // 2 sinks of its own
  auto model = testing::tiny_language_model(
      shape, std::make_shared<StreamingLlmMethod>(EvictionConfig{}, own, shape));
  PassOptions options;
  options.budget_share = share;
  MethodState state;
  testing::read_batch(model, testing::tiny_batch({{.context = 10, .tail = 2, .sample = 1}}),
                      options, &state);
  return testing::kept_ranks(state, 1, 2)[1][0][1];
}

TEST(StreamingLlm, KeepsTheFirstAndTheLastEntries) {
  // Ranks 0, 1: the model's sinks; 2 to 11: the context; 12, 13: the question.
  EXPECT_EQ(kept(4, 0.5), (Ranks{0, 1, 2, 3, 9, 10, 11, 12, 13}));
  EXPECT_EQ(kept(2, 0.5), (Ranks{0, 1, 7, 8, 9, 10, 11, 12, 13}));
  EXPECT_EQ(kept(4, 0.1), (Ranks{0, 1, 2, 12, 13}));  // sinks come first
}

}  // namespace
}  // namespace dsrsq
