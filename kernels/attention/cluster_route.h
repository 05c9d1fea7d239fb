// Scores of vectors against the centroids of their head, and what is chosen by them, in one pass:
// the clusters of each query, or the cluster of each key.
//
// Vectors are bf16 and go through the matrix units. Routing takes the centroids rounded to bf16 and
// compares scores at 13 bits of mantissa, so near ties may fall otherwise than in fp32; they always
// fall alike. Assignment takes the centroids as the sum of two bf16 numbers (16 bits of mantissa)
// and compares in fp32; ties go to the lowest cluster.
#pragma once

#include "kernels/common.h"

namespace dsrsq::kernels {

inline constexpr int64_t kRouteMaxSlots = 8;

struct RouteSizes {
  int64_t batch;
  int64_t heads;     // of the vectors
  int64_t kv_heads;  // of the centroids; heads is a multiple
  int64_t tokens;
  int64_t width;  // 64 or 128
  int64_t clusters;
  int64_t slots;  // clusters of a query, at most kRouteMaxSlots and m; unused by assignment
  bool centroids_by_batch;  // centroids have a batch dimension
};

// Routing needs the centroids of a head in shared memory; assignment takes them in parts.
bool cluster_route_fits(const RouteSizes& sizes);
bool cluster_nearest_fits(const RouteSizes& sizes);
int64_t cluster_route_workspace_bytes(const RouteSizes& sizes);

// queries bf16 [B, H, N, d], centroids fp32 [B or 1, H_kv, m, d] -> routes int32 [B, H, N, k], best
// first.
cudaError_t launch_cluster_route(const RouteSizes& sizes, const void* queries,
                                 const float* centroids, int* routes, void* workspace,
                                 cudaStream_t stream);

struct NearestOutputs {
  int64_t* assignment;  // [B, H_kv, N]
  int16_t* compact;     // the same, [H_kv, B N]
  float* inverse_norm;  // [H_kv, B N], 1 / ||k||; 0 for a zero key
  float* score;         // [H_kv, B N], scratch: the best so far
};

// keys bf16 [B, H_kv, N, d], centroids fp32 [H_kv, m, d], bias fp32 [H_kv, m], valid bool [B, N] or
// null: argmax of k . c / ||k|| + bias; -1 where not valid. Scores that are not numbers lose.
cudaError_t launch_cluster_nearest(const RouteSizes& sizes, const void* keys,
                                   const float* centroids, const float* bias, const bool* valid,
                                   const NearestOutputs& out, void* workspace, cudaStream_t stream);

}  // namespace dsrsq::kernels
