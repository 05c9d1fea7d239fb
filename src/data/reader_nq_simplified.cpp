#include <algorithm>
#include <string_view>

#include "dsrsq/core/error.h"
#include "dsrsq/data/readers.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

using nlohmann::json;

// Byte ranges of tokens: the text between single blanks, and only these (not other white space), as
// NQ's text_utils.py.
class TokenRanges {
 public:
  explicit TokenRanges(const std::string& text) {
    for (size_t begin = 0;;) {
      const size_t end = std::min(text.find(' ', begin), text.size());
      ranges_.push_back({static_cast<int64_t>(begin), static_cast<int64_t>(end)});
      if (end == text.size()) break;
      begin = end + 1;
    }
  }
  // The bytes of tokens [begin, end) with the blanks between them.
  ByteSpan bytes(int64_t begin, int64_t end, const std::string& name) const {
    if (begin < 0 || begin >= end || end > static_cast<int64_t>(ranges_.size())) {
      throw BadRecord{concat("\"", name, "\" is [", begin, ", ", end, "), the document has ",
                             ranges_.size(), " tokens")};
    }
    const ByteSpan span{ranges_[begin].begin, ranges_[end - 1].end};
    if (span.begin == span.end) throw BadRecord{concat("\"", name, "\" covers no text")};
    return span;
  }

 private:
  std::vector<ByteSpan> ranges_;
};

struct Answers {
  std::vector<std::string> texts;
  std::vector<ByteSpan> spans;
  std::vector<ByteSpan> evidence;
};

ByteSpan read_span(const json& value, const TokenRanges& tokens, const std::string& name) {
  if (!value.is_object())
    throw BadRecord{concat("\"", name, "\" must be an object, got ", value.type_name())};
  const int64_t begin =
      require_integer(require_key(value, "start_token", name + "."), name + ".start_token");
  const int64_t end =
      require_integer(require_key(value, "end_token", name + "."), name + ".end_token");
  return tokens.bytes(begin, end, name);
}

void read_annotation(const json& value, const std::string& name, const TokenRanges& tokens,
                     const std::string& document, Answers& answers) {
  if (!value.is_object())
    throw BadRecord{concat("\"", name, "\" must be an object, got ", value.type_name())};
  const std::string prefix = name + ".";
  const json& long_answer = require_key(value, "long_answer", prefix);
  const std::string long_name = prefix + "long_answer";
  if (!long_answer.is_object())
    throw BadRecord{concat("\"", long_name, "\" must be an object, got ", long_answer.type_name())};
  // No long answer is written as candidate -1 at tokens [-1, -1).
  if (require_integer(require_key(long_answer, "start_token", long_name + "."),
                      long_name + ".start_token") != -1) {
    add_once(answers.evidence, read_span(long_answer, tokens, long_name));
  }
  const json& short_answers =
      require_array(require_key(value, "short_answers", prefix), prefix + "short_answers");
  for (size_t i = 0; i < short_answers.size(); ++i) {
    const ByteSpan span =
        read_span(short_answers[i], tokens, concat(prefix, "short_answers[", i, "]"));
    add_once(answers.spans, span);
    add_once(answers.texts, document.substr(span.begin, span.end - span.begin));
  }
  const std::string& yes_no =
      require_string(require_key(value, "yes_no_answer", prefix), prefix + "yes_no_answer");
  if (yes_no == "YES" || yes_no == "NO") {
    add_once(answers.texts, yes_no == "YES" ? "yes" : "no");
  } else if (yes_no != "NONE") {
    throw BadRecord{
        concat("\"", prefix, "yes_no_answer\" must be YES, NO or NONE, got \"", yes_no, "\"")};
  }
}

// ".../index.php?title=Health_(gaming)&oldid=819315199" -> "Health (gaming)"; "" where the address
// names none.
std::string title_of(const std::string& url) {
  const size_t key = url.find("title=");
  if (key == std::string::npos) return "";
  const std::string_view text =
      std::string_view(url).substr(key + 6, url.find('&', key) - (key + 6));
  const auto digit = [](char c) {
    return c >= '0' && c <= '9'   ? c - '0'
           : c >= 'A' && c <= 'F' ? c - 'A' + 10
           : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                  : -1;
  };
  std::string title;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '%' && i + 2 < text.size() && digit(text[i + 1]) >= 0 &&
        digit(text[i + 2]) >= 0) {
      title += static_cast<char>(16 * digit(text[i + 1]) + digit(text[i + 2]));
      i += 2;
    } else {
      title += text[i] == '_' || text[i] == '+' ? ' ' : text[i];
    }
  }
  return title;
}

DocumentExample read_record(const json& value, int64_t line) {
  DocumentExample example;
  example.document = require_string(require_key(value, "document_text"), "document_text");
  if (example.document.empty()) throw BadRecord{"\"document_text\" is empty"};
  if (const auto url = value.find("document_url"); url != value.end())
    example.title = title_of(require_string(*url, "document_url"));

  Question question;
  question.id = require_integer_text(require_key(value, "example_id"), "example_id");
  question.text = require_string(require_key(value, "question_text"), "question_text");
  if (question.text.empty()) throw BadRecord{"\"question_text\" is empty"};
  question.source_line = line;

  const TokenRanges tokens(example.document);
  const json& annotations = require_array(require_key(value, "annotations"), "annotations");
  Answers answers;
  for (size_t i = 0; i < annotations.size(); ++i)
    read_annotation(annotations[i], concat("annotations[", i, "]"), tokens, example.document,
                    answers);
  if (answers.texts.empty()) {  // no annotator gave a short answer or yes / no: the long answers
                                // are the answers
    for (const ByteSpan& span : answers.evidence) {
      add_once(answers.texts, example.document.substr(span.begin, span.end - span.begin));
      answers.spans.push_back(span);
    }
  }
  question.answers = std::move(answers.texts);
  question.answer_spans = std::move(answers.spans);
  // A short answer without a long one still supports itself.
  question.evidence =
      answers.evidence.empty() ? question.answer_spans : std::move(answers.evidence);
  example.questions.push_back(std::move(question));
  return example;
}

}  // namespace

ReadReport read_nq_simplified(const std::string& path, const ReadOptions& options,
                              const ExampleSink& sink) {
  ReadReport report;
  read_json_lines(path, options, report, [&](const json& value, int64_t line) {
    DocumentExample example = read_record(value, line);
    ++report.records;
    if (example.questions[0].answers.empty()) ++report.unanswerable;
    sink(std::move(example));
  });
  return report;
}

}  // namespace dsrsq
