// Column sums of the softmax probabilities: how much each key is attended (design D12).
#pragma once

#include "kernels/common.h"

namespace dsrsq::kernels {

inline constexpr int64_t kAttentionMassMaxWidth = 256;      // d
inline constexpr int64_t kAttentionMassMaxClusters = 1024;  // m

struct AttentionMassSizes {
  int64_t batch;     // B
  int64_t heads;     // H, a multiple of kv_heads
  int64_t kv_heads;  // H_kv
  int64_t queries;   // N_q
  int64_t keys;      // N
  int64_t width;     // d, a multiple of 8, at most kAttentionMassMaxWidth
  float scale;       // of q . k
  // With routes:
  int64_t clusters;  // m
  int64_t slots;     // clusters of a query, k
  int64_t window;    // newest positions that a query sees, its own among them
  int64_t sinks;     // positions that every query sees: those before this one
};

// All contiguous, on the device of the stream, rows at multiples of 16 bytes.
struct AttentionMassInputs {
  const void* q;  // [B, H, N_q, d]
  const void* k;  // [B, H_kv, N, d]
  ElementType type;
  const float* lse;           // [B, H, N_q], natural logarithm
  const int* query_position;  // [B, N_q]; negative: the query does not count
  const int* key_position;    // [B, N]; negative: the key is not seen
  const float* key_bias;      // [B, H_kv, N], added to the logits, or null
  const int* assignment;      // [B, H_kv, N], -1: of no cluster; null: every key is routed to
  const int* routes;          // [B, H, N_q, k], -1: unused; null with assignment
};

// mass, squared: fp32 [B, H_kv, N]; the sums, over the queries of the head's group, of
// p = exp(scale q . k + bias - lse) and of p^2. fp32 inputs are multiplied as sums of two bf16
// numbers (16 bits of mantissa). Every element is summed by one block in a fixed order. B, H, N_q
// and N must be at least 1.
cudaError_t launch_attention_mass(const AttentionMassSizes& sizes, const AttentionMassInputs& in,
                                  float* mass, float* squared, cudaStream_t stream);

}  // namespace dsrsq::kernels
