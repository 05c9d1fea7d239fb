// Rotary position embedding (RoPE, arXiv 2104.09864), half-split pairs as in the Llama family of
// Hugging Face models. Plain ATen calls, so no registered operator.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "dsrsq/ops/rotary_scaling.h"

namespace dsrsq::ops {

// Cosines and sines of one set of positions; made once for a chunk, used by every layer.
struct RotaryTable {
  at::Tensor cosine;  // [B, 1, T, d/2] fp32
  at::Tensor sine;    // [B, 1, T, d/2] fp32
  double scale = 1;   // both are multiplied by it (yarn); rotating back divides by its square
};

// positions int64 [B, T]; head_width even. Angles are computed in double: at position 10^6 an fp32
// angle is off by .06.
RotaryTable rotary_table(const at::Tensor& positions, int64_t head_width, double base,
                         const RotaryScaling& scaling = {});

// x [B, H, T, d] -> rotated by its positions, same dtype. `inverse` turns back: what leaves the
// exact window is compressed before RoPE (D11), so its rotation is undone rather than the unrotated
// keys being kept beside the rotated ones.
at::Tensor rotate(const at::Tensor& x, const RotaryTable& table, bool inverse = false);

}  // namespace dsrsq::ops
