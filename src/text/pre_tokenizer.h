// Cutting text into the words inside which BPE merges: the `pre_tokenizer` of a tokenizer.json.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "pattern.h"

namespace dsrsq::text {

// What becomes of a match of the pattern, as `tokenizers` names it.
enum class SplitBehavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

struct SplitStep {
  Pattern pattern;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // the text between matches counts as matched
};

struct PreTokenizer {
  std::vector<SplitStep> splits;
  // The ByteLevel step, always the last.
  bool add_prefix_space = false;
  std::optional<SplitStep> byte_level_split;
};

// A word: bytes of the text with, where `prefixed`, a blank in front that is not in the text.
struct Word {
  std::string_view bytes;
  size_t begin = 0;  // of the first byte after the prefix, in the text
  bool prefixed = false;
};

// Appends the words of text[begin, end) to `words`. Words may point into `storage`, which outlives
// them.
void pre_tokenize(const PreTokenizer& pre_tokenizer, std::string_view text, Match range,
                  Searcher& searcher, std::deque<std::string>& storage, std::vector<Word>& words);

}  // namespace dsrsq::text
