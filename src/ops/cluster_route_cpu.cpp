// One parallel region: each task scores a few queries against all centroids, transposed, so that
// the lists of best clusters of many queries are kept side by side in vector registers.
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <algorithm>

#include "cluster_attention_checks.h"
#include "cluster_order_cpu.h"
#include "cpu_stages.h"
#include "cpu_tiles.h"

namespace dsrsq::ops {
namespace {

constexpr int64_t kQueries = 64;  // of a task

struct RouteSizes {
  int64_t heads, group, kv_heads, tokens, width, clusters, slots;
  bool per_sample;  // centroids
  int64_t tasks_of_head() const { return (tokens + kQueries - 1) / kQueries; }
};

void route(const RouteSizes& s, const Rows& queries, const float* centroids, int64_t task,
           int32_t* routes, Scratch& scratch) {
  const int64_t head = task / s.tasks_of_head(), sample = head / s.heads;
  const int64_t first = task % s.tasks_of_head() * kQueries;
  const int64_t count = std::min(kQueries, s.tokens - first), columns = panels(count) * kPanel;
  const int64_t set = (s.per_sample ? sample * s.kv_heads : 0) + head % s.heads / s.group;
  float* copies = scratch.take<float>(count * s.width);
  float* query_panels = scratch.take<float>(columns * s.width);
  float* scores = scratch.take<float>(s.clusters * kQueries);
  float* values = scratch.take<float>(s.slots);
  int32_t* index = scratch.take<int32_t>(s.slots * kQueries);
  const float* rows = queries.read_block(head * s.tokens + first, count, copies);
  transpose_panels(rows, count, s.width, query_panels);  // lists of copies are dropped
  cpu_tiles().multiply({.rows = s.clusters,
                        .inner = s.width,
                        .panels = panels(count),
                        .a = centroids + set * s.clusters * s.width,
                        .a_row = s.width,
                        .a_inner = 1,
                        .b = query_panels,
                        .b_panel = kPanel * s.width,
                        .b_inner = kPanel,
                        .c = scores,
                        .c_row = kQueries});
  cpu_tiles().best({.rows = s.clusters,
                    .panels = panels(count),
                    .best = s.slots,
                    .scores = scores,
                    .row = kQueries,
                    .bias = nullptr,
                    .values = values,
                    .index = index});
  int32_t* to = routes + (head * s.tokens + first) * s.slots;
  for (int64_t i = 0; i < count; ++i)
    for (int64_t slot = 0; slot < s.slots; ++slot)
      to[i * s.slots + slot] = index[slot * kQueries + i];
}

at::Tensor cluster_route_cpu(const at::Tensor& queries, const at::Tensor& centroids,
                             int64_t slots) {
  check_cluster_route(queries, centroids, slots);
  const bool bf16 = queries.scalar_type() == at::kBFloat16;
  const at::Tensor q = bf16 ? queries.contiguous() : queries.to(at::kFloat).contiguous();
  const at::Tensor c = centroids.contiguous();
  const RouteSizes s{q.size(1), q.size(1) / c.size(1), c.size(1), q.size(2), q.size(3), c.size(2),
                     slots,     c.size(0) > 1};
  at::Tensor routes = at::empty({q.size(0), s.heads, s.tokens, slots}, q.options().dtype(at::kInt));
  const Rows rows{q.const_data_ptr(), bf16, s.width, s.width};
  run_stages({{q.size(0) * s.heads * s.tasks_of_head(), [&](int64_t task, Scratch& scratch) {
                 route(s, rows, c.const_data_ptr<float>(), task, routes.mutable_data_ptr<int32_t>(),
                       scratch);
               }}});
  return routes;
}

}  // namespace

TORCH_LIBRARY_IMPL(dsrsq, CPU, m) { m.impl("cluster_route", cluster_route_cpu); }

}  // namespace dsrsq::ops
