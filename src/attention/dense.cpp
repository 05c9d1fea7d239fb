#include "dsrsq/attention/dense.h"

#include <ATen/SDPBackend.h>
#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include <cmath>
#include <tuple>

namespace dsrsq {

at::ScalarType attention_type(const at::Tensor& q) {
  return at::autocast::is_autocast_enabled(q.device().type()) ? at::kBFloat16 : q.scalar_type();
}

at::Tensor expand_heads(const at::Tensor& x, int64_t query_heads) {
  auto heads = x.size(1);
  if (heads == query_heads) return x;
  if (heads == 1) return x.expand({x.size(0), query_heads, x.size(2), x.size(3)});
  return x.repeat_interleave(query_heads / heads, 1);
}

namespace {

// q [B, H, T, d] by k or v [B, H_kv, keys, x], each head with its key-value head: the queries of a
// group stand one below the other, so that keys and values are not repeated.
at::Tensor grouped_matmul(const at::Tensor& left, const at::Tensor& right) {
  auto heads = left.size(1), groups = right.size(1), rows = left.size(2);
  if (heads == groups) return at::matmul(left, right);
  auto together = left.reshape({left.size(0), groups, heads / groups * rows, left.size(3)});
  return at::matmul(together, right).view({left.size(0), heads, rows, right.size(3)});
}

}  // namespace

PartialAttention masked_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const at::Tensor& mask, const at::Tensor& bias) {
  auto type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto scale = 1.0 / std::sqrt(double(q.size(-1)));
  auto logits = grouped_matmul(q * scale, k.transpose(-1, -2)).to(type);
  if (bias.defined()) logits = logits + bias;
  logits = logits.masked_fill(mask.logical_not(), kMaskedLogit);
  auto lse = at::logsumexp(logits, {-1});
  auto weights = (logits - lse.unsqueeze(-1)).exp();
  return {grouped_matmul(weights.to(v.scalar_type()), v), lse, logits};
}

namespace {
// Up to so many queries (a question, a decoded token) products alone are as fast as a fused backend,
// repeat no keys, and cost no new cuDNN plan where every layer or head holds another number of keys.
constexpr int64_t kFewRows = 64;
}  // namespace

at::Tensor read_entries(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                        const at::Tensor& mask) {
  auto heads = q.size(1);
  if (q.size(2) > kFewRows)
    return at::scaled_dot_product_attention(q, expand_heads(k, heads), expand_heads(v, heads),
                                            mask);
  auto type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto logits = grouped_matmul(q * (1.0 / std::sqrt(double(q.size(-1)))), k.transpose(-1, -2));
  logits = logits.to(type);
  if (mask.defined()) logits = logits.masked_fill(mask.logical_not(), kMaskedLogit);
  return grouped_matmul(at::softmax(logits, -1).to(v.scalar_type()), v);
}

JoinedAttention join_attention(const std::vector<PartialAttention>& parts) {
  TORCH_CHECK(!parts.empty(), "join_attention: no parts");
  if (parts.size() == 1) return {parts[0].out, parts[0].lse};
  std::vector<at::Tensor> lses;
  for (const auto& part : parts) lses.push_back(part.lse);
  auto stacked = at::stack(lses, -1);  // [B, H, T, parts]
  auto lse = at::logsumexp(stacked, {-1});
  auto shares = (stacked - lse.unsqueeze(-1)).exp();
  at::Tensor out;
  for (size_t i = 0; i < parts.size(); ++i) {
    auto share = shares.select(-1, int64_t(i)).unsqueeze(-1).to(parts[i].out.scalar_type());
    auto part = parts[i].out * share;
    out = out.defined() ? out + part : part;
  }
  return {out, lse};
}

at::Tensor causal_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  return at::scaled_dot_product_attention(q, expand_heads(k, q.size(1)), expand_heads(v, q.size(1)),
                                          {}, 0.0, true);
}

PartialAttention causal_attention_with_lse(const at::Tensor& given_q, const at::Tensor& given_k,
                                           const at::Tensor& given_v) {
  // Autocast knows the operator that chooses a backend, not the backends.
  auto type = attention_type(given_q);
  auto heads = given_q.size(1);
  auto q = given_q.to(type);
  auto k = expand_heads(given_k.to(type), heads), v = expand_heads(given_v.to(type), heads);
  at::Tensor out, lse;
  switch (at::SDPBackend(at::_fused_sdp_choice(q, k, v, {}, 0.0, /*is_causal=*/true))) {
    case at::SDPBackend::flash_attention:
      if (given_q.is_cpu()) {
        std::tie(out, lse) = at::_scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, true);
      } else if (q.size(3) % 8 == 0) {  // others are padded on the way
        auto all = at::_scaled_dot_product_flash_attention(q, k, v, 0.0, true);
        out = std::get<0>(all), lse = std::get<1>(all);
      }
      break;
    case at::SDPBackend::cudnn_attention: {
      auto all = at::_scaled_dot_product_cudnn_attention(q, k, v, std::nullopt,
                                                         /*compute_log_sumexp=*/true, 0.0, true);
      out = std::get<0>(all), lse = std::get<1>(all);
      break;
    }
    case at::SDPBackend::efficient_attention: {
      auto all =
          at::_scaled_dot_product_efficient_attention(q, k, v, std::nullopt,
                                                      /*compute_log_sumexp=*/true, 0.0, true);
      out = std::get<0>(all), lse = std::get<1>(all);
      break;
    }
    default:
      break;
  }
  if (!out.defined()) return {causal_attention(given_q, given_k, given_v), {}, {}};
  // Some backends round the number of rows up, or keep an axis of one number a row.
  lse = lse.detach().reshape({q.size(0), heads, -1}).narrow(2, 0, q.size(2));
  return {out, lse, {}};
}

}  // namespace dsrsq
