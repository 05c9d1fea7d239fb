// Routes queries to clusters: the `slots` clusters of greatest q . centroid, best first (D9).
#pragma once

#include <ATen/core/Tensor.h>

namespace dsrsq::ops {

//   queries    [B, H, N, d]        any floating type
//   centroids  [B or 1, H_kv, m, d]  fp32, H a multiple of H_kv
//   slots      k, 1 <= k <= m
//
// -> int32 [B, H, N, k]. Not differentiable. On CUDA, bf16 queries of width 64 or 128 with k <= 8
// and centroids that fit in shared memory (m <= 1024 of width 64) take one fused pass: centroids
// rounded to bf16, scores compared at 13 bits of mantissa, so that near ties may fall otherwise
// than in fp32, though always alike. Everything else there is a product in fp32 and torch's topk.
// On a CPU one fused pass in fp32 takes everything; ties go to the lowest cluster. Throws
// c10::Error on wrong arguments.
at::Tensor cluster_route(const at::Tensor& queries, const at::Tensor& centroids, int64_t slots);

}  // namespace dsrsq::ops
