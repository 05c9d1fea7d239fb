// Which implementation serves attention over clusters (sqa.kernel; D10), and those by operator
// (native, aten): a layer's entries as ops::cluster_attention reads them; and which one reads the
// latents (rckv.kernel). What a query attends is the same in all.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <optional>
#include <string>

#include "dsrsq/attention/dense.h"
#include "dsrsq/methods/dsrsq.h"
#include "dsrsq/ops/cluster_attention.h"

namespace dsrsq {

// Why ops::cluster_attention, plain with sqa.kernel: aten, cannot serve queries of this type there;
// empty: it can. `type`: what attention is computed in, bf16 under autocast. `with_mass`: the
// entries' attention is wanted, too (add_attention_mass).
std::string operator_obstacle(const SqaConfig& sqa, const TransformerConfig& model,
                              at::Device device, at::ScalarType type, bool with_mass);

// Why ops::latent_attention cannot read the buffer there, empty: it can.
std::string latent_obstacle(const RckvConfig& rckv, const TransformerConfig& model,
                            at::Device device);

// One line for a run's start: what sqa.kernel chooses, why, and which passes it leaves to
// masked_dense.
std::string describe_sqa_kernel(const DsrsqConfig& config, const TransformerConfig& model,
                                at::Device device, at::ScalarType type);

// The same of rckv.kernel.
std::string describe_rckv_kernel(const RckvConfig& rckv, const TransformerConfig& model,
                                 at::Device device);

// Queries that are the newest T of a layer's entries, with the softmax over other keys (`other`)
// where there are some.
struct ClusterRead {
  at::Tensor q;         // [B, H, T, d], rotated
  at::Tensor routes;    // [B, H, T, k] int32; undefined: every entry is attended, whatever follows
  at::Tensor valid;     // [B, T] bool; false: padding
  int64_t clusters;     // m
  int64_t window;       // newest tokens that a query always sees
  int64_t sinks;        // the first entries, never padding
  int64_t dense_below;  // queries of lower rank see every entry; above 0 only where nothing is
                        // padded and nothing was evicted
  bool plain;           // sqa.kernel: aten
};
// -> out [B, H, T, d] and lse [B, H, T] of the joined softmax. Differentiable in q, the entries and
// `other`, through out alone.
ops::ClusterAttention read_clusters(const ClusterRead& read, const LayerState& layer,
                                    const std::optional<PartialAttention>& other);

// Adds to layer.mass what the queries gave the entries, squared, in the softmax of denominators
// `lse` (D12); without the probabilities.
void add_attention_mass(const ClusterRead& read, const at::Tensor& query_order,
                        const at::Tensor& lse, LayerState& layer);

}  // namespace dsrsq
