// One parallel region over the rows; sums in double, exponentials in the type of the scores.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "retrieval_backend.h"

namespace dsrsq::ops {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();
constexpr double kLowest = -1e30;  // stands for -infinity: differences of scores stay numbers

double log_add(double x, double y) {
  const double larger = std::max(x, y);
  return larger == kNever ? kNever : larger + std::log1p(std::exp(std::min(x, y) - larger));
}

template <typename T>
struct Row {
  const T* score;
  const int64_t* candidate;
  const bool* mask;
  int64_t candidates, picks;
  std::vector<char> picked;  // [M]

  void find_picked() {
    picked.assign(static_cast<size_t>(candidates), 0);
    for (int64_t j = 0; j < picks; ++j) {
      if (!mask[j]) continue;
      TORCH_CHECK(candidate[j] >= 0 && candidate[j] < candidates,
                  "subset_log_prob: expected candidates in [0, ", candidates, "), got ",
                  candidate[j]);
      picked[static_cast<size_t>(candidate[j])] = 1;
    }
  }
  double at(int64_t m) const { return std::max(static_cast<double>(score[m]), kLowest); }
  bool is_candidate(int64_t m) const { return static_cast<double>(score[m]) > kLowest; }
  bool is_left(int64_t m) const { return is_candidate(m) && picked[static_cast<size_t>(m)] == 0; }

  // log of the sum of exp(score) over the candidates that are not picked.
  double left() const {
    double most = kNever, sum = 0;
    for (int64_t m = 0; m < candidates; ++m) {
      if (is_left(m)) most = std::max(most, at(m));
    }
    for (int64_t m = 0; m < candidates && most > kNever; ++m) {
      if (is_left(m)) sum += std::exp(static_cast<T>(at(m) - most));
    }
    return most == kNever ? kNever : most + std::log(sum);
  }
};

template <typename T>
void forward_row(const Row<T>& row, T* log_prob, T* lse) {
  double after = row.left();
  const bool had_choice = after > kNever;
  for (int64_t j = row.picks - 1; j >= 0; --j) {
    const double score = row.mask[j] ? row.at(row.candidate[j]) : kNever;
    after = log_add(after, score);
    lse[j] = static_cast<T>(after);
    log_prob[j] = row.mask[j] && had_choice ? static_cast<T>(score - after) : T(0);
  }
}

template <typename T>
void backward_row(const Row<T>& row, const T* lse, const T* d_log_prob, T* d_score) {
  std::fill(d_score, d_score + row.candidates, T(0));
  if (row.picks == 0 || row.left() == kNever) return;
  // Sum over j <= i of d_j exp(lse_i - lse_j), whose exponents are never positive.
  double sum = 0;
  for (int64_t i = 0; i < row.picks; ++i) {
    if (i > 0) sum *= std::exp(static_cast<double>(lse[i]) - static_cast<double>(lse[i - 1]));
    if (!row.mask[i]) continue;
    const int64_t m = row.candidate[i];
    sum += static_cast<double>(d_log_prob[i]);
    if (!row.is_candidate(m)) continue;
    d_score[m] = static_cast<T>(static_cast<double>(d_log_prob[i]) -
                                std::exp(row.at(m) - static_cast<double>(lse[i])) * sum);
  }
  const auto last = static_cast<double>(lse[row.picks - 1]);
  for (int64_t m = 0; m < row.candidates; ++m) {
    if (row.is_left(m)) {
      d_score[m] = static_cast<T>(-std::exp(static_cast<T>(row.at(m) - last)) * sum);
    }
  }
}

// visit(r, row) for each row, in parallel.
template <typename T, typename Visit>
void for_each_row(const at::Tensor& score, const at::Tensor& candidate, const at::Tensor& mask,
                  const Visit& visit) {
  const int64_t candidates = score.size(1), picks = candidate.size(1);
  at::parallel_for(0, score.size(0), 1, [&](int64_t begin, int64_t end) {
    Row<T> row{nullptr, nullptr, nullptr, candidates, picks, {}};
    for (int64_t r = begin; r < end; ++r) {
      row.score = score.const_data_ptr<T>() + r * candidates;
      row.candidate = candidate.const_data_ptr<int64_t>() + r * picks;
      row.mask = mask.const_data_ptr<bool>() + r * picks;
      row.find_picked();
      visit(r, row);
    }
  });
}

SubsetPicksKept subset_log_prob_cpu(const at::Tensor& score_in, const at::Tensor& candidate_in,
                                    const at::Tensor& mask_in) {
  const at::Tensor score = score_in.contiguous(), candidate = candidate_in.contiguous(),
                   mask = mask_in.contiguous();
  SubsetPicksKept kept;
  kept.log_prob = at::empty(candidate.sizes(), score.options());
  kept.lse = at::empty_like(kept.log_prob);
  AT_DISPATCH_FLOATING_TYPES(score.scalar_type(), "subset_log_prob", [&] {
    auto* log_prob = kept.log_prob.mutable_data_ptr<scalar_t>();
    auto* lse = kept.lse.mutable_data_ptr<scalar_t>();
    for_each_row<scalar_t>(score, candidate, mask, [&](int64_t r, const Row<scalar_t>& row) {
      forward_row(row, log_prob + r * row.picks, lse + r * row.picks);
    });
  });
  return kept;
}

at::Tensor subset_log_prob_backward_cpu(const at::Tensor& score_in, const at::Tensor& candidate_in,
                                        const at::Tensor& mask_in, const at::Tensor& lse,
                                        const at::Tensor& d_log_prob_in) {
  const at::Tensor score = score_in.contiguous(), candidate = candidate_in.contiguous(),
                   mask = mask_in.contiguous(), d_log_prob = d_log_prob_in.contiguous();
  at::Tensor d_score = at::empty_like(score);
  AT_DISPATCH_FLOATING_TYPES(score.scalar_type(), "subset_log_prob_backward", [&] {
    const auto* sums = lse.const_data_ptr<scalar_t>();
    const auto* given = d_log_prob.const_data_ptr<scalar_t>();
    auto* out = d_score.mutable_data_ptr<scalar_t>();
    for_each_row<scalar_t>(score, candidate, mask, [&](int64_t r, const Row<scalar_t>& row) {
      backward_row(row, sums + r * row.picks, given + r * row.picks, out + r * row.candidates);
    });
  });
  return d_score;
}

const bool kRegistered = [] {
  subset_log_prob_backend(at::kCPU) = {subset_log_prob_cpu, subset_log_prob_backward_cpu};
  return true;
}();

}  // namespace
}  // namespace dsrsq::ops
