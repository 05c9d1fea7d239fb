// What a tokenizer.json says, checked.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "pre_tokenizer.h"
#include "word_piece.h"

namespace dsrsq::text {

// Model and data buffers have a row an id: one stray id must not ask for gigabytes.
constexpr int32_t kMaximumTokenId = (1 << 24) - 1;

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false;
  bool strip_left = false;  // takes the white space in front with it
  bool strip_right = false;
  bool normalized = false;  // such tokens are looked for after the others
};

struct Merge {
  int32_t left;
  int32_t right;
  int32_t result;
};

struct TokenizerSpec {
  std::unordered_map<std::string, int32_t> vocabulary;  // keys as spelled in the file ("Ġthe")
  std::vector<Merge> merges;                            // by rank
  std::vector<AddedToken> added;
  PreTokenizer pre_tokenizer;
  std::optional<int32_t>
      unknown;  // for bytes without a token; where absent they are dropped, as `tokenizers` does
  bool fuse_unknown = false;
  std::optional<WordPieceSpec> word_piece;  // then the fields of BPE say nothing
  bool ignore_merges =
      false;  // a word that is in the vocabulary is that token, whatever the merges give
};

// The pattern of a ByteLevel pre-tokenizer with use_regex, from GPT-2.
extern const char* const kGpt2Pattern;

// Throw DataError that begins with `name`.
nlohmann::json read_tokenizer_json(const std::string& text, const std::string& name);
void parse_vocabulary_object(const nlohmann::json& vocabulary, const std::string& name,
                             TokenizerSpec& spec);
// BERT's vocab.txt: token of id i on line i + 1.
TokenizerSpec parse_word_pieces(const std::string& vocabulary, const std::string& name,
                                bool lowercase);
TokenizerSpec parse_tokenizer_json(const std::string& json, const std::string& name);

}  // namespace dsrsq::text
