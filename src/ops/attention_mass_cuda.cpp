#include <ATen/core/Tensor.h>
#include <ATen/ops/constant_pad_nd.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "attention_mass_checks.h"
#include "kernels/attention/attention_mass.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

constexpr int64_t kWidthStep = 8;  // of the kernel's rows; shorter ones end in zeros

template <typename T>
const T* data(const MaybeTensor& x) {
  return x.has_value() ? x->const_data_ptr<T>() : nullptr;
}

MaybeTensor contiguous(const MaybeTensor& x, at::ScalarType type) {
  return x.has_value() ? MaybeTensor(x->to(type).contiguous()) : std::nullopt;
}

std::tuple<at::Tensor, at::Tensor> attention_mass_cuda(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& lse,
    const at::Tensor& query_position, const at::Tensor& key_position, const MaybeTensor& key_bias,
    const MaybeTensor& assignment, const MaybeTensor& routes, double scale, int64_t clusters,
    int64_t window, int64_t sinks) {
  check_attention_mass({q, k, lse, query_position, key_position, key_bias, assignment, routes},
                       {scale, clusters, window, sinks});
  const kernels::AttentionMassSizes s{q.size(0),
                                      q.size(1),
                                      k.size(1),
                                      q.size(2),
                                      k.size(2),
                                      (q.size(3) + kWidthStep - 1) / kWidthStep * kWidthStep,
                                      static_cast<float>(scale),
                                      clusters,
                                      routes.has_value() ? routes->size(3) : 0,
                                      window,
                                      sinks};
  TORCH_CHECK(s.width <= kernels::kAttentionMassMaxWidth,
              "attention_mass: on CUDA the head width is at most ", kernels::kAttentionMassMaxWidth,
              ", got ", q.size(3));
  TORCH_CHECK(!routes.has_value() || clusters <= kernels::kAttentionMassMaxClusters,
              "attention_mass: on CUDA m <= ", kernels::kAttentionMassMaxClusters, ", got ",
              clusters);
  TORCH_CHECK(s.batch * s.kv_heads <= 65535,
              "attention_mass: too many key-value heads for one call: k ", k.sizes());
  const c10::cuda::CUDAGuard guard(q.device());
  const bool bf16 = q.scalar_type() == at::kBFloat16;
  const auto type = bf16 ? at::kBFloat16 : at::kFloat;
  const auto rows = [&](const at::Tensor& x) {
    const int64_t missing = s.width - x.size(3);
    const at::Tensor typed = x.to(type);
    return (missing > 0 ? at::constant_pad_nd(typed, {0, missing}) : typed).contiguous();
  };
  const at::Tensor q_rows = rows(q), k_rows = rows(k);
  const at::Tensor denominator = lse.to(at::kFloat).contiguous();
  const at::Tensor query_at = query_position.to(at::kInt).contiguous();
  const at::Tensor key_at = key_position.to(at::kInt).contiguous();
  const MaybeTensor bias = contiguous(key_bias, at::kFloat);
  const MaybeTensor cluster = contiguous(assignment, at::kInt);
  const MaybeTensor route = contiguous(routes, at::kInt);
  at::Tensor mass = at::empty(k.sizes().slice(0, 3), q.options().dtype(at::kFloat));
  at::Tensor squared = at::empty_like(mass);
  if (mass.numel() == 0 || q.numel() == 0) return {mass.zero_(), squared.zero_()};
  C10_CUDA_CHECK(kernels::launch_attention_mass(
      s,
      {q_rows.const_data_ptr(), k_rows.const_data_ptr(),
       bf16 ? kernels::ElementType::kBFloat16 : kernels::ElementType::kFloat32,
       denominator.const_data_ptr<float>(), query_at.const_data_ptr<int>(),
       key_at.const_data_ptr<int>(), data<float>(bias), data<int>(cluster), data<int>(route)},
      mass.mutable_data_ptr<float>(), squared.mutable_data_ptr<float>(),
      c10::cuda::getCurrentCUDAStream().stream()));
  return {mass, squared};
}

}  // namespace

TORCH_LIBRARY_IMPL(dsrsq, CUDA, m) { m.impl("attention_mass", attention_mass_cuda); }

}  // namespace dsrsq::ops
