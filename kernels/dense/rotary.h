// Rotary position embedding of vectors in bf16, half-split pairs, in one pass.
#pragma once

#include "kernels/common.h"

namespace dsrsq::kernels {

struct RotarySizes {
  int64_t batch;
  int64_t heads;
  int64_t tokens;
  int64_t width;           // of a head; a multiple of 16
  int64_t in_strides[3];   // elements from one sequence, head and token to the next; a head's
  int64_t out_strides[3];  // elements lie side by side. Multiples of 8
};

// x bf16 [B, H, T, d]; cosine and sine fp32 [B, T, d/2]. With x = (a, b) by halves: out = (a cosine
// - b sine sign, b cosine + a sine sign), computed in fp32. Sign -1 is the gradient.
cudaError_t launch_rotary(const RotarySizes& sizes, const void* x, const float* cosine,
                          const float* sine, float sign, void* out, cudaStream_t stream);

}  // namespace dsrsq::kernels
