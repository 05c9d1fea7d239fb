// What every implementation of cluster_attention demands of its arguments.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace dsrsq::ops {

// Throws c10::Error naming the argument, what was expected and what was found.
void check_cluster_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const at::Tensor& assignment, const at::Tensor& routes,
                             const std::optional<at::Tensor>& key_bias, int64_t clusters,
                             int64_t window, int64_t sinks);
void check_cluster_route(const at::Tensor& queries, const at::Tensor& centroids, int64_t slots);

}  // namespace dsrsq::ops
