#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <numbers>
#include <optional>
#include <tuple>

#include "kernels/latent/latent_attention.h"
#include "latent_attention_backend.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

template <typename T>
const T* data(const MaybeTensor& x) {
  return x.has_value() ? x->const_data_ptr<T>() : nullptr;
}

MaybeTensor contiguous(const MaybeTensor& x) {
  return x.has_value() ? MaybeTensor(x->contiguous()) : std::nullopt;
}

// A kernel's type as it is, everything else as fp32.
at::Tensor readable(const at::Tensor& x) {
  return (x.scalar_type() == at::kBFloat16 ? x : x.to(at::kFloat)).contiguous();
}
kernels::ElementType element_type(const at::Tensor& x) {
  return x.scalar_type() == at::kBFloat16 ? kernels::ElementType::kBFloat16
                                          : kernels::ElementType::kFloat32;
}

// Biases and projections of double inputs, too.
MaybeTensor fp32(const MaybeTensor& x) {
  return x.has_value() ? MaybeTensor(x->to(at::kFloat).contiguous()) : std::nullopt;
}

std::tuple<at::Tensor, at::Tensor> latent_attention_cuda(
    const at::Tensor& q_in, const at::Tensor& key_latents, const at::Tensor& value_latents,
    const at::Tensor& key_projection, const at::Tensor& value_projection,
    const MaybeTensor& valid_in, const MaybeTensor& key_bias_in, const MaybeTensor& age_bias_in,
    const MaybeTensor& query_order_in, const MaybeTensor& key_order_in,
    const MaybeTensor& positions_in, double scale, at::ArrayRef<double> frequencies,
    double rotary_scale) {
  check_latent_attention(
      {q_in, key_latents, value_latents, key_projection, value_projection, valid_in, key_bias_in,
       age_bias_in, query_order_in, key_order_in, positions_in},
      {scale, frequencies.vec(), rotary_scale});
  const int64_t d = q_in.size(3), c = key_latents.size(2);
  TORCH_CHECK(d == kernels::kLatentHeadWidth && (c == 32 || c == 64 || c == 128),
              "latent_attention: on CUDA d is 64 and c is 32, 64 or 128, got q ", q_in.sizes(),
              " and latents ", key_latents.sizes());
  kernels::LatentAttentionSizes s{q_in.size(0),
                                  q_in.size(1),
                                  key_projection.size(1) / d,
                                  q_in.size(2),
                                  key_latents.size(1),
                                  c,
                                  age_bias_in.has_value() ? age_bias_in->size(1) : 0,
                                  static_cast<float>(scale),
                                  !frequencies.empty(),
                                  static_cast<float>(rotary_scale),
                                  {}};
  for (size_t i = 0; i < frequencies.size(); ++i)
    s.turns[i] = frequencies[i] / (2 * std::numbers::pi);
  TORCH_CHECK(s.batch <= 65535 && s.kv_heads <= 65535,
              "latent_attention: too many sequences or heads for one call: q ", q_in.sizes());
  const c10::cuda::CUDAGuard guard(q_in.device());
  const at::Tensor q = readable(q_in);
  at::Tensor out = at::empty_like(q);
  at::Tensor lse = at::empty(q.sizes().slice(0, 3), q.options().dtype(at::kFloat));
  if (q.numel() > 0) {
    // Under many bf16 queries latents become operands of products, so bf16, anyway.
    const bool many = s.heads / s.kv_heads * s.queries >= kernels::kLatentManyRows;
    const auto latents = [&](const at::Tensor& x) {
      return readable(many && q.scalar_type() == at::kBFloat16 ? x.to(at::kBFloat16) : x);
    };
    const at::Tensor z_k = latents(key_latents), z_v = latents(value_latents);
    const MaybeTensor p_k = fp32(key_projection), p_v = fp32(value_projection);
    const MaybeTensor valid = contiguous(valid_in), positions = contiguous(positions_in);
    const MaybeTensor key_bias = fp32(key_bias_in), age_bias = fp32(age_bias_in);
    const MaybeTensor query_order = contiguous(query_order_in),
                      key_order = contiguous(key_order_in);
    C10_CUDA_CHECK(kernels::launch_latent_attention(
        s,
        {q.const_data_ptr(), element_type(q), z_k.const_data_ptr(), z_v.const_data_ptr(),
         element_type(z_k), data<float>(p_k), data<float>(p_v), data<bool>(valid),
         data<float>(key_bias), data<float>(age_bias), data<int64_t>(query_order),
         data<int64_t>(key_order), data<int64_t>(positions)},
        out.mutable_data_ptr(), lse.mutable_data_ptr<float>(),
        c10::cuda::getCurrentCUDAStream().stream()));
  }
  const auto lse_type = q_in.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return {out.to(q_in.scalar_type()), lse.to(lse_type)};
}

}  // namespace

TORCH_LIBRARY_IMPL(dsrsq, CUDA, m) { m.impl("latent_attention", latent_attention_cuda); }

}  // namespace dsrsq::ops
