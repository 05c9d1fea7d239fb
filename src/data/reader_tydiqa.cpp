// TyDi QA (Clark et al. 2020): questions over Wikipedia articles in eleven languages.
#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "record_reader.h"
#include "text_spans.h"

namespace dsrsq {
namespace {

using nlohmann::json;

// {"plaintext_start_byte", "plaintext_end_byte"}; -1 and -1 are none.
std::optional<ByteSpan> read_span(const json& value, const std::string& name,
                                  const std::string& document) {
  require_object(value, name);
  const std::string prefix = name + ".";
  const auto read = [&](const std::string& key) {
    return require_integer(require_key(value, key, prefix), prefix + key);
  };
  const ByteSpan span{read("plaintext_start_byte"), read("plaintext_end_byte")};
  if (span.begin == -1 && span.end == -1) return std::nullopt;
  const int64_t size = static_cast<int64_t>(document.size());
  if (span.begin < 0 || span.begin >= span.end || span.end > size)
    throw BadRecord{concat("\"", name, "\" is [", span.begin, ", ", span.end,
                           "), the document has ", size, " bytes")};
  if (!begins_character(document, span.begin) || !begins_character(document, span.end))
    throw BadRecord{
        concat("\"", name, "\" is [", span.begin, ", ", span.end, "), which cuts a character")};
  return span;
}

class Annotations {
 public:
  Annotations(const json& value, const std::string& document, Question& question)
      : document_(document),
        question_(question),
        candidates_(require_array(require_key(value, "passage_answer_candidates"),
                                  "passage_answer_candidates")) {
    const json& annotations = require_array(require_key(value, "annotations"), "annotations");
    for (size_t i = 0; i < annotations.size(); ++i)
      read(require_object(annotations[i], concat("annotations[", i, "]")),
           concat("annotations[", i, "]."));
    // As NQ's: nobody gave a minimal answer or yes / no, so the passages are the answers.
    if (question_.answers.empty()) {
      for (const ByteSpan& span : question_.evidence) add_answer(span);
    }
    if (question_.evidence.empty()) question_.evidence = question_.answer_spans;
  }

 private:
  void read(const json& annotation, const std::string& prefix) {
    const json& passage = require_object(require_key(annotation, "passage_answer", prefix),
                                         prefix + "passage_answer");
    const std::string name = prefix + "passage_answer.candidate_index";
    const int64_t index =
        require_integer(require_key(passage, "candidate_index", prefix + "passage_answer."), name);
    if (index < -1 || index >= static_cast<int64_t>(candidates_.size()))
      throw BadRecord{concat("\"", name, "\" is ", index, ", there are ", candidates_.size())};
    if (index >= 0) {
      const std::string candidate = concat("passage_answer_candidates[", index, "]");
      const auto span = read_span(candidates_[index], candidate, document_);
      if (!span) throw BadRecord{concat("\"", candidate, "\" is a null span")};
      add_once(question_.evidence, *span);
    }
    if (const auto span = read_span(require_key(annotation, "minimal_answer", prefix),
                                    prefix + "minimal_answer", document_))
      add_answer(*span);
    const std::string& yes_no =
        require_string(require_key(annotation, "yes_no_answer", prefix), prefix + "yes_no_answer");
    if (yes_no == "YES" || yes_no == "NO") {
      add_once(question_.answers, yes_no == "YES" ? "yes" : "no");
    } else if (yes_no != "NONE") {
      throw BadRecord{
          concat("\"", prefix, "yes_no_answer\" must be YES, NO or NONE, got \"", yes_no, "\"")};
    }
  }

  void add_answer(const ByteSpan& span) {
    add_once(question_.answer_spans, span);
    add_once(question_.answers, document_.substr(span.begin, span.end - span.begin));
  }

  const std::string& document_;
  Question& question_;
  const json& candidates_;
};

DocumentExample read_record(const json& value, const RecordPlace& place) {
  DocumentExample example;
  example.document = require_text_key(value, "document_plaintext");
  example.title = require_string(require_key(value, "document_title"), "document_title");
  Question question;
  question.id = require_id(require_key(value, "example_id"), "example_id");
  question.text = require_text_key(value, "question_text");
  question.source_line = place.line;
  Annotations(value, example.document, question);
  example.questions.push_back(std::move(question));
  return example;
}

}  // namespace

ReadReport read_tydiqa(const std::string& path, const ReadOptions& options,
                       const ExampleSink& sink) {
  return read_gathered_records(path, options, sink, &read_record);
}

}  // namespace dsrsq
