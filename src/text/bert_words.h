// BERT's normalizer and pre-tokenizer (`BertNormalizer`, `BertPreTokenizer` of `tokenizers`): text
// to the words that WordPiece cuts.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "pattern.h"

namespace dsrsq::text {

struct BertNormalizer {
  bool clean_text = true;            // drops control characters, makes white space blanks
  bool handle_chinese_chars = true;  // every CJK ideograph is a word
  bool strip_accents = true;         // decomposes (NFD) and drops nonspacing marks
  bool lowercase = true;
};

// A normalised word and where its characters come from.
struct BertWord {
  struct Character {
    uint32_t at;     // first byte in `bytes`
    uint32_t begin;  // bytes of the text that it stands for
    uint32_t end;
  };
  std::string bytes;
  std::vector<Character> characters;
};

// Calls `emit` with each word of text[range), which is valid UTF-8, in order. The word is reused.
void for_each_bert_word(const BertNormalizer& normalizer, std::string_view text, Match range,
                        const std::function<void(const BertWord&)>& emit);

}  // namespace dsrsq::text
