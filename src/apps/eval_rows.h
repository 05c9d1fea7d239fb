// What dsrsq-eval does between its command line and its files.
#pragma once

#include <string>
#include <vector>

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
  int64_t trace = 0;  // questions of the first run that get a page
};

struct EvalOutcome {
  std::vector<ResultRecord> records;
  std::string questions;  // JSON lines: every question of every row, its prediction and scores
  std::string notes;      // which parts were active, in words
  std::vector<TracePage> trace;
  std::string run_folder;
  std::string device;
  std::vector<int64_t> seeds;
};

EvalOutcome evaluate_rows(const EvalRequest& request);
std::vector<Column> result_columns();

}  // namespace dsrsq
