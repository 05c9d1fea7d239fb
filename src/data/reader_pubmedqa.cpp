// PubMedQA (Jin et al. 2019): questions over abstracts without their conclusion.
#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "passages.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

using nlohmann::json;

std::string read_document(const json& value) {
  const json& contexts = require_array(require_key(value, "CONTEXTS"), "CONTEXTS");
  const json& labels = require_array(require_key(value, "LABELS"), "LABELS");
  if (labels.size() != contexts.size())
    throw BadRecord{
        concat("\"LABELS\" has ", labels.size(), " items, \"CONTEXTS\" has ", contexts.size())};
  std::string document;
  for (size_t i = 0; i < contexts.size(); ++i) {
    const std::string& text = require_string(contexts[i], concat("CONTEXTS[", i, "]"));
    if (text.empty()) throw BadRecord{concat("\"CONTEXTS[", i, "]\" is empty")};
    append_paragraph(document, require_string(labels[i], concat("LABELS[", i, "]")), text);
  }
  if (document.empty()) throw BadRecord{"\"CONTEXTS\" is empty"};
  return document;
}

DocumentExample read_record(const std::string& id, const json& value, int64_t line) {
  DocumentExample example;
  example.document = read_document(value);
  Question question;
  question.id = id;
  question.text = require_text_key(value, "QUESTION");
  question.timestamp = read_timestamp(value, "YEAR");
  question.source_line = line;
  const std::string& decision = require_text_key(value, "final_decision");
  if (decision != "yes" && decision != "no" && decision != "maybe")
    throw BadRecord{concat("\"final_decision\" must be yes, no or maybe, got \"",
                           decision.substr(0, 40), "\"")};
  question.answers = {decision};
  example.questions.push_back(std::move(question));
  return example;
}

}  // namespace

ReadReport read_pubmedqa(const std::string& path, const ReadOptions& options,
                         const ExampleSink& sink) {
  ReadReport report;
  read_json_members({path, options, report},
                    [&](const std::string& id, const json& value, const RecordPlace& place) {
                      if (id.empty()) throw BadRecord{"the key of the record, its PMID, is empty"};
                      DocumentExample example = read_record(id, value, place.line);
                      count_question(report, example.document, example.questions[0]);
                      sink(std::move(example));
                    });
  return report;
}

}  // namespace dsrsq
