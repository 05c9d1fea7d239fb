#include "nq_annotations.h"

#include <string_view>

#include "dsrsq/core/error.h"
#include "record_reader.h"

namespace dsrsq {
namespace {

using nlohmann::json;

void read_annotation(const json& value, const std::string& name, const std::string& document,
                     const NqSpanReader& read_span, Question& question) {
  require_object(value, name);
  const std::string prefix = name + ".";
  const json& long_answer = require_key(value, "long_answer", prefix);
  // No long answer is written as candidate -1 at tokens [-1, -1).
  if (const auto span =
          read_span(require_object(long_answer, prefix + "long_answer"), prefix + "long_answer"))
    add_once(question.evidence, *span);
  const json& short_answers =
      require_array(require_key(value, "short_answers", prefix), prefix + "short_answers");
  for (size_t i = 0; i < short_answers.size(); ++i) {
    const std::string short_name = concat(prefix, "short_answers[", i, "]");
    const auto span = read_span(require_object(short_answers[i], short_name), short_name);
    if (!span) throw BadRecord{concat("\"", short_name, "\" is a null span")};
    add_once(question.answer_spans, *span);
    add_once(question.answers, document.substr(span->begin, span->end - span->begin));
  }
  const std::string& yes_no =
      require_string(require_key(value, "yes_no_answer", prefix), prefix + "yes_no_answer");
  if (yes_no == "YES" || yes_no == "NO") {
    add_once(question.answers, yes_no == "YES" ? "yes" : "no");
  } else if (yes_no != "NONE") {
    throw BadRecord{
        concat("\"", prefix, "yes_no_answer\" must be YES, NO or NONE, got \"", yes_no, "\"")};
  }
}

}  // namespace

void read_nq_annotations(const json& annotations, const std::string& document,
                         const NqSpanReader& read_span, Question& question) {
  for (size_t i = 0; i < require_array(annotations, "annotations").size(); ++i)
    read_annotation(annotations[i], concat("annotations[", i, "]"), document, read_span, question);
  if (question.answers.empty()) {  // no annotator gave a short answer or yes / no: the long answers
                                   // are the answers
    for (const ByteSpan& span : question.evidence) {
      add_once(question.answers, document.substr(span.begin, span.end - span.begin));
      question.answer_spans.push_back(span);
    }
  }
  // A short answer without a long one still supports itself.
  if (question.evidence.empty()) question.evidence = question.answer_spans;
}

std::string title_of_url(const std::string& url) {
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
  // "%FF" may stand for anything; a title is UTF-8.
  return is_utf8(title) ? title : "";
}

}  // namespace dsrsq
