#include "dsrsq/bench/moba.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <vector>

#include "dsrsq/ops/cluster_attention.h"
#include "support/tiny.h"

namespace dsrsq::bench {
namespace {

using dsrsq::testing::normal;

// Block by block, in double.
TEST(ChooseBlocks, TakesItsOwnAndTheBestBeforeIt) {
  constexpr int64_t kTokens = 37, kBlocks = 5, kSlots = 3, kLength = 8;
  const at::Tensor q = normal("q", {2, 4, kTokens, 8}), k = normal("k", {2, 2, kTokens, 8});
  const KeyChoice choice = choose_blocks(q, k, kBlocks, kSlots);
  ASSERT_EQ(choice.assignment.sizes(), (at::IntArrayRef{2, 2, kTokens}));
  ASSERT_EQ(choice.routes.sizes(), (at::IntArrayRef{2, 4, kTokens, kSlots}));
  for (int64_t j = 0; j < kTokens; ++j)
    EXPECT_EQ(choice.assignment[1][1][j].item<int>(), j / kLength);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < 4; ++h)
      for (int64_t p = 0; p < kTokens; ++p) {
        std::vector<std::pair<double, int>> scores;
        for (int64_t block = 0; block < p / kLength; ++block) {
          const at::Tensor mean =
              k[b][h / 2].slice(0, block * kLength, (block + 1) * kLength).to(at::kDouble).mean(0);
          scores.push_back({-q[b][h][p].to(at::kDouble).dot(mean).item<double>(), int(block)});
        }
        std::sort(scores.begin(), scores.end());
        std::vector<int> expected{int(p / kLength)};
        for (size_t i = 0; i + 1 < kSlots; ++i)
          expected.push_back(i < scores.size() ? scores[i].second : -1);
        for (int64_t s = 0; s < kSlots; ++s)
          EXPECT_EQ(choice.routes[b][h][p][s].item<int>(), expected[size_t(s)]) << p << " " << s;
      }
}

TEST(ChooseBlocks, RefusesMoreSlotsThanBlocks) {
  const at::Tensor x = normal("x", {1, 1, 16, 8});
  EXPECT_THROW(choose_blocks(x, x, 4, 5), c10::Error);
  EXPECT_THROW(choose_blocks(x, x, 17, 2), c10::Error);
}

// The composition on a GPU against the operator in fp32 on the CPU, on the same choice; a length
// that is no multiple of the block, and more slots than the first blocks can fill.
TEST(MobaAttention, EqualsAttentionOverItsBlocks) {
  if (!torch::cuda::is_available()) GTEST_SKIP() << "no GPU";
  constexpr int64_t kTokens = 300, kBlocks = 7;
  for (const int64_t slots : {1, 3, 7}) {
    std::vector<at::Tensor> inputs;
    for (const char* name : {"q", "k", "v", "d_out"})
      inputs.push_back(normal(name, {2, 3, kTokens, 64}).to(at::kCUDA, at::kBFloat16));
    const auto gradients = [&](const auto& attend, const at::TensorOptions& options) {
      std::vector<at::Tensor> leaves;
      for (size_t i = 0; i < 3; ++i)
        leaves.push_back(inputs[i].to(options).detach().requires_grad_(true));
      const at::Tensor out = attend(leaves[0], leaves[1], leaves[2]);
      auto all = torch::autograd::grad({out}, leaves, {inputs[3].to(options)});
      all.push_back(out.detach());
      return all;
    };
    const auto found = gradients(
        [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
          return moba_attention(q, k, v, kBlocks, slots, .125);
        },
        inputs[0].options());
    const KeyChoice choice = choose_blocks(inputs[0], inputs[1], kBlocks, slots);
    const auto expected = gradients(
        [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
          return ops::cluster_attention(q, k, v, choice.assignment.cpu(), choice.routes.cpu(),
                                        std::nullopt, {kBlocks, 0, 0, .125})
              .out;
        },
        at::TensorOptions(at::kCPU).dtype(at::kFloat));
    for (size_t i = 0; i < found.size(); ++i) {
      const auto error = (found[i].cpu().to(at::kFloat) - expected[i]).norm() / expected[i].norm();
      EXPECT_LT(error.item<double>(), 1e-2) << "tensor " << i << ", " << slots << " slots";
    }
  }
}

}  // namespace
}  // namespace dsrsq::bench
