#include "dsrsq/methods/dsrsq_kernel.h"

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "dsrsq/core/error.h"
#include "dsrsq/ops/cluster_attention.h"

namespace dsrsq {

namespace {

// Limits of the CUDA kernels (ops/cluster_attention.h).
constexpr int64_t kMostClusters = 1024, kMostSlots = 16, kMostSinks = 128;

}  // namespace

std::string native_obstacle(const SqaConfig& sqa, const TransformerConfig& model, at::Device device,
                            at::ScalarType type) {
  if (sqa.centroids != "codebook") return concat("sqa.centroids: ", sqa.centroids);
  if (!device.is_cuda()) return {};
  auto width = model.head_width();
  if (type != at::kBFloat16) return "fp32 on cuda";
  if (width != 64 && width != 128) return concat("heads of width ", width);
  if (sqa.clusters > kMostClusters) return concat("sqa.clusters above ", kMostClusters);
  if (sqa.clusters_per_query > kMostSlots)
    return concat("sqa.clusters_per_query above ", kMostSlots);
  if (model.sinks > kMostSinks) return concat("model.sinks above ", kMostSinks);
  return {};
}

std::string describe_sqa_kernel(const DsrsqConfig& config, const TransformerConfig& model,
                                at::Device device, at::ScalarType type) {
  const auto& sqa = config.sqa;
  auto line = concat("sqa.kernel: ", sqa.kernel, " -> ");
  if (sqa.kernel == "masked_dense") return line + "masked_dense";
  if (auto obstacle = native_obstacle(sqa, model, device, type); !obstacle.empty())
    return concat(line, "masked_dense (", obstacle, ")");
  line += concat("native (", type == at::kBFloat16 ? "bf16" : "fp32", " on ",
                 device.is_cuda() ? "cuda" : "cpu", ", head width ", model.head_width(),
                 "); masked_dense where attention is counted or recorded");
  if (sqa.kernel == "auto") line += ", where one token is decoded";
  if (config.rckv.enabled && config.rckv.weight == "attention_rate")
    line += ", where rckv is on (rckv.weight: attention_rate needs every probability)";
  if (sqa.dense_below > 0) line += ", where sqa.dense_below meets padding or rckv";
  return line;
}

at::ScalarType attention_type(const at::Tensor& q) {
  return at::autocast::is_autocast_enabled(q.device().type()) ? at::kBFloat16 : q.scalar_type();
}

namespace {

// The operator tells time by place. So padding goes where it separates nothing: behind the sinks,
// which stand first, and before all other tokens, which end at the same place in every sequence.
// [B, entries] places of `valid`'s entries in that order.
at::Tensor padding_after(int64_t sinks, const at::Tensor& valid) {
  auto entries = valid.size(1);
  auto first = at::arange(sinks, valid.options().dtype(at::kLong)).expand({valid.size(0), sinks});
  auto body = valid.narrow(1, sinks, entries - sinks).to(at::kInt);
  return at::cat({first, body.argsort(/*stable=*/true, /*dim=*/1, /*descending=*/false) + sinks},
                 1);
}

}  // namespace

at::Tensor read_clusters(const ClusterRead& read, const LayerState& layer,
                         const std::optional<PartialAttention>& other) {
  auto q = read.q, k = layer.keys, v = layer.values, routes = read.routes;
  auto cluster = layer.cluster.to(at::kInt);
  std::optional<at::Tensor> bias;
  if (layer.bias.defined())
    bias = layer.bias.to(q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat)
               .unsqueeze(1)
               .expand(cluster.sizes());
  std::optional<ops::ClusterAttention> rest;
  if (other) rest = ops::ClusterAttention{other->out, other->lse};

  auto entries = layer.entries(), tokens = q.size(2), before = entries - tokens;
  at::Tensor order;  // of the queries; undefined: as they are
  if (layer.padded) {
    auto key_order = padding_after(std::min(read.sinks, entries), layer.valid);
    order = padding_after(std::clamp<int64_t>(read.sinks - before, 0, tokens), read.valid);
    auto of_keys = [&](const at::Tensor& x) { return gather_entries(x, key_order, 2); };
    auto of_queries = [&](const at::Tensor& x) { return gather_entries(x, order, 2); };
    q = of_queries(q), routes = of_queries(routes);
    k = of_keys(k), v = of_keys(v), cluster = of_keys(cluster);
    if (bias) bias = of_keys(*bias);
    if (rest) rest = ops::ClusterAttention{of_queries(rest->out), of_queries(rest->lse)};
  }
  ops::ClusterAttentionOptions options{read.clusters, read.window, read.sinks,
                                       1 / std::sqrt(double(q.size(3)))};
  // `count` queries from the `first` on, among the entries that end with them.
  auto attend = [&](int64_t first, int64_t count) {
    auto seen = before + first + count;
    // A view of all of it would cost a copy of the gradient.
    auto queries = [&](const at::Tensor& x) {
      return count == tokens ? x : x.narrow(2, first, count);
    };
    auto keys = [&](const at::Tensor& x) { return seen == entries ? x : x.narrow(2, 0, seen); };
    std::optional<ops::ClusterAttention> part;
    if (rest) part = ops::ClusterAttention{queries(rest->out), queries(rest->lse)};
    return ops::cluster_attention(queries(q), keys(k), keys(v), keys(cluster), queries(routes),
                                  bias ? std::optional(keys(*bias)) : std::nullopt, options, part)
        .out;
  };
  auto dense = std::clamp<int64_t>(read.dense_below - before, 0, tokens);
  at::Tensor out;
  if (dense > 0) {
    options.window = before + dense;  // which reaches the first entry
    out = attend(0, dense);
    options.window = read.window;
  }
  if (dense < tokens) {
    auto sparse = attend(dense, tokens - dense);
    out = out.defined() ? at::cat({out, sparse}, 2) : sparse;
  }
  if (!order.defined()) return out;
  return gather_entries(out, order.argsort(int64_t{1}, /*descending=*/false), 2);
}

}  // namespace dsrsq
