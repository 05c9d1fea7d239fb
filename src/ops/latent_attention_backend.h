// What the implementations of latent_attention share: its arguments, what is demanded of them, and
// the plain form, which also is the backward pass of all.
#pragma once

#include "dsrsq/ops/latent_attention.h"

namespace dsrsq::ops {

// Throws c10::Error naming the argument, what was expected and what was found.
void check_latent_attention(const LatentAttentionInputs& in, const LatentAttentionOptions& options);

// By plain tensor operations, a chunk of queries at a time; in fp32, or in double where q is, on
// any device.
LatentAttention latent_attention_plain(const LatentAttentionInputs& in,
                                       const LatentAttentionOptions& options);

struct LatentAttentionGradients {
  at::Tensor q, key_latents, value_latents, key_projection, value_projection;
  at::Tensor key_bias, age_bias;  // undefined without them
};
// From the lse that the forward pass returned and the gradients of out and lse; an undefined one is
// 0. Probabilities are computed again.
LatentAttentionGradients latent_attention_backward(const LatentAttentionInputs& in,
                                                   const LatentAttentionOptions& options,
                                                   const at::Tensor& lse, const at::Tensor& d_out,
                                                   const at::Tensor& d_lse);

}  // namespace dsrsq::ops
