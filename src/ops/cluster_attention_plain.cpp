#include "cluster_attention_plain.h"

#include <ATen/ATen.h>

#include <limits>

namespace dsrsq::ops {
namespace {

constexpr int64_t kChunk = 256;

at::ScalarType compute_type(const at::Tensor& q) {
  return q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Heads side by side with those that share keys: [B, H_kv, group * rows, d].
at::Tensor by_kv_head(const at::Tensor& x, int64_t kv_heads) {
  return x.reshape({x.size(0), kv_heads, x.size(1) / kv_heads * x.size(2), x.size(3)});
}

// What queries [first, first + rows) see: bool [B, H, rows, N].
at::Tensor seen(const ClusterAttentionArguments& a, int64_t first, int64_t rows) {
  const auto longs = a.q.options().dtype(at::kLong);
  const int64_t keys = a.k.size(2), heads = a.q.size(1), batch = a.q.size(0);
  const at::Tensor query =
      (at::arange(first, first + rows, longs) + (keys - a.q.size(2))).view({1, 1, rows, 1});
  const at::Tensor key = at::arange(keys, longs).view({1, 1, 1, keys});
  const at::Tensor near = (key < a.options.sinks).logical_or(query - key < a.options.window);
  // One more cluster, of which nothing is read, takes unused slots and invalid keys.
  const int64_t m = a.options.clusters;
  const at::Tensor route = a.routes.slice(2, first, first + rows).to(at::kLong);
  const at::Tensor routed = at::zeros({batch, heads, rows, m + 1}, a.q.options().dtype(at::kBool))
                                .scatter_(-1, at::where(route < 0, m, route), true)
                                .slice(-1, 0, m);
  const at::Tensor cluster =
      a.assignment.to(at::kLong).repeat_interleave(heads / a.k.size(1), 1).unsqueeze(2);
  const at::Tensor member =
      routed.gather(-1, cluster.clamp_min(0).expand({batch, heads, rows, keys}));
  return member.logical_or(near).logical_and(key <= query).logical_and(cluster >= 0);
}

// Scores of the chunk, [B, H, rows, N]; -infinity where a key is not seen.
at::Tensor scores(const ClusterAttentionArguments& a, const at::Tensor& q, const at::Tensor& k,
                  int64_t first) {
  const int64_t rows = q.size(2), heads = q.size(1), kv = k.size(1);
  at::Tensor s = at::matmul(by_kv_head(q, kv), k.transpose(-1, -2)).mul_(a.options.scale);
  if (a.key_bias.has_value()) s = s + a.key_bias->unsqueeze(2);
  return s.reshape({q.size(0), heads, rows, k.size(2)})
      .masked_fill(seen(a, first, rows).logical_not(), -std::numeric_limits<double>::infinity());
}

}  // namespace

ClusterAttentionKept cluster_attention_forward_plain(const ClusterAttentionArguments& a) {
  const auto type = compute_type(a.q);
  const at::Tensor k = a.k.to(type), v = a.v.to(type);
  at::Tensor out = at::empty_like(a.q, at::MemoryFormat::Contiguous);
  at::Tensor lse = at::empty(a.q.sizes().slice(0, 3), a.q.options().dtype(type));
  for (int64_t first = 0; first < a.q.size(2); first += kChunk) {
    const at::Tensor q = a.q.slice(2, first, first + kChunk).to(type);
    const at::Tensor s = scores(a, q, k, first);
    const at::Tensor l = s.logsumexp(-1);
    const at::Tensor p = (s - l.unsqueeze(-1)).exp().nan_to_num(0);  // no key: -inf - -inf
    out.slice(2, first, first + kChunk)
        .copy_(at::matmul(by_kv_head(p, k.size(1)), v).reshape(q.sizes()));
    lse.slice(2, first, first + kChunk).copy_(l);
  }
  return {out, lse, {}};
}

ClusterAttentionGradients cluster_attention_backward_plain(const ClusterAttentionArguments& a,
                                                           const ClusterAttentionKept& kept,
                                                           const at::Tensor& d_out) {
  const auto type = compute_type(a.q);
  const int64_t kv = a.k.size(1);
  const at::Tensor k = a.k.to(type), v = a.v.to(type);
  at::Tensor dq = at::empty_like(a.q, at::MemoryFormat::Contiguous);
  at::Tensor dk = at::zeros_like(k), dv = at::zeros_like(v);
  at::Tensor d_bias;
  if (a.key_bias.has_value()) d_bias = at::zeros_like(*a.key_bias);
  for (int64_t first = 0; first < a.q.size(2); first += kChunk) {
    const auto chunk = [&](const at::Tensor& x) {
      return x.slice(2, first, first + kChunk).to(type);
    };
    const at::Tensor q = chunk(a.q), d = chunk(d_out);
    const at::Tensor p =
        (scores(a, q, k, first) - chunk(kept.lse).unsqueeze(-1)).exp().nan_to_num(0);
    const at::Tensor delta = (d * chunk(kept.out)).sum(-1, true);
    const at::Tensor dp = at::matmul(by_kv_head(d, kv), v.transpose(-1, -2)).reshape(p.sizes());
    const at::Tensor ds = by_kv_head(p * (dp - delta), kv);
    dq.slice(2, first, first + kChunk)
        .copy_(at::matmul(ds, k).mul_(a.options.scale).reshape(q.sizes()));
    dk += at::matmul(ds.transpose(-1, -2), by_kv_head(q, kv)).mul_(a.options.scale);
    dv += at::matmul(by_kv_head(p, kv).transpose(-1, -2), by_kv_head(d, kv));
    if (d_bias.defined()) d_bias += ds.sum(2);
  }
  return {dq, dk.to(a.k.scalar_type()), dv.to(a.v.scalar_type()), d_bias};
}

}  // namespace dsrsq::ops
