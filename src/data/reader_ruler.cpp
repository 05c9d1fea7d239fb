// RULER (Hsieh et al. 2024): whole prompts, whose last line is the question.
#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "record_reader.h"
#include "text_spans.h"

namespace dsrsq {
namespace {

using nlohmann::json;

DocumentExample read_record(const json& value, const RecordPlace& place) {
  const std::string& input = require_text_key(value, "input");
  const size_t end = input.find_last_not_of(" \t\r\n");
  const size_t cut = end == std::string::npos ? end : input.rfind('\n', end);
  const size_t document_end = cut == std::string::npos ? cut : input.find_last_not_of('\n', cut);
  if (document_end == std::string::npos)
    throw BadRecord{"\"input\" has no line before its question, which is the last one"};
  DocumentExample example;
  example.document = input.substr(0, document_end + 1);
  example.split_keys = {example.document};
  Question question;
  question.id = require_id(require_key(value, "index"), "index");
  question.text = input.substr(cut + 1);
  if (const auto prefix = value.find("answer_prefix"); prefix != value.end())
    question.text += require_string(*prefix, "answer_prefix");
  question.answers = require_answers(require_key(value, "outputs"), "outputs");
  question.source_line = place.line;
  for (const std::string& answer : question.answers) {
    const auto span = find_only(example.document, answer);
    if (!span) continue;
    add_once(question.answer_spans, *span);
    add_once(question.evidence, sentence_around(example.document, *span));
  }
  example.questions.push_back(std::move(question));
  return example;
}

}  // namespace

ReadReport read_ruler(const std::string& path, const ReadOptions& options,
                      const ExampleSink& sink) {
  return read_question_records(path, options, sink, &read_record);
}

}  // namespace dsrsq
