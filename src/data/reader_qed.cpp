// QED (Lamm et al. 2021): NQ dev questions with the paragraph of the answer and its explanation.
#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "record_reader.h"
#include "text_spans.h"

namespace dsrsq {
namespace {

using nlohmann::json;

// {"start", "end", "string"}: half-open code points of the paragraph, whatever QED's README says of
// an inclusive end.
struct QedSpan {
  std::string text;
  std::optional<ByteSpan> bytes;
};

QedSpan read_span(const json& value, const std::string& name, const std::string& paragraph,
                  CodePoints& points, int64_t& relocated) {
  const json& span = require_object(value, name);
  const std::string prefix = name + ".";
  const int64_t begin = require_integer(require_key(span, "start", prefix), prefix + "start");
  const int64_t end = require_integer(require_key(span, "end", prefix), prefix + "end");
  points.bytes(begin, end, name);  // throws where it is outside
  QedSpan out;
  out.text = require_text_key(span, "string", prefix);
  out.bytes = place_answer(paragraph, points, out.text, begin, prefix + "start", relocated);
  return out;
}

void read_answers(const json& value, const std::string& paragraph, CodePoints& points,
                  Question& question, int64_t& relocated) {
  const std::string key = "original_nq_answers";
  for (size_t i = 0; i < require_array(value, key).size(); ++i) {
    const std::string annotator = concat(key, "[", i, "]");
    for (size_t j = 0; j < require_array(value[i], annotator).size(); ++j) {
      const QedSpan span =
          read_span(value[i][j], concat(annotator, "[", j, "]"), paragraph, points, relocated);
      add_once(question.answers, span.text);
      if (span.bytes) add_once(question.answer_spans, *span.bytes);
    }
  }
}

// The sentence that explains the answer, where the annotators found one.
void read_evidence(const json& value, const std::string& paragraph, CodePoints& points,
                   Question& question, int64_t& relocated) {
  const json& annotation = require_object(value, "annotation");
  const auto sentence = annotation.find("selected_sentence");
  if (sentence != annotation.end()) {
    const QedSpan span =
        read_span(*sentence, "annotation.selected_sentence", paragraph, points, relocated);
    if (span.bytes) question.evidence.push_back(*span.bytes);
  }
  if (question.evidence.empty()) question.evidence = question.answer_spans;
}

DocumentExample read_record(const json& value, int64_t line, int64_t& relocated) {
  DocumentExample example;
  example.title = require_string(require_key(value, "title_text"), "title_text");
  example.document = require_text_key(value, "paragraph_text");
  Question question;
  question.id = require_id(require_key(value, "example_id"), "example_id");
  question.text = require_text_key(value, "question_text");
  question.source_line = line;
  CodePoints points(example.document);
  read_answers(require_key(value, "original_nq_answers"), example.document, points, question,
               relocated);
  read_evidence(require_key(value, "annotation"), example.document, points, question, relocated);
  example.questions.push_back(std::move(question));
  return example;
}

}  // namespace

ReadReport read_qed(const std::string& path, const ReadOptions& options, const ExampleSink& sink) {
  ReadReport report;
  read_json_records({path, options, report}, [&](const json& value, const RecordPlace& place) {
    int64_t relocated = 0;
    DocumentExample example = read_record(value, place.line, relocated);
    count_question(report, example.document, example.questions[0]);
    report.relocated += relocated;
    sink(std::move(example));
  });
  return report;
}

}  // namespace dsrsq
