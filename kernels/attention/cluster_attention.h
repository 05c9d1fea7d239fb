// Attention over the clusters that a query was routed to, its local window and the sinks, as one
// softmax (designs D10, D13); forward and backward.
//
// A key counts once: a query sees of its clusters only the keys before its window that are not
// sinks. Work runs cluster by cluster: a block takes 64 of a cluster's queries and its keys as far
// as they can see, and writes a normalised partial result a pair (query, slot); a second kernel
// attends to window and sinks and joins the partial results by log-sum-exp, in the order of slots.
// No sum depends on which thread comes first: the same bits on every run.
#pragma once

#include "kernels/attention/cluster_index.h"

namespace dsrsq::kernels {

struct ClusterAttentionInputs {
  const void* q;  // bf16 [B, H, N_q, d]
  const void* k;  // bf16 [B, H_kv, N, d]
  const void* v;
  const int* assignment;  // int32 [B, H_kv, N]; a key of -1 is seen by nobody
  const int* routes;      // int32 [B, H, N_q, k]
  const float* key_bias;  // fp32 [B, H_kv, N], added to the logits, or null
  const void* clustered;  // launch_cluster_permute
};

// Heads whose partial results exist at a time; more heads a time, more memory and fewer launches.
int64_t cluster_attention_heads_at_once(const ClusterSizes& sizes);
int64_t cluster_attention_forward_workspace_bytes(const ClusterSizes& sizes);
int64_t cluster_attention_backward_workspace_bytes(const ClusterSizes& sizes);

// out bf16 [B, H, N_q, d], lse fp32 [B, H, N_q] (natural logarithm). A query that sees no key gets
// zeros and -infinity.
cudaError_t launch_cluster_attention_forward(const ClusterSizes& sizes, const ClusterIndex& index,
                                             const ClusterAttentionInputs& in, void* out,
                                             float* lse, void* workspace, cudaStream_t stream);

struct ClusterAttentionGradients {
  const void* out;    // of the forward pass
  const void* d_out;  // bf16 [B, H, N_q, d]
  const float* lse;
  void* dq;  // bf16
  void* dk;
  void* dv;
  float* d_key_bias;  // fp32 [B, H_kv, N], or null
};

cudaError_t launch_cluster_attention_backward(const ClusterSizes& sizes, const ClusterIndex& index,
                                              const ClusterAttentionInputs& in,
                                              const ClusterAttentionGradients& grad,
                                              void* workspace, cudaStream_t stream);

}  // namespace dsrsq::kernels
