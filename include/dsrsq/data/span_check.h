// Whether the answer spans of a data set point at their text, by the tokens alone.
#pragma once

#include <cstdint>
#include <string>

#include "dsrsq/data/store.h"
#include "dsrsq/text/tokenizer.h"

namespace dsrsq {

struct SpanCheck {
  int64_t spans = 0;
  int64_t at_text = 0;
  std::string first_other;  // describes the first span that shows no answer; empty: there is none
};

// A span shows an answer where its tokens, decoded, hold it verbatim, beginning in the first token
// and ending in the last: a span of bytes became all tokens that overlap it, so both may hold a
// little more (a blank, half a word). Throws DataError as Store::require_tokenizer does.
SpanCheck check_answer_spans(const Store& store, const Tokenizer& tokenizer);

}  // namespace dsrsq
