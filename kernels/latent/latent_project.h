// Latents of tokens' keys and values, written into the slots of a buffer (design D11).
#pragma once

#include "kernels/common.h"

namespace dsrsq::kernels {

// Rows that are projected: token t of sequence b has its columns [64 i, 64 i + 64) at
//   x + b batch_stride + t token_stride + i / blocks * head_stride + 64 (i % blocks)
// (elements), blocks = head_width / 64.
struct LatentProjectSource {
  const void* x;  // bf16
  int64_t batch_stride, token_stride, head_stride;
  int64_t head_width;  // a multiple of 64; of hidden states their width
};

struct LatentProjectSizes {
  int64_t batch;   // B
  int64_t tokens;  // T
  int64_t inner;   // columns of a row, a multiple of 64
  int64_t width;   // c
  int64_t slots;   // L of the buffers
  int parts;       // of the weight: 1 or 2, whose sum it is
};

// Strides multiples of 8 elements, pointers of 16 bytes.
struct LatentProjectInputs {
  LatentProjectSource keys, values;  // values.x null: both from `keys`, read once
  const void* weight;                // bf16 [parts, 2c, inner]: c rows of keys, c of values
  const float* bias;                 // [2c], or null
  const int64_t* slots;              // [B, T], one outside [0, L) is not written; null: slot t
};

// Rows of c to slots of keys and values [B, L, c]; sums are fp32. Slots of a sequence are distinct.
// B, T and inner must be at least 1.
cudaError_t launch_latent_project(const LatentProjectSizes& sizes, const LatentProjectInputs& in,
                                  void* keys, void* values, ElementType type, cudaStream_t stream);

}  // namespace dsrsq::kernels
