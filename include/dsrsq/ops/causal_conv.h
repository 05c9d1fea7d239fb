// Causal depthwise convolution over tokens (D1, D3): joins a name to a value a few tokens on. Plain
// ATen calls.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace dsrsq::ops {

// x [B, T, D], taps [D, w] (tap w-1 is the token itself), tail [B, w-1, D] (the tokens before;
// zeros where undefined)
// -> [B, T, D]; output t reads inputs t-w+1 .. t only.
at::Tensor causal_conv(const at::Tensor& x, const at::Tensor& taps, const at::Tensor& tail);

// The last w-1 tokens of (tail, x): what the next chunk's `tail` is. [B, w-1, D].
at::Tensor next_conv_tail(const at::Tensor& x, const at::Tensor& tail, int64_t width);

}  // namespace dsrsq::ops
