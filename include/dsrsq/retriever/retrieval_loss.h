// L_retrieval (paper section 3.5; D7): which tokens the scores should rank first. The target is a
// distribution over a question's context: uniform over its evidence, or a teacher's attention.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace dsrsq {

struct RetrievalLoss {
  at::Tensor sum;    // fp32 scalar, over questions that have a target
  at::Tensor count;  // fp32 scalar, those questions
};

// Rows of `target` scaled to sum 1, or 0 where there is none. target [B, Q, N] bool or fp32.
at::Tensor target_distribution(const at::Tensor& target);

// -sum of target x log softmax(phi), both [B, Q, M]; phi -inf where a token takes no part. It has
// negatives: the rest of the row, which is the question's own context or all contexts of the batch
// side by side. With a teacher's attention as target its gradient is that of KL(target || softmax
// phi).
RetrievalLoss softmax_retrieval_loss(const at::Tensor& phi, const at::Tensor& target);

// -sum of target x log p(selected) (subset.h). log_inclusion [B, Q, N].
RetrievalLoss inclusion_retrieval_loss(const at::Tensor& log_inclusion, const at::Tensor& target);

}  // namespace dsrsq
