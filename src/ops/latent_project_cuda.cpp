#include <ATen/core/Tensor.h>
#include <ATen/ops/cat.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include "kernels/latent/latent_project.h"
#include "latent_project_backend.h"

namespace dsrsq::ops {
namespace {

constexpr int64_t kBlock = 64;  // columns of a row that lie side by side

// As the kernel reads it.
bool streams(const at::Tensor& x) {
  bool whole = x.scalar_type() == at::kBFloat16 && x.stride(-1) == 1 && x.size(-1) % kBlock == 0 &&
               reinterpret_cast<uintptr_t>(x.const_data_ptr()) % 16 == 0;
  for (int64_t i = 0; i + 1 < x.dim(); ++i) whole = whole && x.stride(i) % 8 == 0;
  return whole;
}

kernels::LatentProjectSource source_of(const at::Tensor& x) {
  const bool by_head = x.dim() == 4;
  return {x.const_data_ptr(), x.stride(0), x.stride(by_head ? 2 : 1), by_head ? x.stride(1) : 0,
          x.size(-1)};
}

void latent_project_into_cuda(const LatentProjectInputs& in, const at::Tensor& slots_in,
                              at::Tensor& keys, at::Tensor& values) {
  const LatentProjectShape s = check_latent_project(in);
  if (!streams(in.source) || (in.value_source.has_value() && !streams(*in.value_source)) ||
      s.width % 2 != 0)
    return latent_project_plain(in, slots_in, keys, values);
  const c10::cuda::CUDAGuard guard(in.source.device());
  const bool rounded = in.weight.scalar_type() == at::kBFloat16;
  at::Tensor weight = in.weight.to(at::kBFloat16).contiguous();
  // fp32 as the sum of two bf16 numbers.
  if (!rounded) weight = at::cat({weight, (in.weight - weight).to(at::kBFloat16)});
  const at::Tensor bias = in.bias.has_value() ? in.bias->contiguous() : at::Tensor();
  const at::Tensor slots = slots_in.defined() ? slots_in.contiguous() : at::Tensor();
  kernels::LatentProjectInputs inputs{};
  inputs.keys = source_of(in.source);
  if (in.value_source.has_value()) inputs.values = source_of(*in.value_source);
  inputs.weight = weight.const_data_ptr();
  inputs.bias = bias.defined() ? bias.const_data_ptr<float>() : nullptr;
  inputs.slots = slots.defined() ? slots.const_data_ptr<int64_t>() : nullptr;
  C10_CUDA_CHECK(kernels::launch_latent_project(
      {s.batch, s.tokens, s.inner, s.width, keys.size(1), rounded ? 1 : 2}, inputs,
      keys.mutable_data_ptr(), values.mutable_data_ptr(),
      keys.scalar_type() == at::kBFloat16 ? kernels::ElementType::kBFloat16
                                          : kernels::ElementType::kFloat32,
      c10::cuda::getCurrentCUDAStream().stream()));
}

const bool kRegistered = [] {
  latent_project_backend(at::kCUDA) = latent_project_into_cuda;
  return true;
}();

}  // namespace
}  // namespace dsrsq::ops
