// Rows of a tensor in 16-bit elements, laid out anew: what a projection leaves by token, by head,
// or the other way round.
#pragma once

#include "kernels/common.h"

namespace dsrsq::kernels {

struct CopyRowsSizes {
  int64_t batch;
  int64_t heads;
  int64_t tokens;
  int64_t width;           // of a row; a multiple of 8
  int64_t in_strides[3];   // elements from one sequence, head and token to the next; a row's
  int64_t out_strides[3];  // elements lie side by side. Multiples of 8
  bool by_token;           // whose neighbours a block writes: tokens of a head, or heads of a token
};

// x, out [B, H, T, d], both 16-byte aligned.
cudaError_t launch_copy_rows(const CopyRowsSizes& sizes, const void* x, void* out,
                             cudaStream_t stream);

}  // namespace dsrsq::kernels
