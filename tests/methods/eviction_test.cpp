// What all eviction methods share: attention over what is left equals an oracle's, budgets,
// batches, decoding, the question's visibility.
#include "dsrsq/methods/eviction.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/core/error.h"
#include "dsrsq/model/generate.h"
#include "dsrsq/registry.h"
#include "methods/kept_entries.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::read_batch;
using testing::tiny_batch;
using testing::Tolerance;

const std::vector<testing::TinySequence> kSequences{
    {.context = 45, .tail = 6, .sample = 1},
    {.context = 19, .question = 3, .tail = 9, .sample = 2},
    {.context = 1, .question = 2, .tail = 4, .sample = 3}};

RunConfig config() {
  RunConfig run;
  run.model = testing::tiny_model();
  run.eviction.window = 4;
  run.eviction.kernel = 3;
  run.kv_compress.block = 4;
  run.razor.search_tokens = 20;
  return run;
}

Batch without_answers(Batch batch) {
  batch.labels = at::full_like(batch.labels, -100);
  return batch;
}

PassOptions share(double kept) {
  PassOptions options;
  options.budget_share = kept;
  return options;
}

class Eviction : public ::testing::TestWithParam<std::string> {
 protected:
  LanguageModel make(const RunConfig& run) const {
    return testing::tiny_language_model(run.model, find_method(GetParam()).make(run, nullptr));
  }
};

TEST_P(Eviction, AttendsExactlyWhatIsLeft) {
  torch::NoGradGuard no_grad;
  auto run = config();
  run.razor.compensation = false;  // an entry that stands for many is tested in razor_test.cpp
  for (bool query_aware : {false, true}) {
    run.eviction.query_aware = query_aware;
    auto model = make(run);
    model->to(at::kDouble);
    auto batch = without_answers(tiny_batch(kSequences));
    MethodState state;
    auto hidden = read_batch(model, batch, share(0.3), &state);
    std::vector<int64_t> behind;  // the first rank that reads what is left
    for (const auto& s : kSequences)
      behind.push_back(run.model.sinks + s.context + (query_aware ? s.tail : 0));
    auto oracle = std::make_shared<testing::KeptOracle>(
        model->method().shape(), testing::kept_ranks(state, batch.size(), 2), behind);
    LanguageModel reference(model->backbone(), oracle, testing::kTinyBegin);
    MethodState oracle_state;
    auto expected = read_batch(reference, batch, {}, &oracle_state);
    auto valid = batch.tail_valid.unsqueeze(-1);
    EXPECT_TENSOR_NEAR(hidden * valid, expected * valid, (Tolerance{0, 1e-9}));
    for (int64_t t = 0; t < 3; ++t) {  // and decoding goes on from there
      auto ids = testing::token_ids(concat("next ", t), {3});
      auto open = torch::tensor({true, t < 1, true});
      auto next = model->read_next(ids, open, state);
      auto wanted = reference->read_next(ids, open, oracle_state);
      EXPECT_TENSOR_NEAR(next * open.view({3, 1, 1}), wanted * open.view({3, 1, 1}),
                         (Tolerance{0, 1e-9}))
          << "token " << t;
    }
  }
}

TEST_P(Eviction, KeepsItsBudgetAndWhatStandsAroundTheContext) {
  torch::NoGradGuard no_grad;
  for (bool query_aware : {false, true})
    for (double kept_share : {0.03, 0.12, 0.3, 0.5}) {
      auto run = config();
      run.eviction.query_aware = query_aware;
      auto model = make(run);
      auto batch = without_answers(tiny_batch(kSequences));
      MethodState state;
      read_batch(model, batch, share(kept_share), &state);
      auto kept = testing::kept_ranks(state, batch.size(), 2);
      for (int64_t b = 0; b < batch.size(); ++b) {
        const auto& s = kSequences[size_t(b)];
        int64_t context = 0;
        for (const auto& layer : kept)
          for (const auto& head : layer[size_t(b)]) {
            int64_t around = 0;
            for (auto rank : head) {
              bool outside = rank == 0 || rank == 1 || rank >= 2 + s.context;
              (outside ? around : context) += 1;  // what stands for evicted tokens has rank -1
            }
            EXPECT_EQ(around, 2 + s.tail);
          }
        auto heads = int64_t(kept.size()) * 2;
        auto budget = std::max<int64_t>(1, int64_t(kept_share * double(s.context))) * heads;
        EXPECT_LE(context, budget) << "sequence " << b << ", share " << kept_share;
        EXPECT_GT(context, budget / 2) << "sequence " << b << ", share " << kept_share;
      }
      EXPECT_LT(model->method().state_bytes(state), state.peak_bytes);
    }
}

TEST_P(Eviction, TheWholeBudgetIsDense) {
  torch::NoGradGuard no_grad;
  auto run = config();
  auto model = make(run);
  auto dense = testing::tiny_language_model(run.model, find_method("standard").make(run, nullptr));
  auto batch = tiny_batch(kSequences);
  auto valid = batch.tail_valid.unsqueeze(-1);
  MethodState state, dense_state;
  EXPECT_TENSOR_NEAR(read_batch(model, batch, share(1), &state) * valid,
                     read_batch(dense, batch, {}, &dense_state) * valid, (Tolerance{0, 1e-4}));
  EXPECT_FALSE(state.layers[0].head_groups.empty());  // not by a way of its own
  auto ids = testing::token_ids("next", {3});
  auto open = at::ones({3}, at::kBool);
  EXPECT_TENSOR_NEAR(model->read_next(ids, open, state), dense->read_next(ids, open, dense_state),
                     (Tolerance{0, 1e-4}));
}

TEST_P(Eviction, TheQuestionIsHiddenUnlessAskedFor) {
  torch::NoGradGuard no_grad;
  auto batch = without_answers(tiny_batch({{.context = 45, .tail = 6, .sample = 1}}));
  auto other = batch;
  other.tail = testing::token_ids("another question", {1, 6});
  for (bool query_aware : {false, true}) {
    auto run = config();
    run.eviction.query_aware = query_aware;
    auto model = make(run);
    MethodState first, second;
    read_batch(model, batch, share(0.3), &first);
    read_batch(model, other, share(0.3), &second);
    auto same = testing::kept_ranks(first, 1, 2) == testing::kept_ranks(second, 1, 2);
    if (!query_aware) {
      EXPECT_TRUE(same);
    }
    if (query_aware && GetParam() == "snapkv") {
      EXPECT_FALSE(same);
    }
  }
}

TEST_P(Eviction, QueryAwareRefusesAnswers) {
  auto run = config();
  run.eviction.query_aware = true;
  auto model = make(run);
  try {
    read_batch(model, tiny_batch(kSequences));
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("eviction.query_aware"), std::string::npos);
  }
}

TEST_P(Eviction, CountsWhatAMaskWouldCount) {
  torch::NoGradGuard no_grad;
  auto run = config();
  auto model = make(run);
  auto batch = tiny_batch(kSequences);
  auto options = share(0.3);
  options.collect_stats = true;
  MethodState state;
  read_batch(model, batch, options, &state);
  auto kept = testing::kept_ranks(state, 3, 2);
  double attended = 0, visible = 0;
  for (const auto& layer : kept)
    for (size_t b = 0; b < 3; ++b) {
      const auto& s = kSequences[b];
      auto before = 2 + s.context;
      for (int64_t t = 0; t < before; ++t) attended += 4 * double(t + 1);  // 4 query heads
      for (const auto& head : layer[b])
        for (int64_t t = before; t < before + s.tail; ++t)
          for (auto rank : head) attended += rank <= t ? 2 : 0;  // 2 query heads a group
      for (int64_t t = 0; t < before + s.tail; ++t) visible += 4 * double(t + 1);
    }
  EXPECT_EQ(state.stats.attended_pairs.item<double>(), attended);
  EXPECT_EQ(state.stats.visible_pairs.item<double>(), visible);
}

std::vector<std::string> evictions() {
  std::vector<std::string> names;
  for (const auto& entry : method_table())
    if (entry.budget == Budget::kBytes) names.push_back(entry.name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(Methods, Eviction, ::testing::ValuesIn(evictions()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace dsrsq
