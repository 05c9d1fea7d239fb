// Models and batches small enough for tests on one core: grouped heads, padding, seeded by
// core/random alone.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

#include "dsrsq/methods/dsrsq.h"
#include "dsrsq/model/transformer.h"

namespace dsrsq::testing {

inline constexpr int64_t kTinyVocabulary = 61;
inline constexpr int32_t kTinyBegin = 1;

// N(0, 1) fp32, a function of (name, shape) only.
at::Tensor normal(const std::string& name, at::IntArrayRef shape);
// Token ids in [2, kTinyVocabulary), a function of (name, shape) only.
at::Tensor token_ids(const std::string& name, at::IntArrayRef shape);

// 2 layers, D = 32, H = 4, H_kv = 2, d = 8, 2 sinks. Weights are large, so that attention is far
// from uniform and an error in it is far above any tolerance.
TransformerConfig tiny_model();

// m = 6, k = 2, window 3; c = 8, L = 5, exact window 4, segments of 8; budget 12 tokens.
DsrsqConfig tiny_dsrsq(bool dsr, bool sqa, bool rckv);

LanguageModel tiny_language_model(const TransformerConfig& model, std::shared_ptr<Method> method,
                                  int64_t seed = 3);

// A DSRSQ model whose codebooks are fed (by one training pass over a batch of its own).
LanguageModel tiny_dsrsq_model(const TransformerConfig& model, const DsrsqConfig& config,
                               int64_t seed = 3);
void feed_codebooks(LanguageModel& model);

struct TinySequence {
  int64_t context = 0;   // tokens
  int64_t question = 4;  // tokens of each question
  int64_t tail = 6;
  int64_t questions = 1;
  int64_t sample =
      0;  // names its tokens and its noise: the same sample has the same tokens in every batch
};

// Padded at the end. Evidence of question q is four tokens, its answer the last two of them. Every
// tail position has a label; the questions share them evenly, in order.
Batch tiny_batch(const std::vector<TinySequence>& sequences);

// Reads the batch; the state is left in *state where it is given. -> hidden of the tail [B, T, D].
at::Tensor read_batch(LanguageModel& model, const Batch& batch, const PassOptions& options = {},
                      MethodState* state = nullptr);

// "dsr+sqa", "none", ...
std::string parts_name(bool dsr, bool sqa, bool rckv);

}  // namespace dsrsq::testing
