// What trains the retriever inside a whole model: every form of L_retrieval and its targets, the
// gradient of the reader, L_compute, the learned budget, and what the policy sees.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "dsrsq/core/error.h"
#include "dsrsq/methods/dsrsq.h"
#include "dsrsq/objective/task_loss.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::read_batch;
using testing::tiny_batch;
using testing::tiny_dsrsq;
using testing::tiny_dsrsq_model;
using testing::tiny_model;
using testing::Tolerance;

constexpr double kNever = -std::numeric_limits<double>::infinity();

// Picks from the whole context, so that a row of candidates is a sequence.
DsrsqConfig whole_context() {
  auto config = tiny_dsrsq(true, false, false);
  config.rckv.source = "selected";
  config.dsr.alpha = 0;
  config.dsr.complexity = "none";
  config.dsr.temperature = 0.5;
  return config;
}

DsrsqConfig learned_budget() {
  auto config = whole_context();
  config.dsr.complexity = "learned";
  config.dsr.budget_minimum = 4;
  config.dsr.alpha = 0.5;  // bins of 4, 7.5, 11, 14.5, 18
  return config;
}

PassOptions rewarded() {
  PassOptions options;
  options.training = options.budget_learns = true;
  return options;
}

// Its bins are not equally likely.
LanguageModel make_model(const DsrsqConfig& config) {
  auto model = tiny_dsrsq_model(tiny_model(), config);
  torch::NoGradGuard no_grad;
  for (auto& item : model->named_parameters())
    if (item.key() == "method.dsr.budget_output")
      item.value().copy_(testing::normal("budget", item.value().sizes()));
  return model;
}

Batch padded_batch() {
  return tiny_batch({{.context = 45, .sample = 1},
                     {.context = 19, .question = 3, .tail = 8, .questions = 2, .sample = 2}});
}

PassOptions training(const std::string& form = "softmax", const std::string& target = "evidence",
                     const std::string& negatives = "sequence") {
  PassOptions options;
  options.training = true;
  options.step = 3;
  options.retrieval = {form, target, negatives};
  return options;
}

struct Pass {
  Pass(LanguageModel& model, const Batch& batch, const PassOptions& options)
      : hidden(read_batch(model, batch, options, &state)),
        terms(model->method().losses(batch, state)) {}
  MethodState state;
  at::Tensor hidden;
  LossTerms terms;
  at::Tensor retrieval() const { return terms.at("retrieval").sum; }
};

at::Tensor chosen_tokens(const MethodState& state, int64_t tokens) {
  auto chosen = at::zeros({state.selected.index.size(0), tokens}, at::kBool);
  for (int64_t b = 0; b < chosen.size(0); ++b)
    for (int64_t j = 0; j < state.selected.slots(); ++j)
      if (state.selected.mask[b][j].item<bool>())
        chosen[b][state.selected.index[b][j].item<int64_t>()] = true;
  return chosen;
}

// Mass of the recorded attention by context token: the tokens that were read, after the sinks.
std::vector<double> mass_of(const MethodState& state, int64_t b, int64_t q, int64_t tokens) {
  std::vector<double> mass(static_cast<size_t>(tokens));
  int64_t rank = tiny_model().sinks;
  double total = 0;
  for (int64_t j = 0; j < state.selected.slots(); ++j) {
    if (!state.selected.mask[b][j].item<bool>()) continue;
    auto found = state.read_mass[b][q][rank++].item<double>();
    mass[size_t(state.selected.index[b][j].item<int64_t>())] = found;
    total += found;
  }
  for (auto& one : mass) one /= total;
  return mass;
}

std::vector<double> evidence_of(const Batch& batch, int64_t b, int64_t q) {
  std::vector<double> target;
  auto total = batch.evidence[b][q].sum().item<double>();
  for (int64_t i = 0; i < batch.context.size(1); ++i)
    target.push_back(batch.evidence[b][q][i].item<bool>() ? 1 / total : 0);
  return target;
}

// -sum target log softmax over the candidates.
double cross_entropy(const std::vector<double>& target, const std::vector<double>& phi,
                     const std::function<bool(size_t)>& takes_part) {
  double total = 0, sum = 0;
  for (size_t i = 0; i < phi.size(); ++i)
    if (takes_part(i)) total += std::exp(phi[i]);
  for (size_t i = 0; i < target.size(); ++i)
    if (target[i] > 0) sum -= target[i] * (phi[i] - std::log(total));
  return sum;
}

std::vector<double> numbers(const at::Tensor& x) {
  auto flat = x.detach().to(at::kDouble).contiguous();
  return {flat.data_ptr<double>(), flat.data_ptr<double>() + flat.numel()};
}

const std::pair<int64_t, int64_t> kQuestions[] = {{0, 0}, {1, 0}, {1, 1}};  // that are asked

// ---- targets ----

TEST(RetrievalTerm, SoftmaxOverTheContextWithEvidence) {
  auto model = make_model(whole_context());
  auto batch = padded_batch();
  Pass pass(model, batch, training());
  double expected = 0;
  for (auto [b, q] : kQuestions) {
    auto sequence = b;
    expected += cross_entropy(
        evidence_of(batch, b, q), numbers(pass.state.scores[b][q]),
        [&](size_t i) { return batch.context_valid[sequence][int64_t(i)].item<bool>(); });
  }
  EXPECT_NEAR(pass.retrieval().item<double>(), expected, 1e-3);
  EXPECT_FALSE(pass.state.read_mass.defined());
}

TEST(RetrievalTerm, AttentionOfTheAnswersOverTheTokensThatWereRead) {
  auto model = make_model(whole_context());
  auto batch = padded_batch();
  Pass pass(model, batch, training("softmax", "attention"));
  ASSERT_TRUE(pass.state.read_mass.defined());
  auto chosen = chosen_tokens(pass.state, 45);
  double expected = 0;
  for (auto [b, q] : kQuestions) {
    auto sequence = b;
    expected += cross_entropy(mass_of(pass.state, b, q, 45), numbers(pass.state.scores[b][q]),
                              [&](size_t i) { return chosen[sequence][int64_t(i)].item<bool>(); });
    // Every answering position of this question, in every layer and head.
    auto rows = (batch.label_question[b] == q).logical_and(batch.tail_valid[b]).sum();
    EXPECT_NEAR(pass.state.read_mass[b][q].sum().item<double>(), rows.item<double>() * 2 * 4, 1e-3);
  }
  EXPECT_NEAR(pass.retrieval().item<double>(), expected, 1e-3);
}

TEST(RetrievalTerm, AttentionStandsInWhereThereIsNoEvidence) {
  auto model = make_model(whole_context());
  auto batch = padded_batch();
  batch.evidence[1][0].fill_(false);
  Pass pass(model, batch, training("softmax", "evidence_or_attention"));
  auto attention = mass_of(pass.state, 1, 0, 45);
  auto phi = pass.state.scores;
  auto gradient = torch::autograd::grad({pass.retrieval()}, {phi})[0];
  // The gradient is softmax - target on tokens that take part, so the largest targets stand out.
  auto of_question = [&](int64_t b, int64_t q) { return gradient[b][q].argmin().item<int64_t>(); };
  EXPECT_TRUE(batch.evidence[0][0][of_question(0, 0)].item<bool>());
  EXPECT_TRUE(batch.evidence[1][1][of_question(1, 1)].item<bool>());
  auto lowered = gradient[1][0];
  for (int64_t i = 0; i < 19; ++i)
    if (attention[size_t(i)] == 0) {
      EXPECT_GE(lowered[i].item<double>(), 0) << i;
    }
  EXPECT_LT(lowered.min().item<double>(), 0);
  EXPECT_NEAR(lowered.sum().item<double>(), 0, 1e-4) << "softmax and target both sum to 1";
}

TEST(RetrievalTerm, NegativesOfTheWholeBatch) {
  auto config = whole_context();
  auto model = make_model(config);
  auto batch = padded_batch();
  Pass pass(model, batch, training("softmax", "evidence", "batch"));
  // Scores of a question against another sequence's context, from the retriever's own weights.
  Dsr dsr(config.dsr, tiny_model().width, 3);
  auto mean = model->backbone()->table_mean();
  auto context =
      dsr->encode_context(dsr->context_inputs(model->backbone()->embed(batch.context), mean), mean);
  auto question = dsr->encode_questions(model->backbone()->embed(batch.questions),
                                        batch.questions_valid.to(at::kFloat), mean);
  double expected = 0;
  for (auto [b, q] : kQuestions) {
    std::vector<double> phi, target(90);
    auto own = evidence_of(batch, b, q);
    for (int64_t other = 0; other < 2; ++other)
      for (int64_t i = 0; i < 45; ++i) {
        phi.push_back((question[b][q] * context[other][i]).sum().item<double>() / 0.5);
        if (other == b) target[size_t(other * 45 + i)] = own[size_t(i)];
      }
    expected += cross_entropy(target, phi, [&](size_t i) {
      return batch.context_valid.reshape({-1})[int64_t(i)].item<bool>();
    });
  }
  EXPECT_NEAR(pass.retrieval().item<double>(), expected, 1e-3);
}

// log p by sorting the others of each token; the whole context is one row.
double naive_log_inclusion(const std::vector<double>& phi, const std::vector<double>& noise,
                           size_t i, size_t count) {
  std::vector<double> others;
  for (size_t j = 0; j < phi.size(); ++j)
    if (j != i) others.push_back(phi[j] + noise[j]);
  std::sort(others.rbegin(), others.rend());
  return std::log(-std::expm1(-std::exp(phi[i] - others[count - 1])));
}

TEST(RetrievalTerm, InclusionUnderTheNoiseOfThePass) {
  auto model = make_model(whole_context());
  auto batch = padded_batch();
  auto options = training("inclusion");
  options.sample = true;
  Pass pass(model, batch, options);
  ASSERT_TRUE(pass.state.selection_noise.defined());
  double expected = 0;
  for (auto [b, q] : kQuestions) {
    auto target = evidence_of(batch, b, q);
    auto noise = numbers(pass.state.selection_noise[b]);
    for (size_t i = 0; i < 45; ++i)
      if (target[i] > 0)
        expected -= target[i] * naive_log_inclusion(numbers(pass.state.scores[b][q]), noise, i, 12);
  }
  EXPECT_NEAR(pass.retrieval().item<double>(), expected, 1e-3);
  auto gradient = torch::autograd::grad({pass.retrieval()}, {pass.state.scores})[0];
  auto asked = batch.evidence;
  EXPECT_TRUE((gradient.masked_select(asked) < 0).all().item<bool>());
  EXPECT_EQ(gradient.masked_select(asked.logical_not()).abs().sum().item<double>(), 0);
}

// The paper's formula over the policy's own picks raises exactly these, whatever they are.
TEST(RetrievalTerm, PrintedReinforcesThePicks) {
  auto model = make_model(whole_context());
  auto batch = padded_batch();
  Pass pass(model, batch, training("printed"));
  auto gradient = torch::autograd::grad({pass.retrieval()}, {pass.state.scores})[0];
  auto chosen = chosen_tokens(pass.state, 45);
  for (auto [b, q] : kQuestions)
    for (int64_t i = 0; i < 45; ++i)
      EXPECT_EQ(gradient[b][q][i].item<double>() < 0, chosen[b][i].item<bool>())
          << b << " " << q << " " << i;
  EXPECT_EQ(gradient.clamp_min(0).sum().item<double>(), 0) << "nothing is lowered";
  EXPECT_EQ(gradient[0][1].abs().sum().item<double>(), 0) << "a question that is not asked";
  batch.evidence.fill_(false);  // it does not look at evidence
  EXPECT_EQ(Pass(model, batch, training("printed")).retrieval().item<double>(),
            pass.retrieval().item<double>());
}

// ---- counts ----

TEST(RetrievalTerm, CountsAreKnownBeforeThePass) {
  for (bool per_segment : {false, true})
    for (int64_t span : {1, 2})
      for (const char* form : {"softmax", "inclusion", "printed"})
        for (const char* target : {"evidence", "attention", "evidence_or_attention"}) {
          auto config = whole_context();
          config.rckv.source = per_segment ? "stream" : "selected";
          config.dsr.span = span;
          auto model = make_model(config);
          auto batch = padded_batch();
          batch.evidence[1][0].fill_(false);
          auto options = training(form, target);
          options.sample = true;
          auto counts = model->method().loss_counts(batch, options);
          Pass pass(model, batch, options);
          const auto& term = pass.terms.at("retrieval");
          auto name = concat(form, " ", target, " ", span, " ", per_segment);
          bool labelled = std::string(target) == "evidence" && std::string(form) != "printed";
          EXPECT_EQ(counts.at("retrieval"), labelled ? 2 : 3) << name;
          EXPECT_EQ(term.count, counts.at("retrieval")) << name;
          EXPECT_TRUE(term.sum.isfinite().item<bool>()) << name;
          // Each counted question adds to the sum, and no other one does.
          auto gradient = torch::autograd::grad({term.sum}, {pass.state.scores})[0];
          EXPECT_TRUE(gradient.isfinite().all().item<bool>()) << name;
          auto learning = (gradient.abs().sum(-1) > 0).sum().item<int64_t>();
          EXPECT_EQ(double(learning), counts.at("retrieval")) << name;
        }
}

// ---- who learns ----

double gradient_size(LanguageModel& model, const std::string& name) {
  auto gradient = model->named_parameters()[name].grad();
  return gradient.defined() ? gradient.abs().sum().item<double>() : 0;
}

TEST(RetrievalTerm, ATeachersTargetMovesTheRetrieverAlone) {
  for (const char* target : {"attention", "evidence_or_attention", "evidence"}) {
    auto model = make_model(whole_context());
    auto batch = padded_batch();
    Pass(model, batch, training("softmax", target)).retrieval().backward();
    for (const char* name : {"question_projection", "context_projection", "log_temperature"})
      EXPECT_GT(gradient_size(model, concat("method.dsr.", name)), 0) << target << " " << name;
    bool shared = std::string(target) == "evidence";  // also trains what is scored
    EXPECT_EQ(gradient_size(model, "method.dsr.conv") > 0, shared) << target;
    for (const auto& item : model->named_parameters())
      if (item.key().rfind("backbone.", 0) == 0) {
        EXPECT_EQ(gradient_size(model, item.key()) > 0,
                  shared && item.key() == "backbone.embedding")
            << target << " " << item.key();
      }
  }
}

at::Tensor task_sum(LanguageModel& model, const Batch& batch, const Pass& pass) {
  return task_loss(model->backbone(), pass.hidden, batch).sum;
}

TEST(ReaderGradient, BiasReachesTheScoresAndNoneDoesNot) {
  for (const char* kind : {"bias", "none"})
    for (bool all_parts : {false, true}) {
      auto config = all_parts ? tiny_dsrsq(true, true, true) : whole_context();
      config.dsr.temperature = 0.5;
      config.dsr.reader_gradient = kind;
      auto model = make_model(config);
      auto batch = padded_batch();
      Pass pass(model, batch, training());
      task_sum(model, batch, pass).backward();
      bool bias = std::string(kind) == "bias";
      EXPECT_EQ(pass.state.key_bias.defined(), bias);
      for (const char* name : {"question_projection", "context_projection", "log_temperature"})
        EXPECT_EQ(gradient_size(model, concat("method.dsr.", name)) > 0, bias)
            << all_parts << " " << name;
      if (!bias) continue;
      EXPECT_LE(pass.state.key_bias.max().item<double>(), 0);
      EXPECT_LT(pass.state.key_bias.min().item<double>(), -0.01);
      EXPECT_EQ(pass.state.key_bias.masked_select(pass.state.selected.mask.logical_not())
                    .abs()
                    .sum()
                    .item<double>(),
                0);
    }
}

TEST(ReaderGradient, BiasIsTheLogInclusionProbability) {
  torch::NoGradGuard no_grad;
  auto config = whole_context();
  config.dsr.reader_gradient = "bias";
  auto model = make_model(config);
  auto batch = padded_batch();
  for (bool is_training : {true, false}) {
    auto options = training();
    options.training = is_training;
    options.sample = true;
    Pass pass(model, batch, options);
    EXPECT_EQ(pass.state.selection_noise.defined(), is_training);
    for (int64_t b = 0; b < 2; ++b) {
      auto phi = numbers(b == 0 ? pass.state.scores[0][0] : pass.state.scores[1].amax(0));
      auto noise = is_training ? numbers(pass.state.selection_noise[b]) : std::vector<double>(45);
      for (int64_t j = 0; j < pass.state.selected.slots(); ++j) {
        if (!pass.state.selected.mask[b][j].item<bool>()) continue;
        auto token = size_t(pass.state.selected.index[b][j].item<int64_t>());
        EXPECT_NEAR(pass.state.key_bias[b][j].item<double>(),
                    naive_log_inclusion(phi, noise, token, 12), 1e-4)
            << b << " " << j;
      }
    }
  }
}

TEST(SampledReading, DrawsByStepAndOnlyWhileTraining) {
  torch::NoGradGuard no_grad;
  auto model = make_model(whole_context());
  auto batch = padded_batch();
  auto tokens = [&](bool is_training, bool sample, int64_t step) {
    auto options = training();
    options.training = is_training;
    options.sample = sample;
    options.step = step;
    auto state = model->method().make_state(batch, options);
    model->choose_tokens(batch, state);
    EXPECT_EQ(state.selected.mask.sum().item<int64_t>(), 24);
    return chosen_tokens(state, 45);
  };
  auto top = tokens(true, false, 1);
  EXPECT_FALSE(at::equal(tokens(true, true, 1), top));
  EXPECT_TRUE(at::equal(tokens(true, true, 1), tokens(true, true, 1)));
  EXPECT_FALSE(at::equal(tokens(true, true, 1), tokens(true, true, 2)));
  EXPECT_TRUE(at::equal(tokens(false, true, 1), top));
}

// ---- the learned budget ----

TEST(LearnedBudget, ComputeIsTheExpectedShare) {
  auto model = make_model(learned_budget());
  auto batch = padded_batch();
  Pass pass(model, batch, rewarded());
  const auto& p = pass.state.budget_probability;
  const std::vector<double> bins{4, 8, 11, 15, 18};
  const double lengths[] = {45, 19};
  ASSERT_EQ(p.sizes(), (std::vector<int64_t>{2, 5}));
  double expected = 0;
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t a = 0; a < 5; ++a)
      expected += p[b][a].item<double>() * bins[size_t(a)] / lengths[b];
  const auto& term = pass.terms.at("compute");
  EXPECT_EQ(term.count, 2);
  EXPECT_NEAR(term.sum.item<double>(), expected, 1e-5);
  auto gradient = torch::autograd::grad({term.sum}, {p}, {}, true)[0];
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t a = 0; a < 5; ++a)
      EXPECT_NEAR(gradient[b][a].item<double>(), bins[size_t(a)] / lengths[b], 1e-5);
  term.sum.backward();
  EXPECT_GT(gradient_size(model, "method.dsr.budget_output"), 0);
  EXPECT_EQ(gradient_size(model, "method.dsr.question_projection"), 0);
}

// A bin over a short context reads all of it and no more.
TEST(LearnedBudget, ComputeCountsNoMoreTokensThanThereAre) {
  auto model = make_model(learned_budget());
  auto batch = tiny_batch({{.context = 9, .sample = 1}});
  Pass pass(model, batch, rewarded());
  const auto& p = pass.state.budget_probability;
  auto expected = p[0][0].item<double>() * 4 / 9 + p[0][1].item<double>() * 8 / 9 +
                  p[0].slice(0, 2).sum().item<double>();
  EXPECT_NEAR(pass.terms.at("compute").sum.item<double>(), expected, 1e-5);
  pass.terms.at("compute").sum.backward();
  EXPECT_GT(gradient_size(model, "method.dsr.budget_output"), 0);
}

// Alone, without a reward for what is read, the term would only shrink the budget.
TEST(LearnedBudget, ComputeIsNoTermWithoutItOrWithoutReward) {
  auto batch = padded_batch();
  auto fixed = make_model(whole_context()), learned = make_model(learned_budget());
  for (auto [model, options, terms] :
       {std::tuple{fixed, rewarded(), 0u}, {learned, training(), 0u}, {learned, rewarded(), 1u}}) {
    EXPECT_EQ(Pass(model, batch, options).terms.count("compute"), terms);
    EXPECT_EQ(model->method().loss_counts(batch, options).count("compute"), terms);
  }
}

TEST(LearnedBudget, ReadingUsesItsExpectation) {
  torch::NoGradGuard no_grad;
  auto model = make_model(learned_budget());
  auto batch = padded_batch();
  Pass pass(model, batch, PassOptions{});
  const double bins[] = {4, 8, 11, 15, 18};
  for (int64_t b = 0; b < 2; ++b) {
    double expected = 0;
    for (int64_t a = 0; a < 5; ++a)
      expected += pass.state.budget_probability[b][a].item<double>() * bins[a];
    EXPECT_EQ(pass.state.selected.mask[b].sum().item<int64_t>(), std::llround(expected)) << b;
  }
  PassOptions asked;
  asked.budget = 5;
  Pass with(model, batch, asked);
  EXPECT_EQ(with.state.selected.mask.sum().item<int64_t>(), 10) << "a run that asks is obeyed";
}

TEST(LearnedBudget, DoesNotDependOnHowManyQuestionsANeighbourAsks) {
  torch::NoGradGuard no_grad;
  auto model = make_model(learned_budget());
  testing::TinySequence one{.context = 45, .sample = 1};
  Pass alone(model, tiny_batch({one}), training());
  Pass beside(model, tiny_batch({one, {.context = 19, .questions = 2, .sample = 2}}), training());
  EXPECT_TENSOR_NEAR(beside.state.budget_probability[0], alone.state.budget_probability[0],
                     (Tolerance{1e-5, 1e-6}));
}

// ---- the policy ----

TEST(Policy, IsWhereThereIsARetriever) {
  EXPECT_NE(make_model(whole_context())->method().policy(), nullptr);
  EXPECT_EQ(make_model(tiny_dsrsq(false, true, true))->method().policy(), nullptr);
}

TEST(Policy, WithoutNoiseItChoosesWhatTheReaderReads) {
  torch::NoGradGuard no_grad;
  for (bool per_segment : {false, true})
    for (int64_t span : {1, 2}) {
      auto config = whole_context();
      config.rckv.source = per_segment ? "stream" : "selected";
      config.dsr.span = span;
      auto model = make_model(config);
      auto batch = padded_batch();
      for (int64_t budget : {0, 9}) {
        PassOptions options;
        options.observe = true;
        options.budget = budget;
        auto state = model->method().make_state(batch, options);
        model->choose_tokens(batch, state);
        const auto& input = state.policy_input;
        EXPECT_EQ(input.per_segment, per_segment);
        EXPECT_EQ(input.sample_ids, batch.sample_ids);
        auto* policy = model->method().policy();
        auto greedy = policy->greedy(input, policy->sample(input, 3, 1, 1));
        EXPECT_TRUE(at::equal(greedy.selected.index, state.selected.index));
        EXPECT_TRUE(at::equal(greedy.selected.mask, state.selected.mask));
        EXPECT_EQ(greedy.selected.lengths, state.selected.lengths);
        // The last segment of the second sequence has 3 tokens, under its share of 12.
        auto expected = budget > 0 ? 18 : per_segment ? 23 : 24;
        EXPECT_EQ(greedy.selected.mask.sum().item<int64_t>(), expected);
      }
    }
}

TEST(Policy, RolloutsAndReadingsShareNoNoise) {
  torch::NoGradGuard no_grad;
  auto model = make_model(whole_context());
  auto batch = padded_batch();
  auto options = training();
  options.sample = options.observe = true;
  auto state = model->method().make_state(batch, options);
  model->choose_tokens(batch, state);
  auto rollouts = model->method().policy()->sample(state.policy_input, 4, options.step, 1);
  auto read = chosen_tokens(state, 45);
  for (int64_t g = 0; g < 4; ++g) {
    MethodState of_draw;
    of_draw.selected = {rollouts.selected.index.narrow(0, g, 1),
                        rollouts.selected.mask.narrow(0, g, 1), rollouts.selected.lengths};
    EXPECT_FALSE(at::equal(chosen_tokens(of_draw, 45)[0], read[0])) << g;
  }
}

}  // namespace
}  // namespace dsrsq
