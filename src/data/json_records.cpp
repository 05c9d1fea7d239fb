// Records of JSONL files and of JSON lists: limits, bad records, typed access.
#include <algorithm>
#include <limits>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/json.h"
#include "json_elements.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

using nlohmann::json;

constexpr size_t kListedBad = 5;

json parse_record(const std::string& text) {
  try {
    return parse_json(text);
  } catch (const JsonError& error) {
    throw BadRecord{error.what()};
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

void read_record(const ReadContext& context, const std::string& text, const RecordPlace& place,
                 const RecordSink& record) {
  guard_record(context, describe_place(context.path, place), [&] {
    const json value = parse_record(text);
    if (!value.is_object())
      throw BadRecord{concat("a record must be an object, got ", value.type_name())};
    record(value, place);
  });
}

void read_whole(const ReadContext& context, const RecordSink& record) {
  const RecordPlace place{1, -1};
  std::string text;
  for_each_chunk(
      context.path,
      [&text](const char* bytes, size_t size) {
        text.append(bytes, size);
        return text.size() <= kMaximumRecord;
      },
      context.options.progress);
  if (text.size() <= kMaximumRecord) {
    read_record(context, text, place, record);
    return;
  }
  guard_record(context, describe_place(context.path, place), [] {
    throw BadRecord{concat("the object is longer than ", kMaximumRecord, " bytes")};
  });
}

// What both kinds of containers share.
void read_elements(const ReadContext& context, JsonElements::Of of, const std::string& key,
                   const RecordSink& record) {
  const auto problem = [&context](const RecordPlace& place, const std::string& reason) {
    guard_record(context, describe_place(context.path, place), [&] { throw BadRecord{reason}; });
  };
  JsonElements elements(
      of, key, kMaximumRecord,
      [&](const std::string& text, const RecordPlace& place) {
        read_record(context, text, place, record);
      },
      problem);
  for_each_chunk(
      context.path,
      [&elements](const char* bytes, size_t size) { return elements.add(bytes, size); },
      context.options.progress);
  elements.finish();
}

std::string type_error(const json& value, const std::string& name, const char* expected) {
  return concat("\"", name, "\" must be ", expected, ", got ",
                value.is_number_float() ? "a number that is no 64-bit integer" : value.type_name());
}

}  // namespace

FileLayout layout_of(const std::string& path) {
  FileLayout layout = FileLayout::kNoJson;
  const auto decided = [&layout](char c) {
    if (layout == FileLayout::kLines) {  // after "{"
      if (c == '\n') layout = FileLayout::kObject;
      return c != ' ' && c != '\t' && c != '\r';
    }
    if (std::string_view(" \t\r\n\xEF\xBB\xBF").find(c) != std::string_view::npos) return false;
    if (c == '{') layout = FileLayout::kLines;
    if (c == '[') layout = FileLayout::kList;
    return c != '{';
  };
  for_each_chunk(path, [&decided](const char* bytes, size_t size) {
    return std::none_of(bytes, bytes + size, decided);
  });
  return layout;
}

ReadOptions options_of_companion(const ReadOptions& options) {
  ReadOptions out;
  out.maximum_bad = options.maximum_bad;
  return out;
}

std::string record_number(const RecordPlace& place) {
  return std::to_string(place.element < 0 ? place.line : place.element);
}

std::string describe_place(const std::string& path, const RecordPlace& place) {
  return place.element < 0 ? concat(path, ":", place.line)
                           : concat(path, ":", place.line, " (element ", place.element, ")");
}

void guard_record(const ReadContext& context, const std::string& where,
                  const std::function<void()>& body) {
  try {
    body();
  } catch (const BadRecord& bad) {
    context.report.bad.push_back({where, bad.reason});
    if (static_cast<int64_t>(context.report.bad.size()) > context.options.maximum_bad)
      fail_over_limit(context.path, context.report, context.options.maximum_bad);
  }
}

void read_json_lines(const ReadContext& context, const RecordSink& record) {
  const auto read_line = [&](int64_t number, const std::string& text) {
    if (text.find_first_not_of(" \t\r") == std::string::npos) return;
    read_record(context, text, {number, -1}, record);
  };
  for_each_line(context.path, read_line, context.options.progress, kMaximumRecord);
}

void read_json_records(const ReadContext& context, const RecordSink& record) {
  switch (layout_of(context.path)) {
    case FileLayout::kList:
      return read_json_elements(context, "", record);
    case FileLayout::kObject:
      return read_whole(context, record);
    case FileLayout::kLines:
    case FileLayout::kNoJson:  // each of its lines is a bad record
      return read_json_lines(context, record);
  }
}

void read_json_elements(const ReadContext& context, const std::string& key,
                        const RecordSink& record) {
  read_elements(context, key.empty() ? JsonElements::Of::kList : JsonElements::Of::kMember, key,
                record);
}

void read_json_members(const ReadContext& context, const MemberSink& record) {
  read_elements(context, JsonElements::Of::kObject, "",
                [&record](const json& value, const RecordPlace& place) {
                  record(parse_record(concat('"', place.key, '"')).get<std::string>(), value,
                         place);
                });
}

void count_question(ReadReport& report, const std::string& document, const Question& question) {
  ++report.records;
  if (question.answers.empty()) ++report.unanswerable;
  std::vector<bool> shown(question.answers.size());
  for (const ByteSpan& span : question.answer_spans) {
    const std::string_view text =
        std::string_view(document).substr(span.begin, span.end - span.begin);
    const auto answer = std::find(question.answers.begin(), question.answers.end(), text);
    ++report.answer_spans;
    if (answer == question.answers.end()) continue;
    ++report.answer_spans_at_text;
    shown[answer - question.answers.begin()] = true;
  }
  if (document.empty()) return;  // closed-book: there is nowhere to look
  report.unlocated += std::count(shown.begin(), shown.end(), false);
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

const json& require_object(const json& value, const std::string& name) {
  if (!value.is_object()) throw BadRecord{type_error(value, name, "an object")};
  return value;
}

bool require_bool(const json& value, const std::string& name) {
  if (!value.is_boolean()) throw BadRecord{type_error(value, name, "true or false")};
  return value.get<bool>();
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

const std::string& require_text_key(const json& object, const std::string& key,
                                    const std::string& where) {
  const std::string& text = require_string(require_key(object, key, where), where + key);
  if (text.empty()) throw BadRecord{concat("\"", where, key, "\" is empty")};
  return text;
}

std::string require_id(const json& value, const std::string& name) {
  return value.is_string() ? value.get<std::string>() : require_integer_text(value, name);
}

const std::string& require_date(const json& value, const std::string& name) {
  const std::string& text = require_string(value, name);
  if (!is_iso_8601(text))
    throw BadRecord{concat("\"", name,
                           "\" must be ISO 8601 (2026-11-24 or 2026-11-24T08:00:00Z), got \"", text,
                           "\"")};
  return text;
}

std::vector<std::string> require_answers(const json& value, const std::string& name) {
  std::vector<std::string> answers;
  for (size_t i = 0; i < require_array(value, name).size(); ++i) {
    const std::string& answer = require_string(value[i], concat(name, "[", i, "]"));
    if (answer.empty())
      throw BadRecord{concat("\"", name, "[", i, "]\" is empty; an unanswerable question has \"",
                             name, "\": []")};
    add_once(answers, answer);
  }
  return answers;
}

bool is_utf8(const std::string& text) {
  try {
    json(text).dump();
    return true;
  } catch (const json::type_error&) {
    return false;
  }
}

bool is_iso_8601(const std::string& text) {
  const std::string pattern = "dddd-dd-ddTdd:dd:dd";
  size_t i = 0;
  for (; i < text.size() && i < pattern.size(); ++i) {
    const char c = text[i];
    const bool fits = pattern[i] == 'd'   ? c >= '0' && c <= '9'
                      : pattern[i] == 'T' ? c == 'T' || c == ' '
                                          : c == pattern[i];
    if (!fits) break;
  }
  if (i == text.size()) return i == 4 || i == 7 || i == 10 || i == 16 || i == 19;
  return (i == 16 || i == 19) && text.find_first_not_of("0123456789:.,+-Z", i) == std::string::npos;
}

std::string read_timestamp(const json& object, const std::string& key, const std::string& where) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return "";
  const std::string text = require_id(*found, where + key);
  if (text.empty() || is_iso_8601(text)) return text;
  const std::string year = text.substr(0, 4);
  const bool whole = text.size() > 4 && (text[4] < '0' || text[4] > '9');
  if (!whole || !is_iso_8601(year))
    throw BadRecord{
        concat("\"", where, key, "\" must begin with a year, got \"", text.substr(0, 40), "\"")};
  return year;
}

std::string trimmed(const std::string& text) {
  const char* blank = " \t\r\n";
  const size_t begin = text.find_first_not_of(blank);
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(blank) + 1 - begin);
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

void DocumentGatherer::add(DocumentExample&& example) {
  if (!pending_.questions.empty() && example.document == pending_.document) {
    pending_.questions.push_back(std::move(example.questions[0]));
    return;
  }
  flush();
  pending_ = std::move(example);
}

void DocumentGatherer::flush() {
  if (!pending_.questions.empty()) sink_(std::move(pending_));
  pending_ = DocumentExample{};
}

ReadReport read_question_records(const std::string& path, const ReadOptions& options,
                                 const ExampleSink& sink, const QuestionReader& read_record) {
  ReadReport report;
  read_json_records({path, options, report}, [&](const json& value, const RecordPlace& place) {
    DocumentExample example = read_record(value, place);
    count_question(report, example.document, example.questions[0]);
    sink(std::move(example));
  });
  return report;
}

ReadReport read_gathered_records(const std::string& path, const ReadOptions& options,
                                 const ExampleSink& sink, const QuestionReader& read_record) {
  DocumentGatherer gatherer(sink);
  const ReadReport report = read_question_records(
      path, options, [&](DocumentExample&& example) { gatherer.add(std::move(example)); },
      read_record);
  gatherer.flush();
  return report;
}

}  // namespace dsrsq
