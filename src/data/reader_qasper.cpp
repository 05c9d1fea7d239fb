// QASPER v0.3 (Dasigi et al. 2021): questions over whole papers of natural language processing.
#include <map>

#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "passages.h"
#include "record_reader.h"
#include "text_spans.h"

namespace dsrsq {
namespace {

using nlohmann::json;

struct Paper {
  DocumentExample example;                     // without questions
  std::map<std::string, ByteSpan> paragraphs;  // the first of equal ones
};

void add_paragraph(Paper& paper, const std::string& heading, const std::string& text) {
  paper.paragraphs.emplace(text, append_paragraph(paper.example.document, heading, text));
}

// The abstract, then the sections; their names stand in front of their first paragraphs.
Paper read_paper(const json& value) {
  Paper paper;
  paper.example.title = require_string(require_key(value, "title"), "title");
  if (const std::string& text = require_string(require_key(value, "abstract"), "abstract");
      !text.empty())
    add_paragraph(paper, "Abstract", text);
  const json& sections = require_array(require_key(value, "full_text"), "full_text");
  for (size_t i = 0; i < sections.size(); ++i) {
    const std::string name = concat("full_text[", i, "]");
    const json& section = require_object(sections[i], name);
    const json& heading = require_key(section, "section_name", name + ".");  // null in some
    std::string title = heading.is_null() ? "" : require_string(heading, name + ".section_name");
    const json& paragraphs =
        require_array(require_key(section, "paragraphs", name + "."), name + ".paragraphs");
    for (size_t j = 0; j < paragraphs.size(); ++j) {
      const std::string& text = require_string(paragraphs[j], concat(name, ".paragraphs[", j, "]"));
      if (text.empty()) continue;
      add_paragraph(paper, title, text);
      title.clear();
    }
  }
  if (paper.example.document.empty()) throw BadRecord{"the paper holds no text"};
  return paper;
}

struct Answer {
  std::string text;         // empty: unanswerable
  bool extractive = false;  // spans of the paper; several of them joined stand nowhere
};

// Of one annotator, by the rules of QASPER's own evaluation.
Answer read_answer(const json& value, const std::string& where) {
  const json& unanswerable = require_key(value, "unanswerable", where);
  if (require_bool(unanswerable, where + "unanswerable")) return {};
  const std::string name = where + "extractive_spans";
  const json& spans = require_array(require_key(value, "extractive_spans", where), name);
  Answer answer;
  for (size_t i = 0; i < spans.size(); ++i)
    answer.text += (i == 0 ? "" : ", ") + require_string(spans[i], concat(name, "[", i, "]"));
  answer.extractive = !answer.text.empty();
  const std::string& free_form =
      require_string(require_key(value, "free_form_answer", where), where + "free_form_answer");
  if (!answer.extractive) answer.text = free_form;
  const json& yes_no = require_key(value, "yes_no", where);
  if (answer.text.empty() && !yes_no.is_null())
    answer.text = require_bool(yes_no, where + "yes_no") ? "Yes" : "No";
  if (answer.text.empty())
    throw BadRecord{concat("\"", where.substr(0, where.size() - 1),
                           "\" holds no span, no free-form answer, no yes or no, and is not "
                           "\"unanswerable\"")};
  return answer;
}

// Paragraphs as they stand in the paper. A figure or table ("FLOAT SELECTED: ...") has no place.
std::vector<ByteSpan> read_evidence(const json& answer, const std::string& where,
                                    const Paper& paper) {
  const std::string name = where + "evidence";
  const json& evidence = require_array(require_key(answer, "evidence", where), name);
  std::vector<ByteSpan> spans;
  for (size_t i = 0; i < evidence.size(); ++i) {
    const auto found =
        paper.paragraphs.find(require_string(evidence[i], concat(name, "[", i, "]")));
    if (found != paper.paragraphs.end()) add_once(spans, found->second);
  }
  return spans;
}

Question read_question(const json& value, const Paper& paper) {
  Question question;
  require_object(value, "qas");
  question.id = require_text_key(value, "question_id");
  question.text = require_text_key(value, "question");
  const json& annotations = require_array(require_key(value, "answers"), "answers");
  if (annotations.empty()) throw BadRecord{"\"answers\" is empty"};
  for (size_t i = 0; i < annotations.size(); ++i) {
    const std::string name = concat("answers[", i, "].");
    require_object(annotations[i], concat("answers[", i, "]"));
    const json& value_of =
        require_object(require_key(annotations[i], "answer", name), name + "answer");
    const Answer answer = read_answer(value_of, name + "answer.");
    const std::vector<ByteSpan> evidence = read_evidence(value_of, name + "answer.", paper);
    if (answer.text.empty()) continue;
    add_once(question.answers, answer.text);
    for (const ByteSpan& span : evidence) add_once(question.evidence, span);
    if (!answer.extractive) continue;
    if (const auto span = find_answer(paper.example.document, evidence, answer.text))
      add_once(question.answer_spans, *span);
  }
  return question;
}

// A question that does not fit leaves the others.
void read_record(const ReadContext& context, const json& value, const RecordPlace& place,
                 const ExampleSink& sink) {
  const json& questions = require_array(require_key(value, "qas"), "qas");
  Paper paper = read_paper(value);
  DocumentExample& example = paper.example;
  for (size_t i = 0; i < questions.size(); ++i) {
    guard_record(context, concat(describe_place(context.path, place), " qas[", i, "]"), [&] {
      Question question = read_question(questions[i], paper);
      question.source_line = place.line;
      count_question(context.report, example.document, question);
      example.questions.push_back(std::move(question));
    });
  }
  if (!example.questions.empty()) sink(std::move(example));
}

}  // namespace

ReadReport read_qasper(const std::string& path, const ReadOptions& options,
                       const ExampleSink& sink) {
  ReadReport report;
  const ReadContext context{path, options, report};
  read_json_members(context, [&](const std::string&, const json& value, const RecordPlace& place) {
    read_record(context, value, place, sink);
  });
  return report;
}

}  // namespace dsrsq
