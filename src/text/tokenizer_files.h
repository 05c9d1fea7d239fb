// Which files a tokenizer's path means, GPT-2's pair of files, BERT's vocab.txt.
#pragma once

#include <string>

#include "tokenizer_spec.h"

namespace dsrsq::text {

struct TokenizerFiles {
  std::string path;          // tokenizer.json, or the vocabulary of a pair
  std::string merges;        // of a pair, else empty
  bool word_pieces = false;  // path is BERT's vocab.txt
  bool lowercase = true;     // then do_lower_case of the tokenizer_config.json beside it
};

// Throws DataError where a folder holds no tokenizer, or a file of a pair has no partner.
TokenizerFiles find_tokenizer_files(const std::string& path);

// The tokenizer of encoder.json and vocab.bpe. Throws DataError that begins with the name of the
// file that is wrong (and its line).
TokenizerSpec parse_tokenizer_pair(const std::string& vocabulary,
                                   const std::string& vocabulary_name, const std::string& merges,
                                   const std::string& merges_name);

}  // namespace dsrsq::text
