// results.json, the Markdown table and what figures are made from. One format for quality, speed
// and memory (design section 4):
//   {"provenance": {"commit","command","date","device","versions","seeds"},
//    "records":
//    [{"case","method","shape":{},"metric","value","unit","ci"?:[low,high],"p10"?,"p90"?,"baseline"?,"ratio"?}]}
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace dsrsq {

struct ResultRecord {
  std::string case_name;                // what was evaluated: "test", "nq/test"
  std::string method;                   // the row: "dsrsq", "no_sqa", "random"
  std::map<std::string, double> shape;  // context tokens, budget, questions, ...
  std::string metric;                   // "em", "latency_p50", ...
  double value = 0;
  std::string unit;                 // "share", "s", "tokens/s", "bytes", "FLOP", "tokens"
  std::optional<double> low, high;  // confidence interval
};

// Commit (git, "unknown" outside a checkout; "-dirty" where files differ), command line, date
// (UTC), device, library versions.
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

}  // namespace dsrsq
