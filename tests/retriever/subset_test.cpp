#include "dsrsq/retriever/subset.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "dsrsq/core/error.h"
#include "dsrsq/ops/noise.h"
#include "dsrsq/retriever/selection.h"
#include "support/expect_tensor.h"
#include "support/gradcheck.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;
using testing::Tolerance;
using Order = std::vector<int64_t>;

constexpr double kNever = -std::numeric_limits<double>::infinity();

std::vector<double> numbers(const at::Tensor& x) {
  auto flat = x.to(at::kDouble).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

// log p of each pick, by the definition, one pick after another.
std::vector<double> naive_log_prob(const std::vector<double>& score, const Order& order) {
  std::vector<bool> gone(score.size());
  std::vector<double> log_prob;
  for (auto pick : order) {
    double total = 0;
    for (size_t i = 0; i < score.size(); ++i)
      if (!gone[i]) total += std::exp(score[i] - score[size_t(pick)]);
    log_prob.push_back(-std::log(total));
    gone[size_t(pick)] = true;
  }
  return log_prob;
}

std::vector<Order> orders_of(int64_t candidates, int64_t k) {
  std::vector<Order> all{{}};
  for (int64_t length = 0; length < k; ++length) {
    std::vector<Order> longer;
    for (const auto& order : all)
      for (int64_t i = 0; i < candidates; ++i)
        if (std::find(order.begin(), order.end(), i) == order.end()) {
          longer.push_back(order);
          longer.back().push_back(i);
        }
    all = longer;
  }
  return all;
}

SubsetPicks picks_of(const std::vector<Order>& orders, int64_t slots) {
  auto rows = int64_t(orders.size());
  SubsetPicks picks{at::zeros({rows, slots}, at::kLong), at::zeros({rows, slots}, at::kBool)};
  for (int64_t r = 0; r < rows; ++r)
    for (size_t j = 0; j < orders[size_t(r)].size(); ++j) {
      picks.candidate[r][int64_t(j)] = orders[size_t(r)][j];
      picks.mask[r][int64_t(j)] = true;
    }
  return picks;
}

// P(the k best of score + Gumbel are `members`), without pick orders: inclusion and exclusion over
// which members fall below the best of the rest.
double subset_probability(const std::vector<double>& score, uint32_t members) {
  auto count = uint32_t(score.size());
  double rest = 0, probability = 0;
  for (uint32_t i = 0; i < count; ++i)
    if ((members >> i & 1) == 0) rest += std::exp(score[i]);
  for (uint32_t below = 0; below < (1u << count); ++below) {
    if ((below & ~members) != 0) continue;
    double weight = 0;
    for (uint32_t i = 0; i < count; ++i)
      if ((below >> i & 1) != 0) weight += std::exp(score[i]);
    probability += (__builtin_popcount(below) % 2 == 0 ? 1 : -1) * rest / (rest + weight);
  }
  return probability;
}

std::vector<double> inclusion_probability(const std::vector<double>& score, int k) {
  std::vector<double> p(score.size());
  for (uint32_t members = 0; members < (1u << score.size()); ++members) {
    if (__builtin_popcount(members) != k) continue;
    for (size_t i = 0; i < score.size(); ++i)
      if ((members >> i & 1) != 0) p[i] += subset_probability(score, members);
  }
  return p;
}

// ---- log probabilities ----

TEST(SubsetLogProb, EqualsBruteForceOverAllOrdersAndSubsets) {
  for (int64_t candidates = 2; candidates <= 6; ++candidates)
    for (int64_t k = 1; k < candidates; ++k) {
      auto score = normal(concat("score ", candidates), {candidates}).to(at::kDouble) * 2;
      auto values = numbers(score);
      auto orders = orders_of(candidates, k);
      auto rows = int64_t(orders.size());
      auto log_prob =
          subset_log_prob(score.expand({rows, candidates}).contiguous(), picks_of(orders, k));
      ASSERT_EQ(log_prob.sizes(), (std::vector<int64_t>{rows, k}));
      std::map<uint32_t, double> of_subset;
      for (int64_t r = 0; r < rows; ++r) {
        auto expected = naive_log_prob(values, orders[size_t(r)]);
        auto found = numbers(log_prob[r]);
        uint32_t members = 0;
        for (size_t j = 0; j < found.size(); ++j) {
          ASSERT_NEAR(found[j], expected[j], 1e-12) << candidates << " " << k << " " << r;
          members |= 1u << orders[size_t(r)][j];
        }
        of_subset[members] += std::exp(std::accumulate(found.begin(), found.end(), 0.0));
      }
      double total = 0;
      for (const auto& [members, probability] : of_subset) {
        EXPECT_NEAR(probability, subset_probability(values, members), 1e-10) << members;
        total += probability;
      }
      EXPECT_NEAR(total, 1, 1e-12);
    }
}

TEST(SubsetLogProb, ARowThatPicksEverythingHadNoChoice) {
  auto score = normal("all", {2, 4}).to(at::kDouble);
  score[1][2] = kNever;
  score.requires_grad_();
  auto log_prob = subset_log_prob(score, picks_of({{2, 0, 3, 1}, {3, 0, 1}}, 4));
  EXPECT_EQ(log_prob.abs().sum().item<double>(), 0);
  log_prob.sum().backward();
  EXPECT_EQ(score.grad().abs().sum().item<double>(), 0);
}

const std::vector<Order> kUneven{{4, 1, 0}, {2}, {}, {6, 5}, {0, 3, 1}};

at::Tensor uneven_scores() {
  auto score = normal("uneven", {5, 7}).to(at::kDouble) * 2;
  score[1].slice(0, 3).fill_(kNever);
  score[3].slice(0, 0, 3).fill_(kNever);
  return score;
}

TEST(SubsetLogProb, RowsPickDifferentNumbersAndSomeCandidatesAreNone) {
  auto score = uneven_scores();
  auto log_prob = subset_log_prob(score, picks_of(kUneven, 4));
  for (int64_t r = 0; r < 5; ++r) {
    auto expected = naive_log_prob(numbers(score[r]), kUneven[size_t(r)]);
    expected.resize(4);  // masked: 0
    EXPECT_TENSOR_NEAR(log_prob[r], at::tensor(expected, at::kDouble), (Tolerance{0, 1e-12}));
  }
}

TEST(SubsetLogProb, GradientIsThatOfCentralDifferences) {
  auto picks = picks_of(kUneven, 4);
  auto function = [&](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    return {subset_log_prob(in[0], picks)};
  };
  EXPECT_TRUE(testing::gradcheck(function, {uneven_scores()}, {0}));
}

TEST(SubsetLogProb, TheLinearFormEqualsTheDefinitionForManyPicks) {
  constexpr int64_t kCandidates = 200, kPicks = 50;
  auto score = normal("many", {3, kCandidates}) * 5;
  std::vector<Order> orders;
  for (int64_t r = 0; r < 3; ++r) {
    auto order = normal(concat("order ", r), {kCandidates}).argsort().narrow(0, 0, kPicks);
    auto contiguous = order.contiguous();
    orders.emplace_back(contiguous.data_ptr<int64_t>(),
                        contiguous.data_ptr<int64_t>() + kPicks - 10 * r);
  }
  auto picks = picks_of(orders, kPicks);
  auto single = score.clone().requires_grad_();
  auto precise = score.to(at::kDouble).requires_grad_();
  auto log_prob = subset_log_prob(precise, picks), rounded = subset_log_prob(single, picks);
  for (int64_t r = 0; r < 3; ++r) {
    auto expected = naive_log_prob(numbers(score[r]), orders[size_t(r)]);
    expected.resize(kPicks);
    EXPECT_TENSOR_NEAR(log_prob[r], at::tensor(expected, at::kDouble), (Tolerance{1e-10, 1e-10}));
    EXPECT_TENSOR_NEAR(rounded[r], at::tensor(expected, at::kDouble), (Tolerance{1e-5, 1e-5}));
  }
  // The backward pass in fp32, with weights of both signs as advantages are.
  auto weight = normal("advantage", {3, kPicks});
  (rounded * weight).sum().backward();
  (log_prob * weight.to(at::kDouble)).sum().backward();
  EXPECT_TENSOR_NEAR(single.grad(), precise.grad(), (Tolerance{1e-4, 1e-4}));
}

TEST(SubsetLogProb, ExtremeScoresAreFiniteWithFiniteGradients) {
  auto score = at::full({2, 64}, -60.f);
  score.slice(1, 0, 8).fill_(60);
  score[1].slice(0, 40).fill_(kNever);
  score.requires_grad_();
  auto picks = picks_of({{63, 0, 20, 1}, {39, 38, 0, 1}}, 4);  // the worst ones first
  auto log_prob = subset_log_prob(score, picks);
  EXPECT_NEAR(log_prob[0][0].item<double>(), -120 - std::log(8), 1e-3);
  EXPECT_NEAR(log_prob[0][3].item<double>(), -std::log(7), 1e-4);
  log_prob.sum().backward();
  EXPECT_TRUE(score.grad().isfinite().all().item<bool>());
  EXPECT_NEAR(score.grad()[0][63].item<double>(), 1, 1e-4);
}

TEST(PicksInOrder, GoByFallingPerturbedScore) {
  auto perturbed = at::tensor({0.5, 3., 1., 2., 7., 6., 5., 4.}, at::kDouble).view({2, 4});
  auto picked = at::zeros({2, 4}, at::kBool);
  picked[0][1] = picked[0][2] = picked[0][3] = true;
  picked[1][3] = true;
  auto picks = picks_in_order(perturbed, picked);
  EXPECT_TENSOR_EQUAL(picks.candidate, at::tensor({1, 3, 2, 3, 0, 0}, at::kLong).view({2, 3}));
  EXPECT_TENSOR_EQUAL(picks.mask,
                      at::tensor({1, 1, 1, 1, 0, 0}, at::kLong).view({2, 3}).to(at::kBool));
}

// ---- inclusion ----

// Perturbed scores of `draws` draws [draws, N].
at::Tensor perturbed_draws(const at::Tensor& score, int64_t draws, int64_t step) {
  std::vector<int64_t> ids(static_cast<size_t>(draws));
  std::iota(ids.begin(), ids.end(), 0);
  return score.to(at::kDouble) + ops::noise(ops::Noise::kGumbel, 5, Purpose::kPolicy,
                                            uint64_t(step), ids, score.size(0), at::kCPU);
}

// kappa by sorting the others of each candidate.
double naive_log_inclusion(const std::vector<double>& score, std::vector<double> perturbed,
                           size_t i, size_t count) {
  perturbed.erase(perturbed.begin() + int64_t(i));
  std::sort(perturbed.rbegin(), perturbed.rend());
  return std::log(-std::expm1(-std::exp(score[i] - perturbed[count - 1])));
}

TEST(LogInclusion, IsTheFormulaWithKappaAmongTheOthers) {
  auto score = normal("score", {4, 12}).to(at::kDouble) * 2;
  score[2].slice(0, 5).fill_(kNever);
  auto perturbed = score + normal("noise", {4, 12}).to(at::kDouble) * 2;
  auto count = at::tensor({1, 5, 3, 11}, at::kLong);
  auto log_p = log_inclusion_probability(score, perturbed, count);
  for (int64_t r = 0; r < 4; ++r)
    for (int64_t i = 0; i < 12; ++i) {
      auto found = log_p[r][i].item<double>();
      if (score[r][i].item<double>() == kNever) {
        EXPECT_EQ(found, kNever);
        continue;
      }
      EXPECT_NEAR(found,
                  naive_log_inclusion(numbers(score[r]), numbers(perturbed[r]), size_t(i),
                                      size_t(count[r].item<int64_t>())),
                  1e-9)
          << r << " " << i;
    }
}

// d log p / d score = e^x / (exp(e^x) - 1), kappa standing still.
TEST(LogInclusion, GradientReachesTheCandidateAloneAndNotKappa) {
  auto score = (normal("score", {1, 8}).to(at::kDouble) * 2).requires_grad_();
  auto perturbed = score.detach() + normal("noise", {1, 8}).to(at::kDouble);
  auto log_p = log_inclusion_probability(score, perturbed, at::tensor({3}, at::kLong));
  for (int64_t i = 0; i < 8; ++i) {
    auto gradient = torch::autograd::grad({log_p[0][i]}, {score}, {}, true)[0][0];
    auto rate = -std::log1p(-std::exp(log_p[0][i].item<double>()));  // e^x
    for (int64_t j = 0; j < 8; ++j)
      EXPECT_NEAR(gradient[j].item<double>(), i == j ? rate / std::expm1(rate) : 0, 1e-9)
          << i << " " << j;
  }
}

TEST(LogInclusion, CoversAllWhereTheCountDoes) {
  auto score = normal("score", {2, 6});
  score[1].slice(0, 3).fill_(kNever);
  auto perturbed = score.to(at::kDouble);
  auto log_p = log_inclusion_probability(score, perturbed, at::tensor({6, 4}, at::kLong));
  EXPECT_EQ(log_p[0].abs().sum().item<double>(), 0);
  EXPECT_EQ(log_p[1].slice(0, 0, 3).abs().sum().item<double>(), 0);
  EXPECT_TRUE((log_p[1].slice(0, 3) == kNever).all().item<bool>());
}

// Gumbel-top-k draws candidates as often as Plackett-Luce says, and so does the mean of p.
TEST(LogInclusion, MeanAndFrequencyAreThePlackettLuceInclusion) {
  constexpr int64_t kDraws = 40000;
  for (int64_t candidates : {3, 6})
    for (int64_t k = 1; k < candidates; k += 2) {
      auto score = normal(concat("score ", candidates), {candidates}).to(at::kDouble) * 1.5;
      auto perturbed = perturbed_draws(score, kDraws, k);
      auto expected = inclusion_probability(numbers(score), int(k));
      EXPECT_NEAR(std::accumulate(expected.begin(), expected.end(), 0.0), double(k), 1e-9);
      auto picked = at::zeros({kDraws, candidates}, at::kDouble)
                        .scatter_(1, std::get<1>(perturbed.topk(k, 1)), 1.0);
      auto p = log_inclusion_probability(score.expand({kDraws, candidates}).contiguous(), perturbed,
                                         at::full({kDraws}, k, at::kLong))
                   .exp();
      auto deviation = p.std(0);
      for (int64_t i = 0; i < candidates; ++i) {
        auto truth = expected[size_t(i)];
        auto error = std::sqrt(truth * (1 - truth) / double(kDraws));
        EXPECT_NEAR(picked.select(1, i).mean().item<double>(), truth, 4 * error) << i;
        EXPECT_NEAR(p.select(1, i).mean().item<double>(), truth,
                    4 * deviation[i].item<double>() / std::sqrt(double(kDraws)) + 1e-9)
            << i;
      }
    }
}

TEST(LogInclusion, SumsToTheCountInTheMean) {
  constexpr int64_t kTokens = 4096, kPicks = 512, kDraws = 64;
  auto score = normal("large", {kTokens}) * 3;
  auto perturbed = perturbed_draws(score, kDraws, 1);
  auto sums = log_inclusion_probability(score.expand({kDraws, kTokens}).contiguous(), perturbed,
                                        at::full({kDraws}, kPicks, at::kLong))
                  .to(at::kDouble)
                  .exp()
                  .sum(1);
  auto error = sums.std().item<double>() / std::sqrt(double(kDraws));
  EXPECT_LT(error, 0.01 * kPicks) << "the test could not fail";
  EXPECT_NEAR(sums.mean().item<double>(), double(kPicks), 4 * error);
}

TEST(LogInclusion, ExtremeScoresAreFiniteWithFiniteGradients) {
  for (double spread : {60.0, -60.0}) {
    auto score = at::full({1, 40}, float(spread));
    score.slice(1, 20).neg_();
    score.slice(1, 38).fill_(kNever);
    auto masked = score == kNever;
    auto leaf = score.nan_to_num().requires_grad_();
    for (int64_t k : {1, 10, 20, 21, 37}) {
      auto used = leaf.masked_fill(masked, kNever);
      auto perturbed = (used.detach() + normal("noise", {1, 40})).to(at::kDouble);
      auto log_p = log_inclusion_probability(used, perturbed, at::full({1}, k, at::kLong));
      auto present = log_p.masked_select(masked.logical_not());
      EXPECT_TRUE(present.isfinite().all().item<bool>()) << spread << " " << k;
      EXPECT_LE(present.max().item<double>(), 0);
      auto gradient = torch::autograd::grad({present.sum()}, {leaf})[0];
      EXPECT_TRUE(gradient.isfinite().all().item<bool>()) << spread << " " << k;
    }
  }
}

TEST(ScoreEntropy, IsThatOfTheSoftmax) {
  auto score = normal("score", {3, 9}) * 2;
  score[1].slice(0, 4).fill_(kNever);
  score[2].fill_(kNever);
  score[2][6] = -3;
  auto entropy = score_entropy(score);
  for (int64_t r = 0; r < 3; ++r) {
    double total = 0, expected = 0;
    for (auto x : numbers(score[r])) total += std::exp(x);
    for (auto x : numbers(score[r]))
      if (x > kNever) expected -= std::exp(x) / total * (x - std::log(total));
    EXPECT_NEAR(entropy[r].item<double>(), expected, 1e-5) << r;
  }
}

// ---- runs and rows ----

at::Tensor padded_phi() {
  auto phi = normal("phi", {3, 11}) * 2;
  phi[1].slice(0, 7).fill_(kNever);
  phi[2].slice(0, 1).fill_(kNever);
  return phi;
}

TEST(RunScores, AreTheLogSumExpOfTheirTokens) {
  auto phi = padded_phi();
  for (int64_t span : {1, 2, 3, 4, 11, 20}) {
    auto runs = run_scores(phi, span);
    auto count = (11 + span - 1) / span;
    ASSERT_EQ(runs.sizes(), (std::vector<int64_t>{3, count}));
    for (int64_t b = 0; b < 3; ++b)
      for (int64_t r = 0; r < count; ++r) {
        double total = 0;
        for (int64_t i = r * span; i < std::min<int64_t>(11, (r + 1) * span); ++i)
          total += std::exp(phi[b][i].item<double>());
        auto found = runs[b][r].item<double>();
        if (total == 0) {
          EXPECT_EQ(found, kNever) << span << " " << b << " " << r;
        } else {
          EXPECT_NEAR(found, std::log(total), 1e-5) << span << " " << b << " " << r;
        }
      }
  }
}

TEST(RunScores, GradientSkipsPadding) {
  auto phi = padded_phi();
  auto masked = phi == kNever;
  auto leaf = phi.nan_to_num().requires_grad_();
  auto runs = run_scores(leaf.masked_fill(masked, kNever), 3);
  runs.masked_select(runs > kNever).sum().backward();
  EXPECT_TRUE(leaf.grad().isfinite().all().item<bool>());
  EXPECT_EQ(leaf.grad().masked_select(masked).abs().sum().item<double>(), 0);
  EXPECT_NEAR(leaf.grad()[0].slice(0, 0, 3).sum().item<double>(), 1, 1e-5);
}

// The tokens that select_top takes are those of a list of runs, best first, cut at the budget.
TEST(TokenOrderOfRuns, TakesWholeRunsBestFirst) {
  auto phi = padded_phi();
  for (int64_t span : {1, 2, 3, 4}) {
    auto runs = run_scores(phi, span).to(at::kDouble);
    runs += normal("noise", runs.sizes()) * 3;  // another order than that of the scores
    auto order = token_order_of_runs(runs, phi, span);
    EXPECT_TENSOR_EQUAL(order == kNever, phi == kNever);
    for (int64_t budget = 1; budget <= 11; ++budget) {
      auto selected = select_top(order, at::full({3}, budget, at::kLong), 100, false);
      for (int64_t b = 0; b < 3; ++b) {
        std::vector<int64_t> expected;
        auto by_score = std::get<1>(runs[b].sort(0, true));
        for (int64_t r = 0; r < runs.size(1); ++r)
          for (int64_t o = 0; o < span; ++o) {
            auto token = by_score[r].item<int64_t>() * span + o;
            if (token < 11 && phi[b][token].item<double>() > kNever &&
                int64_t(expected.size()) < budget)
              expected.push_back(token);
          }
        std::sort(expected.begin(), expected.end());
        auto found = selected.index[b].masked_select(selected.mask[b]);
        EXPECT_TENSOR_EQUAL(found, at::tensor(expected, at::kLong));
      }
    }
  }
}

TEST(CandidateRows, CutASequenceIntoItsSegments) {
  auto x = at::arange(14, at::kDouble).view({2, 7});
  EXPECT_TENSOR_EQUAL(candidate_rows(x, 0, -1), x);
  auto rows = candidate_rows(x, 3, -1);
  EXPECT_TENSOR_EQUAL(rows, at::tensor({0., 1., 2., 3., 4., 5., 6., -1., -1., 7., 8., 9., 10., 11.,
                                        12., 13., -1., -1.},
                                       at::kDouble)
                                .view({6, 3}));
}

}  // namespace
}  // namespace dsrsq
