// Attention over latents on a CPU: one parallel region, tiles of cpu_tiles.h, sums in fp32 whatever
// the types are.
//
// Keys first: latents go into panels of 16 slots, transposed, as products want them; where keys are
// rotated, each key-value head's are rebuilt and rotated on the way. Then queries, some rows at a
// time: absorbed by their heads' projections where keys are not rebuilt, met with 256 slots at a
// time under an online softmax, and what was summed of the values' latents expanded at the end. A
// query's result does not depend on its task.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <c10/util/BFloat16.h>
#include <torch/library.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>

#include "cpu_stages.h"
#include "cpu_tiles.h"
#include "latent_attention_backend.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

constexpr int64_t kSlots = 256;    // of a tile of logits
constexpr int64_t kMostRows = 60;  // of a task
constexpr int64_t kTasksPerThread = 4;
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kLog2E = std::numbers::log2e_v<float>, kLn2 = std::numbers::ln2_v<float>;

constexpr int64_t padded(int64_t columns) { return panels(columns) * kPanel; }

class LatentRead {
 public:
  LatentRead(const LatentAttentionInputs& in, const LatentAttentionOptions& options)
      : options_(options),
        batch_(in.q.size(0)),
        heads_(in.q.size(1)),
        tokens_(in.q.size(2)),
        width_(in.q.size(3)),
        slots_(in.key_latents.size(1)),
        latent_(in.key_latents.size(2)),
        kv_heads_(in.key_projection.size(1) / width_),
        rotates_(!options.frequencies.empty()),
        inner_(rotates_ ? width_ : latent_),
        q_(fp32(in.q)),
        z_k_(fp32(in.key_latents)),
        z_v_(fp32(in.value_latents)),
        p_k_(in.key_projection.contiguous()),
        p_v_(in.value_projection.contiguous()) {
    if (in.valid.has_value()) valid_ = in.valid->contiguous();
    if (in.key_bias.has_value()) key_bias_ = in.key_bias->contiguous();
    if (in.positions.has_value()) positions_ = in.positions->contiguous();
    if (in.age_bias.has_value()) {
      age_bias_ = in.age_bias->contiguous();
      query_order_ = in.query_order->contiguous();
      key_order_ = in.key_order->contiguous();
    }
    const auto empty = [&](int64_t count) {
      return at::empty({std::max<int64_t>(count, 1)}, q_.options());
    };
    key_panels_ = empty(batch_ * sets() * padded(slots_) * inner_);
    value_rows_ = empty(batch_ * slots_ * padded(latent_));
    bias_ = empty(batch_ * padded(slots_));
    absorb_ = empty(kv_heads_ * width_ * padded(latent_));
    expand_ = empty(kv_heads_ * latent_ * padded(width_));
    if (rotates_) rebuild_ = empty(kv_heads_ * latent_ * padded(width_));
    out_ = at::empty_like(q_);
    lse_ = at::empty({batch_, heads_, tokens_}, q_.options());
    const int64_t even = batch_ * heads_ * tokens_ / (kTasksPerThread * at::get_num_threads());
    block_ = std::clamp<int64_t>(even, 1, kMostRows);
  }

  LatentAttention run(at::ScalarType type) {
    const int64_t tiles = (slots_ + kSlots - 1) / kSlots;
    const int64_t blocks = (set_rows() + block_ - 1) / block_;
    run_stages(
        {{kv_heads_, [&](int64_t kv, Scratch&) { pack_projections(kv); }},
         {batch_ * tiles,
          [&](int64_t i, Scratch& scratch) { pack_slots(i / tiles, i % tiles * kSlots, scratch); }},
         {batch_ * sets() * blocks, [&](int64_t i, Scratch& scratch) {
            const int64_t first = i % blocks * block_;
            attend(i / blocks / sets(), i / blocks % sets(), first,
                   std::min(block_, set_rows() - first), scratch);
          }}});
    return {out_.to(type), lse_};
  }

 private:
  static at::Tensor fp32(const at::Tensor& x) { return x.to(at::kFloat).contiguous(); }
  const float* data(const at::Tensor& x) const { return x.const_data_ptr<float>(); }

  // Rebuilt keys are a head's own; absorbed queries of all heads meet the same latents.
  int64_t sets() const { return rotates_ ? kv_heads_ : 1; }
  // Query rows (head, token) that meet one set of keys, side by side in q.
  int64_t set_rows() const { return heads_ * tokens_ / sets(); }
  int64_t kv_of(int64_t row) const { return row / tokens_ / (heads_ / kv_heads_); }

  // Projections of a head as the right factors of products.
  void pack_projections(int64_t kv) {
    const int64_t wide = padded(latent_), broad = padded(width_);
    float* absorb = absorb_.mutable_data_ptr<float>() + kv * width_ * wide;
    float* expand = expand_.mutable_data_ptr<float>() + kv * latent_ * broad;
    float* rebuild = rotates_ ? rebuild_.mutable_data_ptr<float>() + kv * latent_ * broad : nullptr;
    std::fill_n(absorb, width_ * wide, 0.f);
    std::fill_n(expand, latent_ * broad, 0.f);
    if (rotates_) std::fill_n(rebuild, latent_ * broad, 0.f);
    for (int64_t k = 0; k < latent_; ++k) {
      const float* p_k = data(p_k_) + (k * kv_heads_ + kv) * width_;
      const float* p_v = data(p_v_) + (k * kv_heads_ + kv) * width_;
      for (int64_t i = 0; i < width_; ++i) absorb[i * wide + k] = p_k[i];
      std::copy_n(p_v, width_, expand + k * broad);
      if (rotates_) std::copy_n(p_k, width_, rebuild + k * broad);
    }
  }

  // One step of a product whose right factor lies [inner][columns].
  static void multiply(int64_t rows, int64_t inner, int64_t columns, const float* a, int64_t a_row,
                       const float* b, float* c, int64_t c_row, const float* keep = nullptr) {
    cpu_tiles().multiply({.rows = rows,
                          .inner = inner,
                          .panels = panels(columns),
                          .a = a,
                          .a_row = a_row,
                          .a_inner = 1,
                          .b = b,
                          .b_panel = kPanel,
                          .b_inner = padded(columns),
                          .c = c,
                          .c_row = c_row,
                          .keep = keep});
  }

  float* panels_of(int64_t b, int64_t set) {
    return key_panels_.mutable_data_ptr<float>() + (b * sets() + set) * padded(slots_) * inner_;
  }

  void pack_slots(int64_t b, int64_t first, Scratch& scratch) {
    const int64_t count = std::min(kSlots, slots_ - first), wide = padded(latent_);
    float* bias = bias_.mutable_data_ptr<float>() + b * padded(slots_) + first;
    std::fill_n(bias, padded(count), -kInfinity);
    for (int64_t j = 0; j < count; ++j) {
      const int64_t slot = b * slots_ + first + j;
      if (valid_.defined() && !valid_.const_data_ptr<bool>()[slot]) continue;
      bias[j] = key_bias_.defined() ? data(key_bias_)[slot] * kLog2E : 0.f;
    }
    float* values = value_rows_.mutable_data_ptr<float>() + (b * slots_ + first) * wide;
    const float* z_v = data(z_v_) + (b * slots_ + first) * latent_;
    for (int64_t j = 0; j < count; ++j) {
      // What is masked may hold anything; its weight is 0, and 0 times anything is to be 0.
      const bool counts = bias[j] != -kInfinity;
      for (int64_t k = 0; k < wide; ++k)
        values[j * wide + k] = counts && k < latent_ ? z_v[j * latent_ + k] : 0.f;
    }
    const float* z_k = data(z_k_) + (b * slots_ + first) * latent_;
    if (!rotates_) return pack_keys(z_k, bias, count, panels_of(b, 0) + first * inner_, latent_);
    const int64_t broad = padded(width_), half = width_ / 2;
    float* rebuilt = scratch.take<float>(count * broad);
    float* cosine = scratch.take<float>(count * half);
    float* sine = scratch.take<float>(count * half);
    for (int64_t j = 0; j < count; ++j) {
      const double at = double(positions_.const_data_ptr<int64_t>()[b * slots_ + first + j]);
      for (int64_t i = 0; i < half; ++i) {
        const double angle = at * options_.frequencies[size_t(i)];
        cosine[j * half + i] = float(std::cos(angle) * options_.rotary_scale);
        sine[j * half + i] = float(std::sin(angle) * options_.rotary_scale);
      }
    }
    for (int64_t kv = 0; kv < kv_heads_; ++kv) {
      multiply(count, latent_, width_, z_k, latent_, data(rebuild_) + kv * latent_ * broad, rebuilt,
               broad);
      for (int64_t j = 0; j < count; ++j) {
        float* row = rebuilt + j * broad;
        for (int64_t i = 0; i < half; ++i) {
          const float c = cosine[j * half + i], s = sine[j * half + i];
          const float x = row[i], y = row[i + half];
          row[i] = x * c - y * s, row[i + half] = y * c + x * s;
        }
      }
      pack_keys(rebuilt, bias, count, panels_of(b, kv) + first * inner_, broad);
    }
  }

  // Rows of keys into panels of 16 slots; zeros where there is none, or none that counts.
  void pack_keys(const float* keys, const float* bias, int64_t count, float* panel, int64_t row) {
    for (int64_t j = 0; j < padded(count); ++j) {
      float* column = panel + j / kPanel * kPanel * inner_ + j % kPanel;
      const bool counts = j < count && bias[j] != -kInfinity;
      for (int64_t i = 0; i < inner_; ++i) column[i * kPanel] = counts ? keys[j * row + i] : 0.f;
    }
  }

  // `rows` query rows from the `first` of a set on.
  void attend(int64_t b, int64_t set, int64_t first, int64_t rows, Scratch& scratch) {
    const int64_t wide = padded(latent_), broad = padded(width_);
    const int64_t begin = set * set_rows() + first;  // of the batch entry's rows
    const float* q = data(q_) + (b * heads_ * tokens_ + begin) * width_;
    float* queries = scratch.take<float>(rows * padded(inner_));
    float* sums = scratch.take<float>(rows * wide);
    float* maximum = scratch.take<float>(rows);
    float* sum = scratch.take<float>(rows);
    float* kept = scratch.take<float>(rows);
    float* logits = scratch.take<float>(rows * kSlots);
    int32_t* to = scratch.take<int32_t>(rows);
    std::fill_n(sums, rows * wide, 0.f);
    std::fill_n(maximum, rows, -kInfinity);
    std::fill_n(sum, rows, 0.f);
    const int64_t row_step = rotates_ ? width_ : wide;
    if (!rotates_) {
      by_head(begin, rows, [&](int64_t kv, int64_t r, int64_t count) {
        multiply(count, width_, latent_, q + r * width_, width_, data(absorb_) + kv * width_ * wide,
                 queries + r * wide, wide);
      });
    } else {
      std::copy_n(q, rows * width_, queries);
    }
    const float scale = float(options_.scale) * kLog2E;
    for (int64_t i = 0; i < rows * row_step; ++i) queries[i] *= scale;

    const float* panel = panels_of(b, set);
    const float* bias = data(bias_) + b * padded(slots_);
    for (int64_t slot = 0; slot < slots_; slot += kSlots) {
      const int64_t count = std::min(kSlots, slots_ - slot);
      cpu_tiles().multiply({.rows = rows,
                            .inner = inner_,
                            .panels = panels(count),
                            .a = queries,
                            .a_row = row_step,
                            .a_inner = 1,
                            .b = panel + slot * inner_,
                            .b_panel = kPanel * inner_,
                            .b_inner = kPanel,
                            .c = logits,
                            .c_row = kSlots});
      if (age_bias_.defined()) add_age_bias(b, begin, rows, slot, count, logits);
      std::fill_n(to, rows, int32_t(count));
      cpu_tiles().softmax({.rows = rows,
                           .columns = padded(count),
                           .logits = logits,
                           .row = kSlots,
                           .scale = 1,
                           .bias = bias + slot,
                           .from = nullptr,
                           .to = to,
                           .state_index = nullptr,
                           .maximum = maximum,
                           .sum = sum,
                           .kept = kept});
      multiply(rows, count, latent_, logits, kSlots, data(value_rows_) + (b * slots_ + slot) * wide,
               sums, wide, kept);
    }

    float* lse = lse_.mutable_data_ptr<float>() + b * heads_ * tokens_ + begin;
    for (int64_t r = 0; r < rows; ++r) {
      const bool none = sum[r] == 0;  // not where it is NaN
      const float factor = none ? 0.f : 1 / sum[r];
      for (int64_t k = 0; k < wide; ++k) sums[r * wide + k] *= factor;
      lse[r] = none ? -kInfinity : float((std::log2(sum[r]) + maximum[r]) * kLn2);
    }
    float* expanded = scratch.take<float>(rows * broad);
    by_head(begin, rows, [&](int64_t kv, int64_t r, int64_t count) {
      multiply(count, latent_, width_, sums + r * wide, wide, data(expand_) + kv * latent_ * broad,
               expanded + r * broad, broad);
    });
    float* out = out_.mutable_data_ptr<float>() + (b * heads_ * tokens_ + begin) * width_;
    for (int64_t r = 0; r < rows; ++r) std::copy_n(expanded + r * broad, width_, out + r * width_);
  }

  // visit(key-value head, first row, rows) for runs of rows of one key-value head.
  template <typename Visit>
  void by_head(int64_t begin, int64_t rows, const Visit& visit) const {
    for (int64_t r = 0; r < rows;) {
      const int64_t kv = kv_of(begin + r);
      const int64_t end = (kv + 1) * (heads_ / kv_heads_) * tokens_ - begin;
      const int64_t count = std::min(rows, end) - r;
      visit(kv, r, count);
      r += count;
    }
  }

  void add_age_bias(int64_t b, int64_t begin, int64_t rows, int64_t slot, int64_t count,
                    float* logits) const {
    const int64_t buckets = age_bias_.size(1);
    const int64_t* key_order = key_order_.const_data_ptr<int64_t>() + b * slots_ + slot;
    int32_t bucket[kSlots];
    int64_t of = -1;  // the token that `bucket` is of
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t token = (begin + r) % tokens_;
      if (token != of) {
        const int64_t order = query_order_.const_data_ptr<int64_t>()[b * tokens_ + token];
        for (int64_t j = 0; j < count; ++j) {
          const uint64_t age = uint64_t(std::max<int64_t>(order - key_order[j], 1));
          bucket[j] = int32_t(std::min<int64_t>(std::bit_width(age) - 1, buckets - 1));
        }
        of = token;
      }
      const float* table = data(age_bias_) + (begin + r) / tokens_ * buckets;
      for (int64_t j = 0; j < count; ++j) logits[r * kSlots + j] += table[bucket[j]] * kLog2E;
    }
  }

  const LatentAttentionOptions& options_;
  int64_t batch_, heads_, tokens_, width_, slots_, latent_, kv_heads_;
  bool rotates_;
  int64_t inner_;  // of the product of queries and keys
  int64_t block_;  // rows of a task
  at::Tensor q_, z_k_, z_v_, p_k_, p_v_;
  at::Tensor valid_, key_bias_, positions_, age_bias_, query_order_, key_order_;
  at::Tensor key_panels_, value_rows_, bias_;
  at::Tensor absorb_, expand_, rebuild_;  // by key-value head
  at::Tensor out_, lse_;
};

std::tuple<at::Tensor, at::Tensor> latent_attention_cpu(
    const at::Tensor& q, const at::Tensor& key_latents, const at::Tensor& value_latents,
    const at::Tensor& key_projection, const at::Tensor& value_projection, const MaybeTensor& valid,
    const MaybeTensor& key_bias, const MaybeTensor& age_bias, const MaybeTensor& query_order,
    const MaybeTensor& key_order, const MaybeTensor& positions, double scale,
    at::ArrayRef<double> frequencies, double rotary_scale) {
  const LatentAttentionInputs in{
      q,        key_latents, value_latents, key_projection, value_projection, valid,
      key_bias, age_bias,    query_order,   key_order,      positions};
  const LatentAttentionOptions options{scale, frequencies.vec(), rotary_scale};
  check_latent_attention(in, options);
  const LatentAttention result = q.scalar_type() == at::kDouble
                                     ? latent_attention_plain(in, options)
                                     : LatentRead(in, options).run(q.scalar_type());
  return {result.out, result.lse};
}

}  // namespace

TORCH_LIBRARY_IMPL(dsrsq, CPU, m) { m.impl("latent_attention", latent_attention_cpu); }

}  // namespace dsrsq::ops
