// Other ways to choose the tokens, with the same reader, budget and segments: the controls that a
// learned retriever has to beat (random, BM25, question only) and the one that bounds it (oracle
// evidence).
#pragma once

#include <memory>

#include "dsrsq/model/method.h"

namespace dsrsq {

struct SelectorConfig {
  int64_t bm25_passage = 32;
  double bm25_k1 = 1.2;
  double bm25_b = 0.75;
  void visit_fields(ConfigVisitor& v);
};

// Wraps the trained method: everything is the reader's, only the choice differs.
class SelectorMethod : public Method {
 public:
  SelectorMethod(std::shared_ptr<Method> reader, const SelectorConfig& config, int64_t seed);

  MethodState make_state(const Batch& batch, const PassOptions& options) const override {
    return reader_->make_state(batch, options);
  }
  void prepare(const Batch& batch, const LanguageModelView& model, MethodState& state) override {
    reader_->prepare(batch, model, state);
  }
  SelectedTokens select(const Batch& batch, const LanguageModelView& model,
                        MethodState& state) override;
  bool scores_keys(int64_t layer) const override { return reader_->scores_keys(layer); }
  at::Tensor attend(const AttentionInput& input, MethodState& state) override {
    return reader_->attend(input, state);
  }
  at::Tensor extra_sublayer(const AttentionInput& input, const at::Tensor& residual,
                            MethodState& state) override {
    return reader_->extra_sublayer(input, residual, state);
  }
  void update_cache(const AttentionInput& input, MethodState& state) override {
    reader_->update_cache(input, state);
  }
  void end_segment(MethodState& state) override { reader_->end_segment(state); }
  bool one_segment_per_chunk() const override { return reader_->one_segment_per_chunk(); }
  int64_t state_bytes(const MethodState& state) const override {
    return reader_->state_bytes(state);
  }
  int64_t shared_bytes() const override { return reader_->shared_bytes(); }
  double token_flops() const override { return reader_->token_flops(); }
  bool counts_without_masks() const override { return reader_->counts_without_masks(); }

 protected:
  // [B, N], higher is chosen first.
  virtual at::Tensor score(const Batch& batch, const MethodState& state) const = 0;
  // The tokens that `wanted` [B, N] bool names, in the reader's segments.
  SelectedTokens select_exactly(const at::Tensor& wanted, const Batch& batch, MethodState& state);
  SelectorConfig config_;
  int64_t seed_;
  std::shared_ptr<Method> reader_;
};

// Uniformly random tokens, by Philox of (seed, sample).
class RandomSelector : public SelectorMethod {
 public:
  using SelectorMethod::SelectorMethod;
  std::string method_name() const override { return "random"; }

 protected:
  at::Tensor score(const Batch& batch, const MethodState& state) const override;
};

// The tokens that support the answer, then random ones: what a perfect retriever could give this
// reader.
class OracleEvidenceSelector : public SelectorMethod {
 public:
  using SelectorMethod::SelectorMethod;
  std::string method_name() const override { return "oracle_evidence"; }

 protected:
  at::Tensor score(const Batch& batch, const MethodState& state) const override;
};

// BM25 (Robertson et al. 1994) of the question over passages of `bm25_passage` tokens of the
// document, or the passages between its blank lines, on token ids; whole passages in order of
// score, the last one cut at the budget.
class Bm25Selector : public SelectorMethod {
 public:
  using SelectorMethod::SelectorMethod;
  std::string method_name() const override { return "bm25"; }

 protected:
  at::Tensor score(const Batch& batch, const MethodState& state) const override;
  // int64 [B, N]: the passage of each token as `bm25_passage` cuts them; -1: padding.
  at::Tensor passages(const Batch& batch) const;
};

// BM25's first passage and nothing else, whatever the budget.
class Bm25TopPassageSelector : public Bm25Selector {
 public:
  using Bm25Selector::Bm25Selector;
  std::string method_name() const override { return "bm25_top_passage"; }
  SelectedTokens select(const Batch& batch, const LanguageModelView& model,
                        MethodState& state) override;
};

// The passages in which the evidence stands and nothing else, whatever the budget: reading without
// distractors. Passages end at blank lines.
class OraclePassageSelector : public SelectorMethod {
 public:
  using SelectorMethod::SelectorMethod;
  std::string method_name() const override { return "oracle_passage"; }
  SelectedTokens select(const Batch& batch, const LanguageModelView& model,
                        MethodState& state) override;

 protected:
  at::Tensor score(const Batch& batch, const MethodState& state) const override { return {}; }
};

// No context at all: what the weights know without reading.
class QuestionOnlySelector : public SelectorMethod {
 public:
  using SelectorMethod::SelectorMethod;
  std::string method_name() const override { return "question_only"; }
  void prepare(const Batch& batch, const LanguageModelView& model, MethodState& state) override {}
  SelectedTokens select(const Batch& batch, const LanguageModelView& model,
                        MethodState& state) override;

 protected:
  at::Tensor score(const Batch& batch, const MethodState& state) const override { return {}; }
};

}  // namespace dsrsq
