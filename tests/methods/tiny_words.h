// A tokenizer of exactly kTinyVocabulary ids, so that tiny models can read any text: special
// tokens, stops, and the words w0, w1, ...
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/text/tokenizer.h"
#include "support/tiny.h"
#include "support/tiny_run.h"

namespace dsrsq::testing {

inline std::string tiny_words_text() {
  std::string text = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n.\n?\n";
  for (int64_t id = 7; id < kTinyVocabulary; ++id) text += concat("w", id - 7, "\n");
  return text;
}

inline std::shared_ptr<const Tokenizer> tiny_words() {
  return std::make_shared<const Tokenizer>(
      Tokenizer::from_word_pieces(tiny_words_text(), "tiny words"));
}

// The path of its vocab.txt.
inline std::string tiny_words_path() {
  static TemporaryFolder folder;
  auto path = folder / "vocab.txt";
  if (!std::filesystem::exists(path)) write_file_atomic(path, tiny_words_text());
  return path;
}

}  // namespace dsrsq::testing
