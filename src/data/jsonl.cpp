#include "dsrsq/data/jsonl.h"

#include <nlohmann/json.hpp>
#include <vector>

#include "passages.h"

namespace dsrsq {
namespace {

using nlohmann::json;

// Code points before each byte of a valid UTF-8 text that begins a character, and before its end.
std::vector<int64_t> points_before(const std::string& text) {
  std::vector<int64_t> points(text.size() + 1);
  int64_t count = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    points[i] = count;
    if (i + 1 == text.size() || (static_cast<unsigned char>(text[i + 1]) & 0xC0) != 0x80) ++count;
  }
  points[text.size()] = count;
  return points;
}

json spans_json(const std::vector<ByteSpan>& spans, const std::vector<int64_t>& points) {
  json list = json::array();
  for (const ByteSpan& span : spans)
    list.push_back(
        {points.at(static_cast<size_t>(span.begin)), points.at(static_cast<size_t>(span.end))});
  return list;
}

// Its passages, where they join to the document again.
json documents_json(const DocumentExample& example) {
  DocumentExample joined;
  json list = json::array();
  for (const ByteSpan& range : example.passages) {
    list.push_back(example.document.substr(static_cast<size_t>(range.begin),
                                           static_cast<size_t>(range.end - range.begin)));
    append_passage(joined, "", list.back().get_ref<const std::string&>());
  }
  return joined.document == example.document ? list : json();
}

}  // namespace

std::string to_jsonl(const DocumentExample& example) {
  const std::vector<int64_t> points = points_before(example.document);
  const json documents = example.passages.size() > 1 ? documents_json(example) : json();
  std::string lines;
  for (const Question& question : example.questions) {
    nlohmann::ordered_json line;
    line["id"] = question.id;
    if (!question.timestamp.empty()) line["timestamp"] = question.timestamp;
    if (documents.is_null())
      line["context"] = example.document;
    else
      line["documents"] = documents;
    line["question"] = question.text;
    line["answers"] = question.answers;
    line["evidence"] = spans_json(question.evidence, points);
    line["answer_spans"] = spans_json(question.answer_spans, points);
    lines += line.dump() + "\n";
  }
  return lines;
}

}  // namespace dsrsq
