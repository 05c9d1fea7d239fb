#include "passages.h"

namespace dsrsq {

ByteSpan append_passage(DocumentExample& example, const std::string& title,
                        const std::string& text) {
  std::string& document = example.document;
  if (!example.passages.empty()) document += "\n\n";
  const int64_t begin = static_cast<int64_t>(document.size());
  if (!title.empty()) document += title + "\n";
  const int64_t text_begin = static_cast<int64_t>(document.size());
  document += text;
  const int64_t end = static_cast<int64_t>(document.size());
  example.passages.push_back({begin, end});
  return {text_begin, end};
}

}  // namespace dsrsq
