#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "dense_backend.h"
#include "kernels/dense/copy_rows.h"
#include "kernels/dense/cross_entropy.h"
#include "kernels/dense/rotary.h"

namespace dsrsq::ops {
namespace {

at::Tensor cross_entropy_cuda(at::Tensor& logits, const at::Tensor& targets, int64_t vocabulary,
                              bool gradient) {
  const c10::cuda::CUDAGuard guard(logits.device());
  const at::Tensor wanted = targets.contiguous();
  TORCH_CHECK(logits.is_contiguous() && logits.size(1) % 8 == 0, "cross_entropy: logits of ",
              logits.sizes(), " must be contiguous, in whole vectors of 8");
  at::Tensor losses = at::empty({logits.size(0)}, logits.options().dtype(at::kFloat));
  C10_CUDA_CHECK(kernels::launch_cross_entropy(
      {logits.size(0), vocabulary, logits.size(1)}, logits.mutable_data_ptr(),
      wanted.const_data_ptr<int64_t>(), losses.mutable_data_ptr<float>(), gradient,
      c10::cuda::getCurrentCUDAStream().stream()));
  return losses;
}

bool in_vectors(const at::Tensor& x) {
  return x.stride(3) == 1 && x.stride(0) % 8 == 0 && x.stride(1) % 8 == 0 && x.stride(2) % 8 == 0 &&
         reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
}

at::Tensor rotate_cuda(const at::Tensor& x_in, const at::Tensor& cosine_in,
                       const at::Tensor& sine_in, double sign) {
  const c10::cuda::CUDAGuard guard(x_in.device());
  const at::Tensor x = in_vectors(x_in) ? x_in : x_in.contiguous().clone();
  const auto batch = x.size(0), tokens = x.size(2), half = x.size(3) / 2;
  const at::Tensor cosine = cosine_in.expand({batch, 1, tokens, half}).contiguous();
  const at::Tensor sine = sine_in.expand({batch, 1, tokens, half}).contiguous();
  at::Tensor out = at::empty_like(x);
  if (!in_vectors(out)) out = at::empty_like(x, at::MemoryFormat::Contiguous);
  kernels::RotarySizes sizes{batch, x.size(1), tokens, x.size(3), {}, {}};
  for (int i = 0; i < 3; ++i) {
    sizes.in_strides[i] = x.stride(i);
    sizes.out_strides[i] = out.stride(i);
  }
  C10_CUDA_CHECK(kernels::launch_rotary(sizes, x.const_data_ptr(), cosine.const_data_ptr<float>(),
                                        sine.const_data_ptr<float>(), static_cast<float>(sign),
                                        out.mutable_data_ptr(),
                                        c10::cuda::getCurrentCUDAStream().stream()));
  return out;
}

bool copy_rows_cuda(const at::Tensor& x, at::Tensor& out, bool by_token) {
  if (x.element_size() != 2 || x.size(3) % 8 != 0 || !in_vectors(x) || !in_vectors(out))
    return false;
  const c10::cuda::CUDAGuard guard(x.device());
  kernels::CopyRowsSizes sizes{x.size(0), x.size(1), x.size(2), x.size(3), {}, {}, by_token};
  for (int i = 0; i < 3; ++i) {
    sizes.in_strides[i] = x.stride(i);
    sizes.out_strides[i] = out.stride(i);
  }
  C10_CUDA_CHECK(kernels::launch_copy_rows(sizes, x.const_data_ptr(), out.mutable_data_ptr(),
                                           c10::cuda::getCurrentCUDAStream().stream()));
  return true;
}

const bool kRegistered = [] {
  cuda_dense_backend() = {cross_entropy_cuda, rotate_cuda, copy_rows_cuda};
  return true;
}();

}  // namespace
}  // namespace dsrsq::ops
