// What dsrsq-eval does between its command line and its files.
#pragma once

#include <string>
#include <vector>

#include "dsrsq/eval/answers.h"
#include "dsrsq/eval/report.h"
#include "eval_trace.h"

namespace dsrsq {

struct EvalRequest {
  std::vector<std::string> checkpoints;  // "[ROW=]FOLDER"
  std::string config;
  std::vector<std::string> overrides;
  std::vector<std::string> methods;
  std::vector<std::string> probes;
  std::string budget;
  std::string device;
  int64_t seed = -1;
  int64_t trace = 0;     // questions of the first run that get a page
  std::string baseline;  // the row that the others are compared with; empty: the first
};

struct EvalOutcome {
  std::vector<ResultRecord> records;
  std::vector<AnsweredRow> rows;
  std::string notes;  // which parts were active, in words
  std::vector<TracePage> trace;
  std::string run_folder;
  std::string device;
  std::vector<int64_t> seeds;
};

EvalOutcome evaluate_rows(const EvalRequest& request);
// Every metric that a table can show.
std::vector<Column> result_columns();
// Those of these names, in that order; throws ConfigError naming the known ones. Without names the
// ones that a table shows by default: results.json has them all.
std::vector<Column> choose_columns(const std::vector<std::string>& names);

}  // namespace dsrsq
