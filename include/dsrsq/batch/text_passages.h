// Where one passage of a document ends and the next begins: at blank lines, as data/assembly and
// the readers of many-passage formats put between passages.
#pragma once

#include <cstdint>
#include <vector>

#include "dsrsq/text/tokenizer.h"

namespace dsrsq {

class TextPassages {
 public:
  explicit TextPassages(const Tokenizer& tokenizer);
  // The passage of each token, from 0, rising by 1 at the first token with text behind a blank
  // line. Blank lines belong to the passage before them.
  std::vector<int64_t> passages(const std::vector<int32_t>& tokens) const;

 private:
  // A token's newlines before its first and behind its last character that is not white space.
  struct Newlines {
    uint8_t before = 0, behind = 0;
    bool has_text = false;
  };
  std::vector<Newlines> of_token_;
};

}  // namespace dsrsq
