#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/retrieval/gather_tokens.h"
#include "retrieval_backend.h"

namespace dsrsq::ops {
namespace {

at::Tensor gather_tokens_cuda(const at::Tensor& rows_in, const at::Tensor& index_in) {
  const c10::cuda::CUDAGuard guard(rows_in.device());
  const at::Tensor rows = rows_in.contiguous(), index = index_in.contiguous();
  at::Tensor out = at::empty({rows.size(0), index.size(1), rows.size(2)}, rows.options());
  if (out.numel() == 0) return out;
  C10_CUDA_CHECK(kernels::launch_gather_tokens(
      {rows.size(0), rows.size(1), index.size(1), rows.size(2)}, rows.element_size(),
      rows.const_data_ptr(), index.const_data_ptr<int64_t>(), out.mutable_data_ptr(),
      c10::cuda::getCurrentCUDAStream().stream()));
  return out;
}

at::Tensor gather_tokens_backward_cuda(const at::Tensor& d_out_in, const at::Tensor& index,
                                       int64_t tokens) {
  const c10::cuda::CUDAGuard guard(d_out_in.device());
  const bool bf16 = d_out_in.scalar_type() == at::kBFloat16;
  const at::Tensor d_out = d_out_in.to(bf16 ? at::kBFloat16 : at::kFloat).contiguous();
  at::Tensor d_rows = at::zeros({d_out.size(0), tokens, d_out.size(2)}, d_out.options());
  if (d_out.numel() > 0 && d_rows.numel() > 0) {
    const at::Tensor rows = index.contiguous();
    at::Tensor chain = at::empty(rows.sizes(), rows.options().dtype(at::kInt));
    C10_CUDA_CHECK(kernels::launch_gather_tokens_backward(
        {d_out.size(0), tokens, d_out.size(1), d_out.size(2)},
        bf16 ? kernels::ElementType::kBFloat16 : kernels::ElementType::kFloat32,
        d_out.const_data_ptr(), rows.const_data_ptr<int64_t>(),
        static_cast<unsigned*>(chain.mutable_data_ptr()), d_rows.mutable_data_ptr(),
        c10::cuda::getCurrentCUDAStream().stream()));
  }
  return d_rows.to(d_out_in.scalar_type());
}

const bool kRegistered = [] {
  gather_tokens_backend(at::kCUDA) = {gather_tokens_cuda, gather_tokens_backward_cuda};
  return true;
}();

}  // namespace
}  // namespace dsrsq::ops
