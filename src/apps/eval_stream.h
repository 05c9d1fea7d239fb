// dsrsq-eval --stream: adaptation metrics over a fact stream.
#pragma once

#include <string>

#include "eval_rows.h"

namespace dsrsq {

struct StreamOutcome {
  std::vector<ResultRecord> records;
  std::string table;   // Markdown: the metrics, then accuracy by lag
  std::string probes;  // JSON lines: every answer of every row
  std::string output_dir, device;
  std::vector<int64_t> seeds;
};

// Rows: the retriever of each run that has one, then request.methods with the first run's reader:
// window, random, bm25, oracle_evidence, question_only, and constant, which needs no reader.
// request.budgets: one, in tokens; none: the first run's dsr.budget, for all rows.
StreamOutcome evaluate_stream(const std::string& stream_path, const EvalRequest& request);

}  // namespace dsrsq
