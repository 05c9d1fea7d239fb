// Choosing without scores takes what choosing by scores takes.
#include "dsrsq/retriever/encoded_selection.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/retriever/dsr.h"
#include "support/expect_tensor.h"
#include "support/op_case.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;

constexpr int64_t kTokens = 45, kWidth = 12;

EncodedText text_of(at::Device device) {
  EncodedText text;
  auto unit = [](const at::Tensor& x) { return x / x.norm(2, -1, true); };
  text.questions = unit(normal("questions", {4, 2, kWidth})).to(device);
  text.context = unit(normal("context", {4, kTokens, kWidth})).to(device);
  text.questions_valid = at::ones({4, 2}, text.context.options().dtype(at::kBool));
  text.context_valid = at::ones({4, kTokens}, text.context.options().dtype(at::kBool));
  text.questions_valid[1][1] = false;
  text.questions_valid[2].fill_(false);  // asks nothing
  text.context_valid[1].slice(0, 17).fill_(false);
  text.context_valid[3].slice(0, 40).fill_(false);
  return text;
}

TEST(EncodedSelection, TakesWhatScoresTake) {
  DsrConfig config;
  config.width = kWidth;
  for (const auto device : testing::test_devices()) {
    Dsr dsr(config, 8, 3);
    dsr->to(device);
    at::NoGradGuard no_grad;
    auto text = text_of(device);
    auto phi = dsr->scores(text.questions, text.context, text.context_valid)
                   .masked_fill(text.questions_valid.logical_not().unsqueeze(-1), -INFINITY)
                   .amax(1);
    for (int64_t segment : {7, 9, 45, 64})
      for (bool per_segment : {false, true})
        for (const auto& budgets : std::vector<std::vector<int64_t>>{
                 {5, 5, 5, 5}, {1, 2, 3, 4}, {20, 17, 9, 40}, {100, 16, 45, 5}}) {
          auto budget = at::tensor(budgets, at::kLong).to(device);
          auto expected = select_top(phi, budget, segment, per_segment);
          auto found = select_top(text, budget, segment, per_segment);
          EXPECT_EQ(found.lengths, expected.lengths) << segment << per_segment << budgets[0];
          EXPECT_TENSOR_EQUAL(found.mask, expected.mask);
          EXPECT_TENSOR_EQUAL(found.index, expected.index);
        }
  }
}

TEST(EncodedSelection, OfEqualScoresTheEarlierToken) {
  for (const auto device : testing::test_devices()) {
    auto text = text_of(device);
    text.context.fill_(0.5);
    auto found =
        select_top(text, at::full({4}, 6, at::TensorOptions(device).dtype(at::kLong)), 64, false);
    EXPECT_TENSOR_EQUAL(found.index[0].cpu(), at::arange(6));
    EXPECT_TENSOR_EQUAL(found.index[3].cpu(), at::arange(6));
    EXPECT_FALSE(found.mask[2].any().item<bool>());
  }
}

TEST(EncodedSelection, ServesWhatFitsInAGpuBlock) {
  EXPECT_TRUE(serves_encoded_selection(at::empty({1, 1000, 1000})));
  auto there = [](int64_t questions, int64_t width) {
    return serves_encoded_selection(at::empty({1, questions, width}, at::TensorOptions(at::kMeta)));
  };
  EXPECT_TRUE(there(384, 128));
  EXPECT_FALSE(there(385, 128));
  EXPECT_FALSE(there(384, 129));
}

}  // namespace
}  // namespace dsrsq
