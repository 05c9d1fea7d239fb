// LongBench (Bai et al. 2024) and LongBench v2 (Bai et al. 2025).
#include <algorithm>
#include <array>

#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "options_text.h"
#include "record_reader.h"
#include "text_spans.h"

namespace dsrsq {
namespace {

using nlohmann::json;

// Datasets whose answers are no text of the context: what stands there too does so by chance.
constexpr std::array<std::string_view, 11> kNotInContext = {
    "gov_report", "qmsum",    "multi_news",    "vcsum", "trec",       "samsum",
    "lsht",       "dureader", "passage_count", "lcc",   "repobench-p"};

// What is asked where "input" is empty: the suite's prompt says it there.
struct FixedQuestion {
  std::string_view dataset, question;
};
constexpr std::array<FixedQuestion, 5> kFixedQuestions = {{
    {"gov_report", "Write a one-page summary of the report."},
    {"multi_news", "Write a one-page summary of all the news."},
    {"vcsum", "总结会议的内容。"},
    {"passage_count", "How many different paragraphs are there?"},
    {"lcc", "What is the next line of code?"},
}};

std::string_view base_name(const std::string& dataset) {
  std::string_view name = dataset;
  if (name.ends_with("_e")) name.remove_suffix(2);  // LongBench-E
  return name;
}

std::string question_of(const std::string& input, std::string_view dataset) {
  if (!input.empty()) return input;
  for (const FixedQuestion& fixed : kFixedQuestions) {
    if (fixed.dataset == dataset) return std::string(fixed.question);
  }
  throw BadRecord{
      concat("\"input\" is empty, and no question is known for dataset \"", dataset, "\"")};
}

void read_answers(const json& value, const std::string& dataset, DocumentExample& example,
                  Question& question) {
  question.answers = require_answers(require_key(value, "answers"), "answers");
  const bool in_context = std::find(kNotInContext.begin(), kNotInContext.end(),
                                    base_name(dataset)) == kNotInContext.end();
  const ByteSpan whole{0, static_cast<int64_t>(example.document.size())};
  for (const std::string& answer : question.answers) {
    if (!in_context || answer == "yes" || answer == "no" || answer == "Yes" || answer == "No" ||
        answer == "unanswerable")
      continue;
    if (const auto span = find_answer(example.document, whole, answer))
      add_once(question.answer_spans, *span);
  }
}

// v2: four options, the answer is a letter.
void read_choices(const json& value, Question& question) {
  std::vector<std::string> options;
  for (const char* key : {"choice_A", "choice_B", "choice_C", "choice_D"})
    options.push_back(require_text_key(value, key));
  const std::string& letter = require_text_key(value, "answer");
  if (letter.size() != 1 || letter[0] < 'A' || letter[0] > 'D')
    throw BadRecord{concat("\"answer\" must be A, B, C or D, got \"", letter, "\"")};
  question.text = with_options(require_text_key(value, "question"), options);
  question.answers = {trimmed(options[letter[0] - 'A'])};
  if (question.answers[0].empty())
    throw BadRecord{concat("\"choice_", letter, "\" is nothing but white space")};
}

DocumentExample read_record(const json& value, const RecordPlace& place) {
  DocumentExample example;
  example.document = require_text_key(value, "context");
  // The same instruction over another text is another question.
  example.split_keys = {example.document};
  Question question;
  question.id = require_id(require_key(value, "_id"), "_id");
  question.source_line = place.line;
  if (value.contains("choice_A")) {
    read_choices(value, question);
  } else {
    const std::string& dataset = require_text_key(value, "dataset");
    question.text =
        question_of(require_string(require_key(value, "input"), "input"), base_name(dataset));
    read_answers(value, dataset, example, question);
  }
  example.questions.push_back(std::move(question));
  return example;
}

}  // namespace

ReadReport read_longbench(const std::string& path, const ReadOptions& options,
                          const ExampleSink& sink) {
  return read_gathered_records(path, options, sink, &read_record);
}

}  // namespace dsrsq
