// Attention over clusters on a CPU. One parallel region a pass, no torch operator inside it; the
// arithmetic is cpu_tiles.h's, in fp32 whatever the type of q.
//
// Keys first. Each head's are sorted by cluster, stably, so that what a query sees of a cluster is
// a prefix; keys go into panels of 16, transposed, as products want them. Sinks stay out of the
// clusters, and a query sees of a cluster what lies before its window: so every key counts once.
//
// Then queries, by block: their sums stay in the L2 cache while the block meets its sinks, its
// window and one cluster after another. Of a cluster, the block's queries that were routed to it
// are taken where they lie, 60 at a time, against its visible keys, 160 at a time: a product, an
// online softmax in the first-level cache, a product added to the queries' sums. Nothing is written
// that another task reads, and a query's result does not depend on its block.
//
// What limits it: at m = 128 and k = 8, a query of 8,192 sees on average 32 keys of a cluster and
// 128 of its window. Tiles are computed in full, 16 keys wide, which is a quarter more; keys come
// from the L3 cache once a block; and assignment and routing, m products a key and a query, are a
// fifth of the whole. bf16 saves memory alone: tiles are fp32, where torch's dense attention has
// AMX.
#include "cluster_attention_cpu.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "cluster_attention_checks.h"
#include "cluster_attention_plain.h"
#include "cluster_tiles_cpu.h"

namespace dsrsq::ops {
namespace {

constexpr int64_t kTasksPerThread = 8;
// Of the queries of a task, whose rows and sums stay in the L2 cache.
constexpr int64_t kShortestBlock = 256, kLongestBlock = 2048, kBlockStep = 64;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// A block of queries of one head.
void attend(const ClusterCpuInputs& in, const ClusteredKeys& keys, int64_t head, int64_t first,
            at::Tensor& out, at::Tensor& lse, Scratch& scratch) {
  const ClusterCpuSizes& s = in.sizes;
  const CpuTiles& tiles = cpu_tiles();
  const int64_t rows = std::min(s.block, s.queries - first), padded = s.padded;
  const int64_t query = head * s.queries + first;
  float* sums = scratch.take<float>(rows * padded);
  float* maximum = scratch.take<float>(rows);
  float* sum = scratch.take<float>(rows);
  float* kept = scratch.take<float>(kTileRows);
  float* logits = scratch.take<float>(kTileRows * kTileColumns);
  const float* q = in.rows(in.a.q).read_block(query, rows, scratch.take<float>(rows * padded));
  std::fill_n(sums, rows * padded, 0.f);
  std::fill_n(maximum, rows, -kInfinity);
  std::fill_n(sum, rows, 0.f);

  visit_tiles(in, keys, head, first, rows, false, scratch, [&](const KeyTile& t) {
    tiles.multiply({.rows = t.rows,
                    .inner = padded,
                    .panels = panels(t.columns),
                    .a = q,
                    .a_row = padded,
                    .a_inner = 1,
                    .b = t.packed.k_panels,
                    .b_panel = kPanel * padded,
                    .b_inner = kPanel,
                    .c = logits,
                    .c_row = kTileColumns,
                    .a_index = t.row});
    tiles.softmax({.rows = t.rows,
                   .columns = t.columns,
                   .logits = logits,
                   .row = kTileColumns,
                   .scale = s.scale,
                   .bias = t.packed.bias,
                   .from = t.from,
                   .to = t.to,
                   .state_index = t.row,
                   .maximum = maximum,
                   .sum = sum,
                   .kept = kept});
    tiles.multiply({.rows = t.rows,
                    .inner = t.keys,
                    .panels = panels(padded),
                    .a = logits,
                    .a_row = kTileColumns,
                    .a_inner = 1,
                    .b = t.packed.v_rows,
                    .b_panel = kPanel,
                    .b_inner = padded,
                    .c = sums,
                    .c_row = padded,
                    .b_index = t.packed.row_index,
                    .c_index = t.row,
                    .keep = kept});
  });

  float* log_sums = lse.mutable_data_ptr<float>() + query;
  for (int64_t r = 0; r < rows; ++r) {
    const bool none = sum[r] == 0;  // not where it is NaN
    const float factor = none ? 0.f : 1 / sum[r];
    for (int64_t i = 0; i < s.width; ++i) sums[r * padded + i] *= factor;
    write_row(sums + r * padded, out.mutable_data_ptr(), out.scalar_type() == at::kBFloat16,
              query + r, s.width);
    log_sums[r] = none ? -kInfinity : float(std::log(sum[r]) + maximum[r] * kLn2);
  }
}

ClusterAttentionKept cluster_attention_forward_cpu(const ClusterAttentionArguments& arguments) {
  const auto& options = arguments.options;
  check_cluster_attention(arguments.q, arguments.k, arguments.v, arguments.assignment,
                          arguments.routes, arguments.key_bias, options.clusters, options.window,
                          options.sinks);
  if (arguments.q.scalar_type() == at::kDouble) return cluster_attention_forward_plain(arguments);
  ClusterCpuInputs in(arguments);
  ClusterCpuSizes& s = in.sizes;
  // Longer blocks read keys less often; what a query gets does not depend on their length.
  const int64_t even = s.batch * s.heads * s.queries / (kTasksPerThread * at::get_num_threads());
  s.block = std::clamp(even / kBlockStep * kBlockStep, kShortestBlock, kLongestBlock);
  at::Tensor out = at::empty_like(in.a.q);
  at::Tensor lse = at::empty({s.batch, s.heads, s.queries}, in.a.q.options().dtype(at::kFloat));
  ClusteredKeys keys(in, /*backward=*/false);
  std::vector<Stage> stages = keys.stages();
  // Late queries see most: their tasks go first.
  stages.push_back({s.batch * s.heads * s.blocks(), [&](int64_t task, Scratch& scratch) {
                      const int64_t block = s.blocks() - 1 - task / (s.batch * s.heads);
                      attend(in, keys, task % (s.batch * s.heads), block * s.block, out, lse,
                             scratch);
                    }});
  run_stages(stages);
  return {out.to(arguments.q.scalar_type()), lse, {}};
}

ClusterAttentionGradients backward(const ClusterAttentionArguments& arguments,
                                   const ClusterAttentionKept& kept, const at::Tensor& d_out) {
  return arguments.q.scalar_type() == at::kDouble
             ? cluster_attention_backward_plain(arguments, kept, d_out)
             : cluster_attention_backward_cpu(arguments, kept, d_out);
}

const bool kRegistered = [] {
  cluster_attention_backend(at::kCPU) = {cluster_attention_forward_cpu, backward};
  return true;
}();

}  // namespace
}  // namespace dsrsq::ops
