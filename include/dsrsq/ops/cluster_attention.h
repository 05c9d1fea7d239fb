// Attention over the clusters that each query was routed to, its local window and the sinks: one
// softmax over their keys at or before the query, each key once (paper section 3.3; D10, D13).
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace dsrsq::ops {

struct ClusterAttentionOptions {
  int64_t clusters;  // m
  int64_t window;    // newest keys that a query always sees, its own among them; 0: none
  int64_t sinks;     // first keys that every query always sees
  double scale;      // of q . k
  // By plain tensor operations: every device, type and width, no limits on m, k and sinks; memory
  // linear in the keys, work that of dense attention.
  bool plain = false;
};

struct ClusterAttention {
  at::Tensor out;  // [B, H, N_q, d], the type of q; zeros where a query sees no key
  at::Tensor
      lse;  // [B, H, N_q] fp32, natural logarithm of the sum of exponentials; -infinity there
};

//   q           [B, H, N_q, d]    bf16 on CUDA, d 64 or 128; on a CPU, and plain, any type,
//                                 computed in fp32 (double: in double, slowly); the queries are
//                                 the last N_q positions
//   k, v        [B, H_kv, N, d]   H a multiple of H_kv, N_q <= N
//   assignment  [B, H_kv, N]      int32; cluster of each key, -1: the key is not seen by anybody
//   routes      [B, H, N_q, k]    int32; distinct clusters of each query in any order, -1: unused;
//                                 k <= m. Values outside [-1, m) are undefined behaviour on CUDA.
//   key_bias    [B, H_kv, N]      fp32, added to the logits of a key; -infinity hides it; optional
//   other       out [B, H, N_q, d], lse [B, H, N_q] of the same queries over other keys; the result
//               is then the softmax over both sets; optional
//
// A query at position p sees key j <= p if j < sinks, or p - j < window, or j's cluster is among
// the query's. Differentiable in q, k, v, key_bias and other, through `out` alone: the result's lse
// carries no gradient. On CUDA, unless plain, m <= 1024, k <= 16, sinks <= 128; forward and
// backward are deterministic (no atomics) and asynchronous. Throws c10::Error naming the argument,
// what was expected and what was found.
ClusterAttention cluster_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const at::Tensor& assignment, const at::Tensor& routes,
                                   const std::optional<at::Tensor>& key_bias,
                                   const ClusterAttentionOptions& options,
                                   const std::optional<ClusterAttention>& other = std::nullopt);

}  // namespace dsrsq::ops
