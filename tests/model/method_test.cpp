#include "dsrsq/model/method.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/methods/standard.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::read_batch;
using testing::tiny_batch;
using testing::tiny_dsrsq;
using testing::tiny_model;
using testing::Tolerance;

AttentionStats stats_of(LanguageModel model, const Batch& batch) {
  torch::NoGradGuard no_grad;
  PassOptions options;
  options.collect_stats = true;
  MethodState state;
  auto valid = batch.tail_valid.unsqueeze(-1);
  EXPECT_TENSOR_NEAR(read_batch(model, batch, options, &state) * valid,
                     read_batch(model, batch) * valid,
                     (Tolerance{0, 1e-5}));  // counting changes nothing
  return state.stats;
}

int64_t value(const at::Tensor& x) { return x.item<int64_t>(); }

// Two sequences of 2 + 20 + 6 and 2 + 9 + 4 tokens; 4 heads, 2 layers.
Batch batch() {
  return tiny_batch({{.context = 20, .sample = 1}, {.context = 9, .tail = 4, .sample = 2}});
}
constexpr int64_t kRows = 4 * 2 * (28 + 15), kPairs = 4 * 2 * (28 * 29 / 2 + 15 * 16 / 2);

TEST(AttentionStats, DenseAttendsEveryVisiblePair) {
  auto stats =
      stats_of(testing::tiny_language_model(
                   tiny_model(), std::make_shared<StandardMethod>(StandardConfig{}, tiny_model())),
               batch());
  EXPECT_EQ(value(stats.rows), kRows);
  EXPECT_EQ(value(stats.attended_pairs), kPairs);
  EXPECT_EQ(value(stats.visible_pairs), kPairs);
  EXPECT_EQ(value(stats.sparse_rows), 0);
  EXPECT_FALSE(stats.latent_rows.defined());
}

TEST(AttentionStats, SparseAttentionAttendsFewer) {
  auto stats =
      stats_of(testing::tiny_dsrsq_model(tiny_model(), tiny_dsrsq(false, true, false)), batch());
  EXPECT_EQ(value(stats.rows), kRows);
  EXPECT_EQ(value(stats.visible_pairs), kPairs);
  EXPECT_LT(value(stats.attended_pairs), kPairs * 9 / 10);
  EXPECT_GT(value(stats.attended_pairs), kRows);
  EXPECT_GT(value(stats.sparse_rows), 0);
  EXPECT_LT(value(stats.sparse_rows), kRows);
}

// Exact pairs and latent pairs are all pairs where the buffer loses nothing: a key lies in exactly
// one set (D13).
TEST(AttentionStats, ExactAndLatentPairsAreAllPairs) {
  auto config = tiny_dsrsq(false, false, true);
  config.rckv.buffer_length = 64;
  auto stats = stats_of(testing::tiny_dsrsq_model(tiny_model(), config), batch());
  EXPECT_EQ(value(stats.rows), kRows);
  EXPECT_EQ(value(stats.attended_pairs), value(stats.visible_pairs));
  EXPECT_EQ(value(stats.attended_pairs) + value(stats.latent_pairs), kPairs);
  EXPECT_GT(value(stats.latent_rows), 0);
  auto mass = stats.latent_mass.item<double>();
  EXPECT_GT(mass, 0);
  EXPECT_LT(mass, double(value(stats.latent_rows)));
}

// The fused path (no padding) and the masked path agree.
TEST(DenseAttend, PaddingFlagDoesNotChangeTheResult) {
  torch::NoGradGuard no_grad;
  auto model = testing::tiny_language_model(
      tiny_model(), std::make_shared<StandardMethod>(StandardConfig{}, tiny_model()));
  auto order = at::arange(20).unsqueeze(0);
  auto ids = testing::token_ids("sequence", {1, 20});
  auto run = [&](bool padded) {
    auto state = model->method().make_state(tiny_batch({{.context = 1, .sample = 1}}), {});
    ReaderInput input;
    input.inputs = model->backbone()->embed(ids);
    input.valid = at::ones({1, 20}, at::kBool);
    input.padded = padded;
    input.positions = input.order = order;
    input.segments = {20};
    return model->backbone()->forward(input, model->method(), state);
  };
  EXPECT_TENSOR_NEAR(run(true), run(false), (Tolerance{0, 1e-5}));
}

}  // namespace
}  // namespace dsrsq
