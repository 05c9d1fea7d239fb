// One parallel region: tasks assign a stretch of a head's keys and sum its members, and then add
// the sums of all stretches in order. Stretches depend on the shape alone, so neither does any
// result on the number of threads.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>

#include "cluster_assign_checks.h"
#include "cluster_order_cpu.h"
#include "cpu_stages.h"
#include "cpu_tiles.h"

namespace dsrsq::ops {
namespace {

constexpr int64_t kKeys = 64;  // of a tile of scores
constexpr int64_t kClustersPerTask = 16;

struct AssignSizes {
  int64_t batch, heads, tokens, width, clusters;
  // Keys that are summed together: enough that the sums are no more memory than the keys.
  int64_t stretch() const {
    return panels(std::max<int64_t>(1024, 4 * clusters)) * kPanel / kKeys * kKeys;
  }
  int64_t stretches() const { return (tokens + stretch() - 1) / stretch(); }
  int64_t sums() const { return clusters * (2 * width + 1); }  // raw, of directions, count
};

struct AssignData {
  AssignSizes s;
  Rows keys;
  const float *centroids, *bias;
  const bool* valid;  // or null
  int64_t* assignment;
  float* partial;  // [H_kv, B, stretches, sums]
  float *raw_sum, *direction_sum, *count;
};

// 16 keys become their directions k / ||k||, or 0; `inverse` receives 1 / ||k||.
void normalise_panel(int64_t width, float* panel, float* inverse) {
  float square[kPanel] = {};
  for (int64_t i = 0; i < width; ++i)
    for (int64_t r = 0; r < kPanel; ++r) square[r] += panel[i * kPanel + r] * panel[i * kPanel + r];
  for (int64_t r = 0; r < kPanel; ++r)
    inverse[r] = square[r] > 0.f ? 1.f / std::sqrt(square[r]) : 0.f;
  for (int64_t i = 0; i < width; ++i)
    for (int64_t r = 0; r < kPanel; ++r) panel[i * kPanel + r] *= inverse[r];
}

void add_members(const AssignData& d, const float* rows, const float* inverse,
                 const int64_t* assignment, int64_t count, float* sums) {
  const int64_t width = d.s.width;
  for (int64_t i = 0; i < count; ++i) {
    if (assignment[i] < 0) continue;
    const float* key = rows + i * width;
    float* raw = sums + assignment[i] * (2 * width + 1);
    float* direction = raw + width;
    for (int64_t j = 0; j < width; ++j) raw[j] += key[j];
    for (int64_t j = 0; j < width; ++j) direction[j] += key[j] * inverse[i];
    direction[width] += 1.f;
  }
}

void assign_stretch(const AssignData& d, int64_t task, Scratch& scratch) {
  const AssignSizes& s = d.s;
  const int64_t stretch = task % s.stretches(), sample = task / s.stretches() % s.batch;
  const int64_t head = task / s.stretches() / s.batch;
  const int64_t row = (sample * s.heads + head) * s.tokens;  // of the first token
  const bool* valid = d.valid != nullptr ? d.valid + sample * s.tokens : nullptr;
  float* sums = d.partial + task * s.sums();
  std::fill_n(sums, s.sums(), 0.f);
  float* copies = scratch.take<float>(kKeys * s.width);
  float* directions = scratch.take<float>(kKeys * s.width);
  float* inverse = scratch.take<float>(kKeys);
  float* scores = scratch.take<float>(s.clusters * kKeys);
  int32_t* index = scratch.take<int32_t>(kKeys);
  float value;
  const int64_t end = std::min((stretch + 1) * s.stretch(), s.tokens);
  for (int64_t first = stretch * s.stretch(); first < end; first += kKeys) {
    const int64_t count = std::min(kKeys, end - first);
    const float* rows = d.keys.read_block(row + first, count, copies);
    transpose_panels(rows, count, s.width, directions);
    for (int64_t panel = 0; panel < panels(count); ++panel)
      normalise_panel(s.width, directions + panel * kPanel * s.width, inverse + panel * kPanel);
    cpu_tiles().multiply({.rows = s.clusters,
                          .inner = s.width,
                          .panels = panels(count),
                          .a = d.centroids + head * s.clusters * s.width,
                          .a_row = s.width,
                          .a_inner = 1,
                          .b = directions,
                          .b_panel = kPanel * s.width,
                          .b_inner = kPanel,
                          .c = scores,
                          .c_row = kKeys});
    cpu_tiles().best({.rows = s.clusters,
                      .panels = panels(count),
                      .best = 1,
                      .scores = scores,
                      .row = kKeys,
                      .bias = d.bias + head * s.clusters,
                      .values = &value,
                      .index = index});
    int64_t* assignment = d.assignment + row + first;
    for (int64_t i = 0; i < count; ++i)
      assignment[i] = valid == nullptr || valid[first + i] ? index[i] : -1;
    add_members(d, rows, inverse, assignment, count, sums);
  }
}

// Clusters [first, first + kClustersPerTask) of a head: all its stretches, in order.
void add_stretches(const AssignData& d, int64_t head, int64_t first, Scratch& scratch) {
  const AssignSizes& s = d.s;
  const int64_t stretches = s.batch * s.stretches(), size = 2 * s.width + 1;
  float* sum = scratch.take<float>(size);
  for (int64_t c = first; c < std::min(first + kClustersPerTask, s.clusters); ++c) {
    std::fill_n(sum, size, 0.f);
    for (int64_t i = 0; i < stretches; ++i) {
      const float* partial = d.partial + (head * stretches + i) * s.sums() + c * size;
      for (int64_t j = 0; j < size; ++j) sum[j] += partial[j];
    }
    const int64_t row = head * s.clusters + c;
    std::copy_n(sum, s.width, d.raw_sum + row * s.width);
    std::copy_n(sum + s.width, s.width, d.direction_sum + row * s.width);
    d.count[row] = sum[2 * s.width];
  }
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> cluster_assign_cpu(
    const at::Tensor& keys, const at::Tensor& centroids, const at::Tensor& bias,
    const std::optional<at::Tensor>& valid) {
  check_cluster_assign(keys, centroids, bias, valid);
  const AssignSizes s{keys.size(0), keys.size(1), keys.size(2), keys.size(3), centroids.size(1)};
  const bool bf16 = keys.scalar_type() == at::kBFloat16;
  const at::Tensor k = bf16 ? keys.contiguous() : keys.to(at::kFloat).contiguous();
  const at::Tensor c = centroids.contiguous(), offsets = bias.contiguous();
  const at::Tensor mask = valid.has_value() ? valid->contiguous() : at::Tensor();
  const auto fp32 = c.options();

  at::Tensor assignment = at::empty({s.batch, s.heads, s.tokens}, fp32.dtype(at::kLong));
  at::Tensor raw_sum = at::empty({s.heads, s.clusters, s.width}, fp32);
  at::Tensor direction_sum = at::empty({s.heads, s.clusters, s.width}, fp32);
  at::Tensor count = at::empty({s.heads, s.clusters}, fp32);
  at::Tensor partial = at::empty({s.heads, s.batch, s.stretches(), s.sums()}, fp32);
  const AssignData d{s,
                     {k.const_data_ptr(), bf16, s.width, s.width},
                     c.const_data_ptr<float>(),
                     offsets.const_data_ptr<float>(),
                     mask.defined() ? mask.const_data_ptr<bool>() : nullptr,
                     assignment.mutable_data_ptr<int64_t>(),
                     partial.mutable_data_ptr<float>(),
                     raw_sum.mutable_data_ptr<float>(),
                     direction_sum.mutable_data_ptr<float>(),
                     count.mutable_data_ptr<float>()};
  const int64_t parts = (s.clusters + kClustersPerTask - 1) / kClustersPerTask;
  run_stages({{s.heads * s.batch * s.stretches(),
               [&](int64_t task, Scratch& scratch) { assign_stretch(d, task, scratch); }},
              {s.heads * parts, [&](int64_t task, Scratch& scratch) {
                 add_stretches(d, task / parts, task % parts * kClustersPerTask, scratch);
               }}});
  return {assignment, raw_sum, direction_sum, count};
}

}  // namespace

TORCH_LIBRARY_IMPL(dsrsq, CPU, m) { m.impl("cluster_assign", cluster_assign_cpu); }

}  // namespace dsrsq::ops
