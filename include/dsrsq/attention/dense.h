// Exact softmax attention over an explicit set of keys, and the join of partial results (D13: one
// softmax over disjoint sets).
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace dsrsq {

// The logit of a masked key. Finite, so that a row without any key gives no NaN, forward or
// backward: its lse is about -1e30, and any join with a part that has keys weighs its output with
// exactly 0.
inline constexpr double kMaskedLogit = -1e30;

// The softmax-weighted values of one set of keys, and the logarithm of the set's share of the
// denominator.
struct PartialAttention {
  at::Tensor out;     // [B, H, T, d]
  at::Tensor lse;     // [B, H, T] fp32; about kMaskedLogit where no key is visible
  at::Tensor logits;  // [B, H, T, keys] fp32; probability = exp(logits - joined lse)
};

// The type in which attention multiplies q: under autocast bf16 whatever q is.
at::ScalarType attention_type(const at::Tensor& q);

// (B, H_kv, keys, d) -> (B, H, keys, d): query head h reads key-value head h / (H / H_kv).
at::Tensor expand_heads(const at::Tensor& x, int64_t query_heads);

// q [B, H, T, d], k and v [B, H_kv, keys, d] (already rotated), mask bool broadcastable to [B, H,
// T, keys] (true = attend), bias fp32 broadcastable to it and added to the logits; undefined: 0.
// Logits, softmax and lse in fp32 (D22). Differentiable in q, k, v and bias.
PartialAttention masked_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const at::Tensor& mask, const at::Tensor& bias = {});

struct JoinedAttention {
  at::Tensor out;  // [B, H, T, d]
  at::Tensor lse;  // [B, H, T]
};
// The softmax over the union of the parts' disjoint key sets.
JoinedAttention join_attention(const std::vector<PartialAttention>& parts);

// As masked_attention, where neither its lse nor its logits are wanted: through torch's fused
// backends, or for few queries by products that repeat no keys and values. `mask` undefined: every
// key is attended.
at::Tensor read_entries(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const at::Tensor& mask);

// The fast path where the keys are exactly the tokens of this chunk and nothing is padded: causal
// softmax through torch's fused backends (cuDNN or flash on a GPU, flash on a CPU).
at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v);
// The same by the same backend, and its lse without gradient; undefined where the backend that
// torch chooses gives none. No logits.
PartialAttention causal_attention_with_lse(const at::Tensor& q, const at::Tensor& k,
                                           const at::Tensor& v);

}  // namespace dsrsq
