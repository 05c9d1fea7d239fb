// L_task: cross-entropy of the answer's tokens (paper section 3.5).
#pragma once

#include "dsrsq/model/transformer.h"

namespace dsrsq {

// hidden of the tail [B, T, D]; logits are computed where there is a label only. Sum in fp32 over
// `label_tokens` tokens.
LossTerm task_loss(const Transformer& backbone, const at::Tensor& tail_hidden, const Batch& batch);

}  // namespace dsrsq
