// SciTLDR (Cachola et al. 2020): one-sentence summaries of papers.
#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

using nlohmann::json;

const std::string kRequest = "What does this paper say, in one sentence?";

// The sentences joined by blanks; those that are labelled are the evidence.
void read_sentences(const json& value, DocumentExample& example, Question& question) {
  const json& sentences = require_array(require_key(value, "source"), "source");
  const json& labels = require_array(require_key(value, "source_labels"), "source_labels");
  if (labels.size() != sentences.size())
    throw BadRecord{concat("\"source_labels\" has ", labels.size(), " items, \"source\" has ",
                           sentences.size())};
  std::string& document = example.document;
  for (size_t i = 0; i < sentences.size(); ++i) {
    const std::string text = trimmed(require_string(sentences[i], concat("source[", i, "]")));
    const int64_t label = require_integer(labels[i], concat("source_labels[", i, "]"));
    if (label != 0 && label != 1)
      throw BadRecord{concat("\"source_labels[", i, "]\" must be 0 or 1, got ", label)};
    if (text.empty()) continue;
    if (!document.empty()) document += ' ';
    const int64_t begin = static_cast<int64_t>(document.size());
    document += text;
    if (label == 1) question.evidence.push_back({begin, static_cast<int64_t>(document.size())});
  }
  if (document.empty()) throw BadRecord{"\"source\" holds no text"};
}

DocumentExample read_record(const json& value, const RecordPlace& place) {
  DocumentExample example;
  Question question;
  question.id = require_text_key(value, "paper_id");
  question.text = kRequest;
  question.source_line = place.line;
  if (const auto title = value.find("title"); title != value.end())
    example.title = require_string(*title, "title");
  read_sentences(value, example, question);
  example.split_keys = {example.document};  // the request joins nothing
  const json& targets = require_array(require_key(value, "target"), "target");
  for (size_t i = 0; i < targets.size(); ++i) {
    const std::string target = trimmed(require_string(targets[i], concat("target[", i, "]")));
    if (target.empty()) throw BadRecord{concat("\"target[", i, "]\" is empty")};
    add_once(question.answers, target);
  }
  if (question.answers.empty()) throw BadRecord{"\"target\" is empty"};
  example.questions.push_back(std::move(question));
  return example;
}

}  // namespace

ReadReport read_scitldr(const std::string& path, const ReadOptions& options,
                        const ExampleSink& sink) {
  return read_question_records(path, options, sink, &read_record);
}

}  // namespace dsrsq
