// Sub-Quadratic Sparse Attention (SQA, paper section 3.3; D9, D10): keys belong to clusters, each
// query head attends inside its top clusters, a local window and the sinks, by an exact softmax
// over the keys at or before it.
//
// Centroids (`sqa.centroids`): by default a codebook per layer and key-value head, moving averages
// that only the training forward feeds and that change after the step, never during it: so no key's
// cluster depends on a later token (causal), and training, prefill and decode assign alike.
// Assignment is by direction (cosine plus a balance bias); routing is by q . mean of the raw member
// keys: the norm of keys matters to attention, so it must matter to routing. `segment` and `kmeans`
// cluster each sequence's own keys instead (attention/sequence_clusters.h); they have no codebook.
#pragma once

#include <torch/nn/module.h>

#include <string>
#include <vector>

#include "dsrsq/core/config.h"
#include "dsrsq/ops/attention_shape.h"

namespace dsrsq {

// sqa.clusters: auto: about the root of the longest text, a multiple of 32 from 32 to 1024, which
// is what the kernels take: 128 for 16K tokens, 384 for 128K, 1024 for 1M. A flat codebook: routing
// over it costs less than the attention does, and two levels with 64 keys a leaf would show the 8
// clusters of a query 0.4 % of 128K keys.
int64_t auto_clusters(int64_t max_length);

struct SqaConfig {
  bool enabled = true;
  int64_t clusters = 32;           // m; 0: auto. Read cluster_count()
  int64_t max_length = 0;          // tokens of the longest text; 0: not given
  int64_t clusters_per_query = 8;  // k
  int64_t window = 128;            // newest tokens, a query itself among them, that it always sees
  std::string route = "head";
  std::string centroids = "codebook";
  std::string kernel = "auto";
  int64_t dense_below = 0;
  double decay = 0.98;            // of the moving averages, a step
  double balance_step = 0.02;     // how much the bias of a cluster moves towards equal load, a step
  double reseed_below = 0.1;      // share of the mean load under which a cluster is dead
  int64_t cluster_count() const;  // m. Throws ConfigError where it is auto without max_length
  void visit_fields(ConfigVisitor& v);
};

// Assignment and routing; the codebooks of all layers where centroids are `codebook`. Buffers
// (saved in checkpoints), no parameters.
class SqaImpl : public torch::nn::Module {
 public:
  SqaImpl(const SqaConfig& config, const AttentionShape& shape, int64_t seed);

  // k [B, H_kv, T, d] before RoPE, valid [B, T] bool -> cluster of each key int64 [B, H_kv, T] (-1
  // where invalid). `accumulate`: add these keys to the sums that after_step folds into the
  // codebook (task forward in training only).
  at::Tensor assign(int64_t layer, const at::Tensor& k, const at::Tensor& valid, bool accumulate);

  // Starts a layer's codebook from these keys (spherical k-means) unless it has been started.
  // assign throws ConfigError on a codebook that never was.
  void start_from(int64_t layer, const at::Tensor& k, const at::Tensor& valid, int64_t step);

  // q [B, H, T, d] before RoPE -> int32 [B, H, T, k]: the top `clusters_per_query` of q . mean raw
  // member key. `k_override` > 0 replaces the number of clusters (curriculum).
  at::Tensor route(int64_t layer, const at::Tensor& q, int64_t k_override = 0) const;
  // The "random routing" probe: as many clusters, chosen by Philox of (seed, position, layer,
  // head). positions [B, T].
  at::Tensor route_randomly(const at::Tensor& positions, const at::Tensor& sample_ids,
                            int64_t layer, int64_t k_override = 0) const;
  // Routes as a mask over the clusters, bool [B, H, T, m].
  at::Tensor routed_mask(const at::Tensor& routes) const;

  // Routing over a sequence's own clusters. mean [B, H_kv, C, d]; available [B, H_kv, C] bool: the
  // clusters that can be chosen; limit [B] int64: how many a query chooses, at most `most`. ->
  // bool [B, H, T, C], by q . mean as above.
  at::Tensor route_sequence(const at::Tensor& q, const at::Tensor& mean,
                            const at::Tensor& available, const at::Tensor& limit,
                            int64_t most) const;
  // The probe: by Philox of (seed, rank of the query, layer, head, place among the available
  // clusters). order [B, T].
  at::Tensor route_sequence_randomly(const at::Tensor& order, const at::Tensor& sample_ids,
                                     int64_t layer, const at::Tensor& available,
                                     const at::Tensor& limit, int64_t most) const;

  // Folds the accumulated sums into the moving averages, moves the balance bias, reseeds dead
  // clusters from the means of live ones with noise given by (seed, step, layer, head). Call once a
  // training step.
  void after_step(int64_t step);

  // A layer's codebook: unit vectors that keys are compared with [H_kv, m, d], means of the raw
  // member keys that queries are compared with [H_kv, m, d], the balance bias [H_kv, m]; fp32.
  at::Tensor directions(int64_t layer) const;
  at::Tensor means(int64_t layer) const;
  at::Tensor bias(int64_t layer) const { return bias_[layer]; }

  bool has_codebook() const { return config_.centroids == "codebook"; }
  bool started() const;   // the codebook has been fed; true where there is none to feed
  int64_t bytes() const;  // of the codebooks
  at::Tensor load(
      int64_t layer) const;  // [H_kv, m] moving count of members, for balance statistics
  const SqaConfig& config() const { return config_; }

 private:
  at::Tensor scores(const at::Tensor& q, const at::Tensor& mean) const;
  void require_started(int64_t layer);
  at::Tensor random_scores(const at::Tensor& positions, const at::Tensor& sample_ids, int64_t layer,
                           int64_t clusters, uint64_t stride) const;

  SqaConfig config_;
  AttentionShape shape_;
  int64_t seed_;
  // Per layer, stacked: [layers, H_kv, m, d] or [layers, H_kv, m].
  at::Tensor direction_sum_, raw_sum_, count_, bias_, started_;
  // On the host, so that no layer waits for the device: layers of `started_` as it was at this
  // version of the tensor.
  std::vector<bool> known_started_;
  int64_t known_version_ = -1;
  // Of the step that is running.
  at::Tensor step_direction_sum_, step_raw_sum_, step_count_;
};
TORCH_MODULE(Sqa);

// bool [B, H, T, keys]: the keys that a query's window, sinks and clusters give it; a key of
// cluster -1 belongs to none (its segment is open, say) and is given to every query. query_order
// [B, T] and key_order [B, keys] are ranks in the reader's sequence; sinks are the keys of rank <
// `sinks`; routed [B, H, T, m]; cluster [B, H_kv, keys]. Causality (key_order <= query_order) is
// included.
at::Tensor sparse_mask(const at::Tensor& query_order, const at::Tensor& key_order,
                       const at::Tensor& key_valid, const at::Tensor& routed,
                       const at::Tensor& cluster, int64_t window, int64_t sinks,
                       int64_t dense_below);

}  // namespace dsrsq
