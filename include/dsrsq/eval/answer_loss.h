// How likely a model finds the answers that it should give: read behind the question in place of
// what it would write (teacher forcing), over whatever its method has kept of the prompt.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "dsrsq/model/transformer.h"

namespace dsrsq {

// [B] mean cross-entropy of each answer's tokens in nats a token; -1 where an answer has none.
// tail_hidden [B, T, D]: final hidden of batch.tail, which ends with the question. `prompt`: the
// state behind it, which stays as it is.
std::vector<double> answer_losses(LanguageModel& model, const Batch& batch,
                                  const at::Tensor& tail_hidden, const MethodState& prompt,
                                  const std::vector<std::vector<int32_t>>& answers);

}  // namespace dsrsq
