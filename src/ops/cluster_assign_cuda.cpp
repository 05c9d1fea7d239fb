#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <optional>
#include <tuple>

#include "cluster_assign_checks.h"
#include "kernels/attention/cluster_assign.h"

namespace dsrsq::ops {
namespace {

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> cluster_assign_cuda(
    const at::Tensor& keys, const at::Tensor& centroids, const at::Tensor& bias,
    const std::optional<at::Tensor>& valid) {
  check_cluster_assign(keys, centroids, bias, valid);
  const kernels::ClusterAssignSizes sizes{keys.size(0), keys.size(1), keys.size(2), keys.size(3),
                                          centroids.size(1)};
  TORCH_CHECK(sizes.width <= kernels::kClusterAssignMaxWidth &&
                  sizes.clusters <= kernels::kClusterAssignMaxClusters,
              "cluster_assign: on CUDA the head width is at most ", kernels::kClusterAssignMaxWidth,
              " and m at most ", kernels::kClusterAssignMaxClusters, ", got d = ", sizes.width,
              " and m = ", sizes.clusters);
  const c10::cuda::CUDAGuard guard(keys.device());
  const bool bf16 = keys.scalar_type() == at::kBFloat16;
  const at::Tensor k = bf16 ? keys.contiguous() : keys.to(at::kFloat).contiguous();
  const at::Tensor c = centroids.contiguous();
  const at::Tensor offsets = bias.contiguous();
  const at::Tensor mask = valid.has_value() ? valid->contiguous() : at::Tensor();
  const auto fp32 = k.options().dtype(at::kFloat);

  at::Tensor assignment =
      at::empty({sizes.batch, sizes.heads, sizes.tokens}, fp32.dtype(at::kLong));
  if (keys.numel() == 0) {
    return {assignment.fill_(-1), at::zeros({sizes.heads, sizes.clusters, sizes.width}, fp32),
            at::zeros({sizes.heads, sizes.clusters, sizes.width}, fp32),
            at::zeros({sizes.heads, sizes.clusters}, fp32)};
  }
  at::Tensor raw_sum = at::empty({sizes.heads, sizes.clusters, sizes.width}, fp32);
  at::Tensor direction_sum = at::empty_like(raw_sum);
  at::Tensor count = at::empty({sizes.heads, sizes.clusters}, fp32);
  at::Tensor workspace =
      at::empty({kernels::cluster_assign_workspace_bytes(sizes)}, fp32.dtype(at::kByte));

  const kernels::ClusterAssignInputs in{
      k.const_data_ptr(), bf16 ? kernels::ElementType::kBFloat16 : kernels::ElementType::kFloat32,
      c.const_data_ptr<float>(), offsets.const_data_ptr<float>(),
      mask.defined() ? mask.const_data_ptr<bool>() : nullptr};
  const kernels::ClusterAssignOutputs out{
      assignment.mutable_data_ptr<int64_t>(), raw_sum.mutable_data_ptr<float>(),
      direction_sum.mutable_data_ptr<float>(), count.mutable_data_ptr<float>()};
  C10_CUDA_CHECK(kernels::launch_cluster_assign(sizes, in, out, workspace.mutable_data_ptr(),
                                                c10::cuda::getCurrentCUDAStream().stream()));
  return {assignment, raw_sum, direction_sum, count};
}

}  // namespace

TORCH_LIBRARY_IMPL(dsrsq, CUDA, m) { m.impl("cluster_assign", cluster_assign_cuda); }

}  // namespace dsrsq::ops
