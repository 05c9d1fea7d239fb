#include "dsrsq/methods/selectors.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "dsrsq/methods/dsrsq.h"
#include "dsrsq/methods/standard.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::tiny_batch;
using testing::tiny_dsrsq;
using testing::tiny_model;

std::shared_ptr<Method> reader(const std::string& source = "selected") {
  auto config = tiny_dsrsq(true, false, true);
  config.rckv.source = source;
  return std::make_shared<DsrsqMethod>(config, tiny_model(), 3);
}

SelectedTokens choose(std::shared_ptr<Method> method, const Batch& batch, int64_t budget = 0) {
  torch::NoGradGuard no_grad;
  auto model = testing::tiny_language_model(tiny_model(), std::move(method));
  PassOptions options;
  options.budget = budget;
  auto state = model->method().make_state(batch, options);
  model->choose_tokens(batch, state);
  return state.selected;
}

at::Tensor chosen(const SelectedTokens& selected, const Batch& batch) {
  auto hits = at::zeros(batch.context.sizes(), at::kLong)
                  .scatter_add_(1, selected.index, selected.mask.to(at::kLong));
  EXPECT_LE(hits.max().item<int64_t>(), 1);
  EXPECT_FALSE((hits > 0).logical_and(batch.context_valid.logical_not()).any().item<bool>());
  return hits > 0;
}

Batch batch() {
  return tiny_batch({{.context = 90, .sample = 7},
                     {.context = 33, .questions = 2, .sample = 4},
                     {.context = 5, .sample = 1}});
}

TEST(Selectors, ChooseAsManyTokensAsTheRetriever) {
  SelectorConfig config;
  for (const char* source : {"selected", "stream"})
    for (int64_t budget : {0, 20}) {
      auto own = choose(reader(source), batch(), budget);
      auto counts = own.mask.sum(1);
      std::vector<std::shared_ptr<Method>> selectors{
          std::make_shared<RandomSelector>(reader(source), config, 3),
          std::make_shared<Bm25Selector>(reader(source), config, 3),
          std::make_shared<OracleEvidenceSelector>(reader(source), config, 3)};
      for (const auto& selector : selectors) {
        auto selected = choose(selector, batch(), budget);
        EXPECT_TENSOR_EQUAL(selected.mask.sum(1), counts)
            << selector->method_name() << " " << source;
        EXPECT_EQ(selected.lengths, own.lengths) << selector->method_name() << " " << source;
        EXPECT_FALSE(at::equal(chosen(selected, batch()), chosen(own, batch())))
            << selector->method_name();
      }
    }
}

TEST(Selectors, QuestionOnlyReadsNoContext) {
  torch::NoGradGuard no_grad;
  auto model = testing::tiny_language_model(
      tiny_model(), std::make_shared<QuestionOnlySelector>(reader(), SelectorConfig{}, 3));
  auto one = batch();
  EXPECT_EQ(choose(model->shared_method(), one).slots(), 0);
  auto hidden = testing::read_batch(model, one);
  one.context = testing::token_ids("other", one.context.sizes());
  EXPECT_TENSOR_EQUAL(testing::read_batch(model, one), hidden);
}

TEST(Selectors, RandomDependsOnSampleAndSeedOnly) {
  auto select = [&](int64_t seed, const Batch& of) {
    return choose(std::make_shared<RandomSelector>(reader(), SelectorConfig{}, seed), of, 20);
  };
  auto together = chosen(select(3, batch()), batch());
  auto single = tiny_batch({{.context = 33, .questions = 2, .sample = 4}});
  EXPECT_TENSOR_EQUAL(chosen(select(3, single), single)[0], together[1].slice(0, 0, 33));
  EXPECT_FALSE(at::equal(chosen(select(4, batch()), batch()), together));
  EXPECT_TENSOR_EQUAL(chosen(select(3, batch()), batch()), together);
}

TEST(Selectors, OracleTakesAllEvidence) {
  for (int64_t budget : {8, 20}) {
    auto selected =
        chosen(choose(std::make_shared<OracleEvidenceSelector>(reader(), SelectorConfig{}, 3),
                      batch(), budget),
               batch());
    EXPECT_FALSE(batch().evidence.any(1).logical_and(selected.logical_not()).any().item<bool>());
  }
  // Under a budget below the evidence, the answer's tokens come first.
  auto tight = chosen(
      choose(std::make_shared<OracleEvidenceSelector>(reader(), SelectorConfig{}, 3), batch(), 2),
      batch());
  EXPECT_FALSE(
      batch().answer_tokens[0].any(0).logical_and(tight[0].logical_not()).any().item<bool>());
}

// Common words everywhere, two rare ones in one passage; the question asks for them.
TEST(Selectors, Bm25FindsThePassageWithTheRareWords) {
  auto one = tiny_batch(
      {{.context = 96, .question = 5, .sample = 1}, {.context = 60, .question = 5, .sample = 2}});
  one.context.masked_fill_(one.context_valid, 7);
  one.questions[0][0].copy_(at::tensor({7, 7, 50, 7, 51}, at::kLong));
  one.questions[1][0].copy_(at::tensor({50, 7, 7, 51, 7}, at::kLong));
  one.context[0][70] = 50;  // passage 2 of 32 tokens
  one.context[0][75] = 51;
  one.context[0][3] = 51;   // one of the two is in passage 0 too
  one.context[1][40] = 50;  // passage 1, the short last one
  auto selected =
      chosen(choose(std::make_shared<Bm25Selector>(reader(), SelectorConfig{}, 3), one, 28), one);
  auto marks = selected.contiguous();
  for (int64_t i = 0; i < 96; ++i) {
    EXPECT_EQ(marks[0][i].item<bool>(), i >= 64 && i < 92)
        << i;  // a whole passage, the last one cut at the budget
    EXPECT_EQ(marks[1][i].item<bool>(), i >= 32 && i < 60) << i;
  }
  selected =
      chosen(choose(std::make_shared<Bm25Selector>(reader(), SelectorConfig{}, 3), one, 40), one);
  for (int64_t i = 0; i < 96; ++i) EXPECT_EQ(selected[0][i].item<bool>(), i >= 64 || i < 8) << i;
}

// Passages of unequal length between blank lines; padding belongs to none.
Batch batch_of_passages() {
  auto one = tiny_batch(
      {{.context = 90, .question = 2, .sample = 1}, {.context = 40, .question = 2, .sample = 2}});
  one.context.masked_fill_(one.context_valid, 7);
  one.passage.fill_(-1);
  for (auto [row, begin, end, passage] :
       {std::tuple{0, 0, 20, 0}, {0, 20, 27, 1}, {0, 27, 90, 2}, {1, 0, 11, 0}, {1, 11, 40, 1}})
    one.passage[row].slice(0, begin, end).fill_(passage);
  one.questions[0][0].copy_(at::tensor({50, 7}, at::kLong));
  one.questions[1][0].copy_(at::tensor({7, 50}, at::kLong));
  one.context[0][25] = 50;
  one.context[1][2] = 50;
  return one;
}

// Whatever the budget, and however the reader cuts segments.
TEST(Selectors, TheTopPassageIsReadAlone) {
  auto one = batch_of_passages();
  SelectorConfig config;
  config.bm25_passage = 0;
  for (const char* source : {"selected", "stream"})
    for (int64_t budget : {0, 3}) {
      auto selected = chosen(
          choose(std::make_shared<Bm25TopPassageSelector>(reader(source), config, 3), one, budget),
          one);
      for (int64_t i = 0; i < 90; ++i) {
        EXPECT_EQ(selected[0][i].item<bool>(), i >= 20 && i < 27) << i;
        EXPECT_EQ(selected[1][i].item<bool>(), i < 11) << i;
      }
    }
  config.bm25_passage = 16;
  auto selected =
      chosen(choose(std::make_shared<Bm25TopPassageSelector>(reader(), config, 3), one), one);
  for (int64_t i = 0; i < 90; ++i) EXPECT_EQ(selected[0][i].item<bool>(), i >= 16 && i < 32) << i;
}

TEST(Selectors, TheOraclePassagesAreThoseThatHoldEvidence) {
  auto one = batch_of_passages();
  one.evidence.fill_(false);
  one.answer_tokens.fill_(false);
  one.evidence[0][0][22] = true;
  one.answer_tokens[1][0].slice(0, 10, 12).fill_(true);  // over a border: both passages
  auto selected = chosen(
      choose(std::make_shared<OraclePassageSelector>(reader("stream"), SelectorConfig{}, 3), one),
      one);
  for (int64_t i = 0; i < 90; ++i) {
    EXPECT_EQ(selected[0][i].item<bool>(), i >= 20 && i < 27) << i;
    EXPECT_EQ(selected[1][i].item<bool>(), i < 40) << i;
  }
}

// One rare word outweighs a passage full of a word that nearly every passage has.
TEST(Selectors, Bm25WeighsWordsByTheirRarity) {
  auto one = tiny_batch({{.context = 256, .question = 2, .sample = 1}});
  one.context.fill_(7);
  one.context.narrow(1, 160, 32).fill_(9);
  one.context[0][170] = 50;
  one.questions[0][0].copy_(at::tensor({7, 50}, at::kLong));
  auto selected =
      chosen(choose(std::make_shared<Bm25Selector>(reader(), SelectorConfig{}, 3), one, 32), one);
  for (int64_t i = 0; i < 256; ++i)
    EXPECT_EQ(selected[0][i].item<bool>(), i >= 160 && i < 192) << i;
}

}  // namespace
}  // namespace dsrsq
