#include "dsrsq/cache/rckv.h"

#include <torch/torch.h>

#include <cmath>
#include <limits>

#include "dsrsq/core/error.h"
#include "dsrsq/ops/autocast.h"
#include "dsrsq/ops/noise.h"
#include "dsrsq/ops/reservoir_update.h"

namespace dsrsq {

void RckvConfig::visit_fields(ConfigVisitor& v) {
  v.field("enabled", enabled,
          "Compress what leaves the exact window. Off: the part has no parameters, all keys stay "
          "exact.");
  v.field("latent_width", latent_width,
          "c: numbers a token for the key and for the value, over all key-value heads of a layer; "
          "less than key_value_heads x head_width.",
          at_least(1));
  v.field("buffer_length", buffer_length, "L: latents kept a layer and sequence.", at_least(1));
  v.field("window", window, "Exact tokens before the current segment.", at_least(0));
  v.field("segment", segment,
          "S: context tokens of a segment; the reader reads segment by segment.", at_least(1));
  v.field(
      "source", source,
      "stream: the retriever picks inside each segment's candidates; for text that arrives bit "
      "by bit. selected: it picks from the whole context and the reader reads the selected tokens "
      "in segments of S; for documents that are at hand.",
      one_of({"stream", "selected"}));
  v.field(
      "position", position,
      "How latents carry positions. rope_reconstruct: keys are rebuilt and rotated at each read; "
      "for backbones with RoPE, pretrained ones above all. age_bias: queries are projected "
      "once and meet the latents unrotated, with a learned bias by head and age; for speed with a "
      "long buffer, with a model grown with it or without RoPE.",
      one_of({"rope_reconstruct", "age_bias"}));
  v.field(
      "weight", weight,
      "w of the reservoir. attention_rate: squared attention a query while in the window, times "
      "the norm of the value; the one to start with. uniform: every token alike; a control. "
      "gate: a learned weight; grow it from scratch, switched on over a trained model it "
      "collapses (tried). recency: the newest L (noise and decay have no effect); a control, and "
      "for text where only the recent counts.",
      one_of({"attention_rate", "uniform", "gate", "recency"}));
  v.field("noise", noise,
          "gumbel: a weighted reservoir, so that light tokens have a chance; for training and long "
          "streams. none: the L of largest weight; where weights are known to be good.",
          one_of({"gumbel", "none"}));
  v.field("decay", decay,
          "The rotation: how much the priority of a token grows with its rank; ln 2 / decay tokens "
          "of age halve a weight. Above 0 for streams whose facts change; 0: age does not count.",
          at_least(0));
  v.field("prior_mass", prior_mass, "Squared attention that every token is credited with at first.",
          more_than(0));
  v.field("prior_exposure", prior_exposure, "Queries that every token is credited with at first.",
          more_than(0));
  v.field("back_propagation", back_propagation,
          "full: through all segments; the one to start with. truncated: cut at the end of each "
          "segment; where memory does not allow full, never from a cold start (tried).",
          one_of({"full", "truncated"}));
  v.field("store", store,
          "Of a stream. none: a question sees the window and the buffer. disk: the retriever "
          "searches all "
          "history, kept in the file of dsrsq-generate --store.",
          one_of({"none", "disk"}));
  v.field("calibration_sequences", calibration_sequences,
          "Sequences whose keys and values give the projections' principal "
          "components when the part is switched on.",
          at_least(1));
  v.field("kernel", kernel,
          "Implementation of entering the buffer and of reading it; changes rounding only. native: "
          "the fused operators. aten: plain tensor operations, to check native against. auto: "
          "native where it serves.",
          one_of({"auto", "native", "aten"}));
}

namespace {

constexpr int64_t kAgeBuckets = 32;  // ages up to 2^32 apart, the last open-ended

// Rows orthonormal, sign fixed by a positive diagonal of R.
at::Tensor orthonormal_rows(const at::Tensor& p) {
  auto [q, r] = at::linalg_qr(p.to(at::kDouble).t(), "reduced");
  return (q * r.diagonal().sign()).t().to(at::kFloat).contiguous();
}

// [B, H_kv, T, d] -> [B, T, H_kv d] fp32: all heads of a token side by side. Double stays double
// (the oracle tests).
at::Tensor joint_heads(const at::Tensor& x) {
  auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return x.transpose(1, 2).reshape({x.size(0), x.size(2), x.size(1) * x.size(3)}).to(type);
}

at::Tensor compress(const at::Tensor& x, const at::Tensor& projection) {
  ops::Fp32Guard fp32(x.device());
  auto joint = joint_heads(x);
  return at::matmul(joint, projection.to(joint.scalar_type()).t());
}

at::Tensor rebuild(const at::Tensor& latents, const at::Tensor& projection, int64_t heads) {
  ops::Fp32Guard fp32(latents.device());
  auto joint = at::matmul(latents, projection.to(latents.scalar_type()));
  return joint.reshape({joint.size(0), joint.size(1), heads, joint.size(2) / heads})
      .transpose(1, 2);
}

// A head's columns of a projection [c, H_kv d] -> [H, c, d], by query head.
at::Tensor head_projections(const at::Tensor& projection, const AttentionShape& shape,
                            int64_t query_heads) {
  auto heads = projection.reshape({projection.size(0), shape.key_value_heads, shape.head_width})
                   .transpose(0, 1);
  if (query_heads == shape.key_value_heads) return heads;
  return heads.repeat_interleave(query_heads / shape.key_value_heads, 0);
}

at::Tensor relative_error(const at::Tensor& x, const at::Tensor& projection,
                          const at::Tensor& valid) {
  ops::Fp32Guard fp32(x.device());
  auto joint = joint_heads(x.detach()) * valid.unsqueeze(-1);
  auto energy = joint.square().sum().clamp_min(1e-12);
  return 1 - at::matmul(joint, projection.to(joint.scalar_type()).t()).square().sum() / energy;
}

// The entries at `index` [B, kept] of those that leave the window.
LeavingEntries take(const LeavingEntries& leaving, const at::Tensor& index) {
  auto of = [&](const at::Tensor& x, int64_t dim) {
    return x.defined() ? gather_entries(x, index, dim) : x;
  };
  return {of(leaving.keys, 2),     of(leaving.values, 2), of(leaving.positions, 1),
          of(leaving.order, 1),    of(leaving.valid, 1),  of(leaving.mass, 1),
          of(leaving.exposure, 1), of(leaving.bias, 1)};
}

// Entries and their latents behind those that the buffer holds. Priorities are appended where
// `latents` have some.
void append(LatentBuffer& buffer, const LeavingEntries& entries, const LatentBuffer& latents) {
  auto held = buffer.empty() ? 0 : buffer.order.size(1);
  auto joined = [&](const at::Tensor& old, const at::Tensor& more) {
    return held > 0 && more.defined() ? at::cat({old, more}, 1) : more;
  };
  buffer.bias = join_bias(buffer.bias, held, entries.bias, entries.order.size(1));
  buffer.priority = joined(buffer.priority, latents.priority);
  buffer.keys = joined(buffer.keys, latents.keys);
  buffer.values = joined(buffer.values, latents.values);
  buffer.positions = joined(buffer.positions, entries.positions);
  buffer.valid = joined(buffer.valid, entries.valid);
  buffer.order = joined(buffer.order, entries.order);
}

void keep(LatentBuffer& buffer, const at::Tensor& index) {
  for (auto* tensor : {&buffer.keys, &buffer.values, &buffer.positions, &buffer.order,
                       &buffer.priority, &buffer.valid, &buffer.bias})
    if (tensor->defined()) *tensor = gather_entries(*tensor, index, 1);
}

// The leading eigenvectors of the second moment, and the share of its trace outside them.
std::pair<at::Tensor, double> principal_components(const at::Tensor& moment, int64_t width) {
  auto [values, vectors] = at::linalg_eigh(moment);
  auto total = values.sum().item<double>();
  auto kept = values.narrow(0, values.size(0) - width, width).sum().item<double>();
  auto rows = vectors.narrow(1, vectors.size(1) - width, width).t().flip(0);
  // The sign of an eigenvector is arbitrary: make its largest element positive, so that runs agree
  // over libraries.
  auto largest = rows.gather(1, rows.abs().argmax(1, true));
  return {(rows * largest.sign()).to(at::kFloat).contiguous(),
          total > 0 ? std::max(0.0, 1 - kept / total) : 0.0};
}

}  // namespace

RckvImpl::RckvImpl(const RckvConfig& config, const AttentionShape& shape, int64_t seed)
    : config_(config), shape_(shape), seed_(seed) {
  auto joint = shape.key_value_heads * shape.head_width;
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    for (auto [name, list] : {std::pair{"key_projection", &key_projection_},
                              {"value_projection", &value_projection_}}) {
      auto full = concat(name, "_", layer);
      auto start = ops::initial_normal(concat("rckv.", full), {config.latent_width, joint}, 1.0,
                                       uint64_t(seed));
      list->push_back(register_parameter(full, orthonormal_rows(start)));
    }
    if (config.position == "age_bias")
      age_bias_.push_back(register_parameter(concat("age_bias_", layer),
                                             at::zeros({shape.query_heads, kAgeBuckets})));
    if (config.weight == "gate") {
      // The gate starts nearly open: at log .9 a latent's logits are almost what they were.
      constexpr double kOpen = 0.9, kDeviation = 0.02;
      auto name = concat("gate_weight_", layer);
      auto start = ops::initial_normal(concat("rckv.", name), {2 * config.latent_width}, kDeviation,
                                       uint64_t(seed));
      gate_weight_.push_back(register_parameter(name, start));
      gate_bias_.push_back(register_parameter(concat("gate_bias_", layer),
                                              at::full({1}, std::log(kOpen / (1 - kOpen)))));
    }
  }
}

at::Tensor RckvImpl::compress_keys(int64_t layer, const at::Tensor& x) const {
  return compress(x, key_projection_[layer]);
}
at::Tensor RckvImpl::compress_values(int64_t layer, const at::Tensor& x) const {
  return compress(x, value_projection_[layer]);
}
at::Tensor RckvImpl::rebuild_keys(int64_t layer, const at::Tensor& latents) const {
  return rebuild(latents, key_projection_[layer], shape_.key_value_heads);
}
at::Tensor RckvImpl::rebuild_values(int64_t layer, const at::Tensor& latents) const {
  return rebuild(latents, value_projection_[layer], shape_.key_value_heads);
}

at::Tensor RckvImpl::expand_values(int64_t layer, const at::Tensor& mixed,
                                   int64_t query_heads) const {
  ops::Fp32Guard fp32(mixed.device());
  auto heads = head_projections(value_projection_[layer], shape_, query_heads);
  return at::matmul(mixed, heads.to(mixed.scalar_type()));  // [B, H, T, c] x [H, c, d]
}

at::Tensor RckvImpl::absorb_queries(int64_t layer, const at::Tensor& q) const {
  ops::Fp32Guard fp32(q.device());
  auto heads = head_projections(key_projection_[layer], shape_, q.size(1));  // [H, c, d]
  auto type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return at::matmul(q.to(type), heads.transpose(-1, -2).to(type));
}

at::Tensor RckvImpl::age_bias(int64_t layer, const at::Tensor& query_order,
                              const at::Tensor& key_order) const {
  auto age = (query_order.unsqueeze(-1) - key_order.unsqueeze(1)).clamp_min(1);  // [B, T, L]
  // Integer bounds 2, 4, 8, ...: a floating logarithm may fall on either side of a power of two.
  auto bounds = at::ones({kAgeBuckets - 1}, age.options())
                    .bitwise_left_shift(at::arange(1, kAgeBuckets, age.options()));
  auto bucket = at::bucketize(age, bounds, /*out_int32=*/false, /*right=*/true);
  return at::embedding(age_bias_[layer].t(), bucket).permute({0, 3, 1, 2});
}

at::Tensor RckvImpl::log_gate(int64_t layer, const at::Tensor& key_latents,
                              const at::Tensor& value_latents) const {
  ops::Fp32Guard fp32(key_latents.device());
  auto latents = at::cat({key_latents, value_latents}, -1);
  auto type = latents.scalar_type();
  auto logit = at::matmul(latents, gate_weight_[layer].to(type)) + gate_bias_[layer].to(type);
  return at::log_sigmoid(logit);
}

// log w of each entry [B, E] fp64, without gradient.
at::Tensor RckvImpl::log_weight(int64_t layer, const LeavingEntries& leaving,
                                const LatentBuffer& offered) const {
  if (config_.weight == "attention_rate") {
    auto rate = (leaving.mass + config_.prior_mass) / (leaving.exposure + config_.prior_exposure);
    auto norm = joint_heads(leaving.values.detach()).norm(2, -1);
    return (rate * norm.clamp_min(1e-12)).to(at::kDouble).log();
  }
  if (config_.weight == "gate")
    return log_gate(layer, offered.keys, offered.values).detach().to(at::kDouble);
  return at::zeros(leaving.order.sizes(), leaving.order.options().dtype(at::kDouble));
}

at::Tensor RckvImpl::priority(int64_t layer, const LeavingEntries& leaving,
                              const LatentBuffer& offered, const std::vector<int64_t>& sample_ids,
                              uint64_t step) const {
  const auto& order = leaving.order;
  auto of_padding = [&](const at::Tensor& x) {
    return x.masked_fill(leaving.valid.logical_not(), -std::numeric_limits<double>::infinity());
  };
  auto rank = order.to(at::kDouble);
  if (config_.weight == "recency") return of_padding(rank);
  auto priority = log_weight(layer, leaving, offered) + rank * config_.decay;
  if (config_.noise != "gumbel") return of_padding(priority);
  // By rank in the sequence and layer: the same token draws the same number, whatever segment or
  // batch it came with.
  auto noise = at::empty(order.sizes(), at::kDouble);
  auto ranks = order.to(at::kCPU).contiguous();
  for (int64_t b = 0; b < order.size(0); ++b) {
    RandomStream stream(uint64_t(seed_), Purpose::kReservoir, step,
                        uint64_t(sample_ids[size_t(b)]));
    for (int64_t i = 0; i < order.size(1); ++i) {
      auto place = uint64_t(ranks.data_ptr<int64_t>()[b * order.size(1) + i]);
      noise.data_ptr<double>()[b * order.size(1) + i] =
          stream.gumbel(place * uint64_t(shape_.layers) + uint64_t(layer));
    }
  }
  return of_padding(priority + noise.to(order.device()));
}

ops::Latents RckvImpl::latents_of(int64_t layer, const LeavingEntries& leaving) const {
  if (config_.kernel == "aten")
    return {compress_keys(layer, leaving.keys), compress_values(layer, leaving.values)};
  auto type = leaving.keys.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto both = at::cat({key_projection_[layer], value_projection_[layer]}).to(type);
  return ops::latent_project({leaving.keys, leaving.values, both, std::nullopt});
}

void RckvImpl::insert(int64_t layer, LatentBuffer& buffer, const LeavingEntries& leaving,
                      const std::vector<int64_t>& sample_ids, uint64_t step) const {
  auto held = buffer.empty() ? 0 : buffer.order.size(1), fresh = leaving.order.size(1);
  bool all_fit = held + fresh <= config_.buffer_length;
  auto project = [&](const LeavingEntries& entries) {
    LatentBuffer offered;
    auto latents = latents_of(layer, entries);
    offered.keys = latents.keys;
    offered.values = latents.values;
    return offered;
  };
  if (config_.kernel == "aten") {
    auto offered = project(leaving);
    offered.priority = priority(layer, leaving, offered, sample_ids, step);
    append(buffer, leaving, offered);
    if (all_fit) return;
    auto kept = std::get<1>(buffer.priority.topk(config_.buffer_length, 1));
    kept = std::get<0>(kept.sort(1));  // entries stand oldest first
    keep(buffer, kept);
    return;
  }
  // The gate weighs latents; nothing else needs those of entries that are not accepted.
  bool gated = config_.weight == "gate", ring = config_.weight == "recency";
  auto offered = gated ? project(leaving) : LatentBuffer();
  auto doubles = leaving.order.options().dtype(at::kDouble);
  ops::ReservoirInputs in{
      held > 0 ? buffer.priority : at::empty({leaving.order.size(0), 0}, doubles),
      leaving.order,
      leaving.valid,
      {}};
  ops::ReservoirOptions options{config_.buffer_length, ring ? 1.0 : config_.decay, {}};
  if (!ring) in.log_weight = log_weight(layer, leaving, offered);
  if (!ring && config_.noise == "gumbel")
    options.noise =
        ops::ReservoirNoise{uint64_t(seed_), step, shape_.layers, layer,
                            at::tensor(sample_ids, at::kLong).to(leaving.order.device())};
  auto update = ops::reservoir_update(in, options);
  auto accepted = all_fit ? fresh : update.count.max().item<int64_t>();
  if (accepted > 0) {
    // Where a sequence accepts fewer than another, its first entry stands in; nothing comes of it.
    auto index = update.accepted.narrow(1, 0, accepted).clamp_min(0);
    auto entries = all_fit ? leaving : take(leaving, index);
    if (!gated) {
      offered = project(entries);
    } else if (!all_fit) {
      offered.keys = gather_entries(offered.keys, index, 1);
      offered.values = gather_entries(offered.values, index, 1);
    }
    append(buffer, entries, offered);
    if (!all_fit) keep(buffer, update.source);
  }
  buffer.priority = update.priority;
}

at::Tensor RckvImpl::compression_error(int64_t layer, const at::Tensor& keys,
                                       const at::Tensor& values, const at::Tensor& valid) const {
  return 0.5 * (relative_error(keys, key_projection_[layer], valid) +
                relative_error(values, value_projection_[layer], valid));
}

void RckvImpl::begin_calibration() {
  auto joint = shape_.key_value_heads * shape_.head_width;
  auto zero = at::zeros({joint, joint}, key_projection_[0].options().dtype(at::kDouble));
  key_moment_.assign(size_t(shape_.layers), at::Tensor());
  value_moment_ = key_moment_;
  for (auto* list : {&key_moment_, &value_moment_})
    for (auto& moment : *list) moment = zero.clone();
  calibrating_ = true;
}

void RckvImpl::collect(int64_t layer, const at::Tensor& keys, const at::Tensor& values,
                       const at::Tensor& valid) {
  at::NoGradGuard no_grad;
  auto add = [&](at::Tensor& moment, const at::Tensor& x) {
    auto rows = (joint_heads(x.detach()) * valid.unsqueeze(-1))
                    .reshape({-1, moment.size(0)})
                    .to(at::kDouble);
    moment += at::matmul(rows.t(), rows);
  };
  add(key_moment_[size_t(layer)], keys);
  add(value_moment_[size_t(layer)], values);
}

void RckvImpl::finish_calibration() {
  at::NoGradGuard no_grad;
  calibrating_ = false;
  tail_energy_.clear();
  for (int64_t layer = 0; layer < shape_.layers; ++layer) {
    auto [keys, key_tail] = principal_components(key_moment_[size_t(layer)], config_.latent_width);
    auto [values, value_tail] =
        principal_components(value_moment_[size_t(layer)], config_.latent_width);
    key_projection_[size_t(layer)].copy_(keys);
    value_projection_[size_t(layer)].copy_(values);
    tail_energy_.push_back(0.5 * (key_tail + value_tail));
  }
  key_moment_.clear();
  value_moment_.clear();
}

void RckvImpl::after_step() {
  at::NoGradGuard no_grad;
  for (auto* list : {&key_projection_, &value_projection_})
    for (auto& projection : *list)
      if (projection.requires_grad())
        projection.copy_(orthonormal_rows(projection));  // frozen: not even rounded
}

}  // namespace dsrsq
