// The tiles of queries and keys that attention over clusters on a CPU is made of, the same for the
// forward and the backward pass.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "cluster_attention_backend.h"
#include "cluster_order_cpu.h"

namespace dsrsq::ops {

// Of a tile of logits.
constexpr int64_t kTileRows = 60, kTileColumns = 160;

// Arguments as the tasks read them: contiguous; q, k and v of fp32 or bf16.
struct ClusterCpuInputs {
  explicit ClusterCpuInputs(const ClusterAttentionArguments& arguments);
  Rows rows(const at::Tensor& x) const;  // x of the type of q
  const int32_t* assignment_of(int64_t kv) const;
  KeySource keys_of(int64_t kv) const;
  const int32_t* routes_of(int64_t head, int64_t query) const;  // head of [B, H]
  int64_t kv_of(int64_t head) const;

  ClusterAttentionArguments a;
  ClusterCpuSizes sizes;
};

// All keys in cluster order, packed: what both passes read of each cluster.
class ClusteredKeys {
 public:
  ClusteredKeys(const ClusterCpuInputs& inputs, bool backward);
  std::vector<Stage> stages();  // that fill it, to run before any other use
  const ClusterOrder& order() const { return order_; }
  PackedKeys at(int64_t kv, int64_t place) const;

 private:
  KeyArrays<float> buffers(int64_t kv, int64_t place) const;

  const ClusterCpuInputs& inputs_;
  ClusterOrder order_;
  bool in_place_;  // rows of keys and values are read where they are
  at::Tensor k_panels_, k_rows_, v_panels_, v_rows_, bias_;
};

// Queries `rows` of a block against `columns` keys side by side.
struct KeyTile {
  int64_t rows;
  const int32_t* row;        // [rows], of the block, ascending
  const int32_t *from, *to;  // [rows]: columns that the row sees
  int64_t columns;           // a multiple of 16
  int64_t keys;              // columns that are keys at all
  PackedKeys packed;         // of the first column
  const int32_t* places;     // [keys] in cluster order; null: ascending from `place`
  int64_t place;
};

// Calls `visit` for every tile of the queries [first, first + rows) of `head`, a block: sinks, then
// the window, then clusters in ascending order. Each key that a query sees is in one tile of its.
void visit_tiles(const ClusterCpuInputs& inputs, const ClusteredKeys& keys, int64_t head,
                 int64_t first, int64_t rows, bool backward, Scratch& scratch,
                 const std::function<void(const KeyTile&)>& visit);

}  // namespace dsrsq::ops
