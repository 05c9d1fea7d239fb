// Key-value retrieval of lost-in-the-middle (Liu et al. 2023).
#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

using nlohmann::json;

// One of "ordered_kv_records": [key, value].
std::pair<std::string, std::string> read_pair(const json& value, const std::string& name) {
  if (require_array(value, name).size() != 2)
    throw BadRecord{concat("\"", name, "\" must be [key, value]")};
  return {require_string(value[0], name + "[0]"), require_string(value[1], name + "[1]")};
}

DocumentExample read_record(const json& value, const RecordPlace& place) {
  const std::string& key = require_text_key(value, "key");
  const std::string& answer = require_text_key(value, "value");
  const json& pairs = require_array(require_key(value, "ordered_kv_records"), "ordered_kv_records");
  DocumentExample example;
  std::string& document = example.document;
  Question question;
  document = "{";
  for (size_t i = 0; i < pairs.size(); ++i) {
    const auto [name, text] = read_pair(pairs[i], concat("ordered_kv_records[", i, "]"));
    if (i > 0) document += ",\n ";
    const int64_t begin = static_cast<int64_t>(document.size());
    document += json(name).dump() + ": ";
    const int64_t value_begin = static_cast<int64_t>(document.size()) + 1;  // after the quote
    document += json(text).dump();
    if (name != key) continue;
    const int64_t end = static_cast<int64_t>(document.size());
    if (!question.evidence.empty()) throw BadRecord{concat("\"key\" stands twice")};
    if (text != answer || end - 1 - value_begin != static_cast<int64_t>(answer.size()))
      throw BadRecord{"\"value\" is not that of the key, or needs JSON's escapes"};
    question.evidence.push_back({begin, end});
    question.answer_spans.push_back({value_begin, end - 1});
  }
  document += "}";
  if (question.evidence.empty())
    throw BadRecord{concat("\"key\" is none of the ", pairs.size(), " keys")};
  question.id = record_number(place);
  question.text = concat("What is the value of the key ", json(key).dump(), "?");
  question.answers = {answer};
  question.source_line = place.line;
  example.questions.push_back(std::move(question));
  return example;
}

}  // namespace

ReadReport read_kv_retrieval(const std::string& path, const ReadOptions& options,
                             const ExampleSink& sink) {
  return read_question_records(path, options, sink, &read_record);
}

}  // namespace dsrsq
