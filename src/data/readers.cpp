#include "dsrsq/data/readers.h"

#include <algorithm>
#include <limits>

#include "dsrsq/core/config.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

using nlohmann::json;

constexpr int kMaximumDepth = 32;  // the formats need 4
constexpr int64_t kMaximumValues =
    4'000'000;  // a line of 64 MiB of "[],[]," would take gigabytes as values
constexpr size_t kListedBad = 5;

// "[json.exception.parse_error.101] parse error at line 1, column 3: ..., last read: '...'" without
// its head, and cut: what was read last may be a whole document, and may hold the very bytes that
// are wrong.
std::string describe_parse_error(const std::string& what) {
  constexpr size_t kLongest = 120;
  const size_t column = what.find("column ");
  std::string text = what.substr(column == std::string::npos ? 0 : column, kLongest);
  for (char& c : text) {
    if (c < ' ' || c > '~') c = '?';
  }
  return concat(what.find("UTF-8") != std::string::npos ? "invalid UTF-8 (" : "invalid JSON (",
                text, ")");
}

json parse_line(const std::string& text) {
  int64_t values = 0;
  const json::parser_callback_t limit = [&values](int depth, json::parse_event_t, json&) {
    if (depth > kMaximumDepth) throw BadRecord{concat("nested over ", kMaximumDepth, " levels")};
    if (++values > kMaximumValues)
      throw BadRecord{concat("over ", kMaximumValues, " values in one record")};
    return true;
  };
  try {
    return json::parse(text, limit);
  } catch (const json::exception& error) {
    throw BadRecord{describe_parse_error(error.what())};
  }
}

[[noreturn]] void fail_over_limit(const std::string& path, const ReadReport& report,
                                  int64_t limit) {
  std::string list;
  for (size_t i = 0; i < std::min(report.bad.size(), kListedBad); ++i) {
    list += concat(i == 0 ? "" : "; ", report.bad[i].where, ": ", report.bad[i].reason);
  }
  if (report.bad.size() > kListedBad) list += "; ...";
  throw DataError(concat(path, ": ", report.bad.size(), " bad record",
                         report.bad.size() == 1 ? "" : "s", ", ", limit, " allowed (", list,
                         "); repair the file or raise --maximum-bad"));
}

std::string type_error(const json& value, const std::string& name, const char* expected) {
  return concat("\"", name, "\" must be ", expected, ", got ",
                value.is_number_float() ? "a number that is no 64-bit integer" : value.type_name());
}

}  // namespace

void read_json_lines(const std::string& path, const ReadOptions& options, ReadReport& report,
                     const std::function<void(const json& value, int64_t line)>& record) {
  const auto read_line = [&](int64_t number, const std::string& text) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) return;
    try {
      const json value = parse_line(text);
      if (!value.is_object())
        throw BadRecord{concat("a record must be an object, got ", value.type_name())};
      record(value, number);
    } catch (const BadRecord& bad) {
      report.bad.push_back({concat(path, ":", number), bad.reason});
      if (static_cast<int64_t>(report.bad.size()) > options.maximum_bad)
        fail_over_limit(path, report, options.maximum_bad);
    }
  };
  for_each_line(path, read_line, options.progress);
}

const json& require_key(const json& object, const std::string& key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end()) throw BadRecord{concat("key \"", where, key, "\" is missing")};
  return *found;
}

const std::string& require_string(const json& value, const std::string& name) {
  if (!value.is_string()) throw BadRecord{type_error(value, name, "a string")};
  return value.get_ref<const std::string&>();
}

const json& require_array(const json& value, const std::string& name) {
  if (!value.is_array()) throw BadRecord{type_error(value, name, "a list")};
  return value;
}

int64_t require_integer(const json& value, const std::string& name) {
  const bool fits = value.is_number_integer() &&
                    (!value.is_number_unsigned() ||
                     value.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()});
  if (!fits) throw BadRecord{type_error(value, name, "an integer of 64 bits")};
  return value.get<int64_t>();
}

std::string require_integer_text(const json& value, const std::string& name) {
  if (!value.is_number_integer()) throw BadRecord{type_error(value, name, "an integer")};
  return value.is_number_unsigned() ? std::to_string(value.get<uint64_t>())
                                    : std::to_string(value.get<int64_t>());
}

void add_once(std::vector<std::string>& values, const std::string& value) {
  if (std::find(values.begin(), values.end(), value) == values.end()) values.push_back(value);
}

void add_once(std::vector<ByteSpan>& spans, ByteSpan span) {
  const auto same = [span](const ByteSpan& other) {
    return other.begin == span.begin && other.end == span.end;
  };
  if (std::none_of(spans.begin(), spans.end(), same)) spans.push_back(span);
}

const std::vector<ReaderEntry>& reader_table() {
  static const std::vector<ReaderEntry> table = {
      {"nq_simplified", "Natural Questions v1.0-simplified, (gzip) JSONL", &read_nq_simplified},
      {"jsonl",
       "question, context or documents, answers, evidence, answer_spans, id, timestamp; (gzip) "
       "JSONL",
       &read_jsonl},
  };
  return table;
}

const ReaderEntry& find_reader(const std::string& name) {
  std::vector<std::string> names;
  std::string list;
  for (const ReaderEntry& entry : reader_table()) {
    if (entry.name == name) return entry;
    names.push_back(entry.name);
    list += (list.empty() ? "" : ", ") + entry.name;
  }
  const std::string nearest = nearest_name(name, names);
  throw ConfigError(concat("unknown format \"", name, "\"; expected one of ", list,
                           nearest.empty() ? "" : "; did you mean ", nearest,
                           nearest.empty() ? "" : "?"));
}

}  // namespace dsrsq
