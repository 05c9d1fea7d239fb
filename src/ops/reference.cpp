#include "dsrsq/ops/reference.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "dsrsq/ops/noise.h"

namespace dsrsq::ops::reference {

ClusterAssignment cluster_assign(const at::Tensor& keys, const at::Tensor& centroids,
                                 const at::Tensor& bias, const std::optional<at::Tensor>& valid) {
  at::NoGradGuard no_grad;
  const int64_t m = centroids.size(1);
  const at::Tensor k = keys.to(at::kDouble);
  const at::Tensor norm = k.square().sum(-1, true).sqrt();
  const at::Tensor direction = at::where(norm > 0, k / norm, at::zeros_like(k));
  at::Tensor score = at::einsum("bhtd,hmd->bhtm", {direction, centroids.to(at::kDouble)});
  score = score + bias.to(at::kDouble).unsqueeze(0).unsqueeze(2);
  score = score.masked_fill(score.isnan(), -std::numeric_limits<double>::infinity());

  // The lowest index among the best: argmax alone does not promise which of several it returns.
  const at::Tensor index = at::arange(m, keys.options().dtype(at::kLong));
  const at::Tensor is_best = score == score.amax(-1, true);
  at::Tensor assignment = at::where(is_best, index, at::full_like(index, m)).amin(-1);
  if (valid.has_value()) {
    assignment = assignment.masked_fill(valid->logical_not().unsqueeze(1), -1);
  }
  const at::Tensor member = (assignment.unsqueeze(-1) == index).to(at::kDouble);  // [B, H_kv, T, m]
  return {assignment, at::einsum("bhtm,bhtd->hmd", {member, k}),
          at::einsum("bhtm,bhtd->hmd", {member, direction}), at::einsum("bhtm->hm", {member})};
}

// Key by key and query by query where it can be said so: [B, H, N_q, N].
ClusterAttention cluster_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const at::Tensor& assignment, const at::Tensor& routes,
                                   const std::optional<at::Tensor>& key_bias,
                                   const ClusterAttentionOptions& options) {
  const int64_t heads = q.size(1), group = heads / k.size(1);
  const int64_t queries = q.size(2), keys = k.size(2);
  const auto longs = q.options().dtype(at::kLong);
  const at::Tensor p = at::arange(keys - queries, keys, longs).unsqueeze(1);
  const at::Tensor j = at::arange(keys, longs).unsqueeze(0);
  const at::Tensor cluster = assignment.repeat_interleave(group, 1).unsqueeze(2).unsqueeze(-1);
  // Some slot of the query names the key's cluster.
  const at::Tensor routed = (routes.unsqueeze(3) == cluster).logical_and(cluster >= 0).any(-1);
  const at::Tensor near = (j < options.sinks).logical_or(p - j < options.window);
  const at::Tensor sees =
      routed.logical_or(near).logical_and(j <= p).logical_and(cluster.squeeze(-1) >= 0);
  at::Tensor score =
      at::einsum("bhqd,bhkd->bhqk",
                 {q.to(at::kDouble), k.to(at::kDouble).repeat_interleave(group, 1)}) *
      options.scale;
  if (key_bias.has_value()) {
    score = score + key_bias->to(at::kDouble).repeat_interleave(group, 1).unsqueeze(2);
  }
  const double none = -std::numeric_limits<double>::infinity();
  score = score.masked_fill(sees.logical_not(), none);
  const at::Tensor empty = (score == none).all(-1, true);
  const at::Tensor weight = score.masked_fill(empty, 0).softmax(-1).masked_fill(empty, 0);
  const at::Tensor out =
      at::einsum("bhqk,bhkd->bhqd", {weight, v.to(at::kDouble).repeat_interleave(group, 1)});
  return {out, score.detach().logsumexp(-1)};
}

AttentionMass attention_mass(const AttentionMassInputs& in, const AttentionMassOptions& options) {
  at::NoGradGuard no_grad;
  const int64_t kv_heads = in.k.size(1), group = in.q.size(1) / kv_heads;
  const auto each_head = [&](const at::Tensor& x) { return x.repeat_interleave(group, 1); };
  const at::Tensor p = in.query_position.unsqueeze(1).unsqueeze(-1);  // [B, 1, N_q, 1]
  const at::Tensor j = in.key_position.unsqueeze(1).unsqueeze(2);     // [B, 1, 1, N]
  at::Tensor sees = (j <= p).logical_and(j >= 0).logical_and(p >= 0);
  if (in.routes.has_value()) {
    const at::Tensor cluster = each_head(*in.assignment).unsqueeze(2).unsqueeze(-1);
    const at::Tensor member =
        (in.routes->unsqueeze(3) == cluster).logical_and(cluster >= 0).any(-1);
    sees =
        sees.logical_and(member.logical_or(p - j < options.window).logical_or(j < options.sinks));
  }
  at::Tensor score =
      at::einsum("bhqd,bhkd->bhqk", {in.q.to(at::kDouble), each_head(in.k.to(at::kDouble))}) *
      options.scale;
  if (in.key_bias.has_value()) {
    score = score + each_head(in.key_bias->to(at::kDouble)).unsqueeze(2);
  }
  const at::Tensor lse = in.lse.to(at::kDouble).unsqueeze(-1);
  const at::Tensor weight =
      (score - lse)
          .exp()
          .masked_fill(sees.logical_and(lse.isneginf().logical_not()).logical_not(), 0);
  const auto by_group = [&](const at::Tensor& x) {
    return x.sum(2).view({x.size(0), kv_heads, group, x.size(3)}).sum(2);
  };
  return {by_group(weight), by_group(weight.square())};
}

namespace {

std::vector<int64_t> numbers(const at::Tensor& x) {
  const at::Tensor flat = x.to(at::kCPU).contiguous();
  return {flat.const_data_ptr<int64_t>(), flat.const_data_ptr<int64_t>() + flat.numel()};
}

// -log(-log U) of the numbers U that a stream gives.
at::Tensor gumbel(const at::Tensor& uniform) { return -(-uniform.log()).log(); }

}  // namespace

RetrievalTopk retrieval_topk(const RetrievalTopkInputs& in, const RetrievalTopkOptions& options) {
  at::NoGradGuard no_grad;
  const double none = -std::numeric_limits<double>::infinity();
  const int64_t batch = in.query.size(0), tokens = in.rows.size(1);
  at::Tensor score = at::einsum(
      "bqr,bnr->bqn",
      {in.query.to(at::kDouble), in.rows.to(at::kDouble).expand({batch, tokens, in.rows.size(2)})});
  score = score.masked_fill(score.isnan(), none);
  if (in.query_valid.has_value()) {
    score = score.masked_fill(in.query_valid->logical_not().unsqueeze(-1), none);
  }
  // One more query, whose score is -infinity: there may be none.
  score = at::cat({score, at::full({batch, 1, tokens}, none, score.options())}, 1).amax(1);
  score = score / options.temperature;
  if (options.noise.has_value()) {
    score = score + gumbel(noise(Noise::kUniform, options.noise->seed, options.noise->purpose,
                                 options.noise->step, numbers(options.noise->sample_ids), tokens,
                                 score.device()));
  }
  if (in.valid.has_value()) score = score.masked_fill(in.valid->logical_not(), none);
  auto [best, order] = score.sort(/*stable=*/true, /*dim=*/1, /*descending=*/true);
  const int64_t missing = std::max<int64_t>(0, options.slots - tokens);
  best = at::constant_pad_nd(best, {0, missing}, none).narrow(1, 0, options.slots);
  order = at::constant_pad_nd(order, {0, missing}, -1).narrow(1, 0, options.slots);
  const at::Tensor unused =
      (at::arange(options.slots, order.options()).unsqueeze(0) >= in.count.unsqueeze(1))
          .logical_or(best == none);
  return {order.masked_fill(unused, -1), best.masked_fill(unused, none)};
}

at::Tensor gather_tokens(const at::Tensor& rows, const at::Tensor& index) {
  const at::Tensor all = at::arange(rows.size(1), index.options());
  const at::Tensor chosen = (index.unsqueeze(-1) == all).to(at::kDouble);  // [B, n, N]
  return at::matmul(chosen, rows.to(at::kDouble));
}

at::Tensor subset_log_prob(const at::Tensor& score, const at::Tensor& candidate,
                           const at::Tensor& mask) {
  const double none = -std::numeric_limits<double>::infinity();
  const at::Tensor s = score.to(at::kDouble);
  at::Tensor gone = s == none;
  std::vector<at::Tensor> picks;
  for (int64_t j = 0; j < candidate.size(1); ++j) {
    const at::Tensor pick = candidate.narrow(1, j, 1), counts = mask.narrow(1, j, 1);
    // A row without candidates left gives zeros in the end.
    const at::Tensor empty = gone.all(1, true);
    const at::Tensor total =
        s.masked_fill(gone, none).masked_fill(empty, 0).logsumexp({1}, /*keepdim=*/true);
    const at::Tensor own = s.gather(1, pick).masked_fill(counts.logical_not(), 0);
    picks.push_back((own - total).masked_fill(counts.logical_not(), 0));
    gone = gone.logical_or(
        at::zeros_like(gone).scatter(1, pick, at::ones_like(pick, at::kBool)).logical_and(counts));
  }
  if (picks.empty()) return s.narrow(1, 0, 0);
  return at::cat(picks, 1).masked_fill(gone.all(1, true), 0);
}

ReservoirUpdate reservoir_update(const ReservoirInputs& in, const ReservoirOptions& options) {
  at::NoGradGuard no_grad;
  const int64_t batch = in.held.size(0), held = in.held.size(1), offered = in.rank.size(1);
  at::Tensor priority = in.rank.to(at::kDouble) * options.decay;
  if (in.log_weight.has_value()) priority = *in.log_weight + priority;
  if (options.noise.has_value()) {
    // A stream's numbers up to the last that is asked for.
    const auto& n = *options.noise;
    const at::Tensor place = in.rank * n.layers + n.layer;
    const int64_t size = place.numel() > 0 ? place.max().item<int64_t>() + 1 : 0;
    const at::Tensor stream = noise(Noise::kUniform, n.seed, Purpose::kReservoir, n.step,
                                    numbers(n.sample_ids), size, in.held.device());
    priority = priority + gumbel(stream.gather(1, place));
  }
  priority = priority.masked_fill(in.valid.logical_not(), -std::numeric_limits<double>::infinity());
  const at::Tensor all = at::cat({in.held, priority}, 1);
  const int64_t kept = std::min(options.capacity, held + offered);
  const int64_t most = std::min(offered, kept);
  const at::Tensor order =
      std::get<1>(all.sort(/*stable=*/true, /*dim=*/1, /*descending=*/true)).narrow(1, 0, kept);
  const at::Tensor entry = std::get<0>(order.sort(1));  // oldest first
  ReservoirUpdate out;
  out.priority = all.gather(1, entry);
  out.source = entry.clone();
  out.accepted = at::full({batch, most}, -1, in.rank.options());
  out.slot = out.accepted.clone();
  out.count = (entry >= held).sum(1);
  for (int64_t b = 0; b < batch; ++b) {
    int64_t number = 0;
    for (int64_t i = 0; i < kept; ++i) {
      const auto from = entry[b][i].item<int64_t>();
      if (from < held) continue;
      out.source[b][i] = held + number;
      out.accepted[b][number] = from - held;
      out.slot[b][number++] = i;
    }
  }
  return out;
}

LatentAttention latent_attention(const LatentAttentionInputs& in,
                                 const LatentAttentionOptions& options) {
  const int64_t heads = in.q.size(1), d = in.q.size(3), c = in.key_latents.size(2);
  const int64_t kv_heads = in.key_projection.size(1) / d, group = heads / kv_heads;
  const at::Tensor q = in.q.to(at::kDouble);
  const auto rebuilt = [&](const at::Tensor& latents, const at::Tensor& projection) {
    const at::Tensor p = projection.to(at::kDouble).view({c, kv_heads, d});
    return at::einsum("blc,chd->bhld", {latents.to(at::kDouble), p}).repeat_interleave(group, 1);
  };
  at::Tensor k = rebuilt(in.key_latents, in.key_projection);
  const at::Tensor v = rebuilt(in.value_latents, in.value_projection);
  if (in.positions.has_value()) {
    // Pairs as complex numbers, turned by a unit one.
    const at::Tensor frequency = at::tensor(options.frequencies, at::kDouble).to(q.device());
    const at::Tensor angle =
        at::einsum("bl,i->bli", {in.positions->to(at::kDouble), frequency}).unsqueeze(1);
    const at::Tensor turn = at::polar(at::full_like(angle, options.rotary_scale), angle);
    const at::Tensor pairs = at::complex(k.slice(-1, 0, d / 2), k.slice(-1, d / 2)) * turn;
    k = at::cat({at::real(pairs), at::imag(pairs)}, -1);
  }
  at::Tensor score = at::einsum("bhtd,bhld->bhtl", {q, k}) * options.scale;
  if (in.key_bias.has_value())
    score = score + in.key_bias->to(at::kDouble).unsqueeze(1).unsqueeze(1);
  if (in.age_bias.has_value()) {
    const at::Tensor age = in.query_order->unsqueeze(2) - in.key_order->unsqueeze(1);  // [B, T, L]
    const at::Tensor bucket = age.clamp_min(1)
                                  .to(at::kDouble)
                                  .log2()
                                  .floor()
                                  .to(at::kLong)
                                  .clamp_max(in.age_bias->size(1) - 1);
    std::vector<at::Tensor> of_head;
    for (int64_t h = 0; h < heads; ++h)
      of_head.push_back(in.age_bias->to(at::kDouble)[h].take(bucket));
    score = score + at::stack(of_head, 1);
  }
  if (in.valid.has_value()) {
    const double none = -std::numeric_limits<double>::infinity();
    score = score.masked_fill(in.valid->logical_not().unsqueeze(1).unsqueeze(1), none);
  }
  if (score.size(3) == 0)
    return {at::zeros_like(q), at::full(q.sizes().slice(0, 3), -INFINITY, q.options())};
  const at::Tensor empty = score.isneginf().all(-1, true);
  const at::Tensor weight = score.masked_fill(empty, 0).softmax(-1).masked_fill(empty, 0);
  const at::Tensor lse = score.masked_fill(empty, 0).logsumexp(-1);
  return {at::einsum("bhtl,bhld->bhtd", {weight, v}),
          lse.masked_fill(empty.squeeze(-1), -std::numeric_limits<double>::infinity())};
}

Latents latent_project(const LatentProjectInputs& in) {
  const int64_t c = in.weight.size(0) / 2;
  const at::Tensor w = in.weight.to(at::kDouble);
  const auto latents = [&](const at::Tensor& source, int64_t first) {
    const at::Tensor x = source.to(at::kDouble), rows = w.slice(0, first, first + c);
    at::Tensor z = x.dim() == 4
                       ? at::einsum("bhtd,chd->btc", {x, rows.reshape({c, x.size(1), x.size(3)})})
                       : at::einsum("bti,ci->btc", {x, rows});
    if (in.bias.has_value()) z = z + in.bias->to(at::kDouble).slice(0, first, first + c);
    return z;
  };
  return {latents(in.source, 0), latents(in.value_source.value_or(in.source), c)};
}

}  // namespace dsrsq::ops::reference
