// What both implementations of cluster_assign demand of their arguments.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

namespace dsrsq::ops {

// Throws c10::Error naming the argument, what was expected and what was found.
void check_cluster_assign(const at::Tensor& keys, const at::Tensor& centroids,
                          const at::Tensor& bias, const std::optional<at::Tensor>& valid);

}  // namespace dsrsq::ops
