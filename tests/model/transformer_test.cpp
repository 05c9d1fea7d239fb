// Properties of the reader that hold for every combination of its parts.
#include "dsrsq/model/transformer.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/attention/dense.h"
#include "dsrsq/core/error.h"
#include "dsrsq/methods/dsrsq.h"
#include "dsrsq/methods/standard.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::parts_name;
using testing::read_batch;
using testing::tiny_batch;
using testing::tiny_dsrsq;
using testing::tiny_model;
using testing::Tolerance;

// 1e-6 of the largest element: hidden is normalised, so its elements are of order 1.
constexpr Tolerance kUnchanged{0, 3e-6};

struct Parts {
  bool sqa, rckv;
};

class Reader : public ::testing::TestWithParam<Parts> {
 protected:
  Reader() : model_(make(tiny_model())) {}
  static LanguageModel make(const TransformerConfig& model) {
    return testing::tiny_dsrsq_model(model, tiny_dsrsq(false, GetParam().sqa, GetParam().rckv));
  }
  LanguageModel model_;
  torch::NoGradGuard no_grad_;
};

// All hidden states of a reader's sequence [B, T, D], context and tail: the context is read as a
// tail in segments of 8.
at::Tensor read_all(LanguageModel& model, const at::Tensor& ids,
                    const std::vector<int64_t>& segments) {
  auto batch = tiny_batch({{.context = 1, .sample = 1}});
  auto state = model->method().make_state(batch, {});
  auto order = at::arange(ids.size(1)).unsqueeze(0);
  ReaderInput input;
  input.inputs = model->backbone()->embed(ids);
  input.valid = at::ones_like(ids, at::kBool);
  input.positions = input.order = order;
  input.segments = segments;
  return model->backbone()->forward(input, model->method(), state);
}

const std::vector<int64_t> kSegments{10, 8, 8, 8, 6};  // sinks and context, tail
constexpr int64_t kLength = 40;

// The largest change of hidden at positions before `changed` when that token changes.
double leak(LanguageModel& model, int64_t changed) {
  auto ids = testing::token_ids("sequence", {1, kLength});
  auto other = ids.clone();
  other[0][changed] = ids[0][changed].item<int64_t>() == 5 ? 6 : 5;
  auto difference =
      (read_all(model, other, kSegments) - read_all(model, ids, kSegments)).abs().amax({0, 2});
  EXPECT_GT(difference[changed].item<double>(), 1e-3);  // it does change what comes at and after it
  EXPECT_GT(difference[kLength - 1].item<double>(), 1e-4);
  return difference.slice(0, 0, changed).max().item<double>();
}

TEST_P(Reader, EarlierTokensDoNotSeeLaterOnes) {
  for (int64_t changed : {11, 17, 18, 25, 33, 35, 39})
    EXPECT_LE(leak(model_, changed), kUnchanged.absolute) << changed;
}

// The same through the whole path: a later token of the tail, a later token among the selected.
TEST_P(Reader, TailIsCausalAndReadsItsContext) {
  auto batch = tiny_batch({{.context = 30, .tail = 8, .sample = 1}});
  auto hidden = read_batch(model_, batch);
  auto other = batch;
  other.tail = batch.tail.clone();
  other.tail[0][5] = (batch.tail[0][5] + 1).remainder(50) + 2;
  auto changed = read_batch(model_, other);
  EXPECT_TENSOR_NEAR(changed.slice(1, 0, 5), hidden.slice(1, 0, 5), kUnchanged);
  EXPECT_GT((changed - hidden).slice(1, 5).abs().max().item<double>(), 1e-3);
  other = batch;
  other.context = batch.context.clone();
  other.context[0][28] = (batch.context[0][28] + 1).remainder(50) + 2;
  EXPECT_GT((read_batch(model_, other) - hidden).abs().max().item<double>(), 1e-3);
}

TEST_P(Reader, DecodingEqualsPrefill) {
  auto batch = tiny_batch(
      {{.context = 30, .tail = 9, .sample = 1}, {.context = 21, .tail = 7, .sample = 2}});
  auto whole = read_batch(model_, batch);
  auto question = batch;
  constexpr int64_t kPrefill = 4;
  question.tail = batch.tail.narrow(1, 0, kPrefill);
  question.tail_valid = batch.tail_valid.narrow(1, 0, kPrefill);
  question.labels = batch.labels.narrow(1, 0, kPrefill);
  MethodState state;
  auto hidden = std::vector<at::Tensor>{read_batch(model_, question, {}, &state)};
  for (int64_t t = kPrefill; t < 9; ++t)
    hidden.push_back(
        model_->read_next(batch.tail.select(1, t), batch.tail_valid.select(1, t), state));
  auto decoded = at::cat(hidden, 1);
  auto valid = batch.tail_valid.unsqueeze(-1);
  EXPECT_TENSOR_NEAR(decoded * valid, whole * valid, (Tolerance{0, 1e-5}));
  EXPECT_TENSOR_EQUAL(state.next_order, at::tensor({2 + 30 + 9, 2 + 21 + 7}, at::kLong));
}

// Sample isolation: alone, and in a padded batch beside longer and shorter ones.
TEST_P(Reader, ASequenceDoesNotDependOnItsBatch) {
  std::vector<testing::TinySequence> sequences{{.context = 45, .tail = 6, .sample = 1},
                                               {.context = 19, .tail = 9, .sample = 2},
                                               {.context = 3, .tail = 4, .sample = 3},
                                               {.context = 24, .tail = 5, .sample = 4}};
  auto together = read_batch(model_, tiny_batch(sequences));
  for (size_t b = 0; b < sequences.size(); ++b) {
    auto alone = read_batch(model_, tiny_batch({sequences[b]}));
    EXPECT_TENSOR_NEAR(together[int64_t(b)].narrow(0, 0, sequences[b].tail), alone[0],
                       (Tolerance{0, 1e-5}))
        << "sequence " << b;
  }
}

TEST_P(Reader, SequencesDoNotMix) {
  auto batch = tiny_batch({{.context = 30, .sample = 1}, {.context = 30, .sample = 2}});
  auto before = read_batch(model_, batch);
  batch.context[0].copy_(testing::token_ids("other", {30}));
  batch.tail[0].copy_(testing::token_ids("other", {6}));
  auto after = read_batch(model_, batch);
  EXPECT_TENSOR_EQUAL(after[1], before[1]);
  EXPECT_GT((after[0] - before[0]).abs().max().item<double>(), 1e-2);
}

// The same part-by-part state whether a layer gets all segments at once or the layers get segment
// after segment.
class OneSegment : public DsrsqMethod {
 public:
  using DsrsqMethod::DsrsqMethod;
  bool one_segment_per_chunk() const override { return true; }
  void end_segment(MethodState& state) override { ++segments_; }
  int segments_ = 0;
};

TEST_P(Reader, SegmentBySegmentEqualsAtOnce) {
  auto batch = tiny_batch({{.context = 45, .sample = 1}, {.context = 19, .tail = 4, .sample = 2}});
  auto config = tiny_dsrsq(false, GetParam().sqa, GetParam().rckv);
  config.rckv.buffer_length = 11;
  auto one = std::make_shared<OneSegment>(config, tiny_model(), 3);
  auto model = testing::tiny_language_model(tiny_model(), one);
  auto at_once = testing::tiny_language_model(
      tiny_model(), std::make_shared<DsrsqMethod>(config, tiny_model(), 3));
  if (GetParam().sqa) testing::feed_codebooks(at_once);
  for (const auto& buffer : at_once->named_buffers())
    model->named_buffers()[buffer.key()].copy_(buffer.value());
  MethodState state, expected_state;
  auto hidden = read_batch(model, batch, {}, &state);
  EXPECT_EQ(one->segments_, 7);  // six of the context, one of the tail
  auto expected = read_batch(at_once, batch, {}, &expected_state);
  EXPECT_TENSOR_NEAR(hidden * batch.tail_valid.unsqueeze(-1),
                     expected * batch.tail_valid.unsqueeze(-1), (Tolerance{0, 1e-5}));
  EXPECT_EQ(one->state_bytes(state), at_once->method().state_bytes(expected_state));
  EXPECT_EQ(state.layers[0].latents.empty(), !GetParam().rckv);
}

INSTANTIATE_TEST_SUITE_P(Parts, Reader,
                         ::testing::Values(Parts{false, false}, Parts{true, false},
                                           Parts{false, true}, Parts{true, true}),
                         [](const auto& info) {
                           return parts_name(false, info.param.sqa, info.param.rckv);
                         });

// The check of causality can fail: a method that lets each query of one layer see the next key.
class LeakingMethod : public Method {
 public:
  explicit LeakingMethod(const TransformerConfig& model) : Method(model.attention_shape()) {}
  std::string method_name() const override { return "leaking"; }
  at::Tensor attend(const AttentionInput& input, MethodState& state) override {
    auto& layer = state.layers[size_t(input.layer)];
    if (input.layer == 0) return dense_attend(input, layer, nullptr);
    layer.append(input.rotated(input.k), input.v, input.positions, input.order, input.valid, {},
                 false);
    auto mask = layer.order.unsqueeze(1).unsqueeze(2) <= input.order.unsqueeze(1).unsqueeze(-1) + 1;
    return masked_attention(input.rotated(input.q), layer.keys, layer.values, mask).out;
  }
};

TEST(Causality, TheCheckCatchesAPlantedLeak) {
  torch::NoGradGuard no_grad;
  auto model =
      testing::tiny_language_model(tiny_model(), std::make_shared<LeakingMethod>(tiny_model()));
  EXPECT_GT(leak(model, 25), 100 * kUnchanged.absolute);
}

TEST(Transformer, EveryKindOfBackboneIsCausal) {
  torch::NoGradGuard no_grad;
  for (const char* embedding : {"rope", "learned", "none"})
    for (const char* norm : {"rmsnorm", "layernorm"}) {
      auto config = tiny_model();
      config.position_embedding = embedding;
      config.norm = norm;
      config.mlp = std::string(norm) == "layernorm" ? "gelu" : "swiglu";
      config.conv_width = std::string(embedding) == "none" ? 0 : 4;
      config.tie_embeddings = false;
      auto model = testing::tiny_dsrsq_model(config, tiny_dsrsq(false, true, true));
      EXPECT_LE(leak(model, 25), kUnchanged.absolute) << embedding << " " << norm;
    }
}

// packed: numbered in a row. original: places in the document, the tail after its end.
TEST(Transformer, PackedAndOriginalPositions) {
  torch::NoGradGuard no_grad;
  auto config = tiny_model();
  auto batch = tiny_batch({{.context = 20, .sample = 1}, {.context = 12, .sample = 2}});
  auto positions = [&](const std::string& kind) {
    config.positions = kind;
    auto model = testing::tiny_language_model(
        config, std::make_shared<StandardMethod>(StandardConfig{}, config));
    auto state = model->method().make_state(batch, {});
    state.selected.index = at::tensor({3, 7, 9, 2, 11, 0}, at::kLong).view({2, 3});
    state.selected.mask = at::tensor({1, 1, 1, 1, 1, 0}, at::kLong).view({2, 3}).to(at::kBool);
    state.selected.lengths = {3};
    model->read_selected(batch, state);
    EXPECT_TENSOR_EQUAL(state.next_position, state.layers[0].positions.select(1, -1) + 1);
    return std::pair{state.layers[0].positions, state.layers[0].order};
  };
  auto [packed, order] = positions("packed");
  EXPECT_TENSOR_EQUAL(packed, order);
  EXPECT_TENSOR_EQUAL(packed[0], at::arange(11));
  auto original = positions("original").first;
  EXPECT_TENSOR_EQUAL(original[0], at::tensor({0, 1, 5, 9, 11, 22, 23, 24, 25, 26, 27}, at::kLong));
  EXPECT_TENSOR_EQUAL(original[1].slice(0, 5), at::tensor({14, 15, 16, 17, 18, 19}, at::kLong));
  EXPECT_EQ(original[1][3].item<int64_t>(), 13);
}

TEST(Transformer, LearnedPositionsBeyondTheTableAreAnError) {
  auto config = tiny_model();
  config.position_embedding = "learned";
  config.learned_positions = 20;
  auto model = testing::tiny_language_model(
      config, std::make_shared<StandardMethod>(StandardConfig{}, config));
  EXPECT_THROW(read_batch(model, tiny_batch({{.context = 30, .sample = 1}})), ConfigError);
  EXPECT_NO_THROW(read_batch(model, tiny_batch({{.context = 12, .sample = 1}})));
}

TEST(Transformer, GradientReachesEveryWeight) {
  for (bool sqa : {false, true}) {
    auto model = testing::tiny_dsrsq_model(tiny_model(), tiny_dsrsq(false, sqa, true));
    auto hidden =
        read_batch(model, tiny_batch({{.context = 45, .sample = 1}, {.context = 19, .sample = 2}}));
    model->backbone()->logits(hidden).square().sum().backward();
    for (const auto& one : model->named_parameters()) {
      ASSERT_TRUE(one.value().is_leaf()) << one.key();
      ASSERT_TRUE(one.value().grad().defined()) << one.key();
      EXPECT_TRUE(one.value().grad().isfinite().all().item<bool>()) << one.key();
      EXPECT_GT(one.value().grad().norm().item<double>(), 1e-6) << one.key();
    }
  }
}

}  // namespace
}  // namespace dsrsq
