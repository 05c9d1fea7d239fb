// Fused kernels of a GPU for dense parts of the model; null where the build has none, and plain
// tensor operations serve. src/ops/*_cuda.cpp fill them in when the library is loaded.
#pragma once

#include <ATen/core/Tensor.h>

namespace dsrsq::ops {

struct DenseBackend {
  // logits bf16 [n, columns], columns a multiple of 8, of which the first `vocabulary` count ->
  // losses fp32 [n]. `gradient`: logits become softmax minus one at the target.
  at::Tensor (*cross_entropy)(at::Tensor& logits, const at::Tensor& targets, int64_t vocabulary,
                              bool gradient) = nullptr;
  // x bf16 [B, H, T, d], cosine and sine fp32 [B, 1, T, d/2] -> rotated, laid out as x; sign -1:
  // the other way round.
  at::Tensor (*rotate)(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine,
                       double sign) = nullptr;
  // x -> out, both [B, H, T, d], of 16-bit elements; false where their sizes, strides or types are
  // not for the kernel. `by_token`: out's heads of a token lie side by side.
  bool (*copy_rows)(const at::Tensor& x, at::Tensor& out, bool by_token) = nullptr;
};

DenseBackend& cuda_dense_backend();

}  // namespace dsrsq::ops
