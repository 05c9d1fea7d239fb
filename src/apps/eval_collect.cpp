#include "eval_collect.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <tuple>

#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/eval/answers.h"
#include "dsrsq/registry.h"
#include "eval_kept_rows.h"

namespace dsrsq {

namespace fs = std::filesystem;

namespace {

struct Found {
  std::string file, key;
  KeptRow kept;
};

std::vector<Found> read_rows(const std::vector<std::string>& folders) {
  std::vector<Found> rows;
  for (const auto& folder : folders) {
    if (!fs::is_directory(folder))
      throw DataError(concat("--collect ", folder,
                             ": expected a folder of rows (<output-dir>/rows), found none"));
    for (const auto& entry : fs::directory_iterator(folder)) {
      if (entry.path().extension() != ".json") continue;
      Found found;
      found.file = entry.path().string();
      try {
        found.kept = KeptRows::read(found.file, found.key);
      } catch (const std::exception& error) {
        throw DataError(concat(found.file, ": not a row of dsrsq-eval: ", error.what()));
      }
      if (found.kept.costs.empty())
        log_warning(found.file, ": costs are not measured; --measure costs adds them");
      rows.push_back(std::move(found));
    }
  }
  if (rows.empty()) throw DataError("--collect: expected rows, found none");
  return rows;
}

// What all rows of one comparison have in common: the key without the line that tells them apart.
std::string common_settings(const std::string& key) {
  auto begin = key.find("\nmethod "), end = key.find('\n', begin + 1);
  return key.substr(0, begin) + key.substr(end);
}

// Metrics of the answers that the program which kept the row did not know yet: the questions are
// all there.
void add_missing_metrics(KeptRow& kept) {
  std::set<std::string> known;
  for (const auto& record : kept.records) known.insert(record.metric);
  for (const auto& metric : answer_metrics()) {
    auto has = [&](const QuestionResult& question) { return question.*metric.value >= 0; };
    const auto& questions = kept.row.questions;
    if (known.count(std::string(metric.name)) > 0 ||
        std::none_of(questions.begin(), questions.end(), has))
      continue;
    for (auto& record : answer_records(kept.row)) {
      if (record.metric != metric.name) continue;
      record.shape = kept.records.front().shape;
      kept.records.push_back(std::move(record));
    }
  }
}

std::tuple<size_t, double, std::string> place(const Found& found) {
  const auto& row = found.kept.row.row;
  const auto& table = method_table();
  auto method = row.substr(0, row.find('@'));
  size_t number = 0;  // a run, named as its user likes
  for (size_t i = 0; i < table.size(); ++i)
    if (table[i].name == method) number = i + 1;
  double budget = 0;
  for (const char* name : {"budget_share", "budget_tokens"}) {
    const auto& shape = found.kept.records.front().shape;
    if (auto own = shape.find(name); own != shape.end()) budget = own->second;
  }
  return {number, budget, row};
}

}  // namespace

EvalOutcome collect_rows(const std::vector<std::string>& folders) {
  auto rows = read_rows(folders);
  std::sort(rows.begin(), rows.end(),
            [](const Found& x, const Found& y) { return place(x) < place(y); });
  EvalOutcome outcome;
  std::set<std::string> names;
  for (auto& [file, key, kept] : rows) {
    if (!names.insert(kept.row.row).second)
      throw DataError(concat(file, ": a second row '", kept.row.row, "'"));
    if (common_settings(key) != common_settings(rows.front().key))
      throw DataError(concat(file, ": expected the weights, settings and commit of ",
                             rows.front().file, ", got others; collect them apart"));
    add_missing_metrics(kept);
    outcome.records.insert(outcome.records.end(), kept.records.begin(), kept.records.end());
    outcome.records.insert(outcome.records.end(), kept.costs.begin(), kept.costs.end());
    outcome.notes += kept.notes;
    outcome.rows.push_back(std::move(kept.row));
  }
  outcome.device = rows.front().kept.device;
  outcome.seeds = {rows.front().kept.seed};
  const auto& key = rows.front().key;
  const std::string opening = "commit ";
  outcome.commit = key.substr(opening.size(), key.find('\n') - opening.size());
  return outcome;
}

}  // namespace dsrsq
