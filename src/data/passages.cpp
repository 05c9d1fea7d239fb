#include "passages.h"

namespace dsrsq {
namespace {

ByteSpan append_titled(std::string& document, const std::string& title, const std::string& text) {
  if (!title.empty()) document += title + "\n";
  const int64_t begin = static_cast<int64_t>(document.size());
  document += text;
  return {begin, static_cast<int64_t>(document.size())};
}

}  // namespace

ByteSpan append_passage(DocumentExample& example, const std::string& title,
                        const std::string& text) {
  if (!example.passages.empty()) example.document += "\n\n";
  const int64_t begin = static_cast<int64_t>(example.document.size());
  const ByteSpan span = append_titled(example.document, title, text);
  example.passages.push_back({begin, span.end});
  return span;
}

ByteSpan append_paragraph(std::string& document, const std::string& heading,
                          const std::string& text) {
  if (!document.empty()) document += "\n\n";
  return append_titled(document, heading, text);
}

}  // namespace dsrsq
