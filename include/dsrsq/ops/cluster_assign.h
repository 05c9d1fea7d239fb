// Assigns each key to a cluster (design D9): a_t = argmax_c (k_t / ||k_t||) . centroid_c + bias_c.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace dsrsq::ops {

struct ClusterAssignment {
  at::Tensor assignment;     // [B, H_kv, T] int64; -1 where the token is not valid
  at::Tensor raw_sum;        // [H_kv, m, d] fp32: sum of the member keys as they are
  at::Tensor direction_sum;  // [H_kv, m, d] fp32: sum of the normalised member keys
  at::Tensor count;          // [H_kv, m] fp32: members
};

// Keys are taken before RoPE. Ties go to the lowest cluster; a zero key has direction 0; a score
// that is not a number loses to every other one. Invalid tokens belong to no cluster and count
// nowhere.
//
//   keys       [B, H_kv, T, d]  any floating type; computed and summed in fp32
//   centroids  [H_kv, m, d]     fp32 unit directions
//   bias       [H_kv, m]        fp32, the balance bias
//   valid      [B, T]           bool, optional
//
// Not differentiable: no output requires grad. Deterministic, and a key's cluster depends on
// nothing but the key, so decoding agrees with prefill. Asynchronous on CUDA; there d <= 128 and m
// <= 1024. Throws c10::Error on wrong shapes.
ClusterAssignment cluster_assign(const at::Tensor& keys, const at::Tensor& centroids,
                                 const at::Tensor& bias,
                                 const std::optional<at::Tensor>& valid = std::nullopt);

}  // namespace dsrsq::ops
