#include "dsrsq/attention/sqa.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "dsrsq/attention/sequence_clusters.h"
#include "dsrsq/core/error.h"
#include "dsrsq/ops/autocast.h"
#include "dsrsq/ops/cluster_assign.h"
#include "dsrsq/ops/cluster_route.h"
#include "dsrsq/ops/noise.h"

namespace dsrsq {

int64_t auto_clusters(int64_t max_length) {
  constexpr int64_t kStep = 32, kMost = 1024;
  auto root = int64_t(std::ceil(std::sqrt(double(max_length))));
  return std::clamp((root + kStep - 1) / kStep * kStep, kStep, kMost);
}

int64_t SqaConfig::cluster_count() const {
  if (clusters > 0) return clusters;
  if (max_length > 0) return auto_clusters(max_length);
  throw ConfigError("sqa.clusters: expected sqa.max_length with auto, got none; set it");
}

void SqaConfig::visit_fields(ConfigVisitor& v) {
  v.field(
      "enabled", enabled,
      "Attend inside the top clusters only. Off: the part has no state and attention is dense.");
  v.field("clusters", clusters,
          "m: clusters of a key-value head (centroids: segment: of each closed segment). auto: "
          "about the root of max_length, a multiple of 32, at most 1024; sized once, never by the "
          "length at hand.",
          or_word(at_least(1), "auto", 0));
  v.field(
      "max_length", max_length,
      "Tokens of the longest text that is to be read; what `clusters: auto` is sized by. 0: not "
      "given.",
      at_least(0));
  v.field("clusters_per_query", clusters_per_query,
          "k: clusters that a query head attends (centroids: segment: for each closed segment); at "
          "most `clusters`.",
          at_least(1));
  v.field("window", window,
          "Newest tokens, the query itself among them, that it always attends, besides the sinks.",
          at_least(1));
  v.field("route", route,
          "Who chooses clusters. head: each query head; the default. group: the query heads of a "
          "key-value head once, by the mean of their queries; where keys are to be fetched once a "
          "group, "
          "at some loss.",
          one_of({"head", "group"}));
  v.field(
      "centroids", centroids,
      "Where clusters come from. codebook: moving averages over training; causal, for training "
      "on all tokens and for streams. segment: m clusters of each closed segment (rckv.segment) "
      "of the sequence itself, of which a query chooses k a segment, its own segment being "
      "attended fully; causal, for text unlike the training text. kmeans: m clusters of the "
      "sequence's whole prefix; the best fit, only where the loss covers answers alone, since "
      "prefix tokens see clusters that know what follows them.",
      one_of({"codebook", "segment", "kmeans"}));
  v.field(
      "kernel", kernel,
      "Implementation of the attention over clusters; changes rounding only. native: the fused "
      "operators, for centroids: codebook, on CUDA in bf16 with heads of width 64 or 128. aten: "
      "the same by plain tensor operations, on every device and type, in memory linear in the "
      "keys; to check native against. masked_dense: dense attention under a mask. auto: native "
      "where it serves and is faster, and logs where that is. Also of the dense read beside "
      "latents, where sqa is off.",
      one_of({"auto", "native", "aten", "masked_dense"}));
  v.field("dense_below", dense_below, "Query positions below this attend densely.", at_least(0));
  v.field("decay", decay, "Decay of the codebook's moving averages, a step.", between(0, 1));
  v.field("balance_step", balance_step, "Step of the balance bias towards equal load.",
          at_least(0));
  v.field("reseed_below", reseed_below, "A cluster under this share of the mean load is reseeded.",
          between(0, 1));
}

SqaImpl::SqaImpl(const SqaConfig& config, const AttentionShape& shape, int64_t seed)
    : config_(config), shape_(shape), seed_(seed) {
  config_.clusters = config.cluster_count();
  if (!has_codebook()) return;
  auto l = shape.layers, h = shape.key_value_heads, m = config_.clusters, d = shape.head_width;
  direction_sum_ = register_buffer("direction_sum", at::zeros({l, h, m, d}));
  raw_sum_ = register_buffer("raw_sum", at::zeros({l, h, m, d}));
  count_ = register_buffer("count", at::zeros({l, h, m}));
  bias_ = register_buffer("bias", at::zeros({l, h, m}));
  started_ = register_buffer("started", at::zeros({l}, at::kLong));
}

bool SqaImpl::started() const { return !has_codebook() || started_.min().item<int64_t>() > 0; }

int64_t SqaImpl::bytes() const {
  int64_t total = 0;
  for (const auto& buffer : buffers()) total += buffer.numel() * buffer.element_size();
  return total;
}

at::Tensor SqaImpl::load(int64_t layer) const { return count_[layer]; }

// fp32, also in a model of another type (D22).
at::Tensor SqaImpl::directions(int64_t layer) const {
  return unit_vectors(direction_sum_[layer].to(at::kFloat));
}
at::Tensor SqaImpl::means(int64_t layer) const {
  return (raw_sum_[layer] / count_[layer].clamp_min(1e-6).unsqueeze(-1)).to(at::kFloat);
}

namespace {

// q [B, H, T, d] -> [B, H_kv, T, d] fp32: the mean query of the heads that share keys.
at::Tensor group_mean(const at::Tensor& q, int64_t kv_heads) {
  auto x = q.detach().to(at::kFloat);
  return x.reshape({x.size(0), kv_heads, x.size(1) / kv_heads, x.size(2), x.size(3)}).mean(2);
}
}  // namespace

// Spherical k-means from distinct random keys of this batch: five rounds are enough to spread the
// start, the moving averages do the rest.
void SqaImpl::start_from(int64_t layer, const at::Tensor& k, const at::Tensor& valid,
                         int64_t step) {
  constexpr int kRounds = 5;
  at::NoGradGuard no_grad;
  ops::Fp32Guard fp32(k.device());
  if (started_[layer].item<int64_t>() != 0) return;
  auto m = config_.clusters;
  auto rows = valid.reshape({-1}).nonzero().squeeze(1);  // [keys]
  TORCH_CHECK(rows.numel() > 0, "SQA: the batch that starts the codebook holds no token");
  for (int64_t head = 0; head < shape_.key_value_heads; ++head) {
    auto keys = k.select(1, head).reshape({-1, k.size(-1)}).index_select(0, rows).to(at::kFloat);
    auto order =
        ops::noise(ops::Noise::kUniform, uint64_t(seed_), Purpose::kCodebook, uint64_t(step),
                   {layer * shape_.key_value_heads + head}, keys.size(0), keys.device())[0]
            .argsort();
    auto picks = order.index_select(0, at::arange(m, order.options()).remainder(order.size(0)));
    auto directions = unit_vectors(keys);
    auto centroids = directions.index_select(0, picks).clone();
    at::Tensor member;
    for (int round = 0; round < kRounds; ++round) {
      member = at::matmul(directions, centroids.t()).argmax(-1);
      auto sums = at::zeros_like(centroids).index_add_(0, member, directions);
      auto filled = sums.norm(2, -1, true) > 1e-6;
      centroids = at::where(filled, unit_vectors(sums), centroids);
    }
    member = at::matmul(directions, centroids.t()).argmax(-1);
    auto counts = at::zeros({m}, keys.options())
                      .index_add_(0, member, at::ones({keys.size(0)}, keys.options()));
    auto raw = at::zeros_like(centroids).index_add_(0, member, keys);
    // A cluster that stayed empty stands for its seed key, with the weight of one key.
    auto empty = (counts == 0).unsqueeze(-1);
    auto seeds = keys.index_select(0, picks);
    direction_sum_[layer][head].copy_(
        at::where(empty, centroids, at::zeros_like(centroids).index_add_(0, member, directions)));
    raw_sum_[layer][head].copy_(at::where(empty, seeds, raw));
    count_[layer][head].copy_(counts.clamp_min(1));
  }
  bias_[layer].zero_();
  started_[layer].fill_(1);
}

void SqaImpl::require_started(int64_t layer) {
  if (known_version_ != int64_t(started_._version())) {
    auto started = started_.to(at::kCPU);
    known_started_.assign(started.data_ptr<int64_t>(),
                          started.data_ptr<int64_t>() + started.numel());
    known_version_ = int64_t(started_._version());
  }
  if (!known_started_[size_t(layer)])
    throw ConfigError(
        "sqa: the codebook of this model has never been fed, so nothing can be assigned to "
        "clusters; train a stage with sqa: true first");
}

at::Tensor SqaImpl::assign(int64_t layer, const at::Tensor& k, const at::Tensor& valid,
                           bool accumulate) {
  at::NoGradGuard no_grad;
  ops::Fp32Guard fp32(k.device());
  require_started(layer);
  auto found =
      ops::cluster_assign(k.detach(), directions(layer), bias_[layer].to(at::kFloat), valid);
  if (accumulate) {
    if (!step_count_.defined()) {
      step_direction_sum_ = at::zeros_like(direction_sum_);
      step_raw_sum_ = at::zeros_like(raw_sum_);
      step_count_ = at::zeros_like(count_);
    }
    step_direction_sum_[layer] += found.direction_sum;
    step_raw_sum_[layer] += found.raw_sum;
    step_count_[layer] += found.count;
  }
  return found.assignment;
}

at::Tensor SqaImpl::route(int64_t layer, const at::Tensor& q, int64_t k_override) const {
  at::NoGradGuard no_grad;
  ops::Fp32Guard fp32(q.device());
  auto k = std::min(k_override > 0 ? k_override : config_.clusters_per_query, config_.clusters);
  auto mean = means(layer).unsqueeze(0);
  auto group = q.size(1) / mean.size(1);
  if (group == 1 || config_.route == "head") return ops::cluster_route(q.detach(), mean, k);
  auto of_group = group_mean(q, mean.size(1));
  return ops::cluster_route(of_group, mean, k).repeat_interleave(group, 1);
}

at::Tensor SqaImpl::routed_mask(const at::Tensor& routes) const {
  auto sizes = routes.sizes().vec();
  sizes.back() = config_.clusters;
  return at::zeros(sizes, routes.options().dtype(at::kBool))
      .scatter_(-1, routes.to(at::kLong), true);
}

// q [B, H, T, d], mean [B or 1, H_kv, m, d] -> [B, H, T, m] fp32.
at::Tensor SqaImpl::scores(const at::Tensor& q, const at::Tensor& mean) const {
  auto group = q.size(1) / mean.size(1);
  if (group > 1 && config_.route == "group")
    return at::matmul(group_mean(q, mean.size(1)), mean.transpose(-1, -2))
        .repeat_interleave(group, 1);
  auto by_head = group > 1 ? mean.repeat_interleave(group, 1) : mean;
  return at::matmul(q.detach().to(at::kFloat), by_head.transpose(-1, -2));
}

namespace {
// The `limit` best of the available clusters; score [B, H, T, C], available [B, H, C].
at::Tensor top_available(const at::Tensor& score, const at::Tensor& available,
                         const at::Tensor& limit, int64_t most) {
  auto absent = available.logical_not().unsqueeze(2);
  auto top = std::get<1>(score.masked_fill(absent, -INFINITY).topk(most, -1));
  auto within = at::arange(most, limit.options()) < limit.view({-1, 1, 1, 1});
  return at::zeros(score.sizes(), score.options().dtype(at::kBool))
      .scatter_(-1, top, within.expand_as(top))
      .logical_and(absent.logical_not());
}
}  // namespace

at::Tensor SqaImpl::route_sequence(const at::Tensor& q, const at::Tensor& mean,
                                   const at::Tensor& available, const at::Tensor& limit,
                                   int64_t most) const {
  at::NoGradGuard no_grad;
  ops::Fp32Guard fp32(q.device());
  auto by_head = available.repeat_interleave(q.size(1) / available.size(1), 1);
  return top_available(scores(q, mean), by_head, limit, std::min(most, mean.size(2)));
}

at::Tensor SqaImpl::route_sequence_randomly(const at::Tensor& order, const at::Tensor& sample_ids,
                                            int64_t layer, const at::Tensor& available,
                                            const at::Tensor& limit, int64_t most) const {
  constexpr uint64_t kStride = uint64_t(1) << 20;  // more clusters than a sequence has
  auto clusters = available.size(2);
  auto by_head = available.repeat_interleave(shape_.query_heads / available.size(1), 1);
  // The place among the available ones, for columns come and go with other sequences of the batch.
  auto place = (by_head.cumsum(-1) - 1).clamp_min(0).unsqueeze(2);  // [B, H, 1, C]
  auto drawn = random_scores(order, sample_ids, layer, clusters, kStride);
  auto score = drawn.gather(-1, place.expand(drawn.sizes()));
  return top_available(score, by_head, limit, std::min(most, clusters));
}

at::Tensor SqaImpl::route_randomly(const at::Tensor& positions, const at::Tensor& sample_ids,
                                   int64_t layer, int64_t k_override) const {
  auto k = std::min(k_override > 0 ? k_override : config_.clusters_per_query, config_.clusters);
  auto score =
      random_scores(positions, sample_ids, layer, config_.clusters, uint64_t(config_.clusters));
  return std::get<1>(score.topk(k, -1)).to(at::kInt);
}

// [B, H, T, clusters] fp64 by Philox; `stride`: numbers set aside for a query head.
at::Tensor SqaImpl::random_scores(const at::Tensor& positions, const at::Tensor& sample_ids,
                                  int64_t layer, int64_t clusters, uint64_t stride) const {
  auto heads = shape_.query_heads;
  // Heads that route together draw the numbers of the first of them.
  auto group = config_.route == "group" ? heads / shape_.key_value_heads : 1;
  auto place = positions.to(at::kCPU).contiguous();
  auto samples = sample_ids.to(at::kCPU).contiguous();
  auto batch = place.size(0), tokens = place.size(1);
  auto drawn = at::empty({batch, tokens, heads, clusters}, at::kDouble);
  auto* out = drawn.data_ptr<double>();
  for (int64_t b = 0; b < batch; ++b) {
    RandomStream stream(uint64_t(seed_), Purpose::kRouting, uint64_t(layer),
                        uint64_t(samples.data_ptr<int64_t>()[b]));
    for (int64_t t = 0; t < tokens; ++t) {
      auto position = uint64_t(place.data_ptr<int64_t>()[b * tokens + t]);
      for (int64_t h = 0; h < heads; ++h) {
        auto first = (position * uint64_t(heads) + uint64_t(h / group * group)) * stride;
        for (int64_t c = 0; c < clusters; ++c) *out++ = stream.uniform(first + uint64_t(c));
      }
    }
  }
  return drawn.permute({0, 2, 1, 3}).to(positions.device());
}

void SqaImpl::after_step(int64_t step) {
  at::NoGradGuard no_grad;
  if (!step_count_.defined()) return;
  auto decay = config_.decay;
  direction_sum_.mul_(decay).add_(step_direction_sum_, 1 - decay);
  raw_sum_.mul_(decay).add_(step_raw_sum_, 1 - decay);
  count_.mul_(decay).add_(step_count_, 1 - decay);
  auto mean_load = count_.mean(-1, true);  // [layers, H_kv, 1]
  bias_.sub_(((step_count_ - step_count_.mean(-1, true)).sign()).mul_(config_.balance_step));
  bias_.sub_(bias_.mean(-1, true));  // only differences matter; keeps the bias from drifting
  // A dead cluster takes over half of the heaviest one: same means, a little noise, half the weight
  // each.
  auto dead = count_ < mean_load * config_.reseed_below;
  if (dead.any().item<bool>()) {
    auto places = dead.nonzero().to(at::kCPU);
    auto list = places.accessor<int64_t, 2>();
    for (int64_t i = 0; i < places.size(0); ++i) {
      auto layer = list[i][0], head = list[i][1], cluster = list[i][2];
      auto heavy = count_[layer][head].argmax().item<int64_t>();
      auto direction = direction_sum_[layer][head][heavy].mul_(0.5);
      auto raw = raw_sum_[layer][head][heavy].mul_(0.5);
      auto weight = count_[layer][head][heavy].mul_(0.5);
      auto shake = ops::noise(ops::Noise::kNormal, uint64_t(seed_), Purpose::kCodebook,
                              uint64_t(step), {((layer + 1) << 32) + (head << 16) + cluster},
                              direction.size(0), direction.device())[0]
                       .to(at::kFloat);
      direction_sum_[layer][head][cluster].copy_(
          direction + shake * (0.1 * direction.norm() / std::sqrt(double(direction.size(0)))));
      raw_sum_[layer][head][cluster].copy_(
          raw + shake * (0.1 * raw.norm() / std::sqrt(double(raw.size(0)))));
      count_[layer][head][cluster].copy_(weight);
      bias_[layer][head][cluster].copy_(bias_[layer][head][heavy]);
    }
  }
  step_direction_sum_ = step_raw_sum_ = step_count_ = at::Tensor();
}

at::Tensor sparse_mask(const at::Tensor& query_order, const at::Tensor& key_order,
                       const at::Tensor& key_valid, const at::Tensor& routed,
                       const at::Tensor& cluster, int64_t window, int64_t sinks,
                       int64_t dense_below) {
  auto query = query_order.unsqueeze(1).unsqueeze(-1);  // [B, 1, T, 1]
  auto key = key_order.unsqueeze(1).unsqueeze(2);       // [B, 1, 1, keys]
  auto always = (query - key < window).logical_or_(key < sinks);
  if (dense_below > 0) always = always.logical_or(query < dense_below);
  auto heads = routed.size(1), tokens = routed.size(2), clusters = routed.size(3);
  auto groups = heads / cluster.size(1);
  // One more cluster that every query attends holds the keys of none.
  auto with_none =
      at::cat({routed, at::ones({routed.size(0), heads, tokens, 1}, routed.options())}, -1);
  auto place = cluster.masked_fill(cluster < 0, clusters)
                   .unsqueeze(2)
                   .expand({cluster.size(0), cluster.size(1), groups * tokens, cluster.size(2)});
  auto in_cluster =
      with_none.reshape({routed.size(0), cluster.size(1), groups * tokens, clusters + 1})
          .gather(-1, place)
          .reshape({routed.size(0), heads, tokens, cluster.size(2)});
  auto visible = (key <= query).logical_and(key_valid.unsqueeze(1).unsqueeze(2));
  return in_cluster.logical_or(always).logical_and(visible);
}

}  // namespace dsrsq
