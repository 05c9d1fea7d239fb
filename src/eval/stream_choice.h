// Which tokens of a stream a row reads at each probe.
#pragma once

#include <ATen/core/Tensor.h>

#include "dsrsq/eval/stream_answers.h"

namespace dsrsq {

// A stream as the model's tokens.
struct StreamTokens {
  std::vector<int64_t> ids;
  std::vector<int64_t> prefix;    // a probe: tokens that end at or before its prefix_bytes
  std::vector<TokenSpan> stated;  // a probe: tokens of its last statement; empty: a control
  std::vector<std::vector<int32_t>> questions;  // a probe: what retriever and reader read
};
StreamTokens tokenise_stream(const Tokenizer& tokenizer, const PromptConfig& prompt,
                             const FactStream& stream);

// Chosen tokens of every probe, ascending: index int64 [P, n] (0 where masked), mask bool [P, n],
// on the CPU.
struct StreamPicks {
  at::Tensor index, mask;
};
StreamPicks choose_stream_tokens(LanguageModel& model, const StreamTokens& tokens,
                                 const StreamOptions& options, const std::string& label);

// What the reader gathers for them, [P, n, D] fp32 on the CPU.
at::Tensor gather_stream_inputs(LanguageModel& model, const StreamTokens& tokens,
                                const StreamPicks& picks);

}  // namespace dsrsq
