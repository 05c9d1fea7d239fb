// What the forward and the backward pass of cluster_attention on a CPU share: keys in the order of
// their clusters, and which queries of a block go to which cluster.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "cluster_attention_backend.h"
#include "cpu_stages.h"
#include "cpu_tiles.h"

namespace dsrsq::ops {

// Rows of a [.., width] tensor of fp32 or bf16, as fp32 rows of `padded` numbers, zero beyond
// width.
struct Rows {
  const void* data;
  bool bf16;
  int64_t width, padded;
  void read(int64_t row, float* to) const;
  // The row where it lies, if it is what `read` would give; else null.
  const float* in_place(int64_t row) const {
    return bf16 || width != padded ? nullptr : static_cast<const float*>(data) + row * width;
  }
  void prefetch(int64_t row) const;
  // Rows one after another: in place, or copied to `buffer`.
  const float* read_block(int64_t first, int64_t count, float* buffer) const;
};
void write_row(const float* from, void* data, bool bf16, int64_t row, int64_t width);

// 16 rows of `padded` numbers -> panel [padded][16].
void transpose_panel(const float* const* rows, int64_t padded, float* panel);
// `count` rows side by side -> panels; beyond the last row its copies.
void transpose_panels(const float* rows, int64_t count, int64_t padded, float* panels);

struct ClusterCpuSizes {
  explicit ClusterCpuSizes(const ClusterAttentionArguments& a);
  int64_t batch, heads, kv_heads, queries, keys, width, clusters, slots, window, sinks;
  int64_t padded;  // width, up to a multiple of 16
  int64_t group;   // query heads of a key-value head
  int64_t offset;  // position of the first query
  int64_t places;  // of keys in cluster order, with gaps; a multiple of 16
  float scale;     // of q . k, for logits to base 2
  int64_t block;   // queries of a task
  int64_t blocks() const { return (queries + block - 1) / block; }
  int64_t kv() const { return batch * kv_heads; }
};

// The keys of each key-value head sorted by cluster, stable: positions ascend in a cluster, so what
// a query sees of it is a prefix. Each cluster begins at a multiple of 16 places. Sinks are in no
// cluster, so that they count once; they and the keys that nobody sees come last.
struct ClusterOrder {
  explicit ClusterOrder(const ClusterCpuSizes& sizes);
  void sort(int64_t kv, const int32_t* assignment);  // [keys]

  const int32_t* first_of(int64_t kv) const { return first.data() + kv * (clusters + 2); }
  const int32_t* count_of(int64_t kv) const { return count.data() + kv * (clusters + 1); }
  const int32_t* position_of(int64_t kv) const { return position.data() + kv * places; }
  const int32_t* place_of(int64_t kv) const { return place.data() + kv * keys; }

  int64_t clusters, places, keys, sinks;
  std::vector<int32_t> first;     // [kv, m + 2]: place of a cluster's first key; m: the rest
  std::vector<int32_t> count;     // [kv, m + 1]: keys
  std::vector<int32_t> position;  // [kv, places]; -1 in gaps
  std::vector<int32_t> place;     // [kv, keys]
};

// Keys and values of one range of places or positions, as the products need them; null: not wanted.
template <typename Float>
struct KeyArrays {
  Float* k_panels;  // [count / 16][padded][16]
  Float* k_rows;    // [count][padded]
  Float* v_panels;
  Float* v_rows;
  Float* bias;                         // [count], to base 2; -infinity for a key that nobody sees
  const int32_t* row_index = nullptr;  // of k_rows and v_rows; null: side by side
};
using PackedKeys = KeyArrays<const float>;

struct KeySource {
  Rows k, v;
  const float* bias;          // [keys] of the head, or null
  const int32_t* assignment;  // [keys] of the head
  int64_t first_row;          // of the head in k and v
};

// Keys positions[0 .. count), count a multiple of 16; where a position is -1, zeros.
void pack_keys(const KeySource& source, int64_t count, const int32_t* positions,
               const KeyArrays<float>& to, Scratch& scratch);

// The rows of a block of queries by cluster, ascending.
struct BlockRoutes {
  BlockRoutes(const int32_t* routes, int64_t rows, int64_t slots, int64_t clusters,
              Scratch& scratch);
  const int32_t* rows_of(int64_t cluster) const { return rows + first[cluster]; }
  int64_t count_of(int64_t cluster) const { return count[cluster]; }
  int32_t *first, *count, *rows;
};

}  // namespace dsrsq::ops
