// What a layer remembers of a batch of sequences: exact entries, and the latent buffer that older
// ones go into. State is apart from weights: a method gets it passed in, so one set of weights
// serves many sequences.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
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
  at::Tensor bias;       // [B, L] fp32 added to every logit of the entry; undefined: 0

  bool empty() const { return !keys.defined(); }
  int64_t bytes() const;
};

// A tensor with room behind the entries that it holds, so that one more a step costs no copy of all
// before it.
class GrowingEntries {
 public:
  // `old` and `more` side by side along `dim`, as a view into the room where `old` is the last that
  // this returned and nobody else (a copy of the state) has gone on from there; else in a new room.
  // For tensors without gradient; the room's other entries are never changed.
  at::Tensor append(const at::Tensor& old, const at::Tensor& more, int64_t dim);

 private:
  struct Room {
    at::Tensor all;
    int64_t used = 0;
  };
  std::shared_ptr<Room> room_;
};

// Key-value heads of one layer that hold equally many exact entries, each its own tokens, oldest
// first: what eviction a head leaves (SnapKV and its kin). Positions need no tensor of their own:
// keys stay rotated by the place that they were read at.
struct HeadEntries {
  at::Tensor heads;   // [h] int64, which of the layer's H_kv heads, ascending; undefined: all
  at::Tensor keys;    // [B, h, K, d], rotated
  at::Tensor values;  // [B, h, K, d]
  at::Tensor order;   // [B, h, K] int32, rank in the reader's sequence
  at::Tensor valid;   // [B, h, K] bool; undefined: every entry is
  at::Tensor bias;  // [B, h, K] fp32 added to every logit of the entry: the logarithm of the number
                    // of tokens that it stands for; undefined: 0

  // Appends the same tokens to every head: keys and values [B, H_kv, T, d] of all of the layer's
  // heads, order [B, T], valid [B, T] bool (undefined: all valid).
  void append(const at::Tensor& new_keys, const at::Tensor& new_values, const at::Tensor& new_order,
              const at::Tensor& new_valid);
  // x [B, H_kv, ...] -> [B, h, ...], the heads of this group.
  at::Tensor own_heads(const at::Tensor& x) const;
  int64_t bytes() const;  // all tensors (D24)

 private:
  GrowingEntries growing_keys_, growing_values_, growing_order_, growing_valid_, growing_bias_;
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
  at::Tensor bias;      // [B, K] fp32 added to every logit of the entry; undefined: 0
  // The sequence's own clusters (sqa.centroids: segment, kmeans), C of them; undefined elsewhere.
  at::Tensor cluster_direction;  // [B, H_kv, C, d] fp32 unit centroids, 0 where there is no cluster
  at::Tensor cluster_mean;       // [B, H_kv, C, d] fp32 mean of the raw member keys
  bool padded = false;           // some entry may be padding (known on the host)
  int64_t closed = 0;  // leading entries whose segment has closed (sqa.centroids: segment)
  LatentBuffer latents;
  // Where not empty, heads hold entries of their own, and the tensors above are undefined.
  std::vector<HeadEntries> head_groups;

  int64_t entries() const { return keys.defined() ? keys.size(2) : 0; }
  // Appends entries; cluster, mass, exposure and bias are appended where they are kept (mass and
  // exposure start at 0; entries that come without a bias beside some that have one get 0).
  void append(const at::Tensor& new_keys, const at::Tensor& new_values,
              const at::Tensor& new_positions, const at::Tensor& new_order,
              const at::Tensor& new_valid, const at::Tensor& new_cluster, bool keep_mass,
              const at::Tensor& new_bias = {}, bool new_padded = true);
  // Appends values alone, of a layer that scores no keys (Method::scores_keys).
  void append_values(const at::Tensor& new_values);
  // Keeps the entries at `index` int64 [B, kept].
  void keep(const at::Tensor& index);
  // All tensors, latents included (D24); without the room kept for the next entries, at most an
  // eighth of keys and values, or 64 entries.
  int64_t bytes() const;
  void detach();  // truncates back-propagation

  // Room for `tokens` more entries, appended one at a time, so that no shape changes while a
  // recorded step is replayed: until release() the tensors are as long as the room is, what is not
  // written yet is padding, and append() writes in place where a counter on the device says. Copies
  // of the state made from here on must not be read on. For states without head_groups.
  void reserve(int64_t tokens);
  // Back to what is held: `appended` entries more than before reserve(). `padded`: some of them are
  // padding.
  void release(int64_t appended, bool padded);

 private:
  void write(const at::Tensor& new_keys, const at::Tensor& new_values,
             const at::Tensor& new_positions, const at::Tensor& new_order,
             const at::Tensor& new_valid, const at::Tensor& new_cluster);

  GrowingEntries growing_keys_, growing_values_;
  at::Tensor next_place_;    // [1] int64, of the next entry; undefined: no room is reserved
  int64_t held_before_ = 0;  // entries when room was reserved
  bool padded_before_ = false;
};

// Biases of old entries [B, K] and new ones [B, T] side by side; a missing one is 0, both missing
// stay undefined.
at::Tensor join_bias(const at::Tensor& old_bias, int64_t old_entries, const at::Tensor& new_bias,
                     int64_t new_entries);

// x [B, K, ...] or [B, H, K, ...] along `dim` by index [B, kept].
at::Tensor gather_entries(const at::Tensor& x, const at::Tensor& index, int64_t dim);

}  // namespace dsrsq
