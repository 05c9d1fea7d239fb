// Closed-book questions: NQ-open and EfficientQA.
#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "record_reader.h"

namespace dsrsq {

using nlohmann::json;

ReadReport read_nq_open(const std::string& path, const ReadOptions& options,
                        const ExampleSink& sink) {
  ReadReport report;
  read_json_records({path, options, report}, [&](const json& value, const RecordPlace& place) {
    Question question;
    question.text = require_text_key(value, "question");
    question.answers = require_answers(require_key(value, "answer"), "answer");
    question.source_line = place.line;
    const auto id = value.find("id");
    question.id = id == value.end() ? record_number(place) : require_id(*id, "id");
    DocumentExample example;  // no document: there is no context
    count_question(report, example.document, question);
    example.questions.push_back(std::move(question));
    sink(std::move(example));
  });
  return report;
}

}  // namespace dsrsq
