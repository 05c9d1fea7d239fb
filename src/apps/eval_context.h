// dsrsq-eval --context-lengths: perplexity of texts against how much of them may be read.
#pragma once

#include <string>
#include <vector>

#include "eval_rows.h"

namespace dsrsq {

struct ContextOutcome {
  std::vector<ResultRecord> records;
  std::string table;  // Markdown: perplexity by context length, and differences of the loss
  std::string texts;  // JSON lines: the loss of every text, row by row
  std::string output_dir, device;
  std::vector<int64_t> seeds;
};

// Rows: each run as it was trained, then request.probes and request.methods (those that choose
// tokens without labels) with the first run's reader; all over the texts of the first run's test
// split. scored_tokens 0: data.chunk_tokens.
ContextOutcome evaluate_context_lengths(const EvalRequest& request,
                                        const std::vector<int64_t>& lengths, int64_t scored_tokens);

}  // namespace dsrsq
