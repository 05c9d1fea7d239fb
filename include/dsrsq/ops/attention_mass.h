// How much each key is attended: column sums of the softmax probabilities and of their squares,
// without the matrix of probabilities (D12: the reservoir's attention rate; H2O, SnapKV,
// KV-Compress).
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace dsrsq::ops {

struct AttentionMassInputs {
  at::Tensor q;               // [B, H, N_q, d] floating, rotated; any run of queries
  at::Tensor k;               // [B, H_kv, N, d], the type of q; H a multiple of H_kv
  at::Tensor lse;             // [B, H, N_q] fp32, natural logarithm of the softmax's denominator
  at::Tensor query_position;  // [B, N_q] int64; negative: the query does not count (padding)
  at::Tensor key_position;    // [B, N] int64; negative: nobody sees the key
  std::optional<at::Tensor> key_bias;    // [B, H_kv, N] fp32, added to the logits
  std::optional<at::Tensor> assignment;  // [B, H_kv, N] int32: cluster of each key, -1: none
  std::optional<at::Tensor> routes;      // [B, H, N_q, k] int32: clusters of each query, -1: unused
};

struct AttentionMassOptions {
  double scale;          // of q . k, positive
  int64_t clusters = 0;  // m; the others count only where there are routes
  int64_t window = 0;    // newest positions that a query sees, its own among them
  int64_t sinks = 0;     // positions that every query sees: those before this one
};

struct AttentionMass {
  at::Tensor mass;  // [B, H_kv, N] fp32, of double on the CPU double: sum of p over the queries of
                    // the head's group
  at::Tensor squared;  // the same of p^2
};

// p = exp(scale q . k + key_bias - lse) where the query at position p sees the key at position j <=
// p; 0 elsewhere. With routes, which need the assignment and come with it alone, a query sees only
// the keys with p - j < window, those with j < sinks, and those of its clusters. `lse` is the
// caller's: where other keys (latents) share the softmax, it is the joined one. A query whose lse
// is -infinity counts nothing.
//
// Not differentiable: no output requires grad. Deterministic; asynchronous on CUDA, where d <= 256
// and, with routes, m <= 1024; fp32 there is multiplied at 16 bits of
// mantissa. Double is computed in double on the CPU. Throws c10::Error naming the argument, what
// was expected and what was found.
AttentionMass attention_mass(const AttentionMassInputs& inputs,
                             const AttentionMassOptions& options);

// Positions as above from ranks [B, K] int64 and valid [B, K] bool: -1 where not valid.
at::Tensor positions_or_padding(const at::Tensor& order, const at::Tensor& valid);

}  // namespace dsrsq::ops
