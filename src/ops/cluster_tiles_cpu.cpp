#include "cluster_tiles_cpu.h"

#include <ATen/ops/empty.h>

#include <algorithm>

namespace dsrsq::ops {
namespace {

// Queries that share a tile of their windows: with more of them it grows by keys that few see.
constexpr int64_t kNearRows = 16;
constexpr int64_t kPlacesPerTask = 1024;  // that one task packs

template <typename Float>
KeyArrays<Float> offset(const KeyArrays<Float>& keys, int64_t columns, int64_t padded) {
  const auto by = [](auto* p, int64_t count) { return p == nullptr ? nullptr : p + count; };
  const int64_t rows = keys.row_index == nullptr ? columns * padded : 0;
  return {by(keys.k_panels, columns * padded),
          by(keys.k_rows, rows),
          by(keys.v_panels, columns * padded),
          by(keys.v_rows, rows),
          by(keys.bias, columns),
          by(keys.row_index, columns)};
}

// One block of queries, and room for what describes its tiles.
class Block {
 public:
  Block(const ClusterCpuInputs& in, const ClusteredKeys& keys, int64_t head, int64_t first,
        int64_t rows, bool backward, Scratch& scratch,
        const std::function<void(const KeyTile&)>& visit)
      : in_(in),
        keys_(keys),
        s_(in.sizes),
        head_(head),
        kv_(in.kv_of(head)),
        rows_(rows),
        query_(first),
        position_(s_.offset + first),
        backward_(backward),
        scratch_(scratch),
        visit_(visit),
        from_(scratch.take<int32_t>(kTileRows)),
        to_(scratch.take<int32_t>(kTileRows)),
        all_rows_(scratch.take<int32_t>(rows)) {
    for (int64_t r = 0; r < rows; ++r) all_rows_[r] = int32_t(r);
  }

  // Keys before both the window and position `sinks`.
  void visit_sinks() {
    if (s_.sinks == 0 || before_window(rows_ - 1) <= 0) return;
    const Near near = pack_near(0, s_.sinks);
    visit_near(near, kTileRows, [&](int64_t r) {
      return std::pair(int64_t{0}, std::min(s_.sinks, before_window(r)));
    });
  }

  void visit_window() {
    if (s_.window == 0) return;
    const int64_t first = std::max(before_window(0), int64_t{0}) / kPanel * kPanel;
    const Near near = pack_near(first, position_ + rows_);
    visit_near(near, kNearRows, [&](int64_t r) {
      return std::pair(std::max(before_window(r), int64_t{0}), position_ + r + 1);
    });
  }

  void visit_clusters() {
    const BlockRoutes routes(in_.routes_of(head_, query_), rows_, s_.slots, s_.clusters, scratch_);
    const ClusterOrder& order = keys_.order();
    int32_t* visible = scratch_.take<int32_t>(rows_);
    for (int64_t cluster = 0; cluster < s_.clusters; ++cluster) {
      const int64_t place = order.first_of(kv_)[cluster], keys = order.count_of(kv_)[cluster];
      const int64_t rows = routes.count_of(cluster);
      if (rows == 0 || keys == 0) continue;
      const int32_t* row = routes.rows_of(cluster);
      const int32_t* position = order.position_of(kv_) + place;
      // Positions ascend, and so do rows: what a row sees is a prefix, of at least the one before.
      int64_t seen = std::lower_bound(position, position + keys, before_window(row[0])) - position;
      for (int64_t r = 0; r < rows; ++r) {
        while (seen < keys && position[seen] < before_window(row[r])) ++seen;
        visible[r] = int32_t(seen);
      }
      for (int64_t r = 0; r < rows; r += kTileRows)
        visit_cluster(place, row + r, visible + r, std::min(kTileRows, rows - r));
    }
  }

 private:
  struct Near {
    int64_t first, end;  // positions
    PackedKeys packed;
  };

  // Position of the oldest key in the window of row r.
  int64_t before_window(int64_t r) const { return position_ + r + 1 - s_.window; }

  Near pack_near(int64_t first, int64_t end) {
    const int64_t count = panels(end - first) * kPanel, numbers = count * s_.padded;
    int32_t* positions = scratch_.take<int32_t>(count);
    for (int64_t i = 0; i < count; ++i) positions[i] = first + i < end ? int32_t(first + i) : -1;
    const auto wanted = [&](bool want) { return want ? scratch_.take<float>(numbers) : nullptr; };
    const KeySource source = in_.keys_of(kv_);
    // Rows side by side in the tensor need no copy.
    const float* k = source.k.in_place(source.first_row + first);
    const float* v = source.v.in_place(source.first_row + first);
    const KeyArrays<float> packed{wanted(true), wanted(backward_ && k == nullptr),
                                  wanted(backward_), wanted(!backward_ && v == nullptr),
                                  scratch_.take<float>(count)};
    pack_keys(source, count, positions, packed, scratch_);
    return {first,
            end,
            {packed.k_panels, k != nullptr ? k : packed.k_rows, packed.v_panels,
             v != nullptr ? v : packed.v_rows, packed.bias}};
  }

  // range(r): positions [from, to) that row r sees, which do not shrink from one row to the next.
  template <typename Range>
  void visit_near(const Near& near, int64_t tile_rows, Range range) {
    for (int64_t row = 0; row < rows_; row += tile_rows) {
      const int64_t rows = std::min(tile_rows, rows_ - row);
      const int64_t begin = (range(row).first - near.first) / kPanel * kPanel + near.first;
      const int64_t end = range(row + rows - 1).second;
      for (int64_t first = begin; first < end; first += kTileColumns) {
        const int64_t columns = std::min(kTileColumns, panels(end - first) * kPanel);
        for (int64_t r = 0; r < rows; ++r) {
          const auto [from, to] = range(row + r);
          from_[r] = int32_t(std::clamp(from - first, int64_t{0}, columns));
          to_[r] = int32_t(std::clamp(to - first, int64_t{0}, columns));
        }
        visit_({rows, all_rows_ + row, from_, to_, columns, std::min(columns, near.end - first),
                offset(near.packed, first - near.first, s_.padded),
                keys_.order().place_of(kv_) + first, 0});
      }
    }
  }

  void visit_cluster(int64_t place, const int32_t* row, const int32_t* visible, int64_t rows) {
    const int64_t end = visible[rows - 1];
    std::fill_n(from_, rows, 0);
    for (int64_t first = 0; first < end; first += kTileColumns) {
      const int64_t keys = std::min(kTileColumns, end - first);
      while (visible[0] <= first) ++row, ++visible, --rows;
      for (int64_t r = 0; r < rows; ++r)
        to_[r] = int32_t(std::min(int64_t(visible[r]) - first, keys));
      const PackedKeys packed = keys_.at(kv_, place + first);
      if (packed.row_index != nullptr) {  // scattered rows: on their way while logits are computed
        const KeySource source = in_.keys_of(kv_);
        for (int64_t i = 0; i < keys; ++i)
          (backward_ ? source.k : source.v).prefetch(source.first_row + packed.row_index[i]);
      }
      visit_({rows, row, from_, to_, panels(keys) * kPanel, keys, packed, nullptr, place + first});
    }
  }

  const ClusterCpuInputs& in_;
  const ClusteredKeys& keys_;
  const ClusterCpuSizes& s_;
  int64_t head_, kv_, rows_, query_, position_;
  bool backward_;
  Scratch& scratch_;
  const std::function<void(const KeyTile&)>& visit_;
  int32_t *from_, *to_, *all_rows_;
};

}  // namespace

ClusterCpuInputs::ClusterCpuInputs(const ClusterAttentionArguments& arguments)
    : a(arguments), sizes(arguments) {
  const auto type = a.q.scalar_type() == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  for (at::Tensor* x : {&a.q, &a.k, &a.v}) *x = x->to(type).contiguous();
  a.assignment = a.assignment.contiguous();
  a.routes = a.routes.contiguous();
  if (a.key_bias.has_value()) a.key_bias = a.key_bias->contiguous();
}

Rows ClusterCpuInputs::rows(const at::Tensor& x) const {
  return {x.const_data_ptr(), x.scalar_type() == at::kBFloat16, sizes.width, sizes.padded};
}

const int32_t* ClusterCpuInputs::assignment_of(int64_t kv) const {
  return a.assignment.const_data_ptr<int32_t>() + kv * sizes.keys;
}

KeySource ClusterCpuInputs::keys_of(int64_t kv) const {
  return {rows(a.k), rows(a.v),
          a.key_bias.has_value() ? a.key_bias->const_data_ptr<float>() + kv * sizes.keys : nullptr,
          assignment_of(kv), kv * sizes.keys};
}

const int32_t* ClusterCpuInputs::routes_of(int64_t head, int64_t query) const {
  return a.routes.const_data_ptr<int32_t>() + (head * sizes.queries + query) * sizes.slots;
}

int64_t ClusterCpuInputs::kv_of(int64_t head) const {
  return head / sizes.heads * sizes.kv_heads + head % sizes.heads / sizes.group;
}

ClusteredKeys::ClusteredKeys(const ClusterCpuInputs& inputs, bool backward)
    : inputs_(inputs),
      order_(inputs.sizes),
      in_place_(inputs.rows(inputs.a.k).in_place(0) != nullptr) {
  const ClusterCpuSizes& s = inputs.sizes;
  const auto numbers = [&](bool wanted, int64_t width) {
    return wanted ? at::empty({s.kv(), s.places, width}, inputs.a.q.options().dtype(at::kFloat))
                  : at::Tensor();
  };
  k_panels_ = numbers(true, s.padded);
  k_rows_ = numbers(backward && !in_place_, s.padded);
  v_panels_ = numbers(backward, s.padded);
  v_rows_ = numbers(!backward && !in_place_, s.padded);
  bias_ = numbers(true, 1);
}

std::vector<Stage> ClusteredKeys::stages() {
  const ClusterCpuSizes& s = inputs_.sizes;
  const int64_t parts = (s.places + kPlacesPerTask - 1) / kPlacesPerTask;
  const auto sort = [this](int64_t kv, Scratch&) { order_.sort(kv, inputs_.assignment_of(kv)); };
  const auto pack = [this, parts](int64_t task, Scratch& scratch) {
    const int64_t kv = task / parts, first = task % parts * kPlacesPerTask;
    const int64_t end = order_.first_of(kv)[order_.clusters];  // the rest is in no cluster
    const int64_t count = std::min(kPlacesPerTask, end - first);
    if (count > 0)
      pack_keys(inputs_.keys_of(kv), count, order_.position_of(kv) + first, buffers(kv, first),
                scratch);
  };
  return {{s.kv(), sort}, {s.kv() * parts, pack}};
}

KeyArrays<float> ClusteredKeys::buffers(int64_t kv, int64_t place) const {
  const auto data = [](const at::Tensor& x) {
    return x.defined() ? x.mutable_data_ptr<float>() : nullptr;
  };
  const ClusterCpuSizes& s = inputs_.sizes;
  return offset<float>(
      {data(k_panels_), data(k_rows_), data(v_panels_), data(v_rows_), data(bias_)},
      kv * s.places + place, s.padded);
}

PackedKeys ClusteredKeys::at(int64_t kv, int64_t place) const {
  const KeyArrays<float> keys = buffers(kv, place);
  if (!in_place_) return {keys.k_panels, keys.k_rows, keys.v_panels, keys.v_rows, keys.bias};
  const KeySource source = inputs_.keys_of(kv);
  return {keys.k_panels, source.k.in_place(source.first_row),
          keys.v_panels, source.v.in_place(source.first_row),
          keys.bias,     order_.position_of(kv) + place};
}

void visit_tiles(const ClusterCpuInputs& inputs, const ClusteredKeys& keys, int64_t head,
                 int64_t first, int64_t rows, bool backward, Scratch& scratch,
                 const std::function<void(const KeyTile&)>& visit) {
  Block block(inputs, keys, head, first, rows, backward, scratch, visit);
  block.visit_sinks();
  block.visit_window();
  block.visit_clusters();
}

}  // namespace dsrsq::ops
