// L_task: cross-entropy of the answer's tokens (paper section 3.5).
#pragma once

#include "dsrsq/model/transformer.h"

namespace dsrsq {

// hidden of the tail [B, T, D]; logits are computed where there is a label only. Sum in fp32 over
// `label_tokens` tokens.
LossTerm task_loss(const Transformer& backbone, const at::Tensor& tail_hidden, const Batch& batch);
// The same of any tokens: labels int64 [B, T] as Batch::labels.
LossTerm task_loss(const Transformer& backbone, const at::Tensor& hidden, const at::Tensor& labels);

// Cross-entropy of all other tokens that can be predicted (loss.task_tokens: all): question and
// answer tokens of the tail that have no label, and selected context tokens whose predecessor in
// the text was read just before them. context_hidden [B, n, D] of the selected tokens.
LossTerm language_loss(const Transformer& backbone, const at::Tensor& context_hidden,
                       const at::Tensor& tail_hidden, const SelectedTokens& selected,
                       const Batch& batch);

}  // namespace dsrsq
