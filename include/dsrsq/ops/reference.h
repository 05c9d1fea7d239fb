// Oracles: the formula of each operator, written in plain ATen in fp64 with explicit masks. They
// share no code with the implementations, run on any device, and are slow on purpose. Only tests
// and benchmarks' checks call them.
#pragma once

#include "dsrsq/ops/cluster_assign.h"

namespace dsrsq::ops::reference {

// As ops::cluster_assign; sums and counts come back in fp64.
ClusterAssignment cluster_assign(const at::Tensor& keys, const at::Tensor& centroids,
                                 const at::Tensor& bias,
                                 const std::optional<at::Tensor>& valid = std::nullopt);

}  // namespace dsrsq::ops::reference
