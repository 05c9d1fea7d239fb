// Attention over a buffer of latents: c numbers a token for its key, c for its value, of all heads
// together (design D11, D13).
#pragma once

#include "kernels/common.h"

namespace dsrsq::kernels {

inline constexpr int64_t kLatentHeadWidth = 64;    // d
inline constexpr int64_t kLatentMostWidth = 128;   // c is 32, 64 or 128
inline constexpr int64_t kLatentMostBuckets = 62;  // A
// Rows of a key-value head from which tiles of 64 are faster than blocks of four.
inline constexpr int64_t kLatentManyRows = 17;

struct LatentAttentionSizes {
  int64_t batch;     // B
  int64_t heads;     // H, a multiple of kv_heads
  int64_t kv_heads;  // H_kv
  int64_t queries;   // T
  int64_t slots;     // L, may be 0
  int64_t width;     // c
  int64_t buckets;   // A, of age_bias
  float scale;       // of q . k
  // Keys are rebuilt and rotated; otherwise absorbed.
  bool rotates;
  float rotary_scale;
  double turns[kLatentHeadWidth / 2];  // of each pair, a position: radians / (2 pi)
};

// All contiguous, on the device of the stream, rows at multiples of 16 bytes.
struct LatentAttentionInputs {
  const void* q;  // [B, H, T, d]
  ElementType query_type;
  const void* key_latents;    // [B, L, c]
  const void* value_latents;  // [B, L, c]
  ElementType latent_type;
  const float* key_projection;    // [c, H_kv d]
  const float* value_projection;  // [c, H_kv d]
  const bool* valid;              // [B, L], or null: all are
  const float* key_bias;          // [B, L], or null
  const float* age_bias;          // [H, A], or null with the two orders
  const int64_t* query_order;     // [B, T]
  const int64_t* key_order;       // [B, L]
  const int64_t* positions;       // [B, L] where keys are rotated
};

// out [B, H, T, d] of the queries' type, lse fp32 [B, H, T] (natural logarithm). One launch. B, H
// and T must be at least 1. fp32 latents are multiplied at 16 bits of mantissa where keys are
// rebuilt, else in fp32; of bf16 queries and latents in number, weights and absorbed queries become
// bf16 (tiles). Every sum has an order that depends on the sizes alone.
cudaError_t launch_latent_attention(const LatentAttentionSizes& sizes,
                                    const LatentAttentionInputs& in, void* out, float* lse,
                                    cudaStream_t stream);

}  // namespace dsrsq::kernels
