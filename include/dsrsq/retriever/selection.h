// From scores to tokens: the budget (D4), the choice of the top tokens, globally or segment by
// segment (D5, D17).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

namespace dsrsq {

// complexity(q) in [0, 1] of each sequence, fp32 [B], from phi [B, N] (-inf: not a token) and
// question lengths [B].
at::Tensor question_complexity(const std::string& kind, const at::Tensor& phi,
                               const at::Tensor& question_tokens);

// budget(q) = b0 (1 + alpha complexity), int64 [B]; Eq. budget, paper section 3.2.
at::Tensor token_budget(int64_t base, double alpha, const at::Tensor& complexity);

// Chosen context tokens in reading order (document order, unless `reordered`), in aligned reader
// segments: part s of every sequence has lengths[s] slots, and slots that a sequence does not fill
// are masked.
struct SelectedTokens {
  // [B, n] int64 into the context; 0 where masked; -1: no token of the context, its vector stands
  // in MethodState::selected_inputs
  at::Tensor index;
  at::Tensor mask;               // [B, n] bool
  std::vector<int64_t> lengths;  // slots of each reader segment; their sum is n
  bool reordered = false;        // a text put together anew: it is numbered in a row, whatever
                                 // model.positions says

  int64_t slots() const;
  // bool [B, ceil(tokens / span)]: runs of `span` tokens that hold a selected one; 1: the tokens.
  at::Tensor chosen(int64_t tokens, int64_t span = 1) const;
  // bool [B, n]: slots whose token is marked in `marks` bool [B, N].
  at::Tensor marked(const at::Tensor& marks) const;
};

// The budget[b] best tokens of each sequence by score [B, N] (-inf: never). With segments == 1 over
// the whole context; else the context is cut into segments of `segment` tokens and each gives its
// share of the budget, of its own number of segments. Where the budget covers a segment, all of it
// is selected.
SelectedTokens select_top(const at::Tensor& score, const at::Tensor& budget, int64_t segment,
                          bool per_segment);

// Scores under which select_top takes whole runs of `span` tokens, best run first by the
// log-sum-exp of its scores, the last one cut at the budget. [B, N] -> [B, N], -inf kept.
at::Tensor span_score(const at::Tensor& score, int64_t span);

// All context tokens, in segments of `segment`.
SelectedTokens select_all(const at::Tensor& valid, int64_t segment);

}  // namespace dsrsq
