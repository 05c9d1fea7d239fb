// Exact causal attention inside a sliding window, beside which every row sees the first ones
// (sinks).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace dsrsq {

// bool [B, 1, T, K]: query_order [B, T] and key_order [B, K], ranks in the sequence; a row sees
// itself, `window` ranks before it and ranks below `sinks`. Keys where `valid` [B, K] is false are
// seen by none.
at::Tensor window_mask(const at::Tensor& query_order, const at::Tensor& key_order,
                       const at::Tensor& valid, int64_t window, int64_t sinks);

// q [B, H, T, d], k and v [B, H_kv, T, d] (rotated), row i of rank i -> [B, H, T, d]. In blocks of
// `window` rows, so that time and memory grow with T x window. window >= 1.
at::Tensor window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            int64_t window, int64_t sinks);

}  // namespace dsrsq
