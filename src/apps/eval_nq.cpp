#include "eval_nq.h"

#include <filesystem>
#include <map>

#include "dsrsq/core/files.h"
#include "dsrsq/core/json.h"
#include "dsrsq/eval/nq_scoring.h"

namespace dsrsq {

namespace {

std::map<std::string, std::string> read_words(const std::string& path) {
  std::map<std::string, std::string> words;
  for_each_line(path, [&](int64_t number, const std::string& line) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) return;
    auto fail = [&](const std::string& reason) {
      throw DataError(concat(path, ":", number, ": ", reason));
    };
    nlohmann::json item;
    try {
      item = parse_json(line);
    } catch (const JsonError& error) {
      fail(error.what());
    }
    if (!item.is_object() || !item.contains("id") || !item.contains("prediction") ||
        !item["prediction"].is_string())
      fail("expected {\"id\", \"prediction\"}");
    auto id = item["id"].is_string() ? item["id"].get<std::string>() : item["id"].dump();
    if (!words.emplace(id, item["prediction"].get<std::string>()).second)
      fail(concat("the id ", id, " stands twice"));
  });
  return words;
}

}  // namespace

EvalOutcome score_nq(const std::vector<std::string>& inputs, const std::string& gold,
                     int64_t annotators) {
  auto pages = read_nq_gold(gold);
  EvalOutcome outcome;
  outcome.device = "none";
  for (const auto& input : inputs) {
    auto equals = input.find('=');
    auto path = equals == std::string::npos ? input : input.substr(equals + 1);
    auto row = equals == std::string::npos ? std::filesystem::path(path).stem().string()
                                           : input.substr(0, equals);
    auto spans = std::filesystem::path(path).extension() == ".json";
    auto records = spans ? nq_records(pages, read_nq_predictions(path), row, annotators)
                         : nq_text_records(pages, read_words(path), row, annotators);
    outcome.records.insert(outcome.records.end(), records.begin(), records.end());
  }
  return outcome;
}

std::vector<Column> nq_columns() {
  std::vector<Column> columns;
  for (auto [name, title] : {std::pair{"nq_long", "long"}, {"nq_short", "short"}})
    for (const char* figure : {"f1", "precision", "recall", "best_f1", "best_threshold"})
      columns.push_back({concat(name, "_", figure), concat(title, " ", figure)});
  for (const char* figure : {"f1", "precision", "recall"})
    columns.push_back({concat("nq_short_text_", figure), concat("short, by text, ", figure)});
  return columns;
}

}  // namespace dsrsq
