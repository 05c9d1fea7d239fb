#include "dsrsq/batch/text_passages.h"

#include <algorithm>

namespace dsrsq {

TextPassages::TextPassages(const Tokenizer& tokenizer) {
  of_token_.resize(size_t(tokenizer.vocabulary_size()));
  for (size_t id = 0; id < of_token_.size(); ++id) {
    auto& found = of_token_[id];
    for (char c : tokenizer.decode({int32_t(id)}, /*keep_special=*/true)) {
      auto& count = found.has_text ? found.behind : found.before;
      if (c == '\n') {
        count = uint8_t(std::min(count + 1, 2));
      } else if (c != ' ' && c != '\t' && c != '\r') {
        found.has_text = true;
        found.behind = 0;
      }
    }
  }
}

std::vector<int64_t> TextPassages::passages(const std::vector<int32_t>& tokens) const {
  std::vector<int64_t> result;
  int64_t passage = 0, newlines = 0;
  bool began = false;
  for (auto token : tokens) {
    const auto& found = of_token_.at(size_t(token));
    newlines += found.before;
    if (found.has_text) {
      if (newlines >= 2 && began) ++passage;
      newlines = found.behind;
      began = true;
    }
    result.push_back(passage);
  }
  return result;
}

}  // namespace dsrsq
