// Where a head's vectors lie. A projection leaves the heads of a token side by side; kernels that
// work head by head want the tokens of a head side by side. Each of these is one copy, and its
// gradient comes back in the layout of what went in, so that nothing else need copy it.
#pragma once

#include <ATen/core/Tensor.h>

namespace dsrsq::ops {

// x [B, H, T, d] in any layout -> the same values; contiguous.
at::Tensor laid_out_by_head(const at::Tensor& x);
// -> the same values; transpose(1, 2) of it is contiguous.
at::Tensor laid_out_by_token(const at::Tensor& x);

}  // namespace dsrsq::ops
