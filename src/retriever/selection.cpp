#include "dsrsq/retriever/selection.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "dsrsq/retriever/subset.h"

namespace dsrsq {

namespace {
constexpr double kNever = -std::numeric_limits<double>::infinity();
// A question of this many tokens or more has complexity 1 under `length`.
constexpr double kLongQuestion = 64;

struct TopTokens {
  at::Tensor index;  // [B, k] ascending
  at::Tensor mask;   // [B, k]
};

// The `count[b]` best of score [B, N], in document order, in min(max count, N) slots; unfilled
// slots come last.
TopTokens top_tokens(const at::Tensor& score, const at::Tensor& count) {
  auto tokens = score.size(1);
  auto slots = std::min(tokens, count.max().item<int64_t>());
  auto [best, index] = score.topk(slots, 1);
  auto rank = at::arange(slots, index.options()).unsqueeze(0);
  auto mask = (rank < count.unsqueeze(1)).logical_and(best > kNever);
  auto in_order = index.masked_fill(mask.logical_not(), tokens).sort(1);
  auto sorted = std::get<0>(in_order);
  auto filled = sorted < tokens;
  return {sorted.masked_fill(filled.logical_not(), 0), filled};
}
}  // namespace

int64_t SelectedTokens::slots() const {
  return std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
}

at::Tensor SelectedTokens::chosen(int64_t tokens, int64_t span) const {
  // Masked slots point at token 0, so selected ones are counted, not written; -1 is no token.
  return at::zeros({index.size(0), (tokens + span - 1) / span}, index.options())
             .scatter_add_(1, index.clamp_min(0).floor_divide(span),
                           mask.logical_and(index >= 0).to(at::kLong)) > 0;
}

at::Tensor SelectedTokens::marked(const at::Tensor& marks) const {
  return marks.gather(1, index.clamp_min(0)).logical_and(mask).logical_and(index >= 0);
}

at::Tensor question_complexity(const std::string& kind, const at::Tensor& phi,
                               const at::Tensor& question_tokens) {
  if (kind == "none") return at::zeros({phi.size(0)}, phi.options());
  if (kind == "length") return (question_tokens.to(at::kFloat) / kLongQuestion).clamp(0, 1);
  TORCH_CHECK(kind == "entropy", "question_complexity: unknown kind '", kind, "'");
  auto log_p = at::log_softmax(phi, -1);
  auto present = phi > kNever;
  auto entropy = -(log_p.exp() * log_p).masked_fill(present.logical_not(), 0).sum(-1);
  auto most = present.sum(-1).to(at::kFloat).clamp_min(2).log();
  return (entropy / most).clamp(0, 1);
}

at::Tensor token_budget(int64_t base, double alpha, const at::Tensor& complexity) {
  return ((1 + complexity.to(at::kDouble) * alpha) * double(base)).round().to(at::kLong);
}

SelectedTokens select_top(const at::Tensor& score, const at::Tensor& budget, int64_t segment,
                          bool per_segment) {
  at::NoGradGuard no_grad;
  auto tokens = score.size(1);
  SelectedTokens selected;
  if (!per_segment) {
    auto top = top_tokens(score.detach(), budget);
    selected.index = top.index;
    selected.mask = top.mask;
    for (int64_t left = top.index.size(1); left > 0; left -= segment)
      selected.lengths.push_back(std::min(left, segment));
    return selected;
  }
  // Shares go by a sequence's own number of segments, so that padding does not change them; the
  // first ones take the rest.
  auto segments = (tokens + segment - 1) / segment;
  auto length = (score > kNever).sum(1);
  auto own = (length + (segment - 1)).floor_divide(segment).clamp_min(1);
  auto share = budget.floor_divide(own), rest = budget.remainder(own);
  std::vector<at::Tensor> index, mask;
  for (int64_t s = 0; s < segments; ++s) {
    auto begin = s * segment;
    // A budget for the whole context takes it all (D5); equal shares would leave some behind where
    // the last segment is short.
    auto count = at::where(budget >= length, at::full_like(share, segment),
                           share + (rest > s).to(at::kLong));
    auto top =
        top_tokens(score.detach().narrow(1, begin, std::min(segment, tokens - begin)), count);
    index.push_back((top.index + begin).masked_fill(top.mask.logical_not(), 0));
    mask.push_back(top.mask);
    selected.lengths.push_back(top.index.size(1));
  }
  selected.index = at::cat(index, 1);
  selected.mask = at::cat(mask, 1);
  return selected;
}

at::Tensor span_score(const at::Tensor& score, int64_t span) {
  at::NoGradGuard no_grad;
  return token_order_of_runs(run_scores(score.detach(), span), score, span);
}

SelectedTokens select_all(const at::Tensor& valid, int64_t segment) {
  SelectedTokens selected;
  auto tokens = valid.size(1);
  selected.index = at::arange(tokens, valid.options().dtype(at::kLong))
                       .unsqueeze(0)
                       .expand({valid.size(0), tokens});
  selected.mask = valid;
  for (int64_t left = tokens; left > 0; left -= segment)
    selected.lengths.push_back(std::min(left, segment));
  return selected;
}

}  // namespace dsrsq
