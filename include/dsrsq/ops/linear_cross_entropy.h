// The cross-entropy of an output head, without the logits of all rows at once: at 128K tokens and
// 50K words these would be 26 GB in fp32, and as much again for their gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace dsrsq::ops {

//   hidden   [n, D]
//   weight   [V, D]
//   targets  [n] int64 in [0, V)
//
// -> the sum over rows of -log softmax(hidden weight^T)[target], fp32 (double where hidden is). The
// products are in bf16 under autocast, else in hidden's type; softmax and sums in fp32.
// Differentiable in hidden and weight: their gradients are made in the forward pass, a chunk of
// rows after another, and only scaled in the backward pass. `rows_at_once`: 0: about 2^29 logits.
at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                const at::Tensor& targets, int64_t rows_at_once = 0);

}  // namespace dsrsq::ops
