// The kernels of the backward pass; each recomputes the weights from the log-sum-exp of all keys,
// so that every pair of query and key stands alone.
#pragma once

#include "kernels/attention/cluster_attention.h"

namespace dsrsq::kernels {

struct BackwardArguments {
  ClusterSizes s;
  ClusterIndex index;
  ClusterAttentionInputs in;
  ClusterAttentionGradients grad;
  // [B, H, N_q]: the log-sum-exp in units of log2, never below kNoLogSumExp, and the sum over
  // columns of out d_out.
  const float2* rows;
};

// dq, after launch_small_cluster_gradients: `partial` bf16 [heads, N_q k, d] is scratch for heads
// [first, end).
cudaError_t launch_query_gradients(const BackwardArguments& a, int64_t first, int64_t end,
                                   void* partial, cudaStream_t stream);

// Of the clusters of at most kSmallCluster keys, of width 64: dk, dv, d_key_bias, and `partial` as
// launch_query_gradients fills it for the others. `next`: scratch. Heads [first, end) hold all
// heads of their key-value heads.
cudaError_t launch_small_cluster_gradients(const BackwardArguments& a, int64_t first, int64_t end,
                                           void* partial, int* next, cudaStream_t stream);

// dk, dv, d_key_bias; scratch of key_gradient_workspace_bytes.
int64_t key_gradient_workspace_bytes(const ClusterSizes& s);
cudaError_t launch_key_gradients(const BackwardArguments& a, void* workspace, cudaStream_t stream);

}  // namespace dsrsq::kernels
