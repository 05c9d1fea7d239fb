#include "dsrsq/attention/sequence_clusters.h"

#include <torch/torch.h>

#include <algorithm>
#include <limits>

#include "dsrsq/core/random.h"
#include "dsrsq/ops/autocast.h"

namespace dsrsq {

namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Uniform numbers by rank in the sequence, so that the same token draws the same one wherever
// padding stands. One draw serves all layers and heads: their keys differ. -> [B, T] fp64, on the
// device of `order`.
at::Tensor draws(const at::Tensor& order, int64_t seed, const std::vector<int64_t>& sample_ids) {
  auto ranks = order.to(at::kCPU).contiguous();
  auto values = at::empty(order.sizes(), at::kDouble);
  for (int64_t b = 0; b < order.size(0); ++b) {
    // The codebook's own draws have small steps.
    RandomStream stream(uint64_t(seed), Purpose::kCodebook, uint64_t(1) << 40,
                        uint64_t(sample_ids[size_t(b)]));
    for (int64_t i = b * order.size(1); i < (b + 1) * order.size(1); ++i)
      values.data_ptr<double>()[i] = stream.uniform(uint64_t(ranks.data_ptr<int64_t>()[i]));
  }
  return values.to(order.device());
}

// Index of the largest cosine among the clusters that exist. directions [B, H, T, d], centroids
// [B, H, m, d], exists [B, H or 1, m] -> [B, H, T].
at::Tensor nearest(const at::Tensor& directions, const at::Tensor& centroids,
                   const at::Tensor& exists) {
  return at::matmul(directions, centroids.transpose(-1, -2))
      .masked_fill(exists.logical_not().unsqueeze(2), -kInfinity)
      .argmax(-1);
}

// [B, H, T] -> fp32 [B, H, m, T]: sums over members as products, which no order of threads changes.
at::Tensor membership(const at::Tensor& member, const at::Tensor& valid, int64_t clusters) {
  auto index = at::arange(clusters, member.options()).view({1, 1, clusters, 1});
  return (member.unsqueeze(2) == index).logical_and(valid.unsqueeze(1).unsqueeze(1)).to(at::kFloat);
}

}  // namespace

at::Tensor unit_vectors(const at::Tensor& x) { return x / x.norm(2, -1, true).clamp_min(1e-12); }

SequenceClusters cluster_sequence(const at::Tensor& keys, const at::Tensor& valid,
                                  const at::Tensor& order, int64_t clusters, int64_t seed,
                                  const std::vector<int64_t>& sample_ids) {
  constexpr int kRounds = 5;
  at::NoGradGuard no_grad;
  ops::Fp32Guard fp32(keys.device());
  auto x = keys.detach().to(at::kFloat);
  auto batch = x.size(0), heads = x.size(1), tokens = x.size(2), width = x.size(3);
  auto none = at::zeros({batch, heads, clusters, width}, x.options());
  if (tokens == 0) return {none, none, at::empty({batch, heads, 0}, x.options().dtype(at::kLong))};

  auto started = std::min(clusters, tokens);
  auto draw = draws(order, seed, sample_ids).masked_fill(valid.logical_not(), kInfinity);
  auto picks = std::get<1>(draw.topk(started, 1, /*largest=*/false));
  auto exists = valid.gather(1, picks).unsqueeze(1);  // [B, 1, started]
  auto directions = unit_vectors(x);
  auto centroids = directions.gather(
      2, picks.view({batch, 1, started, 1}).expand({batch, heads, started, width}));
  for (int round = 0; round < kRounds; ++round) {
    auto sums =
        at::matmul(membership(nearest(directions, centroids, exists), valid, started), directions);
    auto length = sums.norm(2, -1, true);
    centroids = at::where(length > 1e-6, sums / length.clamp_min(1e-6), centroids);
  }
  auto member = nearest(directions, centroids, exists);
  auto rows = membership(member, valid, started);
  auto count = rows.sum(-1, true);
  // Keys of length 0 have no direction: their cluster takes the first axis, for 0 means none.
  auto axis = at::zeros({width}, x.options());
  axis[0] = 1;
  centroids = at::where(centroids.norm(2, -1, true) > 0, centroids, axis);
  auto filled = count > 0;
  auto pad = [&](const at::Tensor& y) {
    return at::constant_pad_nd(y * filled, {0, 0, 0, clusters - started});
  };
  return {pad(centroids), pad(at::matmul(rows, x) / count.clamp_min(1)),
          member.masked_fill(valid.logical_not().unsqueeze(1), -1)};
}

at::Tensor nearest_cluster(const at::Tensor& keys, const at::Tensor& direction,
                           const at::Tensor& valid) {
  at::NoGradGuard no_grad;
  ops::Fp32Guard fp32(keys.device());
  auto exists = direction.square().sum(-1) > 0;  // [B, H_kv, m]
  auto member = nearest(unit_vectors(keys.detach().to(at::kFloat)), direction, exists);
  auto assigned = valid.unsqueeze(1).logical_and(exists.any(-1, true));
  return member.masked_fill(assigned.logical_not(), -1);
}

}  // namespace dsrsq
