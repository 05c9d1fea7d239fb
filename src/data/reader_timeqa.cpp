// TimeQA (Chen et al. 2021): questions with a time over whole Wikipedia articles, as questions with
// contexts (human_*.json.gzip) and as articles with questions (human_annotated_*.json).
#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "record_reader.h"
#include "text_spans.h"

namespace dsrsq {
namespace {

using nlohmann::json;

struct Article {
  DocumentExample example;           // without questions
  std::vector<ByteSpan> paragraphs;  // in the order of the document
};

void add_answer(Question& question, const std::string& text, const std::optional<ByteSpan>& span,
                const std::vector<ByteSpan>& paragraphs) {
  add_once(question.answers, text);
  if (!span) return;
  add_once(question.answer_spans, *span);
  ByteSpan evidence = *span;
  for (const ByteSpan& paragraph : paragraphs) {
    if (paragraph.begin <= span->begin && span->end <= paragraph.end) evidence = paragraph;
  }
  add_once(question.evidence, evidence);
}

// "paragraphs" have no offsets; they follow one another in the context, with headings in between.
std::vector<ByteSpan> find_paragraphs(const json& value, const std::string& document) {
  std::vector<ByteSpan> spans;
  size_t from = 0;
  for (size_t i = 0; i < require_array(value, "paragraphs").size(); ++i) {
    const std::string name = concat("paragraphs[", i, "]");
    const std::string& text = require_string(
        require_key(require_object(value[i], name), "text", name + "."), name + ".text");
    const size_t begin = text.find_first_not_of(' ');
    if (begin == std::string::npos) continue;
    const std::string_view trimmed =
        std::string_view(text).substr(begin, text.find_last_not_of(' ') + 1 - begin);
    const size_t at = document.find(trimmed, from);
    if (at == std::string::npos) continue;
    from = at + trimmed.size();
    spans.push_back({static_cast<int64_t>(at), static_cast<int64_t>(from)});
  }
  return spans;
}

const json& same_length(const json& value, const std::string& key, size_t length) {
  const json& list = require_array(require_key(value, key), key);
  if (list.size() != length)
    throw BadRecord{concat("\"", key, "\" has ", list.size(), " items, \"targets\" has ", length)};
  return list;
}

DocumentExample read_flat(const json& value, int64_t line, int64_t& relocated) {
  DocumentExample example;
  example.document = require_text_key(value, "context");
  Question question;
  question.id = require_text_key(value, "idx");
  question.text = require_text_key(value, "question");
  question.source_line = line;
  const json& targets = require_array(require_key(value, "targets"), "targets");
  const json& from = same_length(value, "from", targets.size());
  const json& end = same_length(value, "end", targets.size());
  std::vector<ByteSpan> paragraphs;
  if (const auto given = value.find("paragraphs"); given != value.end()) {
    paragraphs = find_paragraphs(*given, example.document);
    if (!given->empty() && given->front().contains("title"))
      example.title = require_string(given->front()["title"], "paragraphs[0].title");
  }
  CodePoints points(example.document);
  for (size_t i = 0; i < targets.size(); ++i) {
    const std::string& text = require_string(targets[i], concat("targets[", i, "]"));
    const int64_t begin = require_integer(from[i], concat("from[", i, "]"));
    const int64_t stop = require_integer(end[i], concat("end[", i, "]"));
    if (text.empty()) {
      if (targets.size() > 1) throw BadRecord{concat("\"targets[", i, "]\" is empty among others")};
      continue;  // [""]: unanswerable
    }
    const std::string name = concat("from[", i, "]");
    points.bytes(begin, stop, concat("[from, end][", i, "]"));
    add_answer(question, text, place_answer(example.document, points, text, begin, name, relocated),
               paragraphs);
  }
  example.questions.push_back(std::move(question));
  return example;
}

Article read_paras(const json& value) {
  Article article;
  const json& paras = require_array(require_key(value, "paras"), "paras");
  for (size_t i = 0; i < paras.size(); ++i) {
    if (i > 0) article.example.document += ' ';  // as the contexts of the other form are made
    const int64_t begin = static_cast<int64_t>(article.example.document.size());
    article.example.document += require_string(paras[i], concat("paras[", i, "]"));
    article.paragraphs.push_back({begin, static_cast<int64_t>(article.example.document.size())});
  }
  if (article.example.document.find_first_not_of(' ') == std::string::npos)
    throw BadRecord{"\"paras\" hold no text"};
  article.example.title = paras[0].get<std::string>();
  return article;
}

void read_annotated_answer(const json& value, const std::string& name, const json& paras,
                           const Article& article, Question& question, int64_t& relocated) {
  const std::string prefix = name + ".";
  require_object(value, name);
  const std::string& text = require_string(require_key(value, "answer", prefix), prefix + "answer");
  if (text.empty()) return;  // unanswerable
  const int64_t index = require_integer(require_key(value, "para", prefix), prefix + "para");
  if (index < 0 || index >= static_cast<int64_t>(paras.size()))
    throw BadRecord{concat("\"", prefix, "para\" is ", index, ", there are ", paras.size())};
  const std::string& paragraph = paras[index].get_ref<const std::string&>();
  CodePoints points(paragraph);
  const int64_t begin = require_integer(require_key(value, "from", prefix), prefix + "from");
  const int64_t end = require_integer(require_key(value, "end", prefix), prefix + "end");
  points.bytes(begin, end, name);
  auto span = place_answer(paragraph, points, text, begin, prefix + "from", relocated);
  if (span) {
    span->begin += article.paragraphs[index].begin;
    span->end += article.paragraphs[index].begin;
  }
  add_answer(question, text, span, article.paragraphs);
}

Question read_annotated_question(const json& value, const std::string& name, const json& paras,
                                 const Article& article, int64_t& relocated) {
  if (require_array(value, name).size() != 2)
    throw BadRecord{concat("\"", name, "\" must be [question, answers]")};
  Question question;
  question.text = require_string(value[0], name + "[0]");
  if (question.text.empty()) throw BadRecord{concat("\"", name, "[0]\" is empty")};
  for (size_t i = 0; i < require_array(value[1], name + "[1]").size(); ++i) {
    read_annotated_answer(value[1][i], concat(name, "[1][", i, "]"), paras, article, question,
                          relocated);
  }
  return question;
}

// An article with its questions; a question that does not fit leaves the others.
void read_article(const ReadContext& context, const json& value, const RecordPlace& place,
                  const ExampleSink& sink) {
  const std::string index = require_text_key(value, "index");
  const json& questions = require_array(require_key(value, "questions"), "questions");
  Article article = read_paras(value);
  for (size_t i = 0; i < questions.size(); ++i) {
    const std::string name = concat("questions[", i, "]");
    guard_record(context, concat(describe_place(context.path, place), " ", name), [&] {
      int64_t relocated = 0;
      Question question =
          read_annotated_question(questions[i], name, value["paras"], article, relocated);
      question.id = concat(index, "#", i);
      question.source_line = place.line;
      count_question(context.report, article.example.document, question);
      context.report.relocated += relocated;
      article.example.questions.push_back(std::move(question));
    });
  }
  if (!article.example.questions.empty()) sink(std::move(article.example));
}

}  // namespace

ReadReport read_timeqa(const std::string& path, const ReadOptions& options,
                       const ExampleSink& sink) {
  ReadReport report;
  const ReadContext context{path, options, report};
  DocumentGatherer gatherer(sink);
  read_json_records(context, [&](const json& value, const RecordPlace& place) {
    if (value.contains("paras")) {
      read_article(context, value, place, sink);
      return;
    }
    int64_t relocated = 0;
    DocumentExample example = read_flat(value, place.line, relocated);
    count_question(report, example.document, example.questions[0]);
    report.relocated += relocated;
    gatherer.add(std::move(example));
  });
  gatherer.flush();
  return report;
}

}  // namespace dsrsq
