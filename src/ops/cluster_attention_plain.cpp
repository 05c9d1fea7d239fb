#include "cluster_attention_plain.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "dsrsq/ops/autocast.h"

namespace dsrsq::ops {
namespace {

at::ScalarType compute_type(const at::Tensor& q) {
  return q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

// Heads side by side with those that share keys: [B, H_kv, group * rows, d].
at::Tensor by_kv_head(const at::Tensor& x, int64_t kv_heads) {
  return x.reshape({x.size(0), kv_heads, x.size(1) / kv_heads * x.size(2), x.size(3)});
}

// Some of the queries, and the keys up to the last of them: what stands behind is seen by none.
struct Chunk {
  int64_t first, rows, keys;

  at::Tensor of_queries(const at::Tensor& x) const { return x.narrow(2, first, rows); }
  at::Tensor of_keys(const at::Tensor& x) const { return x.narrow(2, 0, keys); }
};

// Chunks of as many queries as keep a chunk's scores near kScores numbers.
template <typename Visit>
void for_each_chunk(const ClusterAttentionArguments& a, const Visit& visit) {
  constexpr int64_t kScores = int64_t{1} << 24, kFewest = 16, kMost = 256;
  const int64_t queries = a.q.size(2), keys = a.k.size(2);
  const int64_t of_a_row = std::max<int64_t>(1, a.q.size(0) * a.q.size(1) * keys);
  const int64_t rows = std::clamp(kScores / of_a_row, kFewest, kMost);
  for (int64_t first = 0; first < queries; first += rows) {
    const int64_t own = std::min(rows, queries - first);
    visit(Chunk{first, own, keys - queries + first + own});
  }
}

// What the chunk's queries see: bool [B, H, rows, keys].
at::Tensor seen(const ClusterAttentionArguments& a, const Chunk& c) {
  const auto longs = a.q.options().dtype(at::kLong);
  const int64_t heads = a.q.size(1), batch = a.q.size(0);
  const at::Tensor query = at::arange(c.keys - c.rows, c.keys, longs).view({1, 1, c.rows, 1});
  const at::Tensor key = at::arange(c.keys, longs).view({1, 1, 1, c.keys});
  const at::Tensor near = (key < a.options.sinks).logical_or(query - key < a.options.window);
  // One more cluster, of which nothing is read, takes unused slots.
  const int64_t m = a.options.clusters;
  const at::Tensor route = c.of_queries(a.routes).to(at::kLong);
  const at::Tensor routed = at::zeros({batch, heads, c.rows, m + 1}, a.q.options().dtype(at::kBool))
                                .scatter_(-1, at::where(route < 0, m, route), true)
                                .slice(-1, 0, m);
  const at::Tensor cluster =
      c.of_keys(a.assignment).to(at::kLong).repeat_interleave(heads / a.k.size(1), 1).unsqueeze(2);
  const at::Tensor member =
      routed.gather(-1, cluster.clamp_min(0).expand({batch, heads, c.rows, c.keys}));
  return member.logical_or(near).logical_and(key <= query).logical_and(cluster >= 0);
}

// Scores of the chunk, [B, H, rows, keys]; -infinity where a key is not seen.
at::Tensor scores(const ClusterAttentionArguments& a, const Chunk& c, const at::Tensor& q,
                  const at::Tensor& k) {
  at::Tensor s = at::matmul(by_kv_head(q, k.size(1)), k.transpose(-1, -2)).mul_(a.options.scale);
  if (a.key_bias.has_value()) s = s + c.of_keys(*a.key_bias).unsqueeze(2);
  return s.reshape({q.size(0), q.size(1), c.rows, c.keys})
      .masked_fill(seen(a, c).logical_not(), -std::numeric_limits<double>::infinity());
}

// exp(score - lse); 0 in the rows of queries that see no key, whose lse is -infinity.
at::Tensor probabilities(const at::Tensor& score, const at::Tensor& lse) {
  const at::Tensor rows = lse.unsqueeze(-1);
  return (score - rows.masked_fill(rows.isneginf(), 0)).exp();
}

}  // namespace

ClusterAttentionKept cluster_attention_forward_plain(const ClusterAttentionArguments& a) {
  const Fp32Guard fp32(a.q.device());
  const auto type = compute_type(a.q);
  const at::Tensor k = a.k.to(type), v = a.v.to(type);
  at::Tensor out = at::empty_like(a.q, at::MemoryFormat::Contiguous);
  at::Tensor lse = at::empty(a.q.sizes().slice(0, 3), a.q.options().dtype(type));
  for_each_chunk(a, [&](const Chunk& c) {
    const at::Tensor q = c.of_queries(a.q).to(type);
    const at::Tensor s = scores(a, c, q, c.of_keys(k));
    const at::Tensor l = s.logsumexp(-1), p = by_kv_head(probabilities(s, l), k.size(1));
    c.of_queries(out).copy_(at::matmul(p, c.of_keys(v)).reshape(q.sizes()));
    c.of_queries(lse).copy_(l);
  });
  return {out, lse, {}};
}

ClusterAttentionGradients cluster_attention_backward_plain(const ClusterAttentionArguments& a,
                                                           const ClusterAttentionKept& kept,
                                                           const at::Tensor& d_out) {
  const Fp32Guard fp32(a.q.device());
  const auto type = compute_type(a.q);
  const int64_t kv = a.k.size(1);
  const at::Tensor all_k = a.k.to(type), all_v = a.v.to(type);
  at::Tensor dq = at::empty_like(a.q, at::MemoryFormat::Contiguous);
  at::Tensor dk = at::zeros_like(all_k), dv = at::zeros_like(all_v);
  at::Tensor d_bias;
  if (a.key_bias.has_value()) d_bias = at::zeros_like(*a.key_bias);
  for_each_chunk(a, [&](const Chunk& c) {
    const auto rows = [&](const at::Tensor& x) { return c.of_queries(x).to(type); };
    const at::Tensor q = rows(a.q), d = rows(d_out);
    const at::Tensor k = c.of_keys(all_k), v = c.of_keys(all_v);
    const at::Tensor p = probabilities(scores(a, c, q, k), rows(kept.lse));
    const at::Tensor delta = (d * rows(kept.out)).sum(-1, true);
    const at::Tensor dp = at::matmul(by_kv_head(d, kv), v.transpose(-1, -2)).reshape(p.sizes());
    const at::Tensor ds = by_kv_head(p * (dp - delta), kv), ds_t = ds.transpose(-1, -2);
    c.of_queries(dq).copy_(at::matmul(ds, k).mul_(a.options.scale).reshape(q.sizes()));
    c.of_keys(dk).add_(at::matmul(ds_t, by_kv_head(q, kv)), a.options.scale);
    c.of_keys(dv).add_(at::matmul(by_kv_head(p, kv).transpose(-1, -2), by_kv_head(d, kv)));
    if (d_bias.defined()) c.of_keys(d_bias).add_(ds.sum(2));
  });
  return {dq, dk.to(a.k.scalar_type()), dv.to(a.v.scalar_type()), d_bias};
}

}  // namespace dsrsq::ops
