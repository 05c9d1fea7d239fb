// Query-major like the forward pass, weights computed anew from the kept log-sum-exp. Queries write
// their own gradients; those of keys are summed over the queries of a part, and then over parts,
// each in a fixed order. Parts are as many as the shape says, whatever the number of threads.
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cluster_attention_cpu.h"
#include "cluster_tiles_cpu.h"

namespace dsrsq::ops {
namespace {

// Tasks that are enough to keep threads busy; every part costs the memory of all keys' gradients.
constexpr int64_t kTasks = 16;
constexpr int64_t kKeysPerTask = 512;  // of the sum over parts

// Gradients of keys in cluster order, of each part.
struct KeyGradients {
  KeyGradients(const ClusterCpuSizes& s, bool biased)
      : parts(std::clamp<int64_t>(kTasks / std::max<int64_t>(s.kv(), 1), 1,
                                  std::max<int64_t>(s.blocks(), 1))),
        places(s.places),
        padded(s.padded) {
    const auto fp32 = at::TensorOptions(at::kFloat);
    k = at::empty({s.kv(), parts, places, padded}, fp32);
    v = at::empty_like(k);
    if (biased) bias = at::empty({s.kv(), parts, places}, fp32);
  }
  float* k_of(int64_t kv, int64_t part) const {
    return k.mutable_data_ptr<float>() + (kv * parts + part) * places * padded;
  }
  float* v_of(int64_t kv, int64_t part) const {
    return v.mutable_data_ptr<float>() + (kv * parts + part) * places * padded;
  }
  float* bias_of(int64_t kv, int64_t part) const {
    return bias.defined() ? bias.mutable_data_ptr<float>() + (kv * parts + part) * places : nullptr;
  }
  int64_t parts, places, padded;
  at::Tensor k, v, bias;
};

struct Gradients {
  const ClusterCpuInputs& in;
  const ClusteredKeys& keys;
  const KeyGradients& sums;
  const at::Tensor &out, &lse, &d_out;
  at::Tensor &dq, &dk, &dv, &d_bias;
};

// A block of queries of one head; adds to the part's gradients of keys.
class BackwardBlock {
 public:
  BackwardBlock(const Gradients& g, int64_t head, int64_t part, int64_t first, Scratch& scratch)
      : g_(g),
        s_(g.in.sizes),
        head_(head),
        first_(first),
        rows_(std::min(s_.block, s_.queries - first)),
        scratch_(scratch),
        dk_(g.sums.k_of(g.in.kv_of(head), part)),
        dv_(g.sums.v_of(g.in.kv_of(head), part)),
        d_bias_(g.sums.bias_of(g.in.kv_of(head), part)) {
    dq_ = scratch.take<float>(rows_ * s_.padded);
    lse_ = scratch.take<float>(rows_);
    delta_ = scratch.take<float>(rows_);
    weights_ = scratch.take<float>(kTileRows * kTileColumns);
    d_logits_ = scratch.take<float>(kTileRows * kTileColumns);
    tile_q_ = scratch.take<float>(kTileRows * s_.padded);
    tile_d_out_ = scratch.take<float>(kTileRows * s_.padded);
    tile_lse_ = scratch.take<float>(kTileRows);
    tile_delta_ = scratch.take<float>(kTileRows);
    tile_bias_ = scratch.take<float>(kTileColumns);
    ones_ = scratch.take<float>(std::max(kTileRows, kTileColumns));
    std::fill_n(ones_, std::max(kTileRows, kTileColumns), 1.f);
  }

  void run() {
    read();
    visit_tiles(g_.in, g_.keys, head_, first_, rows_, true, scratch_,
                [&](const KeyTile& tile) { visit(tile); });
    const int64_t query = head_ * s_.queries + first_;
    const auto scale = float(g_.in.a.options.scale);
    for (int64_t r = 0; r < rows_; ++r) {
      float* row = dq_ + r * s_.padded;
      for (int64_t i = 0; i < s_.width; ++i) row[i] *= scale;
      write_row(row, g_.dq.mutable_data_ptr(), g_.dq.scalar_type() == at::kBFloat16, query + r,
                s_.width);
    }
  }

 private:
  void read() {
    const int64_t query = head_ * s_.queries + first_, padded = s_.padded;
    const auto read = [&](const at::Tensor& x) {
      return g_.in.rows(x).read_block(query, rows_, scratch_.take<float>(rows_ * padded));
    };
    q_ = read(g_.in.a.q), d_out_ = read(g_.d_out);
    const float* out = read(g_.out);
    const float* lse = g_.lse.const_data_ptr<float>() + query;
    for (int64_t r = 0; r < rows_; ++r) {
      float sum = 0;
      for (int64_t i = 0; i < s_.width; ++i) sum += out[r * padded + i] * d_out_[r * padded + i];
      delta_[r] = sum;
      const bool none = lse[r] == -std::numeric_limits<float>::infinity();
      lse_[r] = none ? -lse[r] : float(lse[r] / kLn2);
    }
    std::fill_n(dq_, rows_ * padded, 0.f);
  }

  // The product of a row-major [inner][padded] with whose left factor is a tile of logits.
  void add_keys(const KeyTile& t, const float* tile, const float* rows, float* sum) const {
    const int64_t padded = s_.padded;
    cpu_tiles().multiply({.rows = t.keys,
                          .inner = t.rows,
                          .panels = panels(padded),
                          .a = tile,
                          .a_row = 1,
                          .a_inner = kTileColumns,
                          .b = rows,
                          .b_panel = kPanel,
                          .b_inner = padded,
                          .c = t.places ? sum : sum + t.place * padded,
                          .c_row = padded,
                          .c_index = t.places,
                          .keep = ones_});
  }

  // Queries or their output's gradients against the panels of keys or values.
  void against(const KeyTile& t, const float* rows, const float* key_panels, float* tile) const {
    const int64_t padded = s_.padded;
    cpu_tiles().multiply({.rows = t.rows,
                          .inner = padded,
                          .panels = panels(t.columns),
                          .a = rows,
                          .a_row = padded,
                          .a_inner = 1,
                          .b = key_panels,
                          .b_panel = kPanel * padded,
                          .b_inner = kPanel,
                          .c = tile,
                          .c_row = kTileColumns});
  }

  void visit(const KeyTile& t) {
    const int64_t padded = s_.padded;
    for (int64_t r = 0; r < t.rows; ++r) {
      std::copy_n(q_ + t.row[r] * padded, padded, tile_q_ + r * padded);
      std::copy_n(d_out_ + t.row[r] * padded, padded, tile_d_out_ + r * padded);
      tile_lse_[r] = lse_[t.row[r]];
      tile_delta_[r] = delta_[t.row[r]];
    }
    against(t, tile_q_, t.packed.k_panels, weights_);
    against(t, tile_d_out_, t.packed.v_panels, d_logits_);
    if (d_bias_ != nullptr) std::fill_n(tile_bias_, t.columns, 0.f);
    cpu_tiles().softmax_backward({.rows = t.rows,
                                  .columns = t.columns,
                                  .logits = weights_,
                                  .d_weights = d_logits_,
                                  .row = kTileColumns,
                                  .scale = s_.scale,
                                  .bias = t.packed.bias,
                                  .from = t.from,
                                  .to = t.to,
                                  .lse = tile_lse_,
                                  .delta = tile_delta_,
                                  .d_bias = d_bias_ ? tile_bias_ : nullptr});
    add_keys(t, weights_, tile_d_out_, dv_);
    add_keys(t, d_logits_, tile_q_, dk_);
    if (d_bias_ != nullptr)
      for (int64_t i = 0; i < t.keys; ++i)
        d_bias_[t.places ? t.places[i] : t.place + i] += tile_bias_[i];
    cpu_tiles().multiply({.rows = t.rows,
                          .inner = t.keys,
                          .panels = panels(padded),
                          .a = d_logits_,
                          .a_row = kTileColumns,
                          .a_inner = 1,
                          .b = t.packed.k_rows,
                          .b_panel = kPanel,
                          .b_inner = padded,
                          .c = dq_,
                          .c_row = padded,
                          .b_index = t.packed.row_index,
                          .c_index = t.row,
                          .keep = ones_});
  }

  const Gradients& g_;
  const ClusterCpuSizes& s_;
  int64_t head_, first_, rows_;
  Scratch& scratch_;
  float *dk_, *dv_, *d_bias_;
  const float *q_, *d_out_;
  float *dq_, *lse_, *delta_, *weights_, *d_logits_;
  float *tile_q_, *tile_d_out_, *tile_lse_, *tile_delta_, *tile_bias_, *ones_;
};

// Every parts-th block of queries of all heads that share the keys.
void run_part(const Gradients& g, int64_t kv, int64_t part, Scratch& scratch) {
  const ClusterCpuSizes& s = g.in.sizes;
  const KeyGradients& sums = g.sums;
  std::fill_n(sums.k_of(kv, part), s.places * s.padded, 0.f);
  std::fill_n(sums.v_of(kv, part), s.places * s.padded, 0.f);
  if (sums.bias.defined()) std::fill_n(sums.bias_of(kv, part), s.places, 0.f);
  const int64_t first_head = kv / s.kv_heads * s.heads + kv % s.kv_heads * s.group;
  for (int64_t head = first_head; head < first_head + s.group; ++head) {
    for (int64_t block = part; block < s.blocks(); block += sums.parts) {
      scratch.reset();
      BackwardBlock(g, head, part, block * s.block, scratch).run();
    }
  }
}

// Keys [first, end) of a head: the sum over parts, in the keys' own order.
void add_parts(const Gradients& g, int64_t kv, int64_t first, int64_t end, Scratch& scratch) {
  const ClusterCpuSizes& s = g.in.sizes;
  const int32_t* place = g.keys.order().place_of(kv);
  float* sum = scratch.take<float>(s.padded);
  const auto add = [&](float* (KeyGradients::*of)(int64_t, int64_t) const, int64_t j, float scale,
                       at::Tensor& gradient) {
    std::fill_n(sum, s.padded, 0.f);
    for (int64_t part = 0; part < g.sums.parts; ++part) {
      const float* row = (g.sums.*of)(kv, part) + place[j] * s.padded;
      for (int64_t i = 0; i < s.width; ++i) sum[i] += row[i];
    }
    for (int64_t i = 0; i < s.width; ++i) sum[i] *= scale;
    write_row(sum, gradient.mutable_data_ptr(), gradient.scalar_type() == at::kBFloat16,
              kv * s.keys + j, s.width);
  };
  for (int64_t j = first; j < end; ++j) {
    add(&KeyGradients::k_of, j, float(g.in.a.options.scale), g.dk);
    add(&KeyGradients::v_of, j, 1.f, g.dv);
    if (!g.d_bias.defined()) continue;
    float bias = 0;
    for (int64_t part = 0; part < g.sums.parts; ++part) bias += g.sums.bias_of(kv, part)[place[j]];
    g.d_bias.mutable_data_ptr<float>()[kv * s.keys + j] = bias;
  }
}

}  // namespace

ClusterAttentionGradients cluster_attention_backward_cpu(const ClusterAttentionArguments& arguments,
                                                         const ClusterAttentionKept& kept,
                                                         const at::Tensor& d_out_in) {
  const ClusterCpuInputs in(arguments);
  const ClusterCpuSizes& s = in.sizes;
  const auto type = in.a.q.scalar_type();
  const at::Tensor out = kept.out.to(type).contiguous(), d_out = d_out_in.to(type).contiguous();
  const at::Tensor lse = kept.lse.contiguous();
  at::Tensor dq = at::empty_like(in.a.q), dk = at::empty_like(in.a.k), dv = at::empty_like(in.a.v);
  at::Tensor d_bias;
  if (in.a.key_bias.has_value()) d_bias = at::empty_like(*in.a.key_bias);
  ClusteredKeys keys(in, /*backward=*/true);
  const KeyGradients sums(s, d_bias.defined());
  const Gradients g{in, keys, sums, out, lse, d_out, dq, dk, dv, d_bias};
  const int64_t key_tasks = (s.keys + kKeysPerTask - 1) / kKeysPerTask;
  std::vector<Stage> stages = keys.stages();
  stages.push_back({s.kv() * sums.parts, [&](int64_t task, Scratch& scratch) {
                      run_part(g, task / sums.parts, task % sums.parts, scratch);
                    }});
  stages.push_back({s.kv() * key_tasks, [&](int64_t task, Scratch& scratch) {
                      const int64_t first = task % key_tasks * kKeysPerTask;
                      add_parts(g, task / key_tasks, first, std::min(first + kKeysPerTask, s.keys),
                                scratch);
                    }});
  run_stages(stages);
  const auto original = arguments.q.scalar_type();
  return {dq.to(original), dk.to(original), dv.to(original), d_bias};
}

}  // namespace dsrsq::ops
