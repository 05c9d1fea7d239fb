// Rows by index, and the sum of gradients back (design section 3).
#pragma once

#include "kernels/common.h"

namespace dsrsq::kernels {

struct GatherTokensSizes {
  int64_t batch;   // B
  int64_t tokens;  // N
  int64_t slots;   // n
  int64_t width;   // D
};

// rows [B, N, D] of elements of `element_bytes` -> out [B, n, D], zeros where index [B, n] is -1.
// All contiguous. An index outside [-1, N) stops the device. B n and D must be at least 1.
cudaError_t launch_gather_tokens(const GatherTokensSizes& sizes, int64_t element_bytes,
                                 const void* rows, const int64_t* index, void* out,
                                 cudaStream_t stream);

// d_out [B, n, D] -> d_rows [B, N, D], which holds zeros. A row is summed in fp32 by one warp, over
// its slots as they stand. `chain` [B, n]: scratch. n < 2^31; n^2 indices of a sequence are
// compared.
cudaError_t launch_gather_tokens_backward(const GatherTokensSizes& sizes, ElementType type,
                                          const void* d_out, const int64_t* index, unsigned* chain,
                                          void* d_rows, cudaStream_t stream);

}  // namespace dsrsq::kernels
