// What dsrsq-eval does between its command line and its files.
#pragma once

#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "dsrsq/eval/answers.h"
#include "dsrsq/eval/report.h"
#include "dsrsq/eval/suite.h"
#include "dsrsq/train/run_config.h"
#include "eval_trace.h"

namespace dsrsq {

// What an evaluation finds out of its rows. Answers and costs of a row may be found at different
// times, by different processes: they are kept in <output_dir>/rows until both are there.
enum class Measure {
  kAll,
  kAnswers,  // of all budgets of a method in one pass; several processes share the methods
  kCosts,    // latency, throughput, bytes: alone on the machine
};

struct EvalRequest {
  std::vector<std::string> checkpoints;  // "[ROW=]FOLDER"
  std::string config;
  std::vector<std::string> overrides;
  std::vector<std::string> methods;  // "all": every one that reads with the first run's weights
  std::vector<std::string> probes;
  std::vector<std::string> budgets;  // "512", "5%"; several: a row each of what has a budget
  std::string device;
  int64_t seed = -1;
  std::vector<std::string> audits;  // methods, or "all", that are audited instead of evaluated
  int64_t trace = 0;                // questions of the first run that get a page
  std::string output_dir;           // empty: <first run>/eval
  bool resume = true;    // rows that an interrupted evaluation left in <output_dir>/rows are taken
  std::string baseline;  // the row that the others are compared with; empty: the first
  Measure measure = Measure::kAll;
  std::string suite_name;              // NAME or FILE of a suite; empty: the run's own prompt
  std::shared_ptr<const Suite> suite;  // of evaluate_suite
  std::string task;                    // the split that it is at
  int64_t depths = 0;                  // shares of the context in the needle map; 0: none
};

struct EvalOutcome {
  std::vector<ResultRecord> records;
  std::vector<AnsweredRow> rows;
  std::string notes;  // which parts were active, in words
  std::vector<TracePage> trace;
  std::string output_dir;
  std::string device;
  std::vector<int64_t> seeds;
  std::string commit;              // that made the rows; empty: this program's
  nlohmann::json rules = nullptr;  // of the suite
  int64_t depths = 0;
};

EvalOutcome evaluate_rows(const EvalRequest& request);
// The first run's, with what the request overrides.
RunConfig first_run_config(const EvalRequest& request);
// Audits request.audits on the first run's weights and test split (eval/audit.h).
struct AuditOutcome {
  std::string report;
  bool passed = true;
};
AuditOutcome audit_rows(const EvalRequest& request);

}  // namespace dsrsq
