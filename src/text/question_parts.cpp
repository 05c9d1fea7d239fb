#include "dsrsq/text/question_parts.h"

namespace dsrsq {

namespace {

std::string mark_of(size_t option) { return {'(', char('A' + option), ')', ' '}; }

}  // namespace

QuestionParts question_parts(const std::string& question) {
  QuestionParts parts;
  auto first = question.find('"'), last = question.rfind('"');
  if (first != last) parts.quoted = question.substr(first + 1, last - first - 1);
  // An option may have line breaks of its own: the marks are looked for in their order, the first
  // one as late as a second follows it.
  parts.stem = question;
  auto begin = question.rfind("\n" + mark_of(0));
  if (begin == std::string::npos || question.find("\n" + mark_of(1), begin) == std::string::npos)
    return parts;
  parts.stem = question.substr(0, begin);
  parts.options = question.substr(begin + 1);
  for (size_t i = 0, at = begin; at != std::string::npos; ++i) {
    auto next = question.find("\n" + mark_of(i + 1), at);
    auto text = at + 1 + mark_of(i).size();
    parts.option_texts.push_back(
        question.substr(text, next == std::string::npos ? next : next - text));
    at = next;
  }
  return parts;
}

}  // namespace dsrsq
