#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "dsrsq/ops/autocast.h"
#include "latent_attention_backend.h"

namespace dsrsq::ops {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// Half-split pairs of x [..., L, d] turned by cosine and sine [B, 1, L, d/2].
at::Tensor turned(const at::Tensor& x, const at::Tensor& cosine, const at::Tensor& sine) {
  const int64_t half = x.size(-1) / 2;
  const at::Tensor first = x.narrow(-1, 0, half), second = x.narrow(-1, half, half);
  return at::cat({first * cosine - second * sine, second * cosine + first * sine}, -1);
}

// The arguments in the type that is computed in; heads that share keys stand one below the other,
// [B, H_kv, group * rows, ...].
class Plain {
 public:
  Plain(const LatentAttentionInputs& in, const LatentAttentionOptions& options)
      : in_(in),
        options_(options),
        type_(in.q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat),
        kv_heads_(in.key_projection.size(1) / in.q.size(3)),
        z_k(in.key_latents.to(type_)),
        z_v(in.value_latents.to(type_)),
        p_k(by_head(in.key_projection)),
        p_v(by_head(in.value_projection)) {
    if (options.frequencies.empty()) {
      keys = z_k.unsqueeze(1);  // one set for all heads
      return;
    }
    const at::Tensor angle =
        in.positions->to(at::kDouble).unsqueeze(-1) *
        at::tensor(options.frequencies, at::kDouble).to(in.q.device());  // [B, L, d/2]
    cosine_ = (angle.cos() * options.rotary_scale).to(type_).unsqueeze(1);
    sine_ = (angle.sin() * options.rotary_scale).to(type_).unsqueeze(1);
    keys = turned(at::matmul(z_k.unsqueeze(1), p_k), cosine_, sine_);  // [B, H_kv, L, d]
  }

  bool rotates() const { return cosine_.defined(); }
  at::ScalarType type() const { return type_; }
  int64_t rows_at_a_time() const {
    constexpr int64_t kLogits = int64_t{1} << 24, kFewest = 16, kMost = 512;
    const int64_t of_a_row = std::max<int64_t>(1, in_.q.size(0) * in_.q.size(1) * z_k.size(1));
    return std::clamp(kLogits / of_a_row, kFewest, kMost);
  }

  // x [B, H, rows, n] -> [B, H_kv, group * rows, n], and back.
  at::Tensor grouped(const at::Tensor& x) const {
    return x.to(type_).reshape({x.size(0), kv_heads_, -1, x.size(-1)});
  }
  at::Tensor ungrouped(const at::Tensor& x, int64_t rows) const {
    return x.reshape({x.size(0), in_.q.size(1), rows, x.size(-1)});
  }

  // What meets the keys: [B, H_kv, group * rows, c or d].
  at::Tensor scaled_queries(const at::Tensor& q) const {
    const at::Tensor scaled = grouped(q) * options_.scale;
    return rotates() ? scaled : at::matmul(scaled, p_k.transpose(-1, -2));
  }

  // bucket of each age, int64 [B, rows, L].
  at::Tensor age_bucket(int64_t first, int64_t rows) const {
    const at::Tensor age =
        (in_.query_order->narrow(1, first, rows).unsqueeze(-1) - in_.key_order->unsqueeze(1))
            .clamp_min(1);
    const at::Tensor power = at::arange(1, in_.age_bias->size(1), age.options());
    const at::Tensor bound = at::ones_like(power).bitwise_left_shift(power);
    return at::bucketize(age, bound, /*out_int32=*/false, /*right=*/true);
  }

  // [B, H, rows, L]; -infinity where the slot is masked.
  at::Tensor logits(const at::Tensor& queries, int64_t first, int64_t rows) const {
    at::Tensor s = ungrouped(at::matmul(queries, keys.transpose(-1, -2)), rows);
    if (in_.key_bias.has_value()) s = s + in_.key_bias->unsqueeze(1).unsqueeze(2);
    if (in_.age_bias.has_value()) {
      const at::Tensor table = in_.age_bias->to(type_).t();  // [A, H]
      s = s + at::embedding(table, age_bucket(first, rows)).permute({0, 3, 1, 2});
    }
    if (in_.valid.has_value())
      s = s.masked_fill(in_.valid->logical_not().unsqueeze(1).unsqueeze(2), -kInfinity);
    return s;
  }

  // Gradients of keys as they are read, to those of latents and P_k.
  void keys_backward(const at::Tensor& d_keys, const at::Tensor& d_queries, const at::Tensor& q,
                     at::Tensor& d_z_k, at::Tensor& d_p_k) const {
    if (rotates()) {
      const at::Tensor d = turned(d_keys, cosine_, -sine_);
      d_z_k.add_(at::matmul(d, p_k.transpose(-1, -2)).sum(1));
      d_p_k.add_(at::matmul(z_k.unsqueeze(1).transpose(-1, -2), d).sum(0));
    } else {
      d_z_k.add_(d_keys.sum(1));
      d_p_k.add_(at::matmul(d_queries.transpose(-1, -2), grouped(q)).sum(0), options_.scale);
    }
  }
  at::Tensor queries_backward(const at::Tensor& d_queries) const {
    return (rotates() ? d_queries : at::matmul(d_queries, p_k)) * options_.scale;
  }

  // [c, H_kv d] <-> [H_kv, c, d].
  at::Tensor by_head(const at::Tensor& p) const {
    return p.to(type_).view({p.size(0), kv_heads_, in_.q.size(3)}).transpose(0, 1);
  }
  static at::Tensor as_projection(const at::Tensor& by_head, const at::Tensor& p) {
    return by_head.transpose(0, 1).reshape(p.sizes()).to(p.scalar_type());
  }

 private:
  const LatentAttentionInputs& in_;
  const LatentAttentionOptions& options_;
  at::ScalarType type_;
  int64_t kv_heads_;
  at::Tensor cosine_, sine_;

 public:
  at::Tensor z_k, z_v;  // [B, L, c]
  at::Tensor p_k, p_v;  // [H_kv, c, d]
  at::Tensor keys;      // [B, 1, L, c], or rebuilt and rotated [B, H_kv, L, d]
};

// exp(logit - lse); 0 in rows that see nothing, whose lse is -infinity.
at::Tensor probabilities(const at::Tensor& logits, const at::Tensor& lse) {
  const at::Tensor rows = lse.unsqueeze(-1);
  return (logits - rows.masked_fill(rows.isneginf(), 0)).exp();
}

}  // namespace

LatentAttention latent_attention_plain(const LatentAttentionInputs& in,
                                       const LatentAttentionOptions& options) {
  const Fp32Guard fp32(in.q.device());
  const Plain plain(in, options);
  at::Tensor out = at::empty_like(in.q, at::MemoryFormat::Contiguous);
  at::Tensor lse = at::empty(in.q.sizes().slice(0, 3), in.q.options().dtype(plain.type()));
  for (int64_t first = 0; first < in.q.size(2); first += plain.rows_at_a_time()) {
    const int64_t rows = std::min(plain.rows_at_a_time(), in.q.size(2) - first);
    const at::Tensor q = in.q.narrow(2, first, rows);
    const at::Tensor s = plain.logits(plain.scaled_queries(q), first, rows), l = s.logsumexp(-1);
    const at::Tensor mixed = at::matmul(plain.grouped(probabilities(s, l)), plain.z_v.unsqueeze(1));
    out.narrow(2, first, rows).copy_(plain.ungrouped(at::matmul(mixed, plain.p_v), rows));
    lse.narrow(2, first, rows).copy_(l);
  }
  return {out, lse};
}

// With p the probabilities, m = d_out P_v^T and d_p = m . z_v:
//   d_logit = p (d_p - sum p d_p + d_lse),  d_z_v = p^T m,  d_P_v = (p z_v)^T d_out.
LatentAttentionGradients latent_attention_backward(const LatentAttentionInputs& in,
                                                   const LatentAttentionOptions& options,
                                                   const at::Tensor& lse, const at::Tensor& d_out,
                                                   const at::Tensor& d_lse) {
  const Fp32Guard fp32(in.q.device());
  const Plain plain(in, options);
  at::Tensor d_q = at::empty_like(in.q, at::MemoryFormat::Contiguous);
  at::Tensor d_z_k = at::zeros_like(plain.z_k), d_z_v = at::zeros_like(plain.z_v);
  at::Tensor d_p_k = at::zeros_like(plain.p_k), d_p_v = at::zeros_like(plain.p_v);
  at::Tensor d_bias, d_age;
  if (in.key_bias.has_value()) d_bias = at::zeros_like(*in.key_bias);
  if (in.age_bias.has_value()) d_age = at::zeros_like(*in.age_bias);
  for (int64_t first = 0; first < in.q.size(2); first += plain.rows_at_a_time()) {
    const int64_t rows = std::min(plain.rows_at_a_time(), in.q.size(2) - first);
    const auto chunk = [&](const at::Tensor& x) {
      return x.narrow(2, first, rows).to(plain.type());
    };
    const at::Tensor q = chunk(in.q), queries = plain.scaled_queries(q);
    const at::Tensor p = probabilities(plain.logits(queries, first, rows), chunk(lse));
    at::Tensor d_logits = at::zeros_like(p);
    if (d_out.defined()) {
      const at::Tensor d = plain.grouped(chunk(d_out));
      const at::Tensor m = at::matmul(d, plain.p_v.transpose(-1, -2)), weights = plain.grouped(p);
      const at::Tensor d_p =
          plain.ungrouped(at::matmul(m, plain.z_v.unsqueeze(1).transpose(-1, -2)), rows);
      d_logits = p * (d_p - (p * d_p).sum(-1, true));
      d_z_v.add_(at::matmul(weights.transpose(-1, -2), m).sum(1));
      const at::Tensor mixed = at::matmul(weights, plain.z_v.unsqueeze(1));
      d_p_v.add_(at::matmul(mixed.transpose(-1, -2), d).sum(0));
    }
    if (d_lse.defined()) d_logits = d_logits + p * chunk(d_lse).unsqueeze(-1);
    const at::Tensor by_head = plain.grouped(d_logits);
    const at::Tensor d_queries = at::matmul(by_head, plain.keys);
    d_q.narrow(2, first, rows).copy_(plain.ungrouped(plain.queries_backward(d_queries), rows));
    const at::Tensor d_keys = at::matmul(by_head.transpose(-1, -2), queries);
    plain.keys_backward(d_keys, d_queries, q, d_z_k, d_p_k);
    if (d_bias.defined()) d_bias.add_(d_logits.flatten(1, 2).sum(1));
    if (d_age.defined()) {
      // A product, whose sums have an order that is always the same.
      const int64_t pairs = rows * plain.z_k.size(1), batch = in.q.size(0);
      const at::Tensor bucket = plain.age_bucket(first, rows).view({batch, pairs, 1});
      const at::Tensor of_bucket =
          (bucket == at::arange(d_age.size(1), bucket.options())).to(plain.type());
      d_age.add_(at::matmul(d_logits.reshape({batch, -1, pairs}), of_bucket).sum(0));
    }
  }
  return {d_q,
          d_z_k.to(in.key_latents.scalar_type()),
          d_z_v.to(in.value_latents.scalar_type()),
          Plain::as_projection(d_p_k, in.key_projection),
          Plain::as_projection(d_p_v, in.value_projection),
          d_bias,
          d_age};
}

}  // namespace dsrsq::ops
