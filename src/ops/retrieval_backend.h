// What a device provides for the differentiable operators of retrieval. Each device's file fills in
// its own entry when the library is loaded.
#pragma once

#include <ATen/core/Tensor.h>

namespace dsrsq::ops {

struct GatherTokensBackend {
  at::Tensor (*forward)(const at::Tensor& rows, const at::Tensor& index);
  // d_out [B, n, D] -> [B, tokens, D].
  at::Tensor (*backward)(const at::Tensor& d_out, const at::Tensor& index, int64_t tokens);
};
GatherTokensBackend& gather_tokens_backend(at::DeviceType device);

struct SubsetPicksKept {
  at::Tensor log_prob;  // [R, k]
  at::Tensor lse;       // [R, k] of what is not yet picked
};
struct SubsetLogProbBackend {
  SubsetPicksKept (*forward)(const at::Tensor& score, const at::Tensor& candidate,
                             const at::Tensor& mask);
  at::Tensor (*backward)(const at::Tensor& score, const at::Tensor& candidate,
                         const at::Tensor& mask, const at::Tensor& lse,
                         const at::Tensor& d_log_prob);
};
SubsetLogProbBackend& subset_log_prob_backend(at::DeviceType device);

}  // namespace dsrsq::ops
