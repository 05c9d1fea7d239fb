// Attention over clusters by plain tensor operations under a mask, a chunk of queries at a time:
// memory is linear in the number of keys, work is that of dense attention. In fp32, or in double
// where the inputs are, on any device; for what no fused implementation takes, and to check those.
#pragma once

#include "cluster_attention_backend.h"

namespace dsrsq::ops {

ClusterAttentionKept cluster_attention_forward_plain(const ClusterAttentionArguments& a);
ClusterAttentionGradients cluster_attention_backward_plain(const ClusterAttentionArguments& a,
                                                           const ClusterAttentionKept& kept,
                                                           const at::Tensor& d_out);

}  // namespace dsrsq::ops
