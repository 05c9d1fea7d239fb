#include "dsrsq/methods/dsrsq_kernel.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "dsrsq/core/error.h"
#include "dsrsq/ops/attention_mass.h"
#include "dsrsq/ops/cluster_attention.h"

namespace dsrsq {

namespace {

// Limits of the CUDA kernels (ops/cluster_attention.h, ops/attention_mass.h).
constexpr int64_t kMostClusters = 1024, kMostSlots = 16, kMostSinks = 128, kMostWidth = 256;

}  // namespace

std::string operator_obstacle(const SqaConfig& sqa, const TransformerConfig& model,
                              at::Device device, at::ScalarType type, bool with_mass) {
  if (sqa.centroids != "codebook") return concat("sqa.centroids: ", sqa.centroids);
  if (!device.is_cuda()) return {};
  auto width = model.head_width();
  bool plain = sqa.kernel == "aten";
  if (plain && !with_mass) return {};
  if (sqa.cluster_count() > kMostClusters) return concat("sqa.clusters above ", kMostClusters);
  if (plain) return width > kMostWidth ? concat("heads of width ", width) : "";
  if (type != at::kBFloat16) return "fp32 on cuda";
  if (width != 64 && width != 128) return concat("heads of width ", width);
  if (sqa.clusters_per_query > kMostSlots)
    return concat("sqa.clusters_per_query above ", kMostSlots);
  if (model.sinks > kMostSinks) return concat("model.sinks above ", kMostSinks);
  return {};
}

std::string latent_obstacle(const RckvConfig& rckv, const TransformerConfig& model,
                            at::Device device) {
  if (!device.is_cuda()) return {};
  if (model.head_width() != 64) return concat("heads of width ", model.head_width());
  auto width = rckv.latent_width;
  if (width != 32 && width != 64 && width != 128) return concat("rckv.latent_width ", width);
  return {};
}

std::string describe_rckv_kernel(const RckvConfig& rckv, const TransformerConfig& model,
                                 at::Device device) {
  auto line = concat("rckv.kernel: ", rckv.kernel, " -> ");
  if (rckv.kernel == "aten") return line + "aten";
  auto obstacle = latent_obstacle(rckv, model, device);
  if (!obstacle.empty()) return concat(line, "aten reads the latents (", obstacle, ")");
  return concat(line, "native on ", device.is_cuda() ? "cuda" : "cpu",
                "; aten where attention is recorded");
}

std::string describe_sqa_kernel(const DsrsqConfig& config, const TransformerConfig& model,
                                at::Device device, at::ScalarType type) {
  const auto& sqa = config.sqa;
  auto line = concat("sqa.kernel: ", sqa.kernel, " -> ");
  if (sqa.kernel == "masked_dense") return line + "masked_dense";
  auto obstacle = operator_obstacle(sqa, model, device, type, config.counts_attention());
  if (!obstacle.empty()) return concat(line, "masked_dense (", obstacle, ")");
  line += concat(sqa.kernel == "aten" ? "aten" : "native", " (",
                 type == at::kBFloat16 ? "bf16" : "fp32", " on ", device.is_cuda() ? "cuda" : "cpu",
                 ", head width ", model.head_width(),
                 "); masked_dense where attention is counted or recorded");
  if (sqa.kernel == "auto") line += ", where one token is decoded";
  if (sqa.dense_below > 0) line += ", where sqa.dense_below meets padding or rckv";
  return line;
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

// [B, K] -> [B, H_kv, K] as the operators take it.
std::optional<at::Tensor> bias_by_head(const LayerState& layer) {
  if (!layer.bias.defined()) return std::nullopt;
  auto type = layer.keys.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return layer.bias.to(type).unsqueeze(1).expand(
      {layer.keys.size(0), layer.keys.size(1), layer.entries()});
}

}  // namespace

ops::ClusterAttention read_clusters(const ClusterRead& read, const LayerState& layer,
                                    const std::optional<PartialAttention>& other) {
  auto q = read.q, k = layer.keys, v = layer.values;
  auto bias = bias_by_head(layer);
  auto routes = read.routes, cluster = layer.cluster;
  ops::ClusterAttentionOptions options{read.clusters, read.window, read.sinks,
                                       1 / std::sqrt(double(q.size(3))), read.plain};
  if (!routes.defined()) {  // one cluster, of every query and every key that is not padding
    routes = at::zeros({q.size(0), q.size(1), q.size(2), 1}, q.options().dtype(at::kInt));
    cluster = (layer.valid.to(at::kInt) - 1).unsqueeze(1).expand({-1, k.size(1), -1});
    options.clusters = 1;
  }
  cluster = cluster.to(at::kInt);
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
                                  bias ? std::optional(keys(*bias)) : std::nullopt, options, part);
  };
  auto dense = read.routes.defined() ? std::clamp<int64_t>(read.dense_below - before, 0, tokens)
                                     : int64_t{0};
  ops::ClusterAttention result;
  if (dense > 0) {
    options.window = before + dense;  // which reaches the first entry
    result = attend(0, dense);
    options.window = read.window;
  }
  if (dense < tokens) {
    auto sparse = attend(dense, tokens - dense);
    result = dense == 0 ? sparse
                        : ops::ClusterAttention{at::cat({result.out, sparse.out}, 2),
                                                at::cat({result.lse, sparse.lse}, 2)};
  }
  if (!order.defined()) return result;
  auto back = order.argsort(int64_t{1}, /*descending=*/false);
  return {gather_entries(result.out, back, 2), gather_entries(result.lse, back, 2)};
}

void add_attention_mass(const ClusterRead& read, const at::Tensor& query_order,
                        const at::Tensor& lse, LayerState& layer) {
  at::NoGradGuard no_grad;
  auto type = attention_type(read.q);
  ops::AttentionMassInputs in{read.q.to(type),
                              layer.keys.to(type),
                              lse,
                              ops::positions_or_padding(query_order, read.valid),
                              ops::positions_or_padding(layer.order, layer.valid),
                              bias_by_head(layer),
                              {},
                              {}};
  ops::AttentionMassOptions options{1 / std::sqrt(double(read.q.size(3)))};
  if (read.routes.defined()) {
    in.assignment = layer.cluster.to(at::kInt);
    in.routes = read.routes;
    options = {options.scale, read.clusters, read.window, read.sinks};
  }
  layer.mass = layer.mass + ops::attention_mass(in, options).squared.sum(1).to(at::kFloat);
}

}  // namespace dsrsq
