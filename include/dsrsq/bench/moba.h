// Attention over blocks of neighbouring keys chosen by the mean of their keys, as MoBA does (arXiv
// 2502.13189): what attention over clusters is compared with. The query's own block is always among
// the chosen ones.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace dsrsq::bench {

// A choice of keys as attention over clusters takes it (ops/cluster_attention.h).
struct KeyChoice {
  at::Tensor assignment;  // int32 [B, H_kv, N]
  at::Tensor routes;      // int32 [B, H, N, k]; -1: unused
};

// q [B, H, N, d], k [B, H_kv, N, d], both rotated. The sequence is cut into `blocks` blocks of
// ceil(N / blocks) keys; a query chooses its own block (slot 0) and the slots - 1 blocks before it
// of greatest q . mean(keys). Throws c10::Error unless 1 <= slots <= blocks <= N.
KeyChoice choose_blocks(const at::Tensor& q, const at::Tensor& k, int64_t blocks, int64_t slots);

// The same attention composed of torch's operators, as MoBA's published code is: the own block by
// causal flash attention, the others by flash attention over sequences of unequal length (the
// queries of each block), joined by their log-sum-exp. k and v have as many heads as q; bf16 on
// CUDA. Differentiable; both halves of the backward pass use the joined log-sum-exp, so it is
// exact. Choosing waits for the device once, for the number of pairs.
at::Tensor moba_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          int64_t blocks, int64_t slots, double scale);

}  // namespace dsrsq::bench
