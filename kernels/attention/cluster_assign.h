// Assigns each key to its nearest centroid and sums the members of each cluster (design D9).
#pragma once

#include "kernels/common.h"

namespace dsrsq::kernels {

inline constexpr int64_t kClusterAssignMaxWidth = 128;      // d
inline constexpr int64_t kClusterAssignMaxClusters = 1024;  // m

struct ClusterAssignSizes {
  int64_t batch;     // B
  int64_t heads;     // H_kv
  int64_t tokens;    // T
  int64_t width;     // d, 1 to kClusterAssignMaxWidth
  int64_t clusters;  // m, 1 to kClusterAssignMaxClusters
};

// All contiguous, on the device of the stream.
struct ClusterAssignInputs {
  const void* keys;  // [B, H_kv, T, d]
  ElementType key_type;
  const float* centroids;  // [H_kv, m, d]
  const float* bias;       // [H_kv, m]
  const bool* valid;       // [B, T], or null: all valid
};

struct ClusterAssignOutputs {
  int64_t* assignment;   // [B, H_kv, T]
  float* raw_sum;        // [H_kv, m, d]
  float* direction_sum;  // [H_kv, m, d]
  float* count;          // [H_kv, m]
};

// Bytes of scratch that the launcher needs; 256-byte alignment.
int64_t cluster_assign_workspace_bytes(const ClusterAssignSizes& sizes);

// Same bits on every run and every device of one architecture: no atomics, every sum in a fixed
// order. B, H_kv and T must be at least 1.
cudaError_t launch_cluster_assign(const ClusterAssignSizes& sizes, const ClusterAssignInputs& in,
                                  const ClusterAssignOutputs& out, void* workspace,
                                  cudaStream_t stream);

}  // namespace dsrsq::kernels
