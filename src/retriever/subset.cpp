#include "dsrsq/retriever/subset.h"

#include <torch/torch.h>

#include <limits>

namespace dsrsq {

namespace {
constexpr double kNever = -std::numeric_limits<double>::infinity();
// Stands for -inf inside log-sum-exps: their gradient at -inf - -inf is not a number.
constexpr double kLowest = -1e30;

at::Tensor floored(const at::Tensor& score) { return score.clamp_min(kLowest); }
}  // namespace

SubsetPicks picks_in_order(const at::Tensor& perturbed, const at::Tensor& picked) {
  at::NoGradGuard no_grad;
  auto most = picked.sum(1).max().item<int64_t>();
  auto [best, index] = perturbed.masked_fill(picked.logical_not(), kNever).topk(most, 1);
  auto mask = best > kNever;
  return {index.masked_fill(mask.logical_not(), 0), mask};
}

at::Tensor subset_log_prob(const at::Tensor& score, const SubsetPicks& picks) {
  auto finite = floored(score);
  auto chosen = finite.gather(1, picks.candidate).masked_fill(picks.mask.logical_not(), kLowest);
  // Masked slots point at candidate 0, so membership is counted, not written.
  auto picked = at::zeros(score.sizes(), score.options().dtype(at::kLong))
                    .scatter_add_(1, picks.candidate, picks.mask.to(at::kLong)) > 0;
  auto rest = finite.masked_fill(picked, kLowest).logsumexp({1}, true);  // [R, 1]
  auto from_end = at::cat({chosen, rest}, 1).flip(1).logcumsumexp(1).flip(1);
  auto log_prob = chosen - from_end.narrow(1, 0, chosen.size(1));
  auto had_choice = (picked.logical_not().logical_and(score > kNever)).any(1, true);
  return log_prob.masked_fill(picks.mask.logical_and(had_choice).logical_not(), 0);
}

at::Tensor log_inclusion_probability(const at::Tensor& score, const at::Tensor& perturbed,
                                     const at::Tensor& count) {
  at::Tensor kappa, covered;
  {
    at::NoGradGuard no_grad;
    auto candidates = (score > kNever).sum(1);
    covered = (count >= candidates).unsqueeze(1);
    auto sorted = std::get<0>(perturbed.sort(1, true));  // falling
    auto last = score.size(1) - 1;
    auto at_rank = [&](const at::Tensor& rank) {  // 0-based
      return sorted.gather(1, rank.clamp(0, last).unsqueeze(1));
    };
    // Without itself, the count-th largest is one further on for those that are in.
    auto inside = perturbed >= at_rank(count - 1);
    kappa = at::where(inside, at_rank(count), at_rank(count - 1)).to(score.scalar_type());
    kappa = kappa.clamp_min(kLowest);
  }
  // Above 20, p rounds to 1; below -10, log p = x to 1e-5, where the formula loses all digits.
  auto x = floored(score) - kappa;
  auto inner = x.clamp(-10, 20);
  auto log_p = at::where(x < -10, x, (-at::expm1(-inner.exp())).log());
  log_p = log_p.masked_fill(covered, 0);
  return log_p.masked_fill(score == kNever, kNever);
}

at::Tensor score_entropy(const at::Tensor& score) {
  auto log_p = at::log_softmax(floored(score), -1);
  return -(log_p.exp() * log_p.clamp_min(-1e4)).sum(-1);
}

at::Tensor run_scores(const at::Tensor& phi, int64_t span) {
  if (span == 1) return phi;
  auto tokens = phi.size(1), runs = (tokens + span - 1) / span;
  auto padded = at::constant_pad_nd(floored(phi), {0, runs * span - tokens}, kLowest);
  auto score = padded.view({phi.size(0), runs, span}).logsumexp({-1});
  return score.masked_fill(score < kLowest / 2, kNever);
}

at::Tensor token_order_of_runs(const at::Tensor& run_score, const at::Tensor& phi, int64_t span) {
  if (span == 1) return run_score;
  at::NoGradGuard no_grad;
  auto tokens = phi.size(1), runs = run_score.size(1);
  auto rank = run_score.argsort(/*stable=*/true, /*dim=*/1, /*descending=*/true)
                  .argsort(/*dim=*/int64_t{1}, /*descending=*/false);
  auto offset = at::arange(span, rank.options()).view({1, 1, span});
  auto order = -(rank.unsqueeze(-1) * span + offset)
                    .reshape({phi.size(0), runs * span})
                    .narrow(1, 0, tokens);
  return order.to(at::kDouble).masked_fill(phi == kNever, kNever);
}

at::Tensor candidate_rows(const at::Tensor& x, int64_t runs_per_segment, double fill) {
  if (runs_per_segment == 0) return x;
  auto runs = x.size(1), segments = (runs + runs_per_segment - 1) / runs_per_segment;
  auto padded = at::constant_pad_nd(x, {0, segments * runs_per_segment - runs}, fill);
  return padded.reshape({x.size(0) * segments, runs_per_segment});
}

}  // namespace dsrsq
