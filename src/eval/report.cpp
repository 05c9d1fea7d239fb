#include "dsrsq/eval/report.h"

#include <torch/headeronly/version.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <limits>
#include <nlohmann/json.hpp>
#include <tuple>
#include <utility>

#include "dsrsq/core/error.h"

#ifdef DSRSQ_WITH_CUDA
#include <cuda_runtime_api.h>
#endif

namespace dsrsq {

namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr char kProjectVersion[] = "0.1.0";  // of CMakeLists.txt; a test compares them

// ---- provenance ----

std::string shell_quoted(const std::string& text) {
  constexpr char kPlain[] =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%";
  if (!text.empty() && text.find_first_not_of(kPlain) == std::string::npos) return text;
  std::string quoted = "'";
  for (char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

// Standard output without its last newline; nothing where the command failed.
std::optional<std::string> output_of(const std::string& command) {
  FILE* pipe = popen((command + " 2>/dev/null").c_str(), "r");
  if (!pipe) return std::nullopt;
  std::string output;
  std::array<char, 4096> block;
  while (size_t n = fread(block.data(), 1, block.size(), pipe)) output.append(block.data(), n);
  if (pclose(pipe) != 0) return std::nullopt;
  while (!output.empty() && output.back() == '\n') output.pop_back();
  return output;
}

// The checkout that this program was built in: not the working folder, which may lie in a
// repository of something else.
std::optional<fs::path> checkout_folder() {
  std::error_code error;
  auto program = fs::read_symlink("/proc/self/exe", error);
  if (error) return std::nullopt;
  for (auto folder = program.parent_path(); folder != folder.parent_path();
       folder = folder.parent_path())
    if (fs::exists(folder / ".git", error) &&
        fs::exists(folder / "include/dsrsq/eval/report.h", error))
      return folder;
  return std::nullopt;
}

// DSRSQ_COMMIT, where it is set: programs carried to a machine without their checkout say what they
// were built from.
std::string commit_name() {
  if (const char* told = std::getenv("DSRSQ_COMMIT"); told && *told) return told;
  auto folder = checkout_folder();
  if (!folder) return "unknown";
  auto git = "GIT_OPTIONAL_LOCKS=0 git -C " + shell_quoted(folder->string());
  auto commit = output_of(git + " rev-parse --verify HEAD");
  if (!commit) return "unknown";
  auto changes = output_of(git + " status --porcelain");
  return *commit + (changes && changes->empty() ? "" : "-dirty");
}

std::string utc_now() {
  auto now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> text;
  auto length = std::strftime(text.data(), text.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return {text.data(), length};
}

json library_versions() {
  json versions;
  versions["dsrsq"] = kProjectVersion;
  versions["torch"] = TORCH_VERSION;
#ifdef DSRSQ_WITH_CUDA
  versions["cuda"] = concat(CUDART_VERSION / 1000, ".", CUDART_VERSION % 1000 / 10);
#else
  versions["cuda"] = "none";
#endif
#ifdef __clang__
  versions["compiler"] =
      concat("clang ", __clang_major__, ".", __clang_minor__, ".", __clang_patchlevel__);
#else
  versions["compiler"] = concat("gcc ", __GNUC__, ".", __GNUC_MINOR__, ".", __GNUC_PATCHLEVEL__);
#endif
  return versions;
}

// ---- reading results ----

[[noreturn]] void bad_field(const std::string& where, const std::string& expected,
                            const json& got) {
  throw DataError(concat(where, ": expected ", expected, ", got ",
                         got.is_object() || got.is_array() ? got.type_name() : got.dump(),
                         "; the file was not written by dsrsq-eval, or was changed"));
}

const json& member(const json& object, const char* key, const std::string& where) {
  auto found = object.find(key);
  if (found == object.end()) throw DataError(concat(where, ": the key \"", key, "\" is missing"));
  return *found;
}

std::string text_of(const json& value, const std::string& where) {
  if (!value.is_string()) bad_field(where, "a string", value);
  return value.get<std::string>();
}

double number_of(const json& value, const std::string& where) {
  if (value.is_null())
    return std::numeric_limits<double>::quiet_NaN();  // not finite when it was written
  if (!value.is_number()) bad_field(where, "a number", value);
  return value.get<double>();
}

std::pair<double, double> interval_of(const json& value, const std::string& where) {
  if (!value.is_array() || value.size() != 2) bad_field(where, "[low, high]", value);
  return {number_of(value[0], where + "[0]"), number_of(value[1], where + "[1]")};
}

RowDifference parse_difference(const json& item, const std::string& where) {
  if (!item.is_object()) bad_field(where, "an object", item);
  auto number = [&](const char* key) {
    return number_of(member(item, key, where), where + "." + key);
  };
  RowDifference difference;
  difference.value = number("value");
  std::tie(difference.low, difference.high) = interval_of(member(item, "ci", where), where + ".ci");
  difference.p = number("p");
  difference.exact = text_of(member(item, "test", where), where + ".test") == "exact";
  difference.pairs = int64_t(number("pairs"));
  return difference;
}

ResultRecord parse_record(const json& item, const std::string& where) {
  if (!item.is_object()) bad_field(where, "an object", item);
  auto string = [&](const char* key) {
    return text_of(member(item, key, where), where + "." + key);
  };
  ResultRecord record;
  record.case_name = string("case");
  record.method = string("method");
  record.metric = string("metric");
  record.unit = string("unit");
  record.value = number_of(member(item, "value", where), where + ".value");
  if (auto shape = item.find("shape"); shape != item.end()) {
    if (!shape->is_object()) bad_field(where + ".shape", "an object", *shape);
    for (const auto& [name, size] : shape->items())
      record.shape[name] = number_of(size, where + ".shape." + name);
  }
  if (auto ci = item.find("ci"); ci != item.end())
    std::tie(record.low, record.high) = interval_of(*ci, where + ".ci");
  if (item.contains("baseline")) record.baseline = string("baseline");
  if (auto difference = item.find("difference"); difference != item.end())
    record.difference = parse_difference(*difference, where + ".difference");
  if (auto ratio = item.find("ratio"); ratio != item.end())
    record.ratio = number_of(*ratio, where + ".ratio");
  if (auto p10 = item.find("p10"); p10 != item.end()) record.p10 = number_of(*p10, where + ".p10");
  if (auto p90 = item.find("p90"); p90 != item.end()) record.p90 = number_of(*p90, where + ".p90");
  return record;
}

// ---- the table ----

// Three significant digits, without an exponent.
std::string significant(double value) {
  auto magnitude = value == 0 ? 0 : int(std::floor(std::log10(std::abs(value))));
  auto decimals = std::clamp(2 - magnitude, 0, 9);
  std::array<char, 400> text;  // the largest double has 309 digits
  auto length = std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
  return {text.data(), size_t(length)};
}

std::string with_decimals(double value, int decimals) {
  std::array<char, 400> text;
  auto length = std::snprintf(text.data(), text.size(), "%.*f", decimals, value);
  return {text.data(), size_t(length)};
}

struct Scale {
  double factor = 1;
  std::string suffix;
};

// The unit that a value is shown in; its interval uses the same.
Scale scale_of(double value, const std::string& unit) {
  value = std::abs(value);
  if (unit == "s") return value < 1 ? Scale{1e3, " ms"} : Scale{1, " s"};
  if (unit == "FLOP") return {1e-9, " G"};
  if (unit != "bytes") return {};
  if (value < 1e3) return {1, " B"};
  if (value < 1e6) return {1e-3, " KB"};
  return value < 1e9 ? Scale{1e-6, " MB"} : Scale{1e-9, " GB"};
}

std::string format_record(const ResultRecord& record) {
  if (!std::isfinite(record.value)) return "n/a";
  auto scale = scale_of(record.value, record.unit);
  auto number = [&](double value) {
    return record.unit == "share" ? with_decimals(value, 3) : significant(value * scale.factor);
  };
  auto text = number(record.value) + scale.suffix;
  if (record.low && record.high && std::isfinite(*record.low) && std::isfinite(*record.high))
    text += concat(" [", number(*record.low), ", ", number(*record.high), "]");
  return text;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (char c : text)
    out += c == '|' ? std::string("\\|") : c == '\n' ? std::string(" ") : std::string(1, c);
  return out;
}

// Characters, not bytes: names may hold UTF-8.
size_t display_width(const std::string& text) {
  return size_t(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

// rows[0] is the header; the first `left` columns are aligned left, the others right.
std::string aligned_table(const std::vector<std::vector<std::string>>& rows, size_t left) {
  std::vector<size_t> widths(rows[0].size(), 3);
  for (const auto& row : rows)
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], display_width(row[i]));
  std::string out;
  auto line = [&](const std::vector<std::string>& cells) {
    for (size_t i = 0; i < cells.size(); ++i) {
      std::string space(widths[i] - display_width(cells[i]), ' ');
      out += "| " + (i < left ? cells[i] + space : space + cells[i]) + " ";
    }
    out += "|\n";
  };
  line(rows[0]);
  for (size_t i = 0; i < widths.size(); ++i)
    out += i < left ? "|:" + std::string(widths[i] + 1, '-')
                    : "|" + std::string(widths[i] + 1, '-') + ":";
  out += "|\n";
  for (size_t i = 1; i < rows.size(); ++i) line(rows[i]);
  return out;
}

}  // namespace

json make_provenance(const std::vector<std::string>& command, const std::string& device,
                     const std::vector<int64_t>& seeds) {
  std::string line;
  for (size_t i = 0; i < command.size(); ++i) {
    // The program's folder says nothing about the run, and everything about the machine.
    auto argument = i == 0 ? fs::path(command[0]).filename().string() : command[i];
    line += (i == 0 ? "" : " ") + shell_quoted(argument);
  }
  return {
      {"commit", commit_name()},        {"command", line}, {"date", utc_now()}, {"device", device},
      {"versions", library_versions()}, {"seeds", seeds}};
}

json results_json(const json& provenance, const std::vector<ResultRecord>& records) {
  auto list = json::array();
  for (const auto& record : records) {
    json item = {{"case", record.case_name}, {"method", record.method}, {"shape", json::object()},
                 {"metric", record.metric},  {"value", nullptr},        {"unit", record.unit}};
    for (const auto& [name, size] : record.shape) item["shape"][name] = size;
    if (std::isfinite(record.value))
      item["value"] = record.value;  // JSON has no NaN: null, shown as "n/a"
    if (record.low && record.high && std::isfinite(*record.low) && std::isfinite(*record.high))
      item["ci"] = {*record.low, *record.high};
    if (record.p10) item["p10"] = *record.p10;
    if (record.p90) item["p90"] = *record.p90;
    if (!record.baseline.empty()) item["baseline"] = record.baseline;
    if (const auto& d = record.difference)
      item["difference"] = {{"value", d->value},
                            {"ci", {d->low, d->high}},
                            {"p", d->p},
                            {"test", d->exact ? "exact" : "drawn"},
                            {"pairs", d->pairs}};
    if (record.ratio && std::isfinite(*record.ratio)) item["ratio"] = *record.ratio;
    list.push_back(std::move(item));
  }
  return {{"provenance", provenance}, {"records", list}};
}

std::vector<ResultRecord> parse_results(const json& results, const std::string& where) {
  if (!results.is_object()) bad_field(where, "an object with provenance and records", results);
  const auto& list = member(results, "records", where);
  if (!list.is_array()) bad_field(where + ": records", "a list", list);
  std::vector<ResultRecord> records;
  for (size_t i = 0; i < list.size(); ++i)
    records.push_back(parse_record(list[i], concat(where, ": records[", i, "]")));
  return records;
}

namespace {

using CellText = std::string (*)(const ResultRecord&);

std::string table_of(const std::vector<ResultRecord>& records, const std::vector<Column>& columns,
                     CellText text) {
  using Row = std::pair<std::string, std::string>;  // case, method
  std::vector<Row> order;
  std::map<Row, std::map<std::string, std::string>> cells;
  std::vector<std::string> cases;
  for (const auto& record : records) {
    Row row{record.case_name, record.method};
    if (std::find(order.begin(), order.end(), row) == order.end()) order.push_back(row);
    if (std::find(cases.begin(), cases.end(), record.case_name) == cases.end())
      cases.push_back(record.case_name);
    if (!cells[row].emplace(record.metric, text(record)).second)
      throw DataError(concat("results: ", record.metric, " of ", record.method, " in ",
                             record.case_name,
                             " stands twice; give each evaluation its own case or method name"));
  }
  std::vector<Column> shown;
  for (const auto& column : columns)
    if (std::any_of(records.begin(), records.end(),
                    [&](const auto& record) { return record.metric == column.metric; }))
      shown.push_back(column);

  bool several = cases.size() > 1;
  std::vector<std::vector<std::string>> rows(1);
  if (several) rows[0].push_back("case");
  rows[0].push_back("method");
  for (const auto& column : shown) rows[0].push_back(escaped(column.title));
  for (const auto& row : order) {
    std::vector<std::string> line;
    if (several) line.push_back(escaped(row.first));
    line.push_back(escaped(row.second));
    for (const auto& column : shown) {
      auto found = cells[row].find(column.metric);
      line.push_back(found == cells[row].end() ? "n/a" : found->second);
    }
    rows.push_back(std::move(line));
  }
  return aligned_table(rows, several ? 2 : 1);
}

std::string format_difference(const ResultRecord& record) {
  const auto& d = *record.difference;
  auto text = concat(d.value < 0 ? "" : "+", with_decimals(d.value, 3), " [",
                     with_decimals(d.low, 3), ", ", with_decimals(d.high, 3), "], p ");
  return text + (d.p < 0.001 ? "< 0.001" : with_decimals(d.p, 3));
}

}  // namespace

std::string markdown_table(const std::vector<ResultRecord>& records,
                           const std::vector<Column>& columns) {
  return table_of(records, columns, format_record);
}

std::string comparison_table(const std::vector<ResultRecord>& records,
                             const std::vector<Column>& columns) {
  std::vector<ResultRecord> compared;
  for (const auto& record : records) {
    bool shown = std::any_of(columns.begin(), columns.end(),
                             [&](const Column& column) { return column.metric == record.metric; });
    if (shown && record.difference) compared.push_back(record);
  }
  if (compared.empty()) return "";
  return concat("Less ", escaped(compared[0].baseline),
                ", question by question: mean of the differences (of BLEU: difference of the "
                "corpora), 95 % paired bootstrap interval, p of a two-sided sign-flip test (not "
                "corrected for several comparisons).\n\n",
                table_of(compared, columns, format_difference));
}

}  // namespace dsrsq
