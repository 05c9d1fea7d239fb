// The SQuAD format (Rajpurkar et al. 2016, 2018), in which COVID-QA, XQuAD and others come as well.
#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "record_reader.h"
#include "text_spans.h"

namespace dsrsq {
namespace {

using nlohmann::json;

Question read_question(const json& value, const std::string& document, CodePoints& points,
                       int64_t& relocated) {
  Question question;
  require_object(value, "qas");
  question.id = require_id(require_key(value, "id"), "id");
  question.text = require_text_key(value, "question");
  const auto impossible = value.find("is_impossible");
  const bool unanswerable = impossible != value.end() && require_bool(*impossible, "is_impossible");
  const auto answers = value.find("answers");
  if (answers == value.end() && unanswerable) return question;
  const json& list = require_array(require_key(value, "answers"), "answers");
  if (unanswerable && !list.empty())
    throw BadRecord{concat("\"is_impossible\" with ", list.size(), " answers")};
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string name = concat("answers[", i, "].");
    const json& answer = require_object(list[i], concat("answers[", i, "]"));
    const std::string text = require_text_key(answer, "text", name);
    const int64_t offset =
        require_integer(require_key(answer, "answer_start", name), name + "answer_start");
    const auto span =
        place_answer(document, points, text, offset, name + "answer_start", relocated);
    add_once(question.answers, text);
    if (span) add_once(question.answer_spans, *span);
  }
  question.evidence = question.answer_spans;
  return question;
}

class SquadReader {
 public:
  SquadReader(const ReadContext& context, const ExampleSink& sink)
      : context_(context), sink_(sink) {}

  // One of "data".
  void read_article(const json& article, const RecordPlace& place) {
    const std::string name = concat("data[", place.element, "].");
    const auto title = article.find("title");
    title_ = title == article.end() ? "" : require_string(*title, name + "title");
    const json& paragraphs =
        require_array(require_key(article, "paragraphs", name), name + "paragraphs");
    line_ = place.line;
    for (size_t i = 0; i < paragraphs.size(); ++i) {
      const std::string paragraph = concat(name, "paragraphs[", i, "]");
      guard_record(context_, concat(context_.path, ":", line_, " (", paragraph, ")"),
                   [&] { read_paragraph(paragraphs[i], paragraph); });
    }
  }

 private:
  void read_paragraph(const json& paragraph, const std::string& name) {
    DocumentExample example;
    example.title = title_;
    require_object(paragraph, "paragraphs");
    example.document = require_text_key(paragraph, "context");
    CodePoints points(example.document);
    const json& questions = require_array(require_key(paragraph, "qas"), "qas");
    for (size_t i = 0; i < questions.size(); ++i) {
      guard_record(context_, concat(context_.path, ":", line_, " (", name, ".qas[", i, "])"), [&] {
        int64_t relocated = 0;
        Question question = read_question(questions[i], example.document, points, relocated);
        question.source_line = line_;
        count_question(context_.report, example.document, question);
        context_.report.relocated += relocated;
        example.questions.push_back(std::move(question));
      });
    }
    if (!example.questions.empty()) sink_(std::move(example));
  }

  const ReadContext& context_;
  const ExampleSink& sink_;
  std::string title_;
  int64_t line_ = 0;
};

}  // namespace

ReadReport read_squad(const std::string& path, const ReadOptions& options,
                      const ExampleSink& sink) {
  ReadReport report;
  const ReadContext context{path, options, report};
  SquadReader reader(context, sink);
  read_json_elements(context, "data", [&](const json& article, const RecordPlace& place) {
    reader.read_article(article, place);
  });
  return report;
}

}  // namespace dsrsq
