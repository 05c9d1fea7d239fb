#include "dsrsq/methods/dsrsq.h"

#include <torch/torch.h>

#include <cmath>

#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/ops/noise.h"
#include "dsrsq/retriever/encoded_selection.h"
#include "dsrsq/retriever/retrieval_loss.h"
#include "dsrsq/retriever/subset.h"

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
  if (sqa.clusters == 0 && sqa.max_length == 0)
    throw ConfigError(concat(where("sqa.clusters"),
                             "expected sqa.max_length, the tokens of the longest text, with auto, "
                             "got none; set it, or give a number of clusters"));
  if (sqa.clusters == 0 && sqa.centroids == "segment")
    throw ConfigError(concat(where("sqa.clusters"),
                             "expected a number with sqa.centroids: segment, got auto, which sizes "
                             "by the whole text, not by a segment"));
  if (sqa.clusters_per_query > sqa.cluster_count())
    throw ConfigError(concat(where("sqa.clusters_per_query"),
                             "expected at most sqa.clusters = ", sqa.cluster_count(), ", got ",
                             sqa.clusters_per_query, "; lower it or raise sqa.clusters"));
  if (sqa.enabled && (sqa.kernel == "native" || sqa.kernel == "aten") &&
      sqa.centroids != "codebook")
    throw ConfigError(concat(where("sqa.kernel"),
                             "expected auto or masked_dense with sqa.centroids: ", sqa.centroids,
                             ", got ", sqa.kernel, ", which serves codebook alone"));
  auto joint = model.key_value_heads * model.head_width();
  if (rckv.enabled && rckv.latent_width >= joint)
    throw ConfigError(concat(where("rckv.latent_width"),
                             "expected less than key_value_heads x head_width = ", joint, ", got ",
                             rckv.latent_width,
                             ", which compresses nothing; lower it or set rckv.enabled: false"));
  if (rckv.enabled && rckv.weight == "uniform" && rckv.noise == "none" && rckv.decay == 0)
    throw ConfigError(concat(where("rckv.noise"),
                             "expected gumbel with rckv.weight: uniform, got none, which gives all "
                             "tokens the same priority; for the newest ones set rckv.weight: "
                             "recency"));
  if (dsr.span > dsr.budget)
    throw ConfigError(concat(where("dsr.span"), "expected at most dsr.budget = ", dsr.budget,
                             ", got ", dsr.span));
  if (dsr.enabled && rckv.source == "stream" && rckv.segment % dsr.span != 0)
    throw ConfigError(concat(where("dsr.span"), "expected a divisor of rckv.segment = ",
                             rckv.segment, ", got ", dsr.span, "; a run may not cross segments"));
  if (dsr.complexity == "learned" &&
      double(dsr.budget_minimum) > double(dsr.budget) * (1 + dsr.alpha))
    throw ConfigError(concat(where("dsr.budget_minimum"),
                             "expected at most dsr.budget (1 + dsr.alpha) = ",
                             double(dsr.budget) * (1 + dsr.alpha), ", got ", dsr.budget_minimum));
  if (dsr.enabled && dsr.input == "embedding_conv" && dsr.conv_width < 2)
    throw ConfigError(concat(where("dsr.conv_width"),
                             "expected at least 2 for dsr.input: embedding_conv, got ",
                             dsr.conv_width));
}

DsrsqMethod::DsrsqMethod(const DsrsqConfig& config, const TransformerConfig& model, int64_t seed)
    : Method(model.attention_shape()), config_(config), model_(model), seed_(seed) {
  config_.sqa.clusters = config.sqa.cluster_count();
  if (config.dsr.enabled) {
    dsr_ = register_module("dsr", Dsr(config.dsr, model.width, seed));
    policy_ = std::make_unique<DsrPolicy>(dsr_, config.rckv.segment, seed);
  }
  if (config.sqa.enabled) sqa_ = register_module("sqa", Sqa(config.sqa, shape_, seed));
  compression_error_.resize(size_t(shape_.layers));
  if (config.rckv.enabled) rckv_ = register_module("rckv", Rckv(config.rckv, shape_, seed));
}

// ---- choosing tokens ----

// Which runs a selection took, in rows of candidates (subset.h).
struct DsrsqMethod::Choice {
  at::Tensor tokens;  // [B, N] bool
  at::Tensor count;   // [B S] int64 runs picked
  int64_t runs_per_segment = 0;
};

namespace {
// phi of a sequence [B, N]: the larger of its questions' scores.
at::Tensor best_score(const at::Tensor& phi, const at::Tensor& questions_valid) {
  auto absent = questions_valid.any(-1).logical_not().unsqueeze(-1);  // [B, Q, 1]
  return phi.masked_fill(absent, -INFINITY).amax(1);
}

// The draw whose noise a pass over the reader takes; rollouts have 0, 1, ... of the same step.
constexpr int64_t kReadingDraw = int64_t(1) << 13;

// Between prepare and select, where nothing asks for scores.
struct EncodedMemory : MethodMemory {
  explicit EncodedMemory(EncodedText encoded) : text(std::move(encoded)) {}
  int64_t bytes() const override {
    return text.questions.nbytes() + text.questions_valid.nbytes() + text.context.nbytes() +
           text.context_valid.nbytes();
  }
  EncodedText text;
};

// Whether a pass chooses tokens without making their scores: it takes the top of them, and nothing
// else is made of them.
bool chooses_without_scores(const DsrConfig& dsr, const PassOptions& options,
                            const at::Tensor& questions, bool budget_requested) {
  if (dsr.kernel == "aten" || options.training || options.observe || options.read_everything)
    return false;
  bool budget_of_scores =
      dsr.complexity == "learned" || (dsr.complexity == "entropy" && !budget_requested);
  return dsr.span == 1 && dsr.reader_gradient == "none" && !budget_of_scores &&
         (dsr.kernel == "native" || serves_encoded_selection(questions));
}
}  // namespace

void DsrsqMethod::prepare(const Batch& batch, const LanguageModelView& model, MethodState& state) {
  if (dsr_.is_empty()) return;
  const auto& options = state.options;
  at::Tensor mean, context_inputs, question_inputs, weights;
  if (dsr_->has_encoder()) {
    auto text = dsr_->encode_text(batch.encoder);
    context_inputs = text.context;
    question_inputs = text.questions;
    mean = at::zeros({context_inputs.size(-1)}, context_inputs.options());
    weights = batch.questions_valid.any(-1, true).to(at::kFloat);
  } else {
    mean = model.table_mean();
    state.context_inputs = dsr_->context_inputs(model.embed(batch.context), mean);
    context_inputs = state.context_inputs;
    question_inputs = model.embed(batch.questions);
    weights = question_weights(config_.dsr.pool, batch.questions, batch.questions_valid,
                               batch.context, batch.context_valid);
  }
  // Without input_gradient the reader alone trains what both read; nor may a loss that follows the
  // reader's attention move what the reader reads.
  // An encoder is the retriever's own.
  auto trains_inputs =
      dsr_->has_encoder() || (config_.dsr.input_gradient && options.retrieval.target == "evidence");
  if (!trains_inputs) {
    context_inputs = context_inputs.detach();
    question_inputs = question_inputs.detach();
  }
  auto context = dsr_->encode_context(context_inputs, mean);
  auto questions = dsr_->encode_questions(question_inputs, weights, mean);
  auto lengths = batch.questions_valid.sum(-1).amax(1);
  auto requested = requested_budget(options, batch.context_valid);
  if (chooses_without_scores(config_.dsr, options, questions, requested.defined())) {
    state.memory = std::make_shared<EncodedMemory>(
        EncodedText{questions, batch.questions_valid.any(-1), context, batch.context_valid});
    // Of the question alone; a requested budget goes before it.
    auto kind = requested.defined() ? "none" : config_.dsr.complexity;
    state.token_budget = token_budget(config_.dsr.budget, config_.dsr.alpha,
                                      question_complexity(kind, questions.select(1, 0), lengths));
    return;
  }
  state.scores = dsr_->scores(questions, context, batch.context_valid);
  if (options.training && options.retrieval.negatives == "batch") {
    auto size = questions.size(0), count = questions.size(1), tokens = context.size(1);
    state.batch_scores = dsr_->scores(questions.reshape({1, size * count, -1}),
                                      context.reshape({1, size * tokens, -1}),
                                      batch.context_valid.reshape({1, size * tokens}))
                             .view({size, count, size * tokens});
  }
  auto phi = best_score(state.scores.detach(), batch.questions_valid);
  if (dsr_->has_budget_action()) {
    auto logits =
        dsr_->budget_logits(questions.detach(), batch.questions_valid.any(-1), phi, lengths);
    state.budget_probability = at::softmax(logits, -1);
    // The mean of the policy: the share of tokens that training settles at is the share that is
    // used.
    auto bins = at::tensor(dsr_->budget_bins(), at::kLong).to(phi.device(), at::kFloat);
    state.token_budget = (state.budget_probability.detach() * bins).sum(-1).round().to(at::kLong);
  } else {
    auto complexity = question_complexity(config_.dsr.complexity, phi, lengths);
    state.token_budget = token_budget(config_.dsr.budget, config_.dsr.alpha, complexity);
  }
  if (options.observe)
    state.policy_input = {context_inputs.detach(),
                          batch.context_valid,
                          question_inputs.detach(),
                          weights,
                          batch.questions_valid,
                          mean,
                          state.sample_ids,
                          requested,
                          config_.rckv.source == "stream" && options.select_per_segment};
}

SelectedTokens DsrsqMethod::select(const Batch& batch, const LanguageModelView& model,
                                   MethodState& state) {
  const auto& options = state.options;
  if (dsr_.is_empty() || options.read_everything)
    return select_all(batch.context_valid, config_.rckv.segment);
  if (state.memory) {
    auto encoded = std::static_pointer_cast<EncodedMemory>(state.memory);
    state.memory.reset();  // no part of what is kept while reading
    auto requested = requested_budget(options, batch.context_valid);
    return select_top(encoded->text, requested.defined() ? requested : state.token_budget,
                      config_.rckv.segment,
                      config_.rckv.source == "stream" && options.select_per_segment);
  }
  auto phi = best_score(state.scores, batch.questions_valid);
  auto span = config_.dsr.span;
  auto score = phi.detach();
  auto device = score.device();
  if (options.training && options.sample) {
    auto runs = (score.size(1) + span - 1) / span;
    state.selection_noise =
        policy_noise(seed_, options.step, kReadingDraw, state.sample_ids, runs, device);
    score = score + state.selection_noise.repeat_interleave(span, 1).narrow(1, 0, score.size(1));
  }
  if (options.training && options.random_rest > 0) {
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
  auto selected = choose(span_score(score, span), batch, state);
  if (config_.dsr.reader_gradient == "bias") {
    auto log_p = log_inclusion(phi, state, choice_of(state, selected));  // [B, N]
    state.key_bias = log_p.gather(1, selected.index).masked_fill(selected.mask.logical_not(), 0);
  }
  return selected;
}

SelectedTokens DsrsqMethod::choose(const at::Tensor& score, const Batch& batch,
                                   MethodState& state) {
  at::NoGradGuard no_grad;
  state.memory.reset();  // another score chooses in the place of this method's
  auto masked = score.masked_fill(batch.context_valid.logical_not(), -INFINITY);
  auto budget = requested_budget(state.options, batch.context_valid);
  if (!budget.defined())
    budget = state.token_budget.defined()
                 ? state.token_budget
                 : at::full({batch.size()}, config_.dsr.budget, batch.context.options());
  auto per_segment = config_.rckv.source == "stream" && state.options.select_per_segment;
  return select_top(masked, budget, config_.rckv.segment, per_segment);
}

// ---- how probable the choice was ----

DsrsqMethod::Choice DsrsqMethod::choice_of(const MethodState& state,
                                           const SelectedTokens& selected) const {
  at::NoGradGuard no_grad;
  Choice choice;
  auto tokens = state.scores.size(2), span = config_.dsr.span;
  choice.tokens = selected.chosen(tokens);
  auto runs = selected.chosen(tokens, span);
  bool per_segment = config_.rckv.source == "stream" && state.options.select_per_segment;
  choice.runs_per_segment = per_segment ? config_.rckv.segment / span : 0;
  choice.count =
      candidate_rows(runs.to(at::kDouble), choice.runs_per_segment, 0).sum(1).to(at::kLong);
  return choice;
}

// log p(token is selected) [B, N] under scores phi [B, N], the noise of the pass and as many picks
// as were made.
at::Tensor DsrsqMethod::log_inclusion(const at::Tensor& phi, const MethodState& state,
                                      const Choice& choice) const {
  auto span = config_.dsr.span;
  auto runs = run_scores(phi, span);
  auto perturbed = runs.detach().to(at::kDouble);
  if (state.selection_noise.defined()) perturbed = perturbed + state.selection_noise;
  constexpr double kNever = -INFINITY;
  auto log_p = log_inclusion_probability(candidate_rows(runs, choice.runs_per_segment, kNever),
                                         candidate_rows(perturbed, choice.runs_per_segment, kNever),
                                         choice.count);
  return log_p.reshape({phi.size(0), -1}).repeat_interleave(span, 1).narrow(1, 0, phi.size(1));
}

// ---- training ----

namespace {
// Attention of a question's answer rows over the context tokens that were read [B, Q, N] fp32: the
// mass of the sinks, the question and the answer itself is left out.
at::Tensor attention_target(const MethodState& state, int64_t sinks) {
  const auto& selected = state.selected;
  auto size = state.scores.size(0), questions = state.scores.size(1);
  auto rank = (selected.mask.cumsum(1) - 1 + sinks).clamp_min(0);
  auto place = [&](const at::Tensor& x) {
    return x.unsqueeze(1).expand({size, questions, selected.slots()});
  };
  auto mass = state.read_mass.gather(2, place(rank)) * place(selected.mask);
  return at::zeros(state.scores.sizes(), mass.options())
      .scatter_add_(2, place(selected.index), mass);
}
}  // namespace

LossTerm DsrsqMethod::retrieval_term(const Batch& batch, const MethodState& state) const {
  const auto& options = state.options.retrieval;
  auto choice = choice_of(state, state.selected);
  auto chosen = choice.tokens.unsqueeze(1);  // [B, 1, N]
  auto phi = state.scores;
  auto target = target_distribution(batch.evidence);
  if (options.target != "evidence") {
    TORCH_CHECK(state.read_mass.defined(), "retrieval loss: the pass recorded no attention");
    auto attention = target_distribution(attention_target(state, model_.sinks));
    auto labelled = target.sum(-1, true) > 0;
    target = options.target == "attention" ? attention : at::where(labelled, target, attention);
  }
  auto asked = batch.questions_valid.any(-1).unsqueeze(-1);  // [B, Q, 1]
  if (options.form == "printed") target = target_distribution(chosen.logical_and(asked));
  RetrievalLoss loss;
  if (options.form == "softmax") {
    // A teacher says nothing of tokens that it did not read; labels speak of all.
    auto speaks_of_all = batch.evidence.any(-1, true).logical_and(
        at::full({}, options.target != "attention", chosen.options()));
    auto takes_part = options.target == "evidence"
                          ? batch.context_valid.unsqueeze(1)
                          : batch.context_valid.unsqueeze(1).logical_and(
                                speaks_of_all.logical_or(chosen));  // [B, Q or 1, N]
    auto own = phi.masked_fill(takes_part.logical_not(), -INFINITY);
    if (options.negatives == "batch") {
      auto size = phi.size(0), questions = phi.size(1), tokens = phi.size(2);
      auto all = state.batch_scores.masked_fill(
          takes_part.any(1).reshape({1, 1, size * tokens}).logical_not(), -INFINITY);
      auto blocks = at::eye(size, target.options()).view({size, 1, size, 1}) * target.unsqueeze(2);
      loss = softmax_retrieval_loss(all, blocks.reshape({size, questions, size * tokens}));
    } else {
      loss = softmax_retrieval_loss(own, target);
    }
  } else {
    std::vector<at::Tensor> of_questions;
    for (int64_t q = 0; q < phi.size(1); ++q)
      of_questions.push_back(log_inclusion(phi.select(1, q), state, choice));
    loss = inclusion_retrieval_loss(at::stack(of_questions, 1), target);
  }
  return {loss.sum, 0};
}

LossTerms DsrsqMethod::losses(const Batch& batch, MethodState& state) {
  auto terms = state.losses;
  auto counts = loss_counts(batch, state.options);
  if (!dsr_.is_empty()) {
    terms["retrieval"] = retrieval_term(batch, state);
    terms["retrieval"].count = counts.at("retrieval");
  }
  if (state.budget_probability.defined() && state.options.budget_learns) {
    // D15: the expected share of the context under the budget action.
    auto bins = at::tensor(dsr_->budget_bins(), at::kLong)
                    .to(state.budget_probability.device(), at::kFloat);
    auto tokens = batch.context_valid.sum(1, true).to(at::kFloat).clamp_min(1);
    auto share = (state.budget_probability * (bins / tokens).clamp_max(1)).sum(-1);
    terms["compute"] = {share.sum(), counts.at("compute")};
  }
  return terms;
}

std::map<std::string, double> DsrsqMethod::loss_counts(const Batch& batch,
                                                       const PassOptions& options) const {
  std::map<std::string, double> counts;
  if (!dsr_.is_empty()) {
    // A question has a target by its evidence; a teacher or the picks give one to every question.
    bool labelled = options.retrieval.target == "evidence" && options.retrieval.form != "printed";
    counts["retrieval"] = double(labelled ? batch.questions_with_evidence()
                                          : batch.questions_valid.any(-1).sum().item<int64_t>());
    if (dsr_->has_budget_action() && options.budget_learns)
      counts["compute"] = double(batch.size());
  }
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
  if (!sqa_.is_empty() && sqa_->has_codebook() && sqa_->started()) {
    double balance = 0;  // entropy of the load over log m: 1 is perfectly balanced
    for (int64_t layer = 0; layer < shape_.layers; ++layer) {
      auto load = sqa_->load(layer);
      auto share = load / load.sum(-1, true).clamp_min(1e-9);
      balance += (-(share * share.clamp_min(1e-12).log()).sum(-1)).mean().item<double>();
    }
    values["sqa/balance"] =
        balance / (double(shape_.layers) * std::max(1e-9, std::log(double(config_.sqa.clusters))));
  }
  if (rckv_.is_empty()) return values;
  for (size_t layer = 0; layer < compression_error_.size(); ++layer) {
    auto name = [&](const char* what) {
      return concat("rckv/", what, "/layer_", layer < 10 ? "0" : "", layer);
    };
    if (compression_error_[layer].defined())
      values[name("compression")] = compression_error_[layer].item<double>();
    // Of the keys and values that the projections were last set from.
    if (layer < rckv_->tail_energy().size()) values[name("floor")] = rckv_->tail_energy()[layer];
  }
  return values;
}

}  // namespace dsrsq
