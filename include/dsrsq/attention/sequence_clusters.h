// Clusters of one sequence's own keys (sqa.centroids: segment, kmeans; D9): spherical k-means, as
// ClusterKV and Squeezed Attention do, for each key-value head apart. A sequence's clusters depend
// on (its keys, seed, its sample id) only, never on padding or on its batch.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace dsrsq {

struct SequenceClusters {
  at::Tensor direction;  // [B, H_kv, m, d] fp32 unit centroids; 0 where there is no such cluster
  at::Tensor mean;       // [B, H_kv, m, d] fp32 mean of the raw member keys; 0 there too
  at::Tensor member;     // [B, H_kv, T] int64: cluster of each key, -1 where not valid
};

// keys [B, H_kv, T, d] before RoPE, valid [B, T] bool, order [B, T] int64 rank in the sequence. m =
// `clusters`, fewer where a sequence has fewer valid keys. Starts from distinct keys, drawn by
// Philox of (seed, sample id, rank). No gradient.
SequenceClusters cluster_sequence(const at::Tensor& keys, const at::Tensor& valid,
                                  const at::Tensor& order, int64_t clusters, int64_t seed,
                                  const std::vector<int64_t>& sample_ids);

// x [..., d] -> its rows at length 1; a row of length 0 stays 0.
at::Tensor unit_vectors(const at::Tensor& x);

// The frozen assignment of later keys: cluster of largest cosine, int64 [B, H_kv, T]; -1 where not
// valid or where the sequence has no cluster. Depends on the key alone.
at::Tensor nearest_cluster(const at::Tensor& keys, const at::Tensor& direction,
                           const at::Tensor& valid);

}  // namespace dsrsq
