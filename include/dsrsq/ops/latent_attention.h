// Attention over the latent buffer (D11, D13): queries meet tokens of which c numbers for the key
// and c for the value are left, without the keys and values being rebuilt in memory. The result
// joins that over other keys by its log-sum-exp.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace dsrsq::ops {

struct LatentAttentionInputs {
  at::Tensor q;                        // [B, H, T, d] floating
  at::Tensor key_latents;              // [B, L, c], the type of q or fp32
  at::Tensor value_latents;            // as key_latents
  at::Tensor key_projection;           // P_k [c, H_kv d] fp32; H a multiple of H_kv
  at::Tensor value_projection;         // P_v, as P_k
  std::optional<at::Tensor> valid;     // [B, L] bool; false: the slot is masked. None: all count
  std::optional<at::Tensor> key_bias;  // [B, L] fp32, added to the logits
  // All three or none: age_bias[h, i] is added to the logit of head h where
  // floor(log2(max(1, query_order - key_order))) is i, or above the last i.
  std::optional<at::Tensor> age_bias;     // [H, A] fp32
  std::optional<at::Tensor> query_order;  // [B, T] int64, rank in the reader's sequence
  std::optional<at::Tensor> key_order;    // [B, L] int64
  // Where the options have frequencies: what the rebuilt keys are rotated by.
  std::optional<at::Tensor> positions;  // [B, L] int64
};

struct LatentAttentionOptions {
  double scale;  // of q . k, positive
  // Empty: keys are absorbed; q_h P_k,h^T meets the latents, and q has no rotation. Else d / 2
  // radians a position: keys are rebuilt a tile at a time and rotated (half-split pairs, as
  // ops::rotate), and so is the q that comes in.
  std::vector<double> frequencies = {};
  double rotary_scale = 1;  // of the rotated keys (ops::RotaryTable)
};

struct LatentAttention {
  at::Tensor out;  // [B, H, T, d], the type of q
  at::Tensor lse;  // [B, H, T] fp32, of double q double: natural logarithm of the denominator
};

// out_h = (sum_j p_j z_v,j) P_v,h, p the softmax over the slots of
//   scale q_h . (z_k,j P_k,h) + key_bias_j + age_bias_h(age of j).
// Values are absorbed always: what is summed are latents, expanded once. Nothing to attend: out 0,
// lse -infinity, and no gradient.
//
// Differentiable in q, latents, projections and both biases, through out and lse. Sums are fp32,
// projections are not rounded. On CUDA fp32 latents are multiplied at 16 bits of mantissa or more,
// under many bf16 queries (17 rows of a key-value head) in bf16. Double is computed in double on
// the CPU. Deterministic; asynchronous on CUDA, where d is 64 and c is 32, 64 or 128. A is at
// most 62. Throws c10::Error naming the argument, what was expected and what was found.
LatentAttention latent_attention(const LatentAttentionInputs& inputs,
                                 const LatentAttentionOptions& options);

}  // namespace dsrsq::ops
