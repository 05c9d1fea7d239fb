// Routing by a product and topk, for what no fused kernel takes.
#pragma once

#include <ATen/core/Tensor.h>

namespace dsrsq::ops {

at::Tensor cluster_route_plain(const at::Tensor& queries, const at::Tensor& centroids,
                               int64_t slots);

}  // namespace dsrsq::ops
