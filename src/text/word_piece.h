// WordPiece: the longest piece of the vocabulary first, from left to right inside a word; pieces
// that go on a word begin with "##".
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "bert_words.h"

namespace dsrsq::text {

struct WordPieceSpec {
  BertNormalizer normalizer;
  std::string prefix = "##";              // of pieces that go on a word
  int64_t maximum_word_characters = 100;  // longer words are unknown
  bool decode_cleanup = true;             // decode closes up the blanks in front of punctuation
  int32_t unknown = 0;
};

// Immutable and shareable between threads.
class WordPiece {
 public:
  struct Token {
    int32_t id;
    uint32_t begin;  // bytes of the text
    uint32_t end;
  };
  WordPiece(const WordPieceSpec& spec, const std::unordered_map<std::string, int32_t>& vocabulary);
  // Appends the pieces of one word; one unknown token where some part of it is no piece.
  void encode(const BertWord& word, std::vector<Token>& out) const;

 private:
  struct Pieces {
    std::unordered_map<std::string, int32_t> ids;
    size_t longest = 0;  // bytes
  };
  int32_t unknown_;
  size_t maximum_characters_;
  Pieces first_, next_;
};

// What each token adds to the text: a blank in front of all but the first and those that go on a
// word.
std::vector<std::string> word_piece_texts(const WordPieceSpec& spec,
                                          std::vector<std::string> tokens);

}  // namespace dsrsq::text
