// HotpotQA (Yang et al. 2018): questions over ten paragraphs, two of them gold, and the adversarial
// variant that gives gold paragraphs and distractors apart.
#include <algorithm>
#include <numeric>

#include "dsrsq/core/error.h"
#include "dsrsq/core/random.h"
#include "dsrsq/data/readers.h"
#include "passages.h"
#include "record_reader.h"
#include "text_spans.h"

namespace dsrsq {
namespace {

using nlohmann::json;

// Sentences follow one another without a separator: they bring their own blanks.
struct Paragraph {
  std::string title;
  std::vector<std::string> sentences;
  std::vector<int64_t> supporting;  // indices of sentences
};

std::vector<std::string> read_sentences(const json& value, const std::string& name) {
  std::vector<std::string> sentences;
  for (size_t i = 0; i < require_array(value, name).size(); ++i)
    sentences.push_back(require_string(value[i], concat(name, "[", i, "]")));
  return sentences;
}

void add_supporting(Paragraph& paragraph, const json& value, const std::string& name) {
  const int64_t sentence = require_integer(value, name);
  if (sentence < 0 || sentence >= static_cast<int64_t>(paragraph.sentences.size())) {
    throw BadRecord{concat("\"", name, "\" is ", sentence, ", the paragraph \"", paragraph.title,
                           "\" has ", paragraph.sentences.size(), " sentences")};
  }
  paragraph.supporting.push_back(sentence);
}

// [title, [sentence, ...], ...]: the adversarial variant adds a score.
Paragraph read_titled(const json& value, const std::string& name) {
  if (require_array(value, name).size() < 2)
    throw BadRecord{concat("\"", name, "\" must be [title, sentences]")};
  return {require_string(value[0], name + "[0]"), read_sentences(value[1], name + "[1]"), {}};
}

std::vector<Paragraph> read_titled_list(const json& value, const std::string& key) {
  std::vector<Paragraph> paragraphs;
  for (size_t i = 0; i < require_array(value, key).size(); ++i)
    paragraphs.push_back(read_titled(value[i], concat(key, "[", i, "]")));
  return paragraphs;
}

// {"context": [[title, sentences]], "supporting_facts": [[title, sentence index]]}
std::vector<Paragraph> read_documented(const json& value) {
  std::vector<Paragraph> paragraphs = read_titled_list(value["context"], "context");
  const json& facts = require_array(require_key(value, "supporting_facts"), "supporting_facts");
  for (size_t i = 0; i < facts.size(); ++i) {
    const std::string name = concat("supporting_facts[", i, "]");
    if (require_array(facts[i], name).size() != 2)
      throw BadRecord{concat("\"", name, "\" must be [title, sentence index]")};
    const std::string& title = require_string(facts[i][0], name + "[0]");
    const auto found = std::find_if(paragraphs.begin(), paragraphs.end(),
                                    [&](const Paragraph& p) { return p.title == title; });
    if (found == paragraphs.end())
      throw BadRecord{concat("\"", name, "\" names \"", title, "\", which is not in the context")};
    add_supporting(*found, facts[i][1], name + "[1]");
  }
  return paragraphs;
}

// Gold paragraphs a and b apart from the distractors, "supporting_facts" of a and of b. An order
// that is drawn from the id keeps the place of the gold paragraphs from telling them.
std::vector<Paragraph> read_adversarial(const json& value, const std::string& id) {
  std::vector<Paragraph> paragraphs;
  const json& facts = require_array(require_key(value, "supporting_facts"), "supporting_facts");
  if (facts.size() != 2)
    throw BadRecord{concat("\"supporting_facts\" has ", facts.size(), " items, expected 2")};
  for (size_t i = 0; i < 2; ++i) {
    const std::string which = i == 0 ? "a" : "b";
    const std::string name = concat("supporting_facts[", i, "]");
    paragraphs.push_back({require_string(require_key(value, "title_" + which), "title_" + which),
                          read_sentences(require_key(value, "para_" + which), "para_" + which),
                          {}});
    for (size_t j = 0; j < require_array(facts[i], name).size(); ++j)
      add_supporting(paragraphs.back(), facts[i][j], concat(name, "[", j, "]"));
  }
  for (Paragraph& distractor : read_titled_list(require_key(value, "distractors"), "distractors"))
    paragraphs.push_back(std::move(distractor));
  std::vector<Paragraph> shuffled;
  for (size_t i = 0; i < paragraphs.size(); ++i)
    shuffled.push_back(paragraphs[permute_index(0, stable_hash(id), i, paragraphs.size())]);
  return shuffled;
}

void write_paragraphs(const std::vector<Paragraph>& paragraphs, DocumentExample& example,
                      Question& question, std::vector<ByteSpan>& gold) {
  for (const Paragraph& paragraph : paragraphs) {
    std::string text;
    std::vector<int64_t> starts;
    for (const std::string& sentence : paragraph.sentences) {
      starts.push_back(static_cast<int64_t>(text.size()));
      text += sentence;
    }
    starts.push_back(static_cast<int64_t>(text.size()));
    const ByteSpan span = append_passage(example, paragraph.title, text);
    if (!paragraph.supporting.empty()) gold.push_back(span);
    for (const int64_t sentence : paragraph.supporting) {
      int64_t begin = span.begin + starts[sentence];
      const int64_t end = span.begin + starts[sentence + 1];
      while (begin < end && example.document[begin] == ' ') ++begin;
      if (begin < end) add_once(question.evidence, {begin, end});
    }
  }
}

DocumentExample read_record(const json& value, const RecordPlace& place) {
  Question question;
  question.id = require_id(require_key(value, "_id"), "_id");
  question.text = require_text_key(value, "question");
  question.source_line = place.line;
  question.answers.push_back(require_text_key(value, "answer"));
  DocumentExample example;
  std::vector<ByteSpan> gold;
  write_paragraphs(
      value.contains("context") ? read_documented(value) : read_adversarial(value, question.id),
      example, question, gold);
  if (example.document.find_first_not_of(" \n") == std::string::npos)
    throw BadRecord{"the context holds no text"};
  // yes and no answer a comparison: where such a word stands says nothing.
  const std::string& answer = question.answers[0];
  if (answer != "yes" && answer != "no") {
    std::vector<ByteSpan> places = question.evidence;
    places.insert(places.end(), gold.begin(), gold.end());
    if (const auto span = find_answer(example.document, places, answer))
      question.answer_spans.push_back(*span);
  }
  example.questions.push_back(std::move(question));
  return example;
}

}  // namespace

ReadReport read_hotpotqa(const std::string& path, const ReadOptions& options,
                         const ExampleSink& sink) {
  return read_question_records(path, options, sink, &read_record);
}

}  // namespace dsrsq
