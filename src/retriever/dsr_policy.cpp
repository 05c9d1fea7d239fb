#include "dsrsq/retriever/dsr_policy.h"

#include <torch/torch.h>

#include <limits>

#include "dsrsq/ops/noise.h"
#include "dsrsq/ops/subset_log_prob.h"

namespace dsrsq {

namespace {
constexpr double kNever = -std::numeric_limits<double>::infinity();

at::Tensor repeat_rows(const at::Tensor& x, int64_t times) {
  return times == 1 ? x : x.repeat_interleave(times, 0);
}

// [B] of question tokens, the longest question of a sequence.
at::Tensor question_lengths(const PolicyInput& input) {
  return input.questions_valid.sum(-1).amax(1);
}

at::Tensor pick_log_prob(const DsrConfig& config, const at::Tensor& score,
                         const SubsetPicks& picks) {
  constexpr int64_t kMostCandidates = int64_t(1) << 20;  // on CUDA (ops/subset_log_prob.h)
  bool serves = !score.is_cuda() || score.size(1) <= kMostCandidates;
  if (config.kernel == "native" || (config.kernel == "auto" && serves))
    return ops::subset_log_prob(score, picks.candidate, picks.mask);
  return subset_log_prob(score, picks);
}

// Number of the group that each pick, and each selected slot, is in: picks in document order, cut
// into groups of `group_size`.
void group_neighbours(Rollouts& rollouts, const at::Tensor& picked, int64_t span,
                      int64_t group_size) {
  auto group = (picked.to(at::kLong).cumsum(1) - 1).floor_divide(group_size);  // [R, runs]
  auto counted = picked.sum(1).max().item<int64_t>();
  rollouts.groups = (counted + group_size - 1) / group_size;
  auto size = picked.size(0);
  auto rows_group = candidate_rows(
      group.to(at::kDouble),
      rollouts.rows == 1 ? 0 : (picked.size(1) + rollouts.rows - 1) / rollouts.rows, 0);
  rollouts.group_of_pick = rows_group.to(at::kLong)
                               .gather(1, rollouts.picks.candidate)
                               .masked_fill(rollouts.picks.mask.logical_not(), -1);
  const auto& selected = rollouts.selected;
  rollouts.group_of_slot = group.gather(1, selected.index.floor_divide(span))
                               .masked_fill(selected.mask.logical_not(), -1)
                               .reshape({size, selected.slots()});
}
}  // namespace

at::Tensor policy_noise(int64_t seed, int64_t step, int64_t draw,
                        const std::vector<int64_t>& sample_ids, int64_t size, at::Device device) {
  // Draws of one sample are streams of their own: a sample's number is its low 48 bits.
  auto streams = sample_ids;
  for (auto& id : streams) id += draw << 48;
  return ops::noise(ops::Noise::kGumbel, uint64_t(seed), Purpose::kPolicy, uint64_t(step), streams,
                    size, device);
}

DsrPolicy::Scores DsrPolicy::scores(const PolicyInput& input) const {
  Scores found;
  auto questions =
      dsr_->encode_questions(input.questions, input.question_weights, input.table_mean);
  found.context = dsr_->encode_context(input.context, input.table_mean);
  auto phi = dsr_->scores(questions, found.context, input.context_valid);
  auto absent = input.questions_valid.any(-1).logical_not().unsqueeze(-1);
  found.phi = phi.masked_fill(absent, kNever).amax(1);
  found.question = questions.select(1, 0);
  if (dsr_->has_budget_action())
    found.bins = dsr_->budget_logits(questions.detach(), input.questions_valid.any(-1),
                                     found.phi.detach(), question_lengths(input));
  return found;
}

Rollouts DsrPolicy::draw(const PolicyInput& input, const at::Tensor& phi,
                         const at::Tensor& perturbed, const at::Tensor& budget, int64_t draws,
                         int64_t group_size) const {
  const auto span = dsr_->config().span;
  Rollouts rollouts;
  rollouts.draws = draws;
  rollouts.budget = budget;
  auto phi_of_draw = repeat_rows(phi, draws);
  rollouts.selected = select_top(token_order_of_runs(perturbed, phi_of_draw, span), budget,
                                 segment_, input.per_segment);
  const auto& selected = rollouts.selected;
  auto picked = selected.chosen(phi.size(1), span);
  auto per_segment = runs_per_segment(input);
  auto rows = candidate_rows(perturbed, per_segment, kNever);
  rollouts.rows = rows.size(0) / perturbed.size(0);
  rollouts.picks = picks_in_order(rows, candidate_rows(picked.to(at::kDouble), per_segment, 0) > 0);
  auto tokens = repeat_rows(input.context_valid.sum(1), draws).to(at::kDouble);
  rollouts.share = selected.mask.sum(1).to(at::kDouble) / tokens.clamp_min(1);
  auto in_rows = picked;
  if (per_segment > 0) {
    auto padding = rollouts.rows * per_segment - picked.size(1);
    in_rows = at::constant_pad_nd(picked, {0, padding}, 0);
  }
  group_neighbours(rollouts, in_rows, span, group_size);
  return rollouts;
}

Rollouts DsrPolicy::sample(const PolicyInput& input, int64_t draws, int64_t step,
                           int64_t group_size) const {
  at::NoGradGuard no_grad;
  auto found = scores(input);
  auto runs = run_scores(found.phi, dsr_->config().span) / input.temperature;
  auto size = found.phi.size(0);
  auto device = found.phi.device();
  std::vector<at::Tensor> perturbed, bins;
  auto count = int64_t(budget_bins().size());
  for (int64_t draw = 0; draw < draws; ++draw) {
    // Bins draw from positions after the candidates of any row, so that padding changes neither.
    constexpr int64_t kBinDraw = int64_t(1) << 14;
    auto noise = policy_noise(seed_, step, draw, input.sample_ids, runs.size(1), device);
    perturbed.push_back((runs + noise).masked_fill(runs == kNever, kNever));
    if (found.bins.defined())
      bins.push_back(
          (found.bins + policy_noise(seed_, step, draw + kBinDraw, input.sample_ids, count, device))
              .argmax(-1));
  }
  auto stacked = at::stack(perturbed, 1).reshape({size * draws, runs.size(1)});
  at::Tensor bin, budget;
  if (!bins.empty()) {
    bin = at::stack(bins, 1).reshape({size * draws});
    budget = at::tensor(budget_bins(), at::kLong).to(device).index_select(0, bin);
  } else {
    budget =
        repeat_rows(input.requested_budget.defined()
                        ? input.requested_budget
                        : token_budget(dsr_->config().budget, dsr_->config().alpha,
                                       question_complexity(dsr_->config().complexity, found.phi,
                                                           question_lengths(input))),
                    draws);
  }
  auto rollouts = draw(input, found.phi, stacked, budget, draws, group_size);
  rollouts.bin = bin;
  return rollouts;
}

Rollouts DsrPolicy::greedy(const PolicyInput& input, const Rollouts& rollouts) const {
  at::NoGradGuard no_grad;
  auto found = scores(input);
  auto runs = run_scores(found.phi, dsr_->config().span).to(at::kDouble);
  // Without budget actions all draws of a sequence would be the same: one is enough.
  auto draws = rollouts.bin.defined() ? rollouts.draws : 1;
  auto budget = rollouts.budget;
  if (draws != rollouts.draws) budget = budget.view({-1, rollouts.draws}).select(1, 0);
  return draw(input, found.phi, repeat_rows(runs, draws), budget, draws, 1);
}

int64_t DsrPolicy::feature_width() const { return 2 * dsr_->config().width + 4; }

PolicyEvaluation DsrPolicy::evaluate(const PolicyInput& input, const Rollouts& rollouts) const {
  auto found = scores(input);
  auto runs = run_scores(found.phi, dsr_->config().span) / input.temperature;
  auto per_segment = runs_per_segment(input);
  auto rows = candidate_rows(runs, per_segment, kNever);  // [B S, M]
  auto size = found.phi.size(0), S = rollouts.rows, G = rollouts.draws, M = rows.size(1);
  auto of_draws = rows.view({size, 1, S, M}).expand({size, G, S, M}).reshape({size * G * S, M});
  PolicyEvaluation result;
  result.pick_log_prob = pick_log_prob(dsr_->config(), of_draws, rollouts.picks);
  auto candidates = (rows > kNever).sum(1).to(at::kFloat);
  auto present = candidates > 0;  // a segment after the end of a short context
  auto entropy = score_entropy(rows.masked_fill(present.logical_not().unsqueeze(1), 0));
  result.entropy = (entropy / candidates.clamp_min(2).log()).masked_select(present);
  if (rollouts.bin.defined()) {
    auto log_p = at::log_softmax(found.bins, -1);
    result.bin_probability = log_p.exp();
    result.bin_log_prob = repeat_rows(log_p, G).gather(1, rollouts.bin.unsqueeze(1)).squeeze(1);
  }
  at::NoGradGuard no_grad;
  // What is known before row s is picked: the question, the row's candidates under the scores, the
  // best score picked before, the place, the budget.
  auto weights = at::softmax(rows.clamp_min(-1e30), -1);  // [B S, M]
  auto span = dsr_->config().span;
  auto token_rows =
      at::constant_pad_nd(found.context, {0, 0, 0, S * M * span - found.context.size(1)});
  auto pooled = at::matmul(weights.repeat_interleave(span, 1).unsqueeze(1) / double(span),
                           token_rows.reshape({size * S, M * span, -1}))
                    .view({size, 1, S, -1})
                    .expand({size, G, S, found.context.size(2)});
  auto temperature = dsr_->temperature() * input.temperature;
  auto best = rows.amax(1).clamp(-1 / temperature, 20 / temperature).mul(temperature);
  auto picked_best = of_draws.gather(1, rollouts.picks.candidate)
                         .masked_fill(rollouts.picks.mask.logical_not(), -1 / temperature)
                         .amax(1)
                         .mul(temperature)
                         .view({size, G, S});
  auto before = at::cat({at::full({size, G, 1}, -1.0, picked_best.options()),
                         std::get<0>(picked_best.cummax(2)).narrow(2, 0, S - 1)},
                        2);
  auto own_rows = present.view({size, S}).sum(1, true).clamp_min(1).to(at::kFloat);
  auto place = (at::arange(S, pooled.options()).unsqueeze(0) / own_rows).view({size, 1, S});
  place = place.expand({size, G, S});
  result.present = present.view({size, 1, S}).expand({size, G, S}).reshape({size * G, S});
  auto share = rollouts.share.to(at::kFloat).view({size, G, 1}).expand({size, G, S});
  auto question =
      found.question.view({size, 1, 1, -1}).expand({size, G, S, found.question.size(1)});
  auto scalars =
      at::stack({best.view({size, 1, S}).expand({size, G, S}), before, place, share}, -1);
  result.features =
      at::cat({question, pooled, scalars}, -1).reshape({size * G, S, feature_width()});
  return result;
}

}  // namespace dsrsq
