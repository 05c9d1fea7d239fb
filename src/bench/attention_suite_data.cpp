#include <torch/torch.h>

#include <cmath>

#include "dsrsq/bench/attention_suite.h"
#include "dsrsq/core/error.h"

namespace dsrsq::bench {
namespace {

constexpr double kSpread = .25;  // of keys around their centre, whose entries have variance 1
constexpr double kLean = .5;     // of queries to the centre that they are drawn for, skewed

// Centres by rank: alike, or as 1 / rank.
at::Tensor centre_weights(const std::string& routing, int64_t clusters, at::TensorOptions fp32) {
  if (routing == "balanced") return at::ones({clusters}, fp32);
  if (routing == "skewed") return at::arange(1, clusters + 1, fp32).reciprocal();
  throw ConfigError(
      concat("--routing: expected balanced or skewed, got ", quote(routing), "; change it"));
}

}  // namespace

AttentionData make_attention_data(const AttentionSuiteOptions& o, const AttentionCase& size,
                                  const std::string& routing, at::Device device) {
  torch::manual_seed(o.seed);
  const auto fp32 = at::TensorOptions(device).dtype(at::kFloat);
  const bool bf16 = size.type.empty() ? device.is_cuda() : size.type == "bf16";
  const auto type = bf16 ? at::kBFloat16 : at::kFloat;
  const int64_t n = size.tokens, m = size.clusters, d = o.width;
  const at::Tensor weights = centre_weights(routing, m, fp32);
  AttentionData data;
  data.directions = data.means = at::randn({o.kv_heads, m, d}, fp32);
  data.bias = at::zeros({o.kv_heads, m}, fp32);
  const at::Tensor head = at::arange(o.kv_heads, fp32.dtype(at::kLong)).view({1, -1, 1});
  const auto around = [&](int64_t heads, double lean, double spread) {
    const at::Tensor centre =
        at::multinomial(weights, o.batch * heads * n, true).view({o.batch, heads, n});
    const at::Tensor of_head = head.repeat_interleave(heads / o.kv_heads, 1);
    return (data.means.index({of_head, centre}) * lean +
            at::randn({o.batch, heads, n, d}, fp32) * spread)
        .to(type);
  };
  data.q = around(o.heads, routing == "skewed" ? kLean : 0, 1);
  data.k = around(o.kv_heads, 1, kSpread);
  data.route_q = data.q;
  data.assign_k = data.k;
  data.v = at::randn(data.k.sizes(), fp32).to(type);
  data.d_out = at::randn(data.q.sizes(), fp32).to(type);
  return data;
}

ClusterLoad cluster_load(const at::Tensor& assignment, const at::Tensor& routes, int64_t clusters,
                         int64_t window, int64_t sinks) {
  const int64_t batch = routes.size(0), heads = routes.size(1), n = routes.size(2);
  const int64_t group = heads / assignment.size(1);
  const auto longs = at::TensorOptions(assignment.device()).dtype(at::kLong);
  const at::Tensor position = at::arange(n, longs);
  // What is seen without clusters: the window, and the sinks before it.
  const at::Tensor before = (position - window + 1).clamp_min(0);  // keys before the window
  const double near = (position + 1 - before + before.clamp_max(sinks)).sum().item<double>();
  double pairs = 0, largest = 0;
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t kv = 0; kv < assignment.size(1); ++kv) {
      const at::Tensor cluster = assignment[b][kv].to(at::kLong);
      at::Tensor member = at::zeros({n + 1, clusters}, longs.dtype(at::kInt));
      const at::Tensor valid = cluster.ge(0).logical_and(position.ge(sinks)).to(at::kInt);
      member.slice(0, 1).scatter_(1, cluster.clamp_min(0).unsqueeze(1), valid.unsqueeze(1));
      const at::Tensor seen = member.cumsum(0, at::kInt);  // [N + 1, m]: members before a position
      largest = std::max(largest, seen[n].max().item<double>());
      for (int64_t h = kv * group; h < (kv + 1) * group; ++h) {
        const at::Tensor route = routes[b][h].to(at::kLong);  // [N, k]
        const at::Tensor rows = seen.index_select(0, before).gather(1, route.clamp_min(0));
        pairs += rows.masked_fill(route.lt(0), 0).sum().item<double>() + near;
      }
    }
  }
  const double causal = double(batch * heads) * double(n) * double(n + 1) / 2;
  return {pairs / causal, largest / (double(n) / double(clusters))};
}

}  // namespace dsrsq::bench
