// Tokens' keys and values to latents of c numbers each (D11), as they enter the buffer.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace dsrsq::ops {

struct LatentProjectInputs {
  // What is projected. k [B, H_kv, T, d] before RoPE, all heads of a token jointly (inner = H_kv
  // d); or, where a block's projections are merged into the weight (P W_k, P W_v), its input [B, T,
  // inner]. Floating.
  at::Tensor source;
  std::optional<at::Tensor> value_source;  // v, like source; none: values come from `source`, too
  at::Tensor weight;                       // [2c, inner] fp32 or the type of source: P_k over P_v
  std::optional<at::Tensor> bias;          // [2c] fp32, added: of projections that have one, merged
};

struct Latents {
  at::Tensor keys;    // [B, T, c] fp32, of double inputs double
  at::Tensor values;  // the same
};

// Sums are fp32 and fp32 weights are not rounded (on CUDA: not below 16 bits of mantissa). On CUDA
// bf16 sources, with heads or inner a multiple of 64, are read once by one launch; others are
// plain products. Differentiable. Deterministic. Throws c10::Error naming the argument, what was
// expected and what was found.
Latents latent_project(const LatentProjectInputs& inputs);

// The same straight into buffers: token t of a sequence into its slot. keys and values [B, L, c]
// of fp32, bf16 or, with double inputs, double; slots [B, T] int64, distinct where they are in
// [0, L); others are not written. No gradients: throws where one would be lost.
void latent_project_into(const LatentProjectInputs& inputs, const at::Tensor& slots,
                         at::Tensor& keys, at::Tensor& values);

}  // namespace dsrsq::ops
