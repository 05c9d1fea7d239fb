#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros_like.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <optional>

#include "cluster_attention_backend.h"
#include "cluster_attention_checks.h"
#include "kernels/attention/cluster_attention.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

kernels::ClusterSizes sizes_of(const ClusterAttentionArguments& a) {
  return {a.q.size(0),        a.q.size(1),      a.k.size(1),
          a.q.size(2),        a.k.size(2),      a.q.size(3),
          a.options.clusters, a.routes.size(3), a.k.size(2) - a.q.size(2),
          a.options.window,   a.options.sinks,  static_cast<float>(a.options.scale)};
}

void check_cuda(const at::Tensor& q, const kernels::ClusterSizes& s) {
  TORCH_CHECK(q.scalar_type() == at::kBFloat16 && (s.width == 64 || s.width == 128),
              "cluster_attention: on CUDA q, k and v are bf16 of width 64 or 128, got ",
              q.scalar_type(), " of width ", s.width,
              "; run under autocast, or with sqa.kernel: aten");
  TORCH_CHECK(
      s.clusters <= kernels::kClusterIndexMaxClusters &&
          s.slots <= kernels::kClusterIndexMaxSlots && s.sinks <= kernels::kClusterIndexMaxSinks,
      "cluster_attention: on CUDA m <= ", kernels::kClusterIndexMaxClusters,
      ", k <= ", kernels::kClusterIndexMaxSlots, " and sinks <= ", kernels::kClusterIndexMaxSinks,
      ", got ", s.clusters, ", ", s.slots, " and ", s.sinks);
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
                   const ClusterAttentionArguments& a, cudaStream_t stream) {
  at::Tensor clustered = bytes(kernels::clustered_bytes(s), a.k);
  C10_CUDA_CHECK(kernels::launch_cluster_permute(s, index, a.k.const_data_ptr(),
                                                 a.v.const_data_ptr(), bias_data(a.key_bias),
                                                 clustered.mutable_data_ptr(), stream));
  return clustered;
}

MaybeTensor contiguous(const MaybeTensor& x) {
  return x.has_value() ? MaybeTensor(x->contiguous()) : std::nullopt;
}

ClusterAttentionArguments contiguous(const ClusterAttentionArguments& a) {
  return {
      a.q.contiguous(),      a.k.contiguous(),       a.v.contiguous(), a.assignment.contiguous(),
      a.routes.contiguous(), contiguous(a.key_bias), a.options};
}

kernels::ClusterAttentionInputs inputs(const ClusterAttentionArguments& a,
                                       const at::Tensor& clustered) {
  return {a.q.const_data_ptr(),           a.k.const_data_ptr(),
          a.v.const_data_ptr(),           a.assignment.const_data_ptr<int>(),
          a.routes.const_data_ptr<int>(), bias_data(a.key_bias),
          clustered.const_data_ptr()};
}

ClusterAttentionKept cluster_attention_forward_cuda(const ClusterAttentionArguments& arguments) {
  const auto& options = arguments.options;
  check_cluster_attention(arguments.q, arguments.k, arguments.v, arguments.assignment,
                          arguments.routes, arguments.key_bias, options.clusters, options.window,
                          options.sinks);
  const auto s = sizes_of(arguments);
  check_cuda(arguments.q, s);
  const c10::cuda::CUDAGuard guard(arguments.q.device());
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  const ClusterAttentionArguments a = contiguous(arguments);
  at::Tensor out = at::empty_like(a.q);
  at::Tensor lse = at::empty(a.q.sizes().slice(0, 3), a.q.options().dtype(at::kFloat));
  at::Tensor index_bytes = bytes(kernels::cluster_index_layout(s, nullptr).bytes, a.q);
  if (a.q.numel() == 0) return {out, lse, index_bytes};
  const auto index = kernels::cluster_index_layout(s, index_bytes.mutable_data_ptr());
  {
    at::Tensor workspace = bytes(kernels::cluster_index_workspace_bytes(s), a.q);
    C10_CUDA_CHECK(kernels::launch_cluster_index(s, a.assignment.const_data_ptr<int>(),
                                                 a.routes.const_data_ptr<int>(), index,
                                                 workspace.mutable_data_ptr(), stream));
  }
  const at::Tensor clustered = permute(s, index, a, stream);
  at::Tensor workspace = bytes(kernels::cluster_attention_forward_workspace_bytes(s), a.q);
  C10_CUDA_CHECK(kernels::launch_cluster_attention_forward(
      s, index, inputs(a, clustered), out.mutable_data_ptr(), lse.mutable_data_ptr<float>(),
      workspace.mutable_data_ptr(), stream));
  return {out, lse, index_bytes};
}

// Keys and values are put in cluster order again: cheaper than the memory to keep them.
ClusterAttentionGradients cluster_attention_backward_cuda(
    const ClusterAttentionArguments& arguments, const ClusterAttentionKept& kept,
    const at::Tensor& d_out_in) {
  const auto s = sizes_of(arguments);
  const c10::cuda::CUDAGuard guard(arguments.q.device());
  const auto stream = c10::cuda::getCurrentCUDAStream().stream();
  const ClusterAttentionArguments a = contiguous(arguments);
  at::Tensor d_key_bias;
  if (a.key_bias.has_value()) d_key_bias = at::empty_like(*a.key_bias);
  if (a.q.numel() == 0) {
    if (d_key_bias.defined()) d_key_bias.zero_();
    return {at::zeros_like(a.q), at::zeros_like(a.k), at::zeros_like(a.v), d_key_bias};
  }
  const at::Tensor d_out = d_out_in.to(at::kBFloat16).contiguous();
  at::Tensor dq = at::empty_like(a.q), dk = at::empty_like(a.k), dv = at::empty_like(a.v);
  const auto index =
      kernels::cluster_index_layout(s, const_cast<void*>(kept.index.const_data_ptr()));
  const at::Tensor clustered = permute(s, index, a, stream);
  at::Tensor workspace = bytes(kernels::cluster_attention_backward_workspace_bytes(s), a.q);
  const kernels::ClusterAttentionGradients gradients{
      kept.out.const_data_ptr(),
      d_out.const_data_ptr(),
      kept.lse.const_data_ptr<float>(),
      dq.mutable_data_ptr(),
      dk.mutable_data_ptr(),
      dv.mutable_data_ptr(),
      d_key_bias.defined() ? d_key_bias.mutable_data_ptr<float>() : nullptr};
  C10_CUDA_CHECK(kernels::launch_cluster_attention_backward(
      s, index, inputs(a, clustered), gradients, workspace.mutable_data_ptr(), stream));
  return {dq, dk, dv, d_key_bias};
}

const bool kRegistered = [] {
  cluster_attention_backend(at::kCUDA) = {cluster_attention_forward_cuda,
                                          cluster_attention_backward_cuda};
  return true;
}();

}  // namespace
}  // namespace dsrsq::ops
