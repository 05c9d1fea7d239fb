// What a layer remembers of a batch of sequences: exact entries, and the latent buffer that older
// ones go into. State is apart from weights: a method gets it passed in, so one set of weights
// serves many sequences.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace dsrsq {

// Compressed entries (D11, D12). Undefined tensors: nothing was compressed yet.
struct LatentBuffer {
  at::Tensor keys;       // [B, L, c]  P_k k, before RoPE
  at::Tensor values;     // [B, L, c]  P_v v
  at::Tensor positions;  // [B, L] int64, for RoPE
  at::Tensor order;      // [B, L] int64, rank in the reader's sequence
  at::Tensor priority;   // [B, L] fp64, the reservoir's keys; -inf in an empty slot
  at::Tensor valid;      // [B, L] bool

  bool empty() const { return !keys.defined(); }
  int64_t bytes() const;
};

// Exact entries of one layer, oldest first; the first `sinks` never leave.
struct LayerState {
  at::Tensor keys;       // [B, H_kv, K, d], rotated
  at::Tensor values;     // [B, H_kv, K, d]
  at::Tensor positions;  // [B, K] int64, what RoPE rotated by
  at::Tensor order;      // [B, K] int64, rank in the reader's sequence (padding does not count)
  at::Tensor valid;      // [B, K] bool; false: padding
  at::Tensor cluster;    // [B, H_kv, K] int64; undefined where SQA is off
  at::Tensor mass;  // [B, K] fp32, squared attention summed over heads and queries; undefined where
                    // nothing needs it
  at::Tensor exposure;  // [B, K] fp32, queries that could attend the entry
  LatentBuffer latents;

  int64_t entries() const { return keys.defined() ? keys.size(2) : 0; }
  // Appends entries; cluster, mass and exposure are appended where they are kept (mass and exposure
  // start at 0).
  void append(const at::Tensor& new_keys, const at::Tensor& new_values,
              const at::Tensor& new_positions, const at::Tensor& new_order,
              const at::Tensor& new_valid, const at::Tensor& new_cluster, bool keep_mass);
  // Keeps the entries at `index` int64 [B, kept].
  void keep(const at::Tensor& index);
  int64_t bytes() const;  // all tensors, latents included (D24)
  void detach();          // truncates back-propagation
};

// x [B, K, ...] or [B, H, K, ...] along `dim` by index [B, kept].
at::Tensor gather_entries(const at::Tensor& x, const at::Tensor& index, int64_t dim);

}  // namespace dsrsq
