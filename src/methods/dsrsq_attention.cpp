// How DSRSQ's layers attend: segments, clusters, latents, one softmax. The rest of the method is in
// dsrsq.cpp.
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "dsrsq/attention/read_mass.h"
#include "dsrsq/attention/sequence_clusters.h"
#include "dsrsq/methods/dsrsq.h"
#include "dsrsq/methods/dsrsq_kernel.h"
#include "dsrsq/ops/head_layout.h"
#include "dsrsq/ops/latent_attention.h"
#include "dsrsq/ops/rotary_frequencies.h"

namespace dsrsq {

namespace {

// A bias of entries [B, K] as masked_attention takes it; undefined stays undefined.
at::Tensor over_queries(const at::Tensor& bias) {
  return bias.defined() ? bias.unsqueeze(1).unsqueeze(2) : bias;
}

// bool [B, H_kv, C]: the clusters of which the layer still holds a member exactly.
at::Tensor live_clusters(const LayerState& layer) {
  auto clusters = layer.cluster_mean.size(2);
  auto held = at::zeros({layer.cluster.size(0), layer.cluster.size(1), clusters + 1},
                        layer.valid.options());
  // Column 0 takes the keys that belong to none (-1).
  return held.scatter_(2, layer.cluster + 1, true).narrow(2, 1, clusters);
}

// Also when a block is computed again for its gradient, which is to be of what was computed first:
// the rows were recorded then and are not given again.
bool records_rows(const AttentionInput& input, const PassOptions& options) {
  return input.record_rows.defined() ||
         (options.replaying && options.retrieval.target != "evidence");
}

AttentionInput narrow_input(const AttentionInput& input, int64_t begin, int64_t length) {
  if (length == input.q.size(2)) return input;
  auto tokens = [&](const at::Tensor& x, int64_t dim) {
    return x.defined() ? x.narrow(dim, begin, length) : x;
  };
  AttentionInput segment = input;
  segment.q = tokens(input.q, 2);
  segment.k = tokens(input.k, 2);
  segment.v = tokens(input.v, 2);
  segment.valid = tokens(input.valid, 1);
  segment.positions = tokens(input.positions, 1);
  segment.order = tokens(input.order, 1);
  segment.key_bias = tokens(input.key_bias, 1);
  segment.record_rows = tokens(input.record_rows, 1);
  if (input.rope)
    segment.rope = ops::RotaryTable{tokens(input.rope->cosine, 2), tokens(input.rope->sine, 2),
                                    input.rope->scale};
  return segment;
}

}  // namespace

at::Tensor DsrsqMethod::attend(const AttentionInput& given, MethodState& state) {
  const auto& options = state.options;
  auto input = given;
  if (options.calibrating) {
    if (!rckv_.is_empty() && rckv_->calibrating())
      rckv_->collect(input.layer, input.k, input.v, input.valid);
    if (start_codebook_) sqa_->start_from(input.layer, input.k, input.valid, options.step);
  }
  if (!sqa_on(options) && !rckv_on(options)) return Method::attend(input, state);

  // The CUDA kernels of clusters work head by head: one copy here instead of one before each.
  const auto& kernel = config_.sqa.kernel;
  bool by_head = input.q.is_cuda() && sqa_on(options) && (kernel == "auto" || kernel == "native") &&
                 operator_obstacle(config_.sqa, model_, input.q.device(), attention_type(input.q),
                                   keeps_mass(options))
                     .empty();
  if (by_head)
    for (auto* x : {&input.q, &input.k, &input.v}) *x = ops::laid_out_by_head(*x);

  if (rckv_on(options) && options.training) {
    auto error = rckv_->compression_error(input.layer, input.k, input.v, input.valid);
    auto& term = state.losses["compression"];
    term.sum = term.sum.defined() ? term.sum + error : error;
    term.count += 1;
    compression_error_[size_t(input.layer)] = error.detach();
  }
  auto cluster = sqa_on(options) ? assign_clusters(input, state) : at::Tensor();
  auto segmented = rckv_on(options) || segment_clusters(options);
  auto segments = segmented ? input.segments : std::vector<int64_t>{input.q.size(2)};
  std::vector<at::Tensor> outputs;
  int64_t begin = 0;
  for (size_t s = 0; s < segments.size(); ++s) {
    auto length = segments[s];
    auto segment = narrow_input(input, begin, length);
    auto own = cluster.defined() ? cluster.narrow(2, begin, length) : cluster;
    if (length > 0) outputs.push_back(attend_segment(segment, own, state));
    if (s + 1 < segments.size()) close_segment(segment, state);
    begin += length;
  }
  auto out = outputs.size() == 1 ? outputs[0] : at::cat(outputs, 2);
  return by_head ? ops::laid_out_by_token(out) : out;
}

// One query attends under a mask, unless the config asks for another operator.
std::string DsrsqMethod::step_obstacle(const MethodState& state) const {
  const auto& kernel = config_.sqa.kernel;
  if (sqa_on(state.options) && (kernel == "native" || kernel == "aten"))
    return "sqa.kernel: " + kernel;
  if (state.options.probe == Probe::kRandomRouting) return "random routing, drawn on the host";
  return {};
}

// ---- clusters ----

// Cluster of each of the chunk's keys, int64 [B, H_kv, T]; -1: none, or none before its segment
// closes.
at::Tensor DsrsqMethod::assign_clusters(const AttentionInput& input, MethodState& state) {
  const auto& options = state.options;
  if (prefix_clusters(options)) return assign_to_prefix(input, state);
  if (segment_clusters(options))
    return at::full({input.k.size(0), input.k.size(1), input.k.size(2)}, -1, input.order.options());
  return sqa_->assign(input.layer, input.k, input.valid, options.training && !options.replaying);
}

// The prefix is what stands before the last segment (the tail) of a sequence's first chunk. Sinks
// are attended anyway, so they belong to no cluster.
at::Tensor DsrsqMethod::assign_to_prefix(const AttentionInput& input, MethodState& state) const {
  auto& layer = state.layers[size_t(input.layer)];
  if (layer.cluster_direction.defined())
    return nearest_cluster(input.k, layer.cluster_direction, input.valid);
  auto tail = input.segments.back(), prefix = input.k.size(2) - tail;
  auto context = input.valid.logical_and(input.order >= model_.sinks).narrow(1, 0, prefix);
  auto found =
      cluster_sequence(input.k.narrow(2, 0, prefix), context, input.order.narrow(1, 0, prefix),
                       config_.sqa.clusters, seed_, state.sample_ids);
  layer.cluster_direction = found.direction;
  layer.cluster_mean = found.mean;
  auto later = nearest_cluster(input.k.narrow(2, prefix, tail), found.direction,
                               input.valid.narrow(1, prefix, tail));
  return at::cat({found.member, later}, 2);
}

// Those of the codebook that the segment's queries attend, int32 [B, H, T, k].
at::Tensor DsrsqMethod::route_codebook(const AttentionInput& segment,
                                       const MethodState& state) const {
  const auto& options = state.options;
  if (options.probe != Probe::kRandomRouting)
    return sqa_->route(segment.layer, segment.q, options.clusters_per_query);
  auto samples = at::tensor(state.sample_ids, at::kLong);
  return sqa_->route_randomly(segment.order, samples, segment.layer, options.clusters_per_query);
}

// Of each closed segment's m clusters a query may choose k; the best of all of them together, so
// that a segment that matters gets more. bool [B, H, T, clusters]; undefined where there are none
// to choose from: then nothing is left out.
at::Tensor DsrsqMethod::route_own_clusters(const AttentionInput& segment,
                                           const MethodState& state) const {
  const auto& layer = state.layers[size_t(segment.layer)];
  const auto& options = state.options;
  if (!layer.cluster_mean.defined() || layer.cluster_mean.size(2) == 0) return {};
  auto m = config_.sqa.clusters;
  auto k =
      options.clusters_per_query > 0 ? options.clusters_per_query : config_.sqa.clusters_per_query;
  auto most = std::min(k, m);
  auto batch = segment.order.size(0);
  auto limit = at::full({batch}, most, segment.order.options());
  at::Tensor available;
  if (segment_clusters(options)) {
    available = live_clusters(layer);
    auto blocks = layer.cluster_mean.size(2) / m;
    limit = limit * available.view({batch, -1, blocks, m}).any(3).select(1, 0).sum(1);
    most *= blocks;
  } else {
    available = layer.cluster_direction.square().sum(-1) > 0;
  }
  if (options.probe != Probe::kRandomRouting)
    return sqa_->route_sequence(segment.q, layer.cluster_mean, available, limit, most);
  auto samples = at::tensor(state.sample_ids, at::kLong);
  return sqa_->route_sequence_randomly(segment.order, samples, segment.layer, available, limit,
                                       most);
}

// The keys of the segment that has just closed, as far as they are still held exactly, get clusters
// of their own.
void DsrsqMethod::cluster_closed(LayerState& layer, const MethodState& state) const {
  auto evicting = rckv_on(state.options);
  auto begin = evicting ? 0 : layer.closed, length = layer.entries() - begin;
  if (length == 0) return;
  layer.closed = layer.entries();
  auto part = layer.cluster.narrow(2, begin, length);
  auto order = layer.order.narrow(1, begin, length);
  auto open = layer.valid.narrow(1, begin, length)
                  .logical_and(order >= model_.sinks)
                  .logical_and(part.select(1, 0) < 0);
  auto keys = before_rope(layer.keys.narrow(2, begin, length).detach(),
                          layer.positions.narrow(1, begin, length));
  auto m = config_.sqa.clusters;
  auto found = cluster_sequence(keys, open, order, m, seed_, state.sample_ids);
  auto known = layer.cluster_mean.defined() ? layer.cluster_mean.size(2) : 0;
  auto member = at::where(found.member >= 0, found.member + known, part);
  layer.cluster = at::cat({layer.cluster.narrow(2, 0, begin), member}, 2);
  layer.cluster_mean = known > 0 ? at::cat({layer.cluster_mean, found.mean}, 2) : found.mean;
  if (!evicting) return;

  // Segments of which no sequence holds a key any more are dropped: the state stays bounded.
  auto blocks = layer.cluster_mean.size(2) / m;
  auto live = live_clusters(layer).view({order.size(0), -1, blocks, m}).any(3).any(1).any(0);
  auto kept = live.nonzero().squeeze(1);
  if (kept.size(0) == blocks) return;
  auto columns = (kept.unsqueeze(1) * m + at::arange(m, kept.options())).reshape({-1});
  layer.cluster_mean = layer.cluster_mean.index_select(2, columns);
  auto old_id = layer.cluster.clamp_min(0);
  auto block = (live.cumsum(0) - 1).index_select(0, old_id.floor_divide(m).reshape({-1}));
  auto new_id = block.view(old_id.sizes()) * m + old_id.remainder(m);
  layer.cluster = at::where(layer.cluster < 0, layer.cluster, new_id);
}

// ---- one segment ----

// By ops::cluster_attention; otherwise under a mask. routes undefined: of no codebook.
bool DsrsqMethod::attends_by_operator(const AttentionInput& segment, const at::Tensor& routes,
                                      const MethodState& state) const {
  const auto& options = state.options;
  auto used = config_.sqa;
  if (used.kernel == "masked_dense") return false;
  // What needs the probabilities themselves, or their mask.
  if (records_rows(segment, options) || options.collect_stats || options.probe == Probe::kDenseRead)
    return false;
  // One query's mask is small, the operator's index of all keys is not.
  if (used.kernel == "auto" && segment.q.size(2) == 1) return false;
  if (routes.defined()) {
    if (used.dense_below > 0 && (rckv_on(options) || segment.padded)) return false;
    used.clusters_per_query = routes.size(3);
  } else {
    // Dense: where the softmax is joined, or its denominators are wanted. Otherwise torch's own is
    // faster.
    const auto& latents = state.layers[size_t(segment.layer)].latents;
    if (sqa_on(options) || (latents.empty() && !keeps_mass(options))) return false;
    used.clusters = used.clusters_per_query = 1;
    used.centroids = "codebook";
  }
  return operator_obstacle(used, model_, segment.q.device(), attention_type(segment.q),
                           keeps_mass(options))
      .empty();
}

at::Tensor DsrsqMethod::attend_segment(const AttentionInput& segment, const at::Tensor& cluster,
                                       MethodState& state) {
  auto& layer = state.layers[size_t(segment.layer)];
  const auto& options = state.options;
  bool from_codebook = sqa_on(options) && sqa_->has_codebook();
  auto routes = from_codebook ? route_codebook(segment, state) : at::Tensor();
  bool by_operator = attends_by_operator(segment, routes, state);
  at::Tensor routed;
  if (from_codebook && !by_operator)
    routed = sqa_->routed_mask(routes);
  else if (sqa_on(options) && !from_codebook)
    routed = route_own_clusters(segment, state);
  auto q = segment.rotated(segment.q);
  layer.append(segment.rotated(segment.k), segment.v, segment.positions, segment.order,
               segment.valid, cluster, keeps_mass(options), segment.key_bias, segment.padded);
  if (keeps_mass(options)) count_exposure(segment, layer);
  std::optional<PartialAttention> latents;
  if (!layer.latents.empty() && options.probe != Probe::kLatentsMasked)
    latents = read_latents(segment, q, layer.latents, options);
  if (!by_operator) return attend_masked(segment, q, routed, latents, state);
  const auto& sqa = config_.sqa;
  ClusterRead read{q,          routes,       segment.valid,   sqa.clusters,
                   sqa.window, model_.sinks, sqa.dense_below, sqa.kernel == "aten"};
  auto joined = read_clusters(read, layer, latents);
  if (keeps_mass(options)) add_attention_mass(read, segment.order, joined.lse, layer);
  return joined.out;
}

// The segment's queries that could attend each entry, in all heads.
void DsrsqMethod::count_exposure(const AttentionInput& segment, LayerState& layer) const {
  // Ranks of a segment's tokens follow each other.
  auto none = std::numeric_limits<int64_t>::max();
  auto first = segment.order.masked_fill(segment.valid.logical_not(), none).amin(1, true);
  auto asked = segment.valid.sum(1, true);
  auto before = at::minimum((layer.order - first).clamp_min(0), asked);
  auto seen = (asked - before).masked_fill(layer.valid.logical_not(), 0);
  layer.exposure = layer.exposure + seen.to(at::kFloat) * double(segment.q.size(1));
}

// Dense attention under a mask.
at::Tensor DsrsqMethod::attend_masked(const AttentionInput& segment, const at::Tensor& q,
                                      const at::Tensor& routed,
                                      const std::optional<PartialAttention>& latents,
                                      MethodState& state) const {
  auto& layer = state.layers[size_t(segment.layer)];
  const auto& options = state.options;
  auto causal = (layer.order.unsqueeze(1).unsqueeze(2) <= segment.order.unsqueeze(1).unsqueeze(-1))
                    .logical_and(layer.valid.unsqueeze(1).unsqueeze(2));  // [B, 1, T, keys]
  auto mask = causal;
  if (routed.defined() && options.probe != Probe::kDenseRead)
    mask = sparse_mask(segment.order, layer.order, layer.valid, routed, layer.cluster,
                       config_.sqa.window, model_.sinks, config_.sqa.dense_below);
  if (!latents && !keeps_mass(options) && !records_rows(segment, options) &&
      !layer.bias.defined()) {
    if (options.collect_stats) count(segment, mask, causal, state.stats);
    // Padding may see no key at all, which not every backend of torch's answers with a number.
    if (segment.padded)
      mask = mask.logical_or(segment.valid.logical_not().view({-1, 1, q.size(2), 1}));
    return read_entries(q, layer.keys, layer.values, mask);
  }
  std::vector<PartialAttention> parts{
      masked_attention(q, layer.keys, layer.values, mask, over_queries(layer.bias))};
  if (latents) parts.push_back(*latents);
  auto joined = join_attention(parts);

  at::NoGradGuard no_grad;
  if (keeps_mass(options)) {
    auto weight = segment.valid.unsqueeze(1).unsqueeze(-1);  // padding asks nothing
    auto probability = (parts[0].logits.detach() - joined.lse.detach().unsqueeze(-1)).exp();
    layer.mass = layer.mass + (probability.square() * weight).sum({1, 2}).to(at::kFloat);
  }
  if (segment.record_rows.defined()) record_rows(segment, parts, joined.lse, state);
  if (options.collect_stats) {
    count(segment, mask, causal, state.stats);
    if (latents)
      count_latents(segment, layer.latents, (parts[1].lse - joined.lse).exp(), state.stats);
  }
  return joined.out;
}

// What every query's logit of a latent gets, [B, L] fp32; undefined: nothing.
at::Tensor DsrsqMethod::slot_bias(const AttentionInput& segment,
                                  const LatentBuffer& latents) const {
  if (config_.rckv.weight != "gate") return latents.bias;
  auto gate = rckv_->log_gate(segment.layer, latents.keys, latents.values);
  return latents.bias.defined() ? latents.bias + gate : gate;
}

// All biases of a latent's logits, broadcastable to [B, H, T, L]; undefined: none.
at::Tensor DsrsqMethod::latent_bias(const AttentionInput& segment,
                                    const LatentBuffer& latents) const {
  auto bias = over_queries(slot_bias(segment, latents));
  if (config_.rckv.position != "age_bias") return bias;
  auto age = rckv_->age_bias(segment.layer, segment.order, latents.order);
  return bias.defined() ? bias + age : age;
}

// By ops::latent_attention, without logits.
PartialAttention DsrsqMethod::read_latents_natively(const AttentionInput& segment,
                                                    const at::Tensor& rotated_q,
                                                    const LatentBuffer& latents) const {
  auto type = rotated_q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto present = [&](const at::Tensor& x) {
    return x.defined() ? std::optional(x.to(type)) : std::nullopt;
  };
  bool rotates = config_.rckv.position == "rope_reconstruct" && model_.position_embedding == "rope";
  ops::LatentAttentionInputs in{rotates ? rotated_q : segment.q,
                                latents.keys,
                                latents.values,
                                rckv_->key_projection(segment.layer).to(type),
                                rckv_->value_projection(segment.layer).to(type),
                                latents.valid,
                                present(slot_bias(segment, latents)),
                                {},
                                {},
                                {},
                                {}};
  ops::LatentAttentionOptions options{1 / std::sqrt(double(shape_.head_width))};
  if (config_.rckv.position == "age_bias") {
    in.age_bias = present(rckv_->age_table(segment.layer));
    in.query_order = segment.order;
    in.key_order = latents.order;
  }
  if (rotates) {
    auto frequencies =
        ops::rotary_frequencies(shape_.head_width, model_.rope_base, model_.rope_scaling);
    in.positions = latents.positions;
    options.frequencies = frequencies.radians;
    options.rotary_scale = frequencies.scale;
  }
  auto read = ops::latent_attention(in, options);
  return {read.out.to(rotated_q.scalar_type()), read.lse, {}};
}

PartialAttention DsrsqMethod::read_latents(const AttentionInput& segment,
                                           const at::Tensor& rotated_q, const LatentBuffer& latents,
                                           const PassOptions& options) const {
  const auto& kernel = config_.rckv.kernel;
  if (kernel != "aten" && !records_rows(segment, options) &&
      latent_obstacle(config_.rckv, model_, segment.q.device()).empty())
    return read_latents_natively(segment, rotated_q, latents);
  auto mask = latents.valid.unsqueeze(1).unsqueeze(2);
  auto values = latents.values.unsqueeze(1);
  auto bias = latent_bias(segment, latents);
  PartialAttention part;
  if (config_.rckv.position == "age_bias") {
    // Logits are divided by the root of the width that masked_attention sees, c; a head's is d.
    auto scale = std::sqrt(double(config_.rckv.latent_width) / double(shape_.head_width));
    auto q = rckv_->absorb_queries(segment.layer, segment.q) * scale;
    part = masked_attention(q, latents.keys.unsqueeze(1), values, mask, bias);
  } else {
    auto keys = rckv_->rebuild_keys(segment.layer, latents.keys);
    if (model_.position_embedding == "rope")
      keys = ops::rotate(keys, rotary_table(latents.positions));
    part = masked_attention(rotated_q, keys.to(rotated_q.scalar_type()), values, mask, bias);
  }
  part.out =
      rckv_->expand_values(segment.layer, part.out, segment.q.size(1)).to(rotated_q.scalar_type());
  return part;
}

// Of the joined softmax: the exact keys, then the latents where they were read.
void DsrsqMethod::record_rows(const AttentionInput& segment,
                              const std::vector<PartialAttention>& parts, const at::Tensor& lse,
                              MethodState& state) const {
  const auto& layer = state.layers[size_t(segment.layer)];
  auto rows = flagged_rows(segment.record_rows.masked_fill(segment.valid.logical_not(), -1));
  if (rows.count() == 0) return;
  auto row_lse = take_rows(lse, rows);
  for (size_t i = 0; i < parts.size(); ++i)
    add_read_mass(state.read_mass, take_rows(parts[i].logits, rows), row_lse, rows.question,
                  segment.record_questions, i == 0 ? layer.order : layer.latents.order);
}

// ---- leaving ----

ops::RotaryTable DsrsqMethod::rotary_table(const at::Tensor& positions) const {
  return ops::rotary_table(positions, shape_.head_width, model_.rope_base, model_.rope_scaling);
}

at::Tensor DsrsqMethod::before_rope(const at::Tensor& keys, const at::Tensor& positions) const {
  if (model_.position_embedding != "rope") return keys;
  return ops::rotate(keys, rotary_table(positions), true);
}

void DsrsqMethod::close_segment(const AttentionInput& segment, MethodState& state) const {
  auto& layer = state.layers[size_t(segment.layer)];
  if (rckv_on(state.options)) evict(segment, state);
  if (segment_clusters(state.options)) cluster_closed(layer, state);
  if (rckv_on(state.options) && config_.rckv.back_propagation == "truncated") layer.detach();
}

// What is older than `rckv.window` tokens leaves the exact set and is offered to the buffer.
// Windows count tokens, not slots: padding is moved to the front first, so that a sequence's result
// does not depend on the batch that it is in.
void DsrsqMethod::evict(const AttentionInput& segment, MethodState& state) const {
  auto& layer = state.layers[size_t(segment.layer)];
  auto sinks = model_.sinks, entries = layer.entries();
  auto leaving = entries - sinks - config_.rckv.window;
  if (leaving <= 0) return;
  auto index = at::arange(entries, layer.order.options())
                   .unsqueeze(0)
                   .expand({layer.order.size(0), entries});
  if (segment.padded) {
    auto body = layer.valid.narrow(1, sinks, entries - sinks)
                    .to(at::kInt)
                    .argsort(/*stable=*/true, /*dim=*/1, /*descending=*/false) +
                sinks;
    index = at::cat({index.narrow(1, 0, sinks), body}, 1);
  }
  auto gone = index.narrow(1, sinks, leaving);
  auto take = [&](const at::Tensor& x) { return x.defined() ? gather_entries(x, gone, 1) : x; };
  auto positions = take(layer.positions);
  LeavingEntries out{before_rope(gather_entries(layer.keys, gone, 2), positions),
                     gather_entries(layer.values, gone, 2),
                     positions,
                     take(layer.order),
                     take(layer.valid),
                     take(layer.mass),
                     take(layer.exposure),
                     take(layer.bias)};
  rckv_->insert(segment.layer, layer.latents, out, state.sample_ids,
                uint64_t(state.options.training ? state.options.step : 0));
  layer.keep(at::cat(
      {index.narrow(1, 0, sinks), index.narrow(1, sinks + leaving, config_.rckv.window)}, 1));
}

// ---- statistics ----

// share [B, H, T]: the latents' part of each row's softmax.
void DsrsqMethod::count_latents(const AttentionInput& segment, const LatentBuffer& latents,
                                const at::Tensor& share, AttentionStats& stats) const {
  auto heads = segment.q.size(1);
  auto rows = segment.valid.logical_and(latents.valid.any(1, true));  // [B, T]
  auto held = latents.valid.sum(1);
  auto rebuilt = config_.rckv.position == "age_bias" ? at::zeros_like(held) : held;
  stats.add(stats.latent_rows, rows.sum() * heads);
  stats.add(stats.latent_mass, (share.sum(1) * rows).sum());
  stats.add(stats.rebuilt_latents, rebuilt.sum());
  stats.add(stats.latent_pairs, (segment.valid.sum(1) * held).sum() * heads);
}

void DsrsqMethod::count(const AttentionInput& segment, const at::Tensor& mask,
                        const at::Tensor& causal, AttentionStats& stats) const {
  auto heads = segment.q.size(1);
  auto valid = segment.valid.unsqueeze(1);                                        // [B, 1, T]
  auto attended = mask.sum(-1).expand({mask.size(0), heads, segment.q.size(2)});  // [B, H, T]
  auto visible = causal.sum(-1).expand_as(attended);
  stats.add(stats.rows, valid.sum() * heads);
  stats.add(stats.sparse_rows, (attended * 2 < visible).logical_and(valid).sum());
  stats.add(stats.attended_pairs, (attended * valid).sum());
  stats.add(stats.visible_pairs, (visible * valid).sum());
}

}  // namespace dsrsq
