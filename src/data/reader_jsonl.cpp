#include <algorithm>
#include <cctype>

#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "passages.h"
#include "record_reader.h"
#include "text_spans.h"

namespace dsrsq {
namespace {

using nlohmann::json;

void read_documents(const json& documents, DocumentExample& example) {
  for (size_t i = 0; i < require_array(documents, "documents").size(); ++i) {
    const std::string name = concat("documents[", i, "]");
    if (documents[i].is_object()) {
      const std::string& title =
          require_string(require_key(documents[i], "title", name + "."), name + ".title");
      append_passage(example, title,
                     require_string(require_key(documents[i], "text", name + "."), name + ".text"));
      if (documents.size() == 1) example.title = title;
    } else {
      append_passage(example, "", require_string(documents[i], name));
    }
  }
}

void read_context(const json& value, DocumentExample& example) {
  const auto context = value.find("context");
  const auto documents = value.find("documents");
  if ((context == value.end()) == (documents == value.end())) {
    throw BadRecord{"expected either \"context\" or \"documents\""};
  }
  if (context != value.end()) {
    example.document = require_string(*context, "context");
  } else {
    read_documents(*documents, example);
  }
  if (example.document.empty())
    throw BadRecord{context != value.end() ? "\"context\" is empty" : "\"documents\" hold no text"};
}

std::vector<ByteSpan> read_spans(const json& value, const std::string& key,
                                 const std::string& document) {
  std::vector<ByteSpan> spans;
  CodePoints points(document);
  for (size_t i = 0; i < require_array(value, key).size(); ++i) {
    const std::string name = concat(key, "[", i, "]");
    const json& item = value[i];
    if (item.is_string()) {
      const std::string& text = item.get_ref<const std::string&>();
      const size_t at = text.empty() ? std::string::npos : document.find(text);
      if (at == std::string::npos)
        throw BadRecord{
            concat("\"", name, "\" ", text.empty() ? "is empty" : "does not occur in the context")};
      add_once(spans, {static_cast<int64_t>(at), static_cast<int64_t>(at + text.size())});
    } else if (item.is_array() && item.size() == 2) {
      add_once(spans, points.bytes(require_integer(item[0], name + "[0]"),
                                   require_integer(item[1], name + "[1]"), name));
    } else {
      throw BadRecord{concat("\"", name, "\" must be a string or [begin, end] in code points")};
    }
  }
  return spans;
}

// In the evidence, else in the document; an answer in free words has no place.
void locate_answers(const std::string& document, Question& question) {
  for (const std::string& answer : question.answers) {
    if (const auto span = find_answer(document, question.evidence, answer))
      add_once(question.answer_spans, *span);
  }
}

Question read_question(const json& value, int64_t line, const std::string& document) {
  Question question;
  question.source_line = line;
  question.text = require_text_key(value, "question");
  question.answers = require_answers(require_key(value, "answers"), "answers");
  if (const auto evidence = value.find("evidence"); evidence != value.end())
    question.evidence = read_spans(*evidence, "evidence", document);
  if (const auto spans = value.find("answer_spans"); spans != value.end()) {
    question.answer_spans = read_spans(*spans, "answer_spans", document);
  } else {
    locate_answers(document, question);
  }
  const auto id = value.find("id");
  question.id = id == value.end() ? std::to_string(line) : require_id(*id, "id");
  if (const auto timestamp = value.find("timestamp"); timestamp != value.end()) {
    question.timestamp = require_string(*timestamp, "timestamp");
    if (!question.timestamp.empty()) require_date(*timestamp, "timestamp");
  }
  return question;
}

}  // namespace

ReadReport read_jsonl(const std::string& path, const ReadOptions& options,
                      const ExampleSink& sink) {
  ReadReport report;
  DocumentGatherer gatherer(sink);
  read_json_lines({path, options, report}, [&](const json& value, const RecordPlace& place) {
    DocumentExample example;
    read_context(value, example);
    example.questions.push_back(read_question(value, place.line, example.document));
    count_question(report, example.document, example.questions[0]);
    gatherer.add(std::move(example));
  });
  gatherer.flush();
  return report;
}

}  // namespace dsrsq
