// results.json, the Markdown table and what figures are made from. One format for quality, speed
// and memory (design section 4):
//   {"provenance": {"commit","command","date","device","versions","seeds"},
//    "records":
//    [{"case","method","shape":{},"metric","value","unit","ci"?:[low,high],"p10"?,"p90"?,
//      "baseline"?,"ratio"?,
//      "difference"?:{"value","ci":[low,high],"p","test":"exact"|"drawn","pairs"}}]}
// `baseline` names the row that this one is compared with: a quality question by question, as the
// `difference` to it over `pairs` questions with a paired bootstrap interval and the p of a
// sign-flip test (text/resampling.h), a cost by its `ratio`, value / baseline's value.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace dsrsq {

struct RowDifference {
  double value = 0, low = 0, high = 0;
  double p = 1;
  bool exact = false;  // every sign flip was counted, none drawn
  int64_t pairs = 0;
};

struct ResultRecord {
  std::string case_name;                // what was evaluated: "test", "nq/test"
  std::string method;                   // the row: "dsrsq", "no_sqa", "random"
  std::map<std::string, double> shape;  // context tokens, budget, questions, ...
  std::string metric;                   // "em", "latency_p50", ...
  double value = 0;
  std::string unit;                 // "share", "s", "tokens/s", "bytes", "FLOP", "nats", ...
  std::optional<double> low, high;  // confidence interval
  std::string baseline = {};        // the row compared with; empty: none
  std::optional<RowDifference> difference = {};
  std::optional<double> ratio = {};
  std::optional<double> p10 = {}, p90 = {};  // of repeated runs, `value` being their median
};

// Commit (DSRSQ_COMMIT, else git, "unknown" outside a checkout; "-dirty" where files differ),
// command line, date (UTC), device, library versions.
nlohmann::json make_provenance(const std::vector<std::string>& command, const std::string& device,
                               const std::vector<int64_t>& seeds);

nlohmann::json results_json(const nlohmann::json& provenance,
                            const std::vector<ResultRecord>& records);
std::vector<ResultRecord> parse_results(const nlohmann::json& results,
                                        const std::string& where);  // throws DataError

// One row a method in order of appearance, one column a metric in the order given (metrics that no
// row has are left out, a value that a row lacks is "n/a"). Intervals as "0.985 [0.974, 0.994]".
// Bytes in KB/MB, FLOP in G, seconds in ms below 1 s.
struct Column {
  std::string metric;
  std::string title;
};
std::string markdown_table(const std::vector<ResultRecord>& records,
                           const std::vector<Column>& columns);
// The same rows and columns of differences, "+0.012 [0.002, 0.023], p 0.013", under a sentence that
// says what they are. Empty where no record has one.
std::string comparison_table(const std::vector<ResultRecord>& records,
                             const std::vector<Column>& columns);

}  // namespace dsrsq
