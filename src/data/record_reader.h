// What the readers share: records of a JSONL file or of a JSON list, parsed with limits, typed
// access to keys, and the account of bad records. Private to src/data.
#pragma once

#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "dsrsq/data/readers.h"

namespace dsrsq {

// A record that cannot be used. Caught by guard_record alone.
struct BadRecord {
  std::string reason;
};

// What a reader needs to know about its input while it reads it.
struct ReadContext {
  const std::string& path;
  const ReadOptions& options;
  ReadReport& report;
};

// The largest record, for_each_line's limit for a line.
inline constexpr size_t kMaximumRecord = size_t{64} << 20;

// By what stands first in a file, after white space and a byte order mark.
enum class FileLayout {
  kLines,   // an object: JSONL
  kObject,  // an object whose "{" is alone in its line: written with indentation
  kList,
  kNoJson,  // anything else, or nothing
};
FileLayout layout_of(const std::string& path);

// To read the companion file with: its bad records are those of the input, its progress is not.
ReadOptions options_of_companion(const ReadOptions& options);

// Where a record begins: the line, and its index where it is the element of a list, or the member
// of an object (-1: a line).
struct RecordPlace {
  int64_t line = 0;
  int64_t element = -1;
  std::string key = {};  // of a member, as it stands between the quotes
};

// The id of a record whose source has none: its line, in a list its index.
std::string record_number(const RecordPlace& place);
// "file:line", "file:line (element 3)".
std::string describe_place(const std::string& path, const RecordPlace& place);

// Runs `body`; a BadRecord that it throws is listed under `where`. Throws DataError over the limit.
void guard_record(const ReadContext& context, const std::string& where,
                  const std::function<void()>& body);

using RecordSink = std::function<void(const nlohmann::json& value, const RecordPlace& place)>;

// Parses every line and hands the object to `record`, which may throw BadRecord. Lines of white
// space are no records. Throws DataError over the limit of bad records, and what for_each_line
// throws.
void read_json_lines(const ReadContext& context, const RecordSink& record);

// As read_json_lines, but a file that begins with "[" is the list of the records, and one whose
// first line is a lone "{" (written with indentation) is one record.
void read_json_records(const ReadContext& context, const RecordSink& record);

// One question with its document from a record; throws BadRecord.
using QuestionReader = std::function<DocumentExample(const nlohmann::json&, const RecordPlace&)>;

// A whole format whose records are one question each: reads them by read_json_records, counts the
// questions and hands them on.
ReadReport read_question_records(const std::string& path, const ReadOptions& options,
                                 const ExampleSink& sink, const QuestionReader& read_record);

// The same, records of one document that follow one another being one example.
ReadReport read_gathered_records(const std::string& path, const ReadOptions& options,
                                 const ExampleSink& sink, const QuestionReader& read_record);

// The elements of the list that is the member `key` of the file's one object, or with an empty key
// of the list that the file is. One element is in memory at a time. An element that does not end,
// or is larger than a line may be, is a bad record; so is a file that is no such list.
void read_json_elements(const ReadContext& context, const std::string& key,
                        const RecordSink& record);

// The members of the file's one object, each of them a record that its key names. Otherwise as
// read_json_elements.
using MemberSink = std::function<void(const std::string& key, const nlohmann::json& value,
                                      const RecordPlace& place)>;
void read_json_members(const ReadContext& context, const MemberSink& record);

// Counts an accepted question of `document`: a record, its answers without a span, its spans.
void count_question(ReadReport& report, const std::string& document, const Question& question);

// The member `key` of an object, of the right type. `where` ("annotations[0].") stands before the
// key in reasons.
const nlohmann::json& require_key(const nlohmann::json& object, const std::string& key,
                                  const std::string& where = "");
const std::string& require_string(const nlohmann::json& value, const std::string& name);
const nlohmann::json& require_array(const nlohmann::json& value, const std::string& name);
const nlohmann::json& require_object(const nlohmann::json& value, const std::string& name);
bool require_bool(const nlohmann::json& value, const std::string& name);
int64_t require_integer(const nlohmann::json& value, const std::string& name);  // within int64
std::string require_integer_text(const nlohmann::json& value,
                                 const std::string& name);  // int64 or uint64, in decimal

// The member `key`: a string that is not empty.
const std::string& require_text_key(const nlohmann::json& object, const std::string& key,
                                    const std::string& where = "");
// An id that is a string or an integer.
std::string require_id(const nlohmann::json& value, const std::string& name);
// ISO 8601: a year, a month, a day, or a time of a day.
const std::string& require_date(const nlohmann::json& value, const std::string& name);
// A list of strings, none of them empty, each once.
std::vector<std::string> require_answers(const nlohmann::json& value, const std::string& name);

bool is_utf8(const std::string& text);
// 2026, 2026-11, 2026-11-24, 2026-11-24T08:00:00Z: enough to sort by, which is what it is for.
bool is_iso_8601(const std::string& text);
// The timestamp of a member that names a date or a year: an integer, ISO 8601, or text that begins
// with the year ("2011 Nov"). Empty where the member is absent, null or empty.
std::string read_timestamp(const nlohmann::json& object, const std::string& key,
                           const std::string& where = "");
// Without white space at both ends.
std::string trimmed(const std::string& text);

// Appends unless it is there already.
void add_once(std::vector<std::string>& values, const std::string& value);
void add_once(std::vector<ByteSpan>& spans, ByteSpan span);

// Questions of one document are gathered until another document comes.
class DocumentGatherer {
 public:
  explicit DocumentGatherer(const ExampleSink& sink) : sink_(sink) {}
  // `example` has one question.
  void add(DocumentExample&& example);
  void flush();

 private:
  const ExampleSink& sink_;
  DocumentExample pending_;
};

}  // namespace dsrsq
