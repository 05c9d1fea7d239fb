// Prompts that are longer than a model reads lose tokens of their context.
#pragma once

#include <cstdint>
#include <string>

#include "dsrsq/batch/collate.h"

namespace dsrsq {

enum class Truncation { kRight, kMiddle, kLeft };
Truncation parse_truncation(const std::string& name);  // right, middle, left; throws ConfigError

struct PromptLimit {
  int64_t tokens = 0;          // of prefix, context and tail; 0: no limit
  int64_t prefix = 0;          // tokens in front of the context that count
  int64_t uncounted_tail = 0;  // tokens at the tail's end that do not count (a chat template's)
  Truncation truncation = Truncation::kRight;
};

// Cuts the context of each sequence so that its prompt has at most limit.tokens tokens. kRight
// drops the context's end, kLeft its beginning; kMiddle keeps the first and the last limit.tokens /
// 2 tokens of the prompt, as LongBench does (of an odd limit, one token less). Prefix and tail stay
// whole: where they alone fill the limit, the context is one token, the first. Evidence and answer
// marks and passages move along. Throws ConfigError for a batch of a sentence encoder, whose
// windows are of the whole context.
Batch limit_prompt(Batch batch, const PromptLimit& limit);

}  // namespace dsrsq
