// Backward pass of cluster_attention on a CPU, for fp32 and bf16.
#pragma once

#include "cluster_attention_backend.h"

namespace dsrsq::ops {

constexpr double kLn2 = 0.6931471805599453;

ClusterAttentionGradients cluster_attention_backward_cpu(const ClusterAttentionArguments& arguments,
                                                         const ClusterAttentionKept& kept,
                                                         const at::Tensor& d_out);

}  // namespace dsrsq::ops
