#include "dsrsq/methods/razor.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "dsrsq/core/random.h"
#include "methods/eviction_example.h"
#include "methods/kept_entries.h"
#include "support/expect_tensor.h"

namespace dsrsq {
namespace {

using testing::Tolerance;

struct Exposed : RazorMethod {
  using RazorMethod::capacities;
  using RazorMethod::memory_of;
  using RazorMethod::RazorMethod;
};

// 12 layers of 12 heads: 144, of which 1 % is one and 14 % are twenty.
TEST(Razor, RanksHeadsOverAllLayers) {
  HeadScores scores;
  scores.echo = at::arange(144, at::kFloat).view({12, 12}) / 144;
  scores.induction = 1 - scores.echo;
  auto heads = retrieval_heads(scores, 12, {});
  ASSERT_EQ(heads.size(), 21u);
  EXPECT_EQ(heads[0].layer, 11);
  EXPECT_EQ(heads[0].head, 11);
  EXPECT_TRUE(heads[0].by_echo);
  for (int64_t i = 0; i < 20; ++i) {
    EXPECT_EQ(heads[size_t(i + 1)].layer * 12 + heads[size_t(i + 1)].head, i);
    EXPECT_FALSE(heads[size_t(i + 1)].by_echo);
  }
}

TEST(Razor, AGroupIsAsGoodAsItsBestHead) {
  HeadScores scores;
  scores.echo = at::tensor({.1f, .2f, .9f, .0f, .3f, .3f, .4f, .5f}).view({2, 4});
  scores.induction = at::tensor({.1f, .8f, .2f, .2f, .3f, .3f, .9f, .5f}).view({2, 4});
  RazorConfig config;
  config.echo_share = 0.25;
  config.induction_share = 0.5;
  auto heads = retrieval_heads(scores, 2, config);
  ASSERT_EQ(heads.size(), 3u);
  EXPECT_EQ(heads[0].layer * 2 + heads[0].head, 1);  // echo .9
  EXPECT_EQ(heads[1].layer * 2 + heads[1].head, 3);  // induction .9
  EXPECT_EQ(heads[2].layer * 2 + heads[2].head, 0);  // induction .8
}

// Echo and induction from full attention matrices and the ids themselves.
struct Recorder : Method {
  using Method::Method;
  std::string method_name() const override { return "recorder"; }
  at::Tensor attend(const AttentionInput& input, MethodState& state) override {
    auto q = input.rotated(input.q).to(at::kDouble), k = input.rotated(input.k).to(at::kDouble);
    k = k.repeat_interleave(q.size(1) / k.size(1), 1);
    auto logits = at::matmul(q, k.transpose(2, 3)) / std::sqrt(double(q.size(3)));
    auto above = at::ones({q.size(2), q.size(2)}, at::kBool).triu(1);
    rows.push_back(at::softmax(logits.masked_fill(above, -1e300), -1)[0]);
    return Method::attend(input, state);
  }
  std::vector<at::Tensor> rows;  // [layer] of [H, T, T]
};

TEST(Razor, SearchEqualsFullAttentionMatrices) {
  torch::NoGradGuard no_grad;
  auto shape = testing::tiny_model();
  RazorConfig config;
  config.search_tokens = 7;
  config.search_repeats = 3;
  HeadScores found;
  struct Searching : Method {
    Searching(const AttentionShape& shape, const RazorConfig& config, HeadScores& found)
        : Method(shape), config_(config), found_(found) {}
    std::string method_name() const override { return "searching"; }
    void prepare(const Batch& batch, const LanguageModelView& model, MethodState&) override {
      found_ = search_heads(model, shape_, config_, batch.context.device());
      ids_ = {model.begin_id};
      for (int64_t r = 0; r < 3; ++r)
        for (uint64_t i = 0; i < 7; ++i)
          ids_.push_back(int64_t(permute_index(0, 0, i, testing::kTinyVocabulary)));
      auto length = int64_t(ids_.size());
      ReaderInput reader;
      reader.inputs = model.embed(at::tensor(ids_, at::kLong).unsqueeze(0));
      reader.valid = at::ones({1, length}, at::kBool);
      reader.positions = reader.order = at::arange(length, at::kLong).unsqueeze(0);
      reader.segments = {length};
      MethodState state;
      state.layers.resize(size_t(shape_.layers));
      recorder = std::make_shared<Recorder>(shape_);
      model.forward(reader, *recorder, state);
    }
    RazorConfig config_;
    HeadScores& found_;
    std::vector<int64_t> ids_;
    std::shared_ptr<Recorder> recorder;
  };
  auto method = std::make_shared<Searching>(shape.attention_shape(), config, found);
  auto model = testing::tiny_language_model(shape, method);
  testing::read_batch(model, testing::tiny_batch({{.context = 3, .sample = 1}}));
  auto length = int64_t(method->ids_.size());
  ASSERT_EQ(length, 22);
  for (int64_t l = 0; l < 2; ++l)
    for (int64_t h = 0; h < 4; ++h) {
      double echo = 0, induction = 0;
      for (int64_t i = 8; i < length; ++i)
        for (int64_t j = 0; j < i; ++j)
          if (method->ids_[size_t(j)] == method->ids_[size_t(i)] && j > 0) {
            echo += method->recorder->rows[size_t(l)][h][i][j].item<double>();
            induction += method->recorder->rows[size_t(l)][h][i][j + 1].item<double>();
          }
      EXPECT_NEAR(found.echo[l][h].item<double>(), echo / 14, 1e-5);
      EXPECT_NEAR(found.induction[l][h].item<double>(), induction / 14, 1e-5);
      EXPECT_GT(found.echo[l][h].item<double>(), 0);
    }
}

TEST(Razor, CapacitiesByHand) {
  auto model = testing::example_model(5, 2, 2);  // 10 heads
  RazorConfig config;
  Exposed method(EvictionConfig{}, config, model);
  method.set_retrieval_heads({{3, 1}, {0, 0}, {0, 1}});
  auto example = testing::eviction_example(at::zeros({2, 100}), at::zeros({2, 100}));
  auto capacities = [&](int64_t budget) {
    PassOptions options;
    options.budget = budget;
    auto state = method.make_state(example.batch, options);
    std::vector<at::Tensor> layers;
    for (int64_t l = 0; l < 5; ++l) layers.push_back(method.capacities(l, method.memory_of(state)));
    return at::cat(layers, 0);
  };
  auto expected = [](int64_t others) { return at::full({5, 2}, others, at::kLong); };
  // 500 entries: two whole contexts are at most half, eight heads share 300: 37, one of them for
  // the dropped.
  auto two = expected(36);
  two[3][1] = two[0][0] = 100;
  EXPECT_TENSOR_EQUAL(capacities(50), two);
  // 800 entries: all three; seven heads share 500.
  auto three = expected(70);
  three[3][1] = three[0][0] = three[0][1] = 100;
  EXPECT_TENSOR_EQUAL(capacities(80), three);
  EXPECT_TENSOR_EQUAL(capacities(100), expected(100));
  EXPECT_TENSOR_EQUAL(capacities(1), expected(0));  // what stands for the dropped alone
}

// Where the dropped keys are alike, the entry that stands for them is exact: three times exp(q k)
// times the mean of the values.
TEST(Razor, TheCompensationTokenWeighsAsMuchAsWhatItStandsFor) {
  torch::NoGradGuard no_grad;
  auto keys = at::tensor({.3, .3, .3, -.2, .5, .1}, at::kDouble).view({1, 6});
  auto values = at::tensor({1., 5., 3., 2., -1., 4.}, at::kDouble).view({1, 6});
  auto model = testing::example_model(1, 1, 1);
  for (bool compensation : {true, false}) {
    RazorConfig config;
    config.sinks = 0;
    config.compensation = compensation;
    RazorMethod method(EvictionConfig{}, config, model);
    method.set_retrieval_heads({});
    auto example = testing::eviction_example(at::zeros({1, 6}, at::kDouble), keys, values);
    PassOptions options;
    options.budget = compensation ? 4 : 3;
    auto state = method.make_state(example.batch, options);
    method.attend(example.input, state);
    method.update_cache(example.input, state);
    method.end_segment(state);
    ASSERT_EQ(state.layers[0].head_groups.size(), 1u);
    EXPECT_EQ(state.layers[0].head_groups[0].keys.size(2), compensation ? 4 : 3);
    AttentionInput next = example.input;  // a seventh token
    next.q = at::full({1, 1, 1, 1}, .7, at::kDouble);
    next.k = at::full({1, 1, 1, 1}, .4, at::kDouble);
    next.v = at::full({1, 1, 1, 1}, 9., at::kDouble);
    next.valid = at::ones({1, 1}, at::kBool);
    next.order = next.positions = at::full({1, 1}, 6, at::kLong);
    next.segments = {1};
    auto out = method.attend(next, state).item<double>();
    double sum = 0, weight = 0;
    for (auto [key, value] :
         {std::pair{.3, 1.}, {.3, 5.}, {.3, 3.}, {-.2, 2.}, {.5, -1.}, {.1, 4.}, {.4, 9.}}) {
      sum += std::exp(.7 * key) * value;
      weight += std::exp(.7 * key);
    }
    if (compensation)
      EXPECT_NEAR(out, sum / weight, 1e-12);
    else
      EXPECT_GT(std::abs(out - sum / weight), 0.1);
  }
}

}  // namespace
}  // namespace dsrsq
