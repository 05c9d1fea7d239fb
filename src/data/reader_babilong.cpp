// BABILong (Kuratov et al. 2024): bAbI facts among other text.
#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "record_reader.h"
#include "text_spans.h"

namespace dsrsq {

using nlohmann::json;

ReadReport read_babilong(const std::string& path, const ReadOptions& options,
                         const ExampleSink& sink) {
  ReadReport report;
  read_json_records({path, options, report}, [&](const json& value, const RecordPlace& place) {
    DocumentExample example;
    example.document = require_text_key(value, "input");
    example.split_keys = {example.document};  // "Where is Mary?" is another question elsewhere
    Question question;
    const auto id = value.find("id");
    question.id = id == value.end() ? record_number(place) : require_id(*id, "id");
    question.text = require_text_key(value, "question");
    question.answers = {require_text_key(value, "target")};
    question.source_line = place.line;
    if (const auto span = find_only(example.document, question.answers[0])) {
      question.answer_spans = {*span};
      question.evidence = {sentence_around(example.document, *span)};
    }
    count_question(report, example.document, question);
    example.questions.push_back(std::move(question));
    sink(std::move(example));
  });
  return report;
}

}  // namespace dsrsq
