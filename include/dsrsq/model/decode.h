// The part of generate() behind the prompt, for states that were read by other means (a stream's).
#pragma once

#include "dsrsq/model/generate.h"

namespace dsrsq {

// Token by token from the hidden state of the tail on, as generate() does: tail_hidden [B, T, D] of
// batch.tail, whose last valid token asks for the first one. Reads batch.context (its size),
// tail_valid and sample_ids, and result.state, which it reads on; fills tokens, decoded_tokens,
// decode_seconds and state_bytes, and adds to prefill_seconds.
void decode_answers(LanguageModel& model, const Batch& batch, const at::Tensor& tail_hidden,
                    const GenerateOptions& settings, Generated& result);

}  // namespace dsrsq
