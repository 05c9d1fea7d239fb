#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include "cluster_attention_checks.h"
#include "cluster_route_plain.h"
#include "kernels/attention/cluster_route.h"

namespace dsrsq::ops {
namespace {

at::Tensor cluster_route_cuda(const at::Tensor& queries, const at::Tensor& centroids,
                              int64_t slots) {
  check_cluster_route(queries, centroids, slots);
  const c10::cuda::CUDAGuard guard(queries.device());
  const kernels::RouteSizes s{queries.size(0), queries.size(1),      centroids.size(1),
                              queries.size(2), queries.size(3),      centroids.size(2),
                              slots,           centroids.size(0) > 1};
  if (queries.scalar_type() != at::kBFloat16 || !kernels::cluster_route_fits(s)) {
    return cluster_route_plain(queries, centroids, slots);
  }
  const at::Tensor q = queries.contiguous(), c = centroids.contiguous();
  at::Tensor routes =
      at::empty({s.batch, s.heads, s.tokens, slots}, queries.options().dtype(at::kInt));
  if (queries.numel() == 0) return routes;
  at::Tensor workspace =
      at::empty({kernels::cluster_route_workspace_bytes(s)}, queries.options().dtype(at::kByte));
  C10_CUDA_CHECK(kernels::launch_cluster_route(
      s, q.const_data_ptr(), c.const_data_ptr<float>(), routes.mutable_data_ptr<int>(),
      workspace.mutable_data_ptr(), c10::cuda::getCurrentCUDAStream().stream()));
  return routes;
}

}  // namespace

TORCH_LIBRARY_IMPL(dsrsq, CUDA, m) { m.impl("cluster_route", cluster_route_cuda); }

}  // namespace dsrsq::ops
