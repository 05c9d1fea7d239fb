#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <cmath>
#include <optional>
#include <tuple>

#include "cluster_attention_checks.h"
#include "kernels/attention/cluster_attention.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

kernels::ClusterSizes sizes_of(const at::Tensor& q, const at::Tensor& k, const at::Tensor& routes,
                               int64_t clusters, int64_t window, int64_t sinks, double scale) {
  return {q.size(0),  q.size(1),      k.size(1), q.size(2),
          k.size(2),  q.size(3),      clusters,  routes.size(3),
          k.size(2) - q.size(2), window, sinks,  static_cast<float>(scale)};
}

void check_cuda(const at::Tensor& q, const kernels::ClusterSizes& s) {
  TORCH_CHECK(q.scalar_type() == at::kBFloat16 && (s.width == 64 || s.width == 128),
              "cluster_attention: on CUDA q, k and v are bf16 of width 64 or 128, got ",
              q.scalar_type(), " of width ", s.width,
              "; run under autocast, or with sqa.kernel: masked_dense");
  TORCH_CHECK(s.clusters <= kernels::kClusterIndexMaxClusters &&
                  s.slots <= kernels::kClusterIndexMaxSlots &&
                  s.sinks <= kernels::kClusterIndexMaxSinks,
              "cluster_attention: on CUDA m <= ", kernels::kClusterIndexMaxClusters,
              ", k <= ", kernels::kClusterIndexMaxSlots, " and sinks <= ",
              kernels::kClusterIndexMaxSinks, ", got ", s.clusters, ", ", s.slots, " and ",
              s.sinks);
  // Positions, pairs of a head and all items are counted in 32 bits; a grid has 65535 heads.
  TORCH_CHECK(s.keys < kernels::kNoKey - (1 << 20) && s.pairs() < (int64_t{1} << 31) &&
                  s.batch * s.heads * s.max_items() < (int64_t{1} << 31) &&
                  s.batch * s.heads <= 65535,
              "cluster_attention: too many keys, pairs or heads for one call: q ", q.sizes(),
              ", k = ", s.slots);
}

at::Tensor bytes(int64_t count, const at::Tensor& like) {
  return at::empty({count}, like.options().dtype(at::kByte));
}

const float* bias_data(const MaybeTensor& bias) {
  return bias.has_value() ? bias->const_data_ptr<float>() : nullptr;
}

// Keys and values in cluster order.
at::Tensor permute(const kernels::ClusterSizes& s, const kernels::ClusterIndex& index,
                   const at::Tensor& k, const at::Tensor& v, const MaybeTensor& bias,
                   cudaStream_t stream) {
  at::Tensor clustered = bytes(kernels::clustered_bytes(s), k);
  C10_CUDA_CHECK(kernels::launch_cluster_permute(s, index, k.const_data_ptr(), v.const_data_ptr(),
                                                 bias_data(bias), clustered.mutable_data_ptr(),
                                                 stream));
  return clustered;
}

MaybeTensor contiguous(const MaybeTensor& x) {
  return x.has_value() ? MaybeTensor(x->contiguous()) : std::nullopt;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> cluster_attention_forward_cuda(
    const at::Tensor& q_in, const at::Tensor& k_in, const at::Tensor& v_in,
    const at::Tensor& assignment_in, const at::Tensor& routes_in, const MaybeTensor& key_bias,
    int64_t clusters, int64_t window, int64_t sinks, double scale) {
  check_cluster_attention(q_in, k_in, v_in, assignment_in, routes_in, key_bias, clusters, window,
                          sinks);
  const auto s = sizes_of(q_in, k_in, routes_in, clusters, window, sinks, scale);
  check_cuda(q_in, s);
  const c10::cuda::CUDAGuard guard(q_in.device());
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  const at::Tensor q = q_in.contiguous(), k = k_in.contiguous(), v = v_in.contiguous();
  const at::Tensor assignment = assignment_in.contiguous(), routes = routes_in.contiguous();
  const MaybeTensor bias = contiguous(key_bias);
  at::Tensor out = at::empty_like(q);
  at::Tensor lse = at::empty(q.sizes().slice(0, 3), q.options().dtype(at::kFloat));
  at::Tensor index_bytes = bytes(kernels::cluster_index_layout(s, nullptr).bytes, q);
  if (q.numel() == 0) return {out, lse, index_bytes};
  const auto index = kernels::cluster_index_layout(s, index_bytes.mutable_data_ptr());
  {
    at::Tensor workspace = bytes(kernels::cluster_index_workspace_bytes(s), q);
    C10_CUDA_CHECK(kernels::launch_cluster_index(
        s, assignment.const_data_ptr<int>(), routes.const_data_ptr<int>(), index,
        workspace.mutable_data_ptr(), stream));
  }
  const at::Tensor clustered = permute(s, index, k, v, bias, stream);
  at::Tensor workspace = bytes(kernels::cluster_attention_forward_workspace_bytes(s), q);
  const kernels::ClusterAttentionInputs in{q.const_data_ptr(),
                                           k.const_data_ptr(),
                                           v.const_data_ptr(),
                                           assignment.const_data_ptr<int>(),
                                           routes.const_data_ptr<int>(),
                                           bias_data(bias),
                                           clustered.const_data_ptr()};
  C10_CUDA_CHECK(kernels::launch_cluster_attention_forward(
      s, index, in, out.mutable_data_ptr(), lse.mutable_data_ptr<float>(),
      workspace.mutable_data_ptr(), stream));
  return {out, lse, index_bytes};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> cluster_attention_backward_cuda(
    const at::Tensor& d_out_in, const at::Tensor& q_in, const at::Tensor& k_in,
    const at::Tensor& v_in, const at::Tensor& assignment_in, const at::Tensor& routes_in,
    const MaybeTensor& key_bias, const at::Tensor& out, const at::Tensor& lse,
    const at::Tensor& index_bytes, int64_t clusters, int64_t window, int64_t sinks, double scale) {
  const auto s = sizes_of(q_in, k_in, routes_in, clusters, window, sinks, scale);
  const c10::cuda::CUDAGuard guard(q_in.device());
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  const at::Tensor q = q_in.contiguous(), k = k_in.contiguous(), v = v_in.contiguous();
  const at::Tensor d_out = d_out_in.to(at::kBFloat16).contiguous();
  const at::Tensor assignment = assignment_in.contiguous(), routes = routes_in.contiguous();
  const MaybeTensor bias = contiguous(key_bias);
  at::Tensor d_key_bias =
      at::empty(bias.has_value() ? k.sizes().slice(0, 3) : at::IntArrayRef({0}),
                q.options().dtype(at::kFloat));
  if (q.numel() == 0) {
    return {at::zeros_like(q), at::zeros_like(k), at::zeros_like(v), d_key_bias.zero_()};
  }
  at::Tensor dq = at::empty_like(q), dk = at::empty_like(k), dv = at::empty_like(v);
  const auto index =
      kernels::cluster_index_layout(s, const_cast<void*>(index_bytes.const_data_ptr()));
  const at::Tensor clustered = permute(s, index, k, v, bias, stream);
  at::Tensor workspace = bytes(kernels::cluster_attention_backward_workspace_bytes(s), q);
  const kernels::ClusterAttentionInputs in{q.const_data_ptr(),
                                           k.const_data_ptr(),
                                           v.const_data_ptr(),
                                           assignment.const_data_ptr<int>(),
                                           routes.const_data_ptr<int>(),
                                           bias_data(bias),
                                           clustered.const_data_ptr()};
  const kernels::ClusterAttentionGradients gradients{
      out.const_data_ptr(),
      d_out.const_data_ptr(),
      lse.const_data_ptr<float>(),
      dq.mutable_data_ptr(),
      dk.mutable_data_ptr(),
      dv.mutable_data_ptr(),
      bias.has_value() ? d_key_bias.mutable_data_ptr<float>() : nullptr};
  C10_CUDA_CHECK(kernels::launch_cluster_attention_backward(
      s, index, in, gradients, workspace.mutable_data_ptr(), stream));
  return {dq, dk, dv, d_key_bias};
}

}  // namespace

TORCH_LIBRARY_IMPL(dsrsq, CUDA, m) {
  m.impl("cluster_attention_forward", cluster_attention_forward_cuda);
  m.impl("cluster_attention_backward", cluster_attention_backward_cuda);
}

}  // namespace dsrsq::ops
