// Cross-entropy of rows of logits in bf16, and its gradient in their place: one reading and one
// writing of the logits.
#pragma once

#include "kernels/common.h"

namespace dsrsq::kernels {

struct CrossEntropySizes {
  int64_t rows;
  int64_t vocabulary;  // columns that count
  int64_t stride;      // columns of a row; a multiple of 8
};

// logits bf16 [rows, stride], targets [rows] in [0, vocabulary) -> losses fp32 [rows]: log-sum-exp
// minus the target's logit. `gradient`: logits become softmax minus one at the target, 0 beyond the
// vocabulary. Sums in fp32, in an order that depends on the sizes alone.
cudaError_t launch_cross_entropy(const CrossEntropySizes& sizes, void* logits,
                                 const int64_t* targets, float* losses, bool gradient,
                                 cudaStream_t stream);

}  // namespace dsrsq::kernels
