// lost-in-the-middle (Liu et al. 2023): a question over N passages, one of them gold.
#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "passages.h"
#include "record_reader.h"
#include "text_spans.h"

namespace dsrsq {
namespace {

using nlohmann::json;

DocumentExample read_record(const json& value, const RecordPlace& place) {
  Question question;
  question.text = require_text_key(value, "question");
  question.answers = require_answers(require_key(value, "answers"), "answers");
  question.source_line = place.line;
  const auto id = value.find("id");
  question.id = id == value.end() ? record_number(place) : require_id(*id, "id");

  const json& contexts = require_array(require_key(value, "ctxs"), "ctxs");
  DocumentExample example;
  for (size_t i = 0; i < contexts.size(); ++i) {
    const std::string name = concat("ctxs[", i, "]");
    const json& context = require_object(contexts[i], name);
    const std::string& title =
        require_string(require_key(context, "title", name + "."), name + ".title");
    const ByteSpan text =
        append_passage(example, title, require_text_key(context, "text", name + "."));
    if (require_bool(require_key(context, "isgold", name + "."), name + ".isgold")) {
      question.evidence.push_back(text);
      if (contexts.size() == 1) example.title = title;
    }
  }
  if (question.evidence.empty())
    throw BadRecord{concat("none of the ", contexts.size(), " \"ctxs\" is gold")};
  // Only the gold passage shows the answer: a distractor may hold its words by chance.
  for (const std::string& answer : question.answers) {
    for (const ByteSpan& gold : question.evidence) {
      const auto found = find_answer(example.document, gold, answer);
      if (!found) continue;
      add_once(question.answer_spans, *found);
      break;
    }
  }
  example.questions.push_back(std::move(question));
  return example;
}

}  // namespace

ReadReport read_lost_in_the_middle(const std::string& path, const ReadOptions& options,
                                   const ExampleSink& sink) {
  return read_question_records(path, options, sink, &read_record);
}

}  // namespace dsrsq
