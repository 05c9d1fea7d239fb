// Rows of chosen tokens (design section 3).
#pragma once

#include <ATen/core/Tensor.h>

namespace dsrsq::ops {

// rows [B, N, D] floating, index [B, n] int64 in [-1, N) -> [B, n, D] of the type of rows: zeros
// where the index is -1.
//
// Differentiable in rows: gradients of a row that was taken several times are summed in the order
// of its slots, in fp32 (on the CPU double in double). Deterministic; asynchronous on CUDA, where
// an index outside its bounds stops the device. Throws c10::Error naming the argument, what was
// expected and what was found; on the CPU also for an index out of bounds.
at::Tensor gather_tokens(const at::Tensor& rows, const at::Tensor& index);

}  // namespace dsrsq::ops
