#include "dsrsq/methods/selectors.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dsrsq/ops/noise.h"
#include "dsrsq/retriever/bm25.h"

namespace dsrsq {

void SelectorConfig::visit_fields(ConfigVisitor& v) {
  v.field("bm25_passage", bm25_passage,
          "Tokens of a passage that BM25 ranks; 0: passages end at blank lines.", at_least(0));
  v.field("bm25_k1", bm25_k1, "BM25's saturation of term counts.", at_least(0));
  v.field("bm25_b", bm25_b, "BM25's length normalisation.", between(0, 1));
}

SelectorMethod::SelectorMethod(std::shared_ptr<Method> reader, const SelectorConfig& config,
                               int64_t seed)
    : Method(reader->shape()), config_(config), seed_(seed), reader_(std::move(reader)) {}

SelectedTokens SelectorMethod::select(const Batch& batch, const LanguageModelView& model,
                                      MethodState& state) {
  return reader_->choose(score(batch, state), batch, state);
}

SelectedTokens SelectorMethod::select_exactly(const at::Tensor& wanted, const Batch& batch,
                                              MethodState& state) {
  auto own = state.options;
  state.options.budget = std::max<int64_t>(1, wanted.sum(1).max().item<int64_t>());
  state.options.select_per_segment = false;
  auto selected =
      reader_->choose(at::zeros(wanted.sizes(), at::device(wanted.device()).dtype(at::kDouble))
                          .masked_fill(wanted.logical_not(), -INFINITY),
                      batch, state);
  state.options = own;
  return selected;
}

at::Tensor RandomSelector::score(const Batch& batch, const MethodState& state) const {
  return ops::noise(ops::Noise::kUniform, uint64_t(seed_), Purpose::kSelection, 0, state.sample_ids,
                    batch.context.size(1), batch.context.device());
}

at::Tensor OracleEvidenceSelector::score(const Batch& batch, const MethodState& state) const {
  auto random = ops::noise(ops::Noise::kUniform, uint64_t(seed_), Purpose::kSelection, 0,
                           state.sample_ids, batch.context.size(1), batch.context.device());
  // The answer itself before the rest of its evidence: a long answer may be longer than the budget.
  return random + batch.evidence.any(1) + batch.answer_tokens.any(1) * 2;
}

namespace {

// The tokens of each passage of one document; passage[i] is that of token i.
std::vector<std::vector<int64_t>> tokens_by_passage(const int64_t* tokens, const int64_t* passage,
                                                    int64_t length) {
  std::vector<std::vector<int64_t>> passages(size_t(length > 0 ? passage[length - 1] + 1 : 0));
  for (int64_t i = 0; i < length; ++i) passages[size_t(passage[i])].push_back(tokens[i]);
  return passages;
}

}  // namespace

at::Tensor Bm25Selector::passages(const Batch& batch) const {
  if (config_.bm25_passage == 0) return batch.passage;
  auto place = at::arange(batch.context.size(1), batch.context.options());
  return place.floor_divide(config_.bm25_passage)
      .expand_as(batch.context)
      .masked_fill(batch.context_valid.logical_not(), -1);
}

at::Tensor Bm25Selector::score(const Batch& batch, const MethodState& state) const {
  auto context = batch.context.to(at::kCPU).contiguous();
  auto passage = passages(batch).to(at::kCPU).contiguous();
  auto lengths = batch.context_valid.sum(1).to(at::kCPU);
  auto questions = batch.questions.to(at::kCPU).contiguous();
  auto question_valid = batch.questions_valid.to(at::kCPU).contiguous();
  auto tokens = context.size(1);
  auto result = at::full({batch.size(), tokens}, -INFINITY, at::kDouble);
  for (int64_t b = 0; b < batch.size(); ++b) {
    std::vector<int64_t> question;
    auto ids = questions[b].reshape(-1), valid = question_valid[b].reshape(-1);
    for (int64_t i = 0; i < ids.numel(); ++i)
      if (valid.data_ptr<bool>()[i]) question.push_back(ids.data_ptr<int64_t>()[i]);
    auto length = lengths.data_ptr<int64_t>()[b];
    const auto* passage_of = passage.data_ptr<int64_t>() + b * tokens;
    auto texts = tokens_by_passage(context.data_ptr<int64_t>() + b * tokens, passage_of, length);
    auto scores = bm25_scores(texts, question, config_.bm25_k1, config_.bm25_b);
    std::vector<int64_t> ranked(scores.size());
    std::iota(ranked.begin(), ranked.end(), 0);
    std::stable_sort(ranked.begin(), ranked.end(),
                     [&](int64_t x, int64_t y) { return scores[size_t(x)] > scores[size_t(y)]; });
    auto* out = result.data_ptr<double>() + b * tokens;
    double next = 0;  // falls token by token, passage by passage
    for (auto p : ranked)
      for (auto i = std::lower_bound(passage_of, passage_of + length, p) - passage_of;
           i < length && passage_of[i] == p; ++i)
        out[i] = next--;
  }
  return result.to(batch.context.device());
}

SelectedTokens Bm25TopPassageSelector::select(const Batch& batch, const LanguageModelView& model,
                                              MethodState& state) {
  auto own = passages(batch);
  auto best = std::get<1>(score(batch, state).max(1, true));
  return select_exactly(own.eq(own.gather(1, best)).logical_and(batch.context_valid), batch, state);
}

SelectedTokens OraclePassageSelector::select(const Batch& batch, const LanguageModelView& model,
                                             MethodState& state) {
  auto supports = batch.evidence.logical_or(batch.answer_tokens).any(1);
  auto passages = batch.passage.max().item<int64_t>() + 1;
  auto place = batch.passage.clamp_min(0);  // padding supports nothing
  auto chosen = at::zeros({batch.size(), passages}, batch.passage.options())
                    .scatter_add_(1, place, supports.to(at::kLong));
  return select_exactly(chosen.gather(1, place).gt(0).logical_and(batch.context_valid), batch,
                        state);
}

SelectedTokens QuestionOnlySelector::select(const Batch& batch, const LanguageModelView& model,
                                            MethodState& state) {
  auto none = at::zeros({batch.size(), 0}, batch.context.options());
  return {none, none.to(at::kBool), {}};
}

}  // namespace dsrsq
