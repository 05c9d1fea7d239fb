// QuALITY (Pang et al. 2022): multiple choice over whole stories and articles.
#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "html_text.h"
#include "options_text.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

using nlohmann::json;

// "article": a string, before version 1 a list of its lines; HTML, or the stripped form.
std::string read_article(const json& value) {
  const json& article = require_key(value, "article");
  std::string text;
  if (article.is_array()) {
    for (size_t i = 0; i < article.size(); ++i)
      text += require_string(article[i], concat("article[", i, "]"));
  } else {
    text = require_string(article, "article");
  }
  if (looks_like_html(text)) text = html_text(text);
  if (text.find_first_not_of(" \t\r\n") == std::string::npos)
    throw BadRecord{"\"article\" holds no text"};
  return text;
}

// The options count from 1.
Question choose(const std::string& text, const std::vector<std::string>& options,
                const json& gold_label, const std::string& name) {
  const int64_t label = require_integer(gold_label, name);
  if (label < 1 || label > static_cast<int64_t>(options.size()))
    throw BadRecord{concat("\"", name, "\" is ", label, ", expected 1 to ", options.size())};
  Question question;
  question.text = with_options(text, options);
  question.answers = {trimmed(options[label - 1])};
  if (question.answers[0].empty())
    throw BadRecord{concat("the option of \"", name, "\" is nothing but white space")};
  return question;
}

Question read_nested(const json& value, const std::string& name) {
  const std::string prefix = name + ".";
  require_object(value, name);
  const json& list = require_array(require_key(value, "options", prefix), prefix + "options");
  std::vector<std::string> options;
  for (size_t i = 0; i < list.size(); ++i)
    options.push_back(require_string(list[i], concat(prefix, "options[", i, "]")));
  return choose(require_text_key(value, "question", prefix), options,
                require_key(value, "gold_label", prefix), prefix + "gold_label");
}

// question1, question1option1 to question1option4, question1_gold_label.
Question read_flat(const json& value, const std::string& name) {
  std::vector<std::string> options;
  for (const char* option : {"option1", "option2", "option3", "option4"})
    options.push_back(require_string(require_key(value, name + option), name + option));
  return choose(require_text_key(value, name), options, require_key(value, name + "_gold_label"),
                name + "_gold_label");
}

void read_record(const ReadContext& context, const json& value, const RecordPlace& place,
                 const ExampleSink& sink) {
  DocumentExample example;
  example.document = read_article(value);
  example.title = require_string(require_key(value, "title"), "title");
  const bool nested = value.contains("questions");
  const std::string set_key = nested ? "set_unique_id" : "unique_id";
  const std::string set = require_text_key(value, set_key);
  const size_t count = nested ? require_array(value["questions"], "questions").size() : 0;
  if (!nested) require_key(value, "question1");
  for (size_t i = 0; nested ? i < count : value.contains(concat("question", i + 1)); ++i) {
    const std::string name = nested ? concat("questions[", i, "]") : concat("question", i + 1);
    guard_record(context, concat(describe_place(context.path, place), " ", name), [&] {
      Question question =
          nested ? read_nested(value["questions"][i], name) : read_flat(value, name);
      question.id = concat(set, "_", i + 1);
      question.source_line = place.line;
      count_question(context.report, example.document, question);
      example.questions.push_back(std::move(question));
    });
  }
  if (!example.questions.empty()) sink(std::move(example));
}

}  // namespace

ReadReport read_quality(const std::string& path, const ReadOptions& options,
                        const ExampleSink& sink) {
  ReadReport report;
  const ReadContext context{path, options, report};
  read_json_records(context, [&](const json& value, const RecordPlace& place) {
    read_record(context, value, place, sink);
  });
  return report;
}

}  // namespace dsrsq
