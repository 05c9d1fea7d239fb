// The answer that a question is trained on, and whose likelihood an evaluation measures.
#pragma once

#include <cstdint>
#include <vector>

#include "dsrsq/batch/collate.h"

namespace dsrsq {

// The record's first answer as `prompt.answer` has it, then the end token where prompt.end_answer
// asks for it; of an unanswerable question the end token alone. May be empty.
std::vector<int32_t> answer_tokens(const Tokenizer& tokenizer, const PromptConfig& prompt,
                                   const StoredRecord& record);

}  // namespace dsrsq
