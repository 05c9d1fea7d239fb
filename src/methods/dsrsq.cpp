#include "dsrsq/methods/dsrsq.h"

#include <torch/torch.h>

#include <cmath>

#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/ops/noise.h"

namespace dsrsq {

void DsrsqConfig::visit_fields(ConfigVisitor& v) {
  v.group("dsr", dsr, "Dynamic Sparse Retriever: which context tokens the reader reads.");
  v.group("sqa", sqa, "Sub-Quadratic Sparse Attention: which exact keys a query attends.");
  v.group(
      "rckv", rckv,
      "Rotating Compressive Key-Value cache: what happens to keys that leave the exact window.");
}

void DsrsqConfig::validate(const TransformerConfig& model, const ConfigLocations& locations) const {
  auto where = [&](const char* key) { return concat(locations.of(key), ": ", key, ": "); };
  if (sqa.clusters_per_query > sqa.clusters)
    throw ConfigError(concat(where("sqa.clusters_per_query"),
                             "expected at most sqa.clusters = ", sqa.clusters, ", got ",
                             sqa.clusters_per_query, "; lower it or raise sqa.clusters"));
  auto joint = model.key_value_heads * model.head_width();
  if (rckv.enabled && rckv.latent_width >= joint)
    throw ConfigError(concat(where("rckv.latent_width"),
                             "expected less than key_value_heads x head_width = ", joint, ", got ",
                             rckv.latent_width,
                             ", which compresses nothing; lower it or set rckv.enabled: false"));
  if (dsr.span > dsr.budget)
    throw ConfigError(concat(where("dsr.span"), "expected at most dsr.budget = ", dsr.budget,
                             ", got ", dsr.span));
  if (dsr.enabled && dsr.input == "embedding_conv" && dsr.conv_width < 2)
    throw ConfigError(concat(where("dsr.conv_width"),
                             "expected at least 2 for dsr.input: embedding_conv, got ",
                             dsr.conv_width));
}

DsrsqMethod::DsrsqMethod(const DsrsqConfig& config, const TransformerConfig& model, int64_t seed)
    : Method(model.attention_shape()), config_(config), model_(model), seed_(seed) {
  if (config.dsr.enabled) dsr_ = register_module("dsr", Dsr(config.dsr, model.width, seed));
  if (config.sqa.enabled) sqa_ = register_module("sqa", Sqa(config.sqa, shape_, seed));
  if (config.rckv.enabled) rckv_ = register_module("rckv", Rckv(config.rckv, shape_, seed));
}

// ---- choosing tokens ----

void DsrsqMethod::prepare(const Batch& batch, const LanguageModelView& model, MethodState& state) {
  if (dsr_.is_empty()) return;
  auto mean = model.table_mean();
  state.context_inputs = dsr_->context_inputs(model.embed(batch.context), mean);
  // Without input_gradient the reader alone trains what both read.
  auto scored = [&](const at::Tensor& x) { return config_.dsr.input_gradient ? x : x.detach(); };
  auto context = dsr_->encode_context(scored(state.context_inputs), mean);
  auto weights = question_weights(config_.dsr.pool, batch.questions, batch.questions_valid,
                                  batch.context, batch.context_valid);
  auto questions = dsr_->encode_questions(scored(model.embed(batch.questions)), weights, mean);
  state.scores = dsr_->scores(questions, context, batch.context_valid);
}

namespace {
// phi of a sequence: the larger of its questions' scores.
at::Tensor best_score(const at::Tensor& phi, const at::Tensor& questions_valid) {
  auto absent = questions_valid.any(-1).logical_not().unsqueeze(-1);  // [B, Q, 1]
  return phi.detach().masked_fill(absent, -INFINITY).amax(1);
}
}  // namespace

SelectedTokens DsrsqMethod::select(const Batch& batch, const LanguageModelView& model,
                                   MethodState& state) {
  if (dsr_.is_empty()) return select_all(batch.context_valid, config_.rckv.segment);
  at::NoGradGuard no_grad;
  const auto& options = state.options;
  auto score = best_score(state.scores, batch.questions_valid);
  if (options.training && options.random_rest > 0) {
    auto device = score.device();
    auto random = ops::noise(ops::Noise::kUniform, uint64_t(seed_), Purpose::kCurriculum,
                             uint64_t(options.step), state.sample_ids, score.size(1) + 1, device)
                      .to(at::kFloat);
    // The coin is number 0 and tokens follow, so that padding to a longer batch changes neither.
    auto chosen = random.narrow(1, 0, 1) < options.random_rest;  // [B, 1]
    score = at::where(chosen, random.narrow(1, 1, score.size(1)), score)
                .masked_fill(batch.context_valid.logical_not(), -INFINITY);
  }
  if (options.training && options.force_evidence) {
    constexpr double kFirst = 1e6;  // above any cosine over the lowest temperature
    score = at::where(batch.evidence.any(1), score + kFirst, score);
  }
  return choose(span_score(score, config_.dsr.span), batch, state);
}

SelectedTokens DsrsqMethod::choose(const at::Tensor& score, const Batch& batch,
                                   MethodState& state) {
  at::NoGradGuard no_grad;
  auto masked = score.masked_fill(batch.context_valid.logical_not(), -INFINITY);
  auto budget = requested_budget(state.options, batch.context_valid);
  if (!budget.defined() && dsr_.is_empty())
    budget = at::full({batch.size()}, config_.dsr.budget, batch.context.options());
  if (!budget.defined()) {
    auto lengths = batch.questions_valid.sum(-1).amax(1);
    auto complexity = question_complexity(config_.dsr.complexity,
                                          best_score(state.scores, batch.questions_valid), lengths);
    budget = token_budget(config_.dsr.budget, config_.dsr.alpha, complexity);
  }
  auto per_segment = config_.rckv.source == "stream" && state.options.select_per_segment;
  return select_top(masked, budget, config_.rckv.segment, per_segment);
}

// ---- attention ----

struct DsrsqMethod::Routing {
  at::Tensor cluster;  // [B, H_kv, T] of the chunk's keys; undefined where SQA is off
  at::Tensor routed;   // [B, H, T, m]
};

at::Tensor DsrsqMethod::attend(const AttentionInput& input, MethodState& state) {
  const auto& options = state.options;
  if (options.calibrating) {
    if (!rckv_.is_empty() && rckv_->calibrating())
      rckv_->collect(input.layer, input.k, input.v, input.valid);
    if (start_codebook_) sqa_->start_from(input.layer, input.k, input.valid, options.step);
  }
  if (!sqa_on(options) && !rckv_on(options))
    return dense_attend(input, state.layers[size_t(input.layer)],
                        options.collect_stats ? &state.stats : nullptr);

  if (rckv_on(options) && options.training) {
    auto error = rckv_->compression_error(input.layer, input.k, input.v, input.valid);
    auto& term = state.losses["compression"];
    term.sum = term.sum.defined() ? term.sum + error : error;
    term.count += 1;
  }
  Routing routing;
  if (sqa_on(options)) {
    routing.cluster = sqa_->assign(input.layer, input.k, input.valid, options.training);
    if (options.probe == Probe::kRandomRouting) {
      auto samples = at::tensor(state.sample_ids, at::kLong);
      routing.routed =
          sqa_->route_randomly(input.order, samples, input.layer, options.clusters_per_query);
    } else {
      routing.routed = sqa_->route(input.layer, input.q, options.clusters_per_query);
    }
  }
  auto segments = rckv_on(options) ? input.segments : std::vector<int64_t>{input.q.size(2)};
  std::vector<at::Tensor> outputs;
  int64_t begin = 0;
  for (size_t s = 0; s < segments.size(); ++s) {
    auto length = segments[s];
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
    if (input.rope)
      segment.rope = ops::RotaryTable{tokens(input.rope->cosine, 2), tokens(input.rope->sine, 2)};
    Routing part{tokens(routing.cluster, 2), tokens(routing.routed, 2)};
    if (length > 0) outputs.push_back(attend_segment(segment, part, state));
    if (s + 1 < segments.size()) close_segment(segment, state);
    begin += length;
  }
  return outputs.size() == 1 ? outputs[0] : at::cat(outputs, 2);
}

at::Tensor DsrsqMethod::exact_mask(const AttentionInput& segment, const Routing& routing,
                                   const LayerState& layer, const at::Tensor& causal) const {
  if (!routing.routed.defined()) return causal;
  return sparse_mask(segment.order, layer.order, layer.valid, routing.routed, layer.cluster,
                     config_.sqa.window, model_.sinks, config_.sqa.dense_below);
}

at::Tensor DsrsqMethod::attend_segment(const AttentionInput& segment, const Routing& routing,
                                       MethodState& state) {
  auto& layer = state.layers[size_t(segment.layer)];
  const auto& options = state.options;
  bool keep_mass = rckv_on(options) && config_.rckv.weight == "attention_rate";
  auto q = segment.rotated(segment.q);
  layer.append(segment.rotated(segment.k), segment.v, segment.positions, segment.order,
               segment.valid, routing.cluster, keep_mass);

  auto causal = (layer.order.unsqueeze(1).unsqueeze(2) <= segment.order.unsqueeze(1).unsqueeze(-1))
                    .logical_and(layer.valid.unsqueeze(1).unsqueeze(2));  // [B, 1, T, keys]
  auto mask =
      options.probe == Probe::kDenseRead ? causal : exact_mask(segment, routing, layer, causal);
  std::vector<PartialAttention> parts{masked_attention(q, layer.keys, layer.values, mask)};
  bool read = !layer.latents.empty() && options.probe != Probe::kLatentsMasked;
  if (read) parts.push_back(read_latents(q, segment.layer, layer.latents));
  auto joined = join_attention(parts);

  at::NoGradGuard no_grad;
  if (keep_mass) {
    auto weight = segment.valid.unsqueeze(1).unsqueeze(-1);  // padding asks nothing
    auto probability = (parts[0].logits.detach() - joined.lse.detach().unsqueeze(-1)).exp();
    layer.mass = layer.mass + (probability.square() * weight).sum({1, 2}).to(at::kFloat);
    layer.exposure = layer.exposure + causal.logical_and(weight).sum({1, 2}).to(at::kFloat) *
                                          double(segment.q.size(1));
  }
  if (options.collect_stats) {
    count(segment, mask, causal, state.stats);
    if (read) {
      auto rows = segment.valid.logical_and(layer.latents.valid.any(1, true));  // [B, T]
      auto mass = (parts[1].lse - joined.lse).exp().sum(1) * rows;
      state.stats.add(state.stats.latent_rows, rows.sum() * segment.q.size(1));
      state.stats.add(state.stats.latent_mass, mass.sum());
      state.stats.add(state.stats.rebuilt_latents, layer.latents.valid.sum());
      auto pairs = segment.valid.sum(1) * layer.latents.valid.sum(1);
      state.stats.add(state.stats.latent_pairs, pairs.sum() * segment.q.size(1));
    }
  }
  return joined.out;
}

PartialAttention DsrsqMethod::read_latents(const at::Tensor& q, int64_t layer,
                                           const LatentBuffer& latents) const {
  auto keys = rckv_->rebuild_keys(layer, latents.keys);
  if (model_.position_embedding == "rope")
    keys = ops::rotate(keys,
                       ops::rotary_table(latents.positions, shape_.head_width, model_.rope_base));
  auto mask = latents.valid.unsqueeze(1).unsqueeze(2);
  auto part = masked_attention(q, keys.to(q.scalar_type()), latents.values.unsqueeze(1), mask);
  part.out = rckv_->expand_values(layer, part.out, q.size(1)).to(q.scalar_type());
  return part;
}

// What is older than `rckv.window` tokens leaves the exact set and is offered to the buffer.
// Windows count tokens, not slots: padding is moved to the front first, so that a sequence's result
// does not depend on the batch that it is in.
void DsrsqMethod::close_segment(const AttentionInput& segment, MethodState& state) const {
  auto& layer = state.layers[size_t(segment.layer)];
  auto sinks = model_.sinks, entries = layer.entries();
  auto leaving = entries - sinks - config_.rckv.window;
  if (leaving > 0) {
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
    auto keys = gather_entries(layer.keys, gone, 2);
    auto positions = gather_entries(layer.positions, gone, 1);
    if (model_.position_embedding == "rope")
      keys = ops::rotate(keys, ops::rotary_table(positions, shape_.head_width, model_.rope_base),
                         true);
    auto maybe = [&](const at::Tensor& x) { return x.defined() ? gather_entries(x, gone, 1) : x; };
    rckv_->insert(segment.layer, layer.latents, keys, gather_entries(layer.values, gone, 2),
                  positions, gather_entries(layer.order, gone, 1),
                  gather_entries(layer.valid, gone, 1), maybe(layer.mass), maybe(layer.exposure),
                  state.sample_ids, uint64_t(state.options.training ? state.options.step : 0));
    layer.keep(at::cat(
        {index.narrow(1, 0, sinks), index.narrow(1, sinks + leaving, config_.rckv.window)}, 1));
  }
  if (config_.rckv.back_propagation == "truncated") layer.detach();
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

// ---- training ----

LossTerms DsrsqMethod::losses(const Batch& batch, MethodState& state) {
  auto terms = state.losses;
  if (!dsr_.is_empty()) {
    auto loss = retrieval_loss(state.scores, batch.evidence);
    terms["retrieval"] = {loss.sum, double(batch.questions_with_evidence())};
  }
  return terms;
}

std::map<std::string, double> DsrsqMethod::loss_counts(const Batch& batch,
                                                       const PassOptions& options) const {
  std::map<std::string, double> counts;
  if (!dsr_.is_empty()) counts["retrieval"] = double(batch.questions_with_evidence());
  if (rckv_on(options)) counts["compression"] = double(shape_.layers);
  return counts;
}

void DsrsqMethod::after_step(int64_t step) {
  if (!sqa_.is_empty()) sqa_->after_step(step);
  if (!rckv_.is_empty()) rckv_->after_step();
}

// Real keys and values before a part first runs: principal components for the projections, a start
// for the codebook.
int64_t DsrsqMethod::calibration_sequences(const PassOptions& before, const PassOptions& now) {
  project_anew_ = rckv_on(now) && !rckv_on(before);
  start_codebook_ = sqa_on(now) && !sqa_->started();
  return project_anew_ || start_codebook_ ? config_.rckv.calibration_sequences : 0;
}

void DsrsqMethod::begin_calibration() {
  if (project_anew_) rckv_->begin_calibration();
}

void DsrsqMethod::finish_calibration() {
  start_codebook_ = false;
  if (!project_anew_) return;
  rckv_->finish_calibration();
  for (size_t layer = 0; layer < rckv_->tail_energy().size(); ++layer)
    log_info("rckv: layer ", layer, ": principal components of ", config_.rckv.latent_width,
             " dimensions leave ", rckv_->tail_energy()[layer],
             " of the energy: the floor of the compression loss");
}

int64_t DsrsqMethod::shared_bytes() const { return sqa_.is_empty() ? 0 : sqa_->bytes(); }

std::map<std::string, double> DsrsqMethod::scalars() const {
  std::map<std::string, double> values;
  if (!dsr_.is_empty()) values["dsr/temperature"] = dsr_->temperature();
  if (!sqa_.is_empty() && sqa_->started()) {
    double balance = 0;  // entropy of the load over log m: 1 is perfectly balanced
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
      auto load = sqa_->load(layer);
      auto share = load / load.sum(-1, true).clamp_min(1e-9);
      balance += (-(share * share.clamp_min(1e-12).log()).sum(-1)).mean().item<double>();
    }
    values["sqa/balance"] =
        balance / (double(shape_.layers) * std::max(1e-9, std::log(double(config_.sqa.clusters))));
  }
  return values;
}

}  // namespace dsrsq
