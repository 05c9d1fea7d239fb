#include "dsrsq/retriever/dsr_policy.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <ostream>
#include <set>

#include "dsrsq/core/error.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;
using testing::Tolerance;

constexpr double kNever = -std::numeric_limits<double>::infinity();
constexpr int64_t kModel = 10, kSegment = 6, kSeed = 11;

DsrConfig small_config(int64_t budget = 6) {
  DsrConfig config;
  config.width = 8;
  config.budget = budget;
  config.alpha = 0;
  config.complexity = "none";
  config.conv_width = 3;
  config.temperature = 0.5;
  return config;
}

// Bins of 2, 4, 6, 8 and 10 tokens, not equally likely.
DsrConfig learned_config() {
  auto config = small_config(5);
  config.alpha = 1;
  config.budget_minimum = 2;
  config.complexity = "learned";
  return config;
}

Dsr make_dsr(const DsrConfig& config) {
  Dsr dsr(config, kModel, 5);
  torch::NoGradGuard no_grad;
  for (auto& item : dsr->named_parameters())
    if (item.key() == "budget_output")
      item.value().copy_(normal("budget_output", item.value().sizes()) * 0.2);  // no bin is rare
  return dsr;
}

struct Sample {
  int64_t tokens = 0;
  int64_t question = 2;
  int64_t id = 0;
};

// The same id has the same embeddings in every batch; padding holds other numbers, not zeros.
PolicyInput make_input(const std::vector<Sample>& samples, bool per_segment = false) {
  int64_t tokens = 1, question = 1;
  for (const auto& s : samples) {
    tokens = std::max(tokens, s.tokens);
    question = std::max(question, s.question);
  }
  auto size = int64_t(samples.size());
  PolicyInput input;
  input.context = normal("padding", {size, tokens, kModel}) * 50;
  input.context_valid = at::zeros({size, tokens}, at::kBool);
  input.questions = normal("padded question", {size, 1, question, kModel}) * 50;
  input.questions_valid = at::zeros({size, 1, question}, at::kBool);
  for (int64_t b = 0; b < size; ++b) {
    const auto& s = samples[size_t(b)];
    input.context[b].narrow(0, 0, s.tokens).copy_(normal(concat("c", s.id), {s.tokens, kModel}));
    input.context_valid[b].narrow(0, 0, s.tokens).fill_(true);
    input.questions[b][0]
        .narrow(0, 0, s.question)
        .copy_(normal(concat("q", s.id), {s.question, kModel}));
    input.questions_valid[b][0].narrow(0, 0, s.question).fill_(true);
    input.sample_ids.push_back(s.id);
  }
  input.question_weights = input.questions_valid.to(at::kFloat);
  input.table_mean = normal("mean", {kModel}) * 0.3;
  input.per_segment = per_segment;
  return input;
}

const std::vector<Sample> kSamples{{23, 3, 7}, {9, 1, 2}, {14, 2, 40}};

std::vector<int64_t> list(const at::Tensor& x) {
  auto flat = x.to(at::kLong).contiguous();
  return {flat.data_ptr<int64_t>(), flat.data_ptr<int64_t>() + flat.numel()};
}

std::vector<int64_t> tokens_of(const Rollouts& rollouts, int64_t row) {
  return list(rollouts.selected.index[row].masked_select(rollouts.selected.mask[row]));
}

// phi of a sequence, in fp64 and from the retriever's weights alone.
std::vector<double> naive_phi(const Dsr& dsr, const PolicyInput& input, int64_t b) {
  auto weight = [&](const char* name) {
    return dsr->named_parameters()[name].detach().to(at::kDouble);
  };
  auto unit = [](const at::Tensor& x) { return x / x.norm(); };
  auto mean = input.table_mean.to(at::kDouble);
  auto asked = input.questions[b][0]
                   .to(at::kDouble)
                   .slice(0, 0, input.questions_valid[b][0].sum().item<int64_t>());
  auto question = unit(at::mv(weight("question_projection"), (asked - mean).mean(0)));
  std::vector<double> phi;
  for (int64_t i = 0; i < input.context.size(1); ++i) {
    auto token = unit(at::mv(weight("context_projection"), input.context[b][i].to(at::kDouble)));
    phi.push_back(input.context_valid[b][i].item<bool>()
                      ? question.dot(token).item<double>() / dsr->temperature()
                      : kNever);
  }
  return phi;
}

struct Case {
  const char* name;
  int64_t span;
  bool per_segment, learned;
};
std::ostream& operator<<(std::ostream& out, const Case& c) { return out << c.name; }

class DsrPolicyTest : public ::testing::TestWithParam<Case> {
 protected:
  DsrPolicyTest() : dsr_(make_dsr(config())), policy_(dsr_, kSegment, kSeed) {}
  static DsrConfig config() {
    auto made = GetParam().learned ? learned_config() : small_config();
    made.span = GetParam().span;
    return made;
  }
  PolicyInput input() const { return make_input(kSamples, GetParam().per_segment); }
  Dsr dsr_;
  DsrPolicy policy_;
};

// D21: noise is of (seed, step, sample, draw), so the batch around a sequence changes nothing.
TEST_P(DsrPolicyTest, ADrawDoesNotDependOnItsBatch) {
  constexpr int64_t kDraws = 3;
  auto all = policy_.sample(input(), kDraws, 5, 1);
  std::set<std::vector<int64_t>> different;
  for (size_t slot = 0; slot < kSamples.size(); ++slot) {
    auto alone = policy_.sample(make_input({kSamples[slot]}, GetParam().per_segment), kDraws, 5, 1);
    auto other = policy_.sample(make_input({{31, 4, 90}, kSamples[slot]}, GetParam().per_segment),
                                kDraws, 5, 1);
    for (int64_t g = 0; g < kDraws; ++g) {
      auto row = int64_t(slot) * kDraws + g;
      EXPECT_EQ(tokens_of(alone, g), tokens_of(all, row)) << slot << " " << g;
      EXPECT_EQ(tokens_of(other, kDraws + g), tokens_of(all, row)) << slot << " " << g;
      EXPECT_NEAR(alone.share[g].item<double>(), all.share[row].item<double>(), 1e-12);
      if (GetParam().learned) {
        EXPECT_EQ(alone.bin[g].item<int64_t>(), all.bin[row].item<int64_t>());
      }
      if (slot == 0) different.insert(tokens_of(all, row));
    }
  }
  EXPECT_GT(different.size(), 1u) << "draws share their noise";
}

TEST_P(DsrPolicyTest, StepSeedAndDrawChangeTheNoise) {
  auto in = input();
  auto rows = [&](const DsrPolicy& policy, int64_t step) {
    auto rollouts = policy.sample(in, 2, step, 1);
    std::vector<std::vector<int64_t>> found;
    for (int64_t r = 0; r < 6; ++r) found.push_back(tokens_of(rollouts, r));
    return found;
  };
  auto base = rows(policy_, 5);
  EXPECT_EQ(base, rows(policy_, 5));
  EXPECT_NE(base, rows(policy_, 6));
  EXPECT_NE(base, rows(DsrPolicy(dsr_, kSegment, kSeed + 1), 5));
  // More draws leave the first ones as they are.
  auto more = policy_.sample(in, 4, 5, 1);
  for (int64_t b = 0; b < 3; ++b)
    for (int64_t g = 0; g < 2; ++g) EXPECT_EQ(tokens_of(more, b * 4 + g), base[size_t(b * 2 + g)]);
}

// The draws' temperature divides the scores: log-probabilities are those of the sharper scores, and
// near 0 every draw is the choice without noise.
TEST_P(DsrPolicyTest, TemperatureSharpensTheDraws) {
  auto in = input();
  auto plain = policy_.sample(in, 4, 5, 1);
  in.temperature = 1e-4;
  auto sharp = policy_.sample(in, 4, 5, 1);
  auto greedy = policy_.greedy(in, sharp);
  bool moved = false;
  for (int64_t row = 0; row < 12; ++row) {
    EXPECT_EQ(tokens_of(sharp, row), tokens_of(greedy, sharp.bin.defined() ? row : row / 4));
    moved = moved || tokens_of(plain, row) != tokens_of(sharp, row);
  }
  EXPECT_TRUE(moved) << "the plain draws have no noise either";
  in.temperature = 0.5;
  at::NoGradGuard no_grad;
  auto found = policy_.evaluate(in, plain).pick_log_prob;
  in.temperature = 1;
  auto as_before = policy_.evaluate(in, plain).pick_log_prob;
  EXPECT_FALSE(at::allclose(found, as_before));
  if (GetParam().span > 1) return;  // it divides the scores of runs, which are sums over tokens
  for (auto& parameter : dsr_->named_parameters())
    if (parameter.key() == "log_temperature") parameter.value().data() += std::log(0.5);
  auto of_sharper_scores = policy_.evaluate(in, plain).pick_log_prob;
  EXPECT_TRUE(at::allclose(found, of_sharper_scores, 1e-4, 1e-4));
}

// PPO's first ratio is exp(0): evaluate() repeats the same arithmetic, with gradient or without.
TEST_P(DsrPolicyTest, EvaluatingTwiceIsBitEqual) {
  auto in = input();
  auto rollouts = policy_.sample(in, 4, 3, 1);
  PolicyEvaluation old;
  {
    torch::NoGradGuard no_grad;
    old = policy_.evaluate(in, rollouts);
  }
  auto now = policy_.evaluate(in, rollouts);
  EXPECT_TENSOR_EQUAL(now.pick_log_prob.detach(), old.pick_log_prob);
  EXPECT_LT(old.pick_log_prob.min().item<double>(), -0.5);
  EXPECT_TRUE(now.pick_log_prob.requires_grad());
  EXPECT_EQ(now.bin_log_prob.defined(), GetParam().learned);
  if (!GetParam().learned) return;
  EXPECT_TENSOR_EQUAL(now.bin_log_prob.detach(), old.bin_log_prob);
  auto expected =
      old.bin_probability.log().repeat_interleave(4, 0).gather(1, rollouts.bin.unsqueeze(1));
  EXPECT_TENSOR_NEAR(old.bin_log_prob, expected.squeeze(1), (Tolerance{1e-5, 1e-6}));
}

// Every row's picks, their order and their log probabilities, from fp64 scores and host loops.
TEST_P(DsrPolicyTest, LogProbabilitiesAreThoseOfThePicksInTheirRows) {
  constexpr int64_t kDraws = 2;
  auto in = input();
  auto span = GetParam().span;
  auto rollouts = policy_.sample(in, kDraws, 3, 1);
  auto found = policy_.evaluate(in, rollouts);
  auto in_row = GetParam().per_segment ? kSegment / span : int64_t(1) << 30;
  EXPECT_EQ(rollouts.rows, GetParam().per_segment ? 4 : 1);
  std::vector<double> entropies;
  for (int64_t b = 0; b < 3; ++b) {
    std::vector<double> weight;  // of runs
    auto phi = naive_phi(dsr_, in, b);
    for (size_t i = 0; i < phi.size(); ++i) {
      if (i % size_t(span) == 0) weight.push_back(0);
      weight.back() += std::exp(phi[i]);
    }
    for (int64_t row = 0; row < rollouts.rows; ++row) {
      auto begin = row * in_row, end = std::min(int64_t(weight.size()), begin + in_row);
      double all = 0, entropy = 0, candidates = 0;
      for (auto i = begin; i < end; ++i)
        all += weight[size_t(i)], candidates += weight[size_t(i)] > 0;
      for (auto i = begin; i < end; ++i)
        if (weight[size_t(i)] > 0)
          entropy -= weight[size_t(i)] / all * std::log(weight[size_t(i)] / all);
      if (candidates > 0) entropies.push_back(entropy / std::log(std::max(2.0, candidates)));
      for (int64_t g = 0; g < kDraws; ++g) {
        auto r = b * kDraws + g, place = r * rollouts.rows + row;
        std::set<int64_t> runs;  // that the selected tokens of this row are in
        for (auto token : tokens_of(rollouts, r))
          if (token / span >= begin && token / span < end) runs.insert(token / span - begin);
        auto picks =
            list(rollouts.picks.candidate[place].masked_select(rollouts.picks.mask[place]));
        EXPECT_EQ(std::set<int64_t>(picks.begin(), picks.end()), runs);
        EXPECT_EQ(picks.size(), runs.size());
        double left = all;
        for (size_t j = 0; j < picks.size(); ++j) {
          auto w = weight[size_t(begin + picks[j])];
          auto expected = double(picks.size()) == candidates ? 0 : std::log(w / left);
          EXPECT_NEAR(found.pick_log_prob[place][int64_t(j)].item<double>(), expected, 2e-4)
              << b << " " << row << " " << j;
          left -= w;
        }
        for (auto j = int64_t(picks.size()); j < found.pick_log_prob.size(1); ++j)
          EXPECT_EQ(found.pick_log_prob[place][j].item<double>(), 0);
      }
    }
  }
  EXPECT_TENSOR_NEAR(found.entropy, at::tensor(entropies, at::kDouble), (Tolerance{1e-4, 1e-4}));
}

TEST_P(DsrPolicyTest, GreedyIsTheTopOfTheScores) {
  auto in = input();
  auto rollouts = policy_.sample(in, 3, 3, 1);
  auto greedy = policy_.greedy(in, rollouts);
  EXPECT_EQ(greedy.draws, GetParam().learned ? 3 : 1);
  for (int64_t b = 0; b < 3; ++b)
    for (int64_t g = 0; g < greedy.draws; ++g) {
      auto phi = at::tensor(naive_phi(dsr_, in, b), at::kDouble).unsqueeze(0);
      auto budget = rollouts.budget.narrow(0, b * 3 + g, 1);
      auto top =
          select_top(span_score(phi, GetParam().span), budget, kSegment, GetParam().per_segment);
      EXPECT_EQ(tokens_of(greedy, b * greedy.draws + g),
                list(top.index[0].masked_select(top.mask[0])))
          << b << " " << g;
    }
}

TEST_P(DsrPolicyTest, GroupsCoverEachPickOnceAndAreNeighbours) {
  auto in = input();
  auto span = GetParam().span;
  auto in_row = GetParam().per_segment ? kSegment / span : 0;
  for (int64_t group_size : {1, 2, 3, 100}) {
    auto rollouts = policy_.sample(in, 2, 9, group_size);
    int64_t most = 0;
    for (int64_t r = 0; r < 6; ++r) {
      std::map<int64_t, int64_t> group_of_run;
      for (int64_t row = 0; row < rollouts.rows; ++row) {
        auto place = r * rollouts.rows + row;
        for (int64_t j = 0; j < rollouts.picks.candidate.size(1); ++j) {
          if (!rollouts.picks.mask[place][j].item<bool>()) continue;
          auto run = row * in_row + rollouts.picks.candidate[place][j].item<int64_t>();
          EXPECT_TRUE(
              group_of_run.emplace(run, rollouts.group_of_pick[place][j].item<int64_t>()).second);
        }
      }
      int64_t number = 0;  // of the run among those picked, in document order
      for (const auto& [run, group] : group_of_run) EXPECT_EQ(group, number++ / group_size) << run;
      most = std::max(most, (number + group_size - 1) / group_size);
      for (int64_t slot = 0; slot < rollouts.selected.slots(); ++slot) {
        auto group = rollouts.group_of_slot[r][slot].item<int64_t>();
        if (rollouts.selected.mask[r][slot].item<bool>()) {
          EXPECT_EQ(group,
                    group_of_run.at(rollouts.selected.index[r][slot].item<int64_t>() / span));
        } else {
          EXPECT_EQ(group, -1);
        }
      }
    }
    EXPECT_EQ(rollouts.groups, most) << group_size;
  }
}

TEST_P(DsrPolicyTest, BudgetsAreThoseOfTheirBins) {
  auto in = input();
  constexpr int64_t kDraws = 64;  // enough that the least likely bin is drawn too
  auto rollouts = policy_.sample(in, kDraws, 1, 1);
  auto bins = policy_.budget_bins();
  std::set<int64_t> seen;
  for (int64_t r = 0; r < 3 * kDraws; ++r) {
    auto budget = rollouts.budget[r].item<int64_t>();
    if (GetParam().learned) {
      EXPECT_EQ(budget, bins.at(size_t(rollouts.bin[r].item<int64_t>())));
    } else {
      EXPECT_EQ(budget, 6);
    }
    auto tokens = kSamples[size_t(r / kDraws)].tokens;
    auto taken = int64_t(tokens_of(rollouts, r).size());
    // A short last segment may leave a share of the budget unused.
    if (GetParam().per_segment) {
      EXPECT_LE(taken, std::min(budget, tokens));
      EXPECT_GE(taken, std::min(budget, tokens) / 2);
    } else {
      EXPECT_EQ(taken, std::min(budget, tokens));
    }
    EXPECT_DOUBLE_EQ(rollouts.share[r].item<double>(), double(taken) / double(tokens));
    seen.insert(budget);
  }
  EXPECT_EQ(bins,
            GetParam().learned ? (std::vector<int64_t>{2, 4, 6, 8, 10}) : std::vector<int64_t>{});
  EXPECT_EQ(seen.size(), GetParam().learned ? 5u : 1u);
  EXPECT_EQ(rollouts.bin.defined(), GetParam().learned);
}

TEST_P(DsrPolicyTest, FeaturesAreFiniteAndKnowNothingOfLaterPicks) {
  constexpr int64_t kDraws = 64;
  auto in = input();
  auto rollouts = policy_.sample(in, kDraws, 1, 1);
  auto features = policy_.evaluate(in, rollouts).features;
  EXPECT_EQ(features.sizes(),
            (std::vector<int64_t>{3 * kDraws, rollouts.rows, policy_.feature_width()}));
  EXPECT_TRUE(features.isfinite().all().item<bool>());
  EXPECT_FALSE(features.requires_grad());
  EXPECT_LT(features.abs().max().item<double>(), 25);
  // Draws of a sequence that agree in their budget and in all rows before are one state.
  using Known = std::pair<std::vector<int64_t>, double>;
  int64_t compared = 0;
  std::set<double> different;
  for (int64_t b = 0; b < 3; ++b)
    for (int64_t row = 0; row < rollouts.rows; ++row) {
      std::map<Known, at::Tensor> seen;
      for (auto r = b * kDraws; r < (b + 1) * kDraws; ++r) {
        std::vector<int64_t> before;
        for (int64_t s = 0; s < row; ++s) {
          auto place = r * rollouts.rows + s;
          for (auto pick :
               list(rollouts.picks.candidate[place].masked_select(rollouts.picks.mask[place])))
            before.push_back(s * 1000 + pick);
        }
        std::sort(before.begin(), before.end());
        Known known{before, rollouts.share[r].item<double>()};
        auto [found, is_new] = seen.emplace(known, features[r][row]);
        compared += !is_new;
        ASSERT_TRUE(at::equal(features[r][row], found->second)) << b << " " << row;
        if (row > 0) different.insert(features[r][row].sum().item<double>());
      }
    }
  EXPECT_GT(compared, 30);
  if (GetParam().per_segment) {
    EXPECT_GT(different.size(), 10u) << "what was picked before is known";
  }
}

INSTANTIATE_TEST_SUITE_P(Forms, DsrPolicyTest,
                         ::testing::Values(Case{"tokens", 1, false, false},
                                           Case{"tokens_learned", 1, false, true},
                                           Case{"runs", 3, false, false},
                                           Case{"segments", 1, true, false},
                                           Case{"segments_runs_learned", 2, true, true}),
                         [](const auto& info) { return info.param.name; });

// ---- distributions ----

TEST(DsrPolicy, SetsAreDrawnAsOftenAsPlackettLuceSays) {
  constexpr int64_t kDraws = 8000, kTokens = 4;
  auto dsr = make_dsr(small_config(2));
  DsrPolicy policy(dsr, kSegment, kSeed);
  auto in = make_input({{kTokens, 2, 3}});
  auto rollouts = policy.sample(in, kDraws, 1, 1);
  auto phi = naive_phi(dsr, in, 0);
  std::map<std::vector<int64_t>, double> seen, expected;
  for (int64_t g = 0; g < kDraws; ++g) seen[tokens_of(rollouts, g)] += 1.0 / kDraws;
  double total = 0;
  for (auto x : phi) total += std::exp(x);
  for (int64_t i = 0; i < kTokens; ++i)
    for (int64_t j = 0; j < kTokens; ++j) {
      if (i == j) continue;
      auto first = std::exp(phi[size_t(i)]), second = std::exp(phi[size_t(j)]);
      expected[{std::min(i, j), std::max(i, j)}] += first / total * second / (total - first);
    }
  ASSERT_EQ(expected.size(), 6u);
  for (const auto& [set, p] : expected)
    EXPECT_NEAR(seen[set], p, 4 * std::sqrt(p * (1 - p) / kDraws)) << set[0] << " " << set[1];
}

TEST(DsrPolicy, BinsAreDrawnAsOftenAsTheirProbability) {
  constexpr int64_t kDraws = 4000;
  auto dsr = make_dsr(learned_config());
  DsrPolicy policy(dsr, kSegment, kSeed);
  auto in = make_input({{20, 2, 3}});
  auto rollouts = policy.sample(in, kDraws, 1, 1);
  auto p = policy.evaluate(in, rollouts).bin_probability.detach();
  ASSERT_EQ(p.sizes(), (std::vector<int64_t>{1, 5}));
  EXPECT_NEAR(p.sum().item<double>(), 1, 1e-5);
  EXPECT_GT((p.max() - p.min()).item<double>(), 0.1) << "the test would see equal shares";
  for (int64_t bin = 0; bin < 5; ++bin) {
    auto truth = p[0][bin].item<double>();
    auto share = (rollouts.bin == bin).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(share, truth, 4 * std::sqrt(truth * (1 - truth) / kDraws)) << bin;
  }
}

TEST(DsrPolicy, ARequestedBudgetReplacesItsOwn) {
  DsrPolicy policy(make_dsr(small_config()), kSegment, kSeed);
  auto in = make_input(kSamples);
  in.requested_budget = at::tensor({3, 5, 100}, at::kLong);
  auto rollouts = policy.sample(in, 2, 1, 1);
  EXPECT_TENSOR_EQUAL(rollouts.budget, at::tensor({3, 3, 5, 5, 100, 100}, at::kLong));
  EXPECT_EQ(tokens_of(rollouts, 5).size(), 14u);
  // A sequence that picks everything has no choice to learn from.
  EXPECT_EQ(policy.evaluate(in, rollouts).pick_log_prob.slice(0, 4).abs().sum().item<double>(), 0);
}

TEST(DsrPolicy, GradientReachesTheProjectionsAndTheTemperature) {
  auto dsr = make_dsr(learned_config());
  DsrPolicy policy(dsr, kSegment, kSeed);
  auto in = make_input(kSamples);
  auto found = policy.evaluate(in, policy.sample(in, 2, 1, 1));
  (found.pick_log_prob.sum() + found.bin_log_prob.sum()).backward();
  for (const auto& item : dsr->named_parameters()) {
    if (item.key() == "conv") {
      EXPECT_FALSE(item.value().grad().defined()) << "the reader reads through it";
    } else {
      ASSERT_TRUE(item.value().grad().defined()) << item.key();
      EXPECT_GT(item.value().grad().abs().sum().item<double>(), 0) << item.key();
      EXPECT_TRUE(item.value().grad().isfinite().all().item<bool>()) << item.key();
    }
  }
}

// The budget head does not move the scores, nor do the picks move the budget head.
TEST(DsrPolicy, TheBudgetIsAnActionOfItsOwn) {
  auto dsr = make_dsr(learned_config());
  DsrPolicy policy(dsr, kSegment, kSeed);
  auto in = make_input(kSamples);
  auto rollouts = policy.sample(in, 2, 1, 1);
  policy.evaluate(in, rollouts).bin_log_prob.sum().backward();
  for (const auto& item : dsr->named_parameters())
    EXPECT_EQ(item.value().grad().defined(), item.key().rfind("budget", 0) == 0) << item.key();
}

}  // namespace
}  // namespace dsrsq
