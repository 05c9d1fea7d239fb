#include "dsrsq/train/reader_reward.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "dsrsq/core/error.h"
#include "dsrsq/eval/evaluator.h"
#include "dsrsq/registry.h"
#include "dsrsq/text/task_metrics.h"
#include "support/expect_tensor.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using testing::Tolerance;

constexpr int64_t kDraws = 3, kSequences = 4;

// Exact attention, so that a selection can be read alone, in one segment and without padding.
class ReaderRewardTest : public ::testing::Test {
 protected:
  ReaderRewardTest() : config_(testing::tiny_config(facts_)) {
    config_.dsrsq.sqa.enabled = config_.dsrsq.rckv.enabled = false;
    config_.dsrsq.rckv.source = "selected";
    config_.dsrsq.dsr.budget = 12;
    config_.model.initial_deviation = 0.3;
    config_.ppo.rollouts = kDraws;
    make();
  }
  void make() {
    torch::NoGradGuard no_grad;
    model_ = make_model(config_, facts_.tokenizer());
    batch_ = loader().pass_batch(0);
    PassOptions options;
    options.training = options.observe = true;
    state_ = model_->method().make_state(batch_, options);
    model_->choose_tokens(batch_, state_);
    rollouts_ = model_->method().policy()->sample(state_.policy_input, kDraws, 1, 2);
  }
  Loader loader(int64_t questions = 1) const {
    LoaderOptions options;
    options.split = "train";
    options.batch_size = kSequences;
    options.questions_per_sequence = questions;
    options.shuffle = false;
    return Loader(facts_.store_path(), facts_.tokenizer(), config_.prompt, options);
  }
  ReaderReward reward() {
    return ReaderReward(model_, facts_.tokenizer(), batch_, state_, config_.ppo);
  }
  std::vector<int64_t> tokens_of(int64_t rollout) const {
    auto found = rollouts_.selected.index[rollout]
                     .masked_select(rollouts_.selected.mask[rollout])
                     .contiguous();
    return {found.data_ptr<int64_t>(), found.data_ptr<int64_t>() + found.numel()};
  }
  // Logits at the labelled positions of sequence b that reads `tokens`, and their labels.
  std::pair<at::Tensor, at::Tensor> answers(int64_t b, const std::vector<int64_t>& tokens) {
    torch::NoGradGuard no_grad;
    auto one = batch_.rows({b});
    auto state = model_->method().make_state(one, {});
    model_->choose_tokens(one, state);  // the context's inputs
    auto count = int64_t(tokens.size());
    state.selected = {at::tensor(tokens, at::kLong).view({1, count}),
                      at::ones({1, count}, at::kBool),
                      count > 0 ? std::vector<int64_t>{count} : std::vector<int64_t>{}};
    auto logits = model_->backbone()->logits(model_->read_selected(one, state))[0];
    auto places = (one.labels[0] >= 0).nonzero().squeeze(1);
    return {logits.index_select(0, places).to(at::kDouble), one.labels[0].index_select(0, places)};
  }
  double mean_loss(int64_t b, const std::vector<int64_t>& tokens) {
    auto [logits, labels] = answers(b, tokens);
    return at::cross_entropy_loss(logits, labels).item<double>();
  }
  double full_loss(int64_t b) {
    std::vector<int64_t> all;
    for (int64_t i = 0; i < batch_.context_valid[b].sum().item<int64_t>(); ++i) all.push_back(i);
    return mean_loss(b, all);
  }
  // The score that D6 gives to a loss.
  double expected_score(int64_t b, double loss) {
    if (config_.ppo.reward.score == "likelihood") return std::exp(-loss);
    auto none = mean_loss(b, {});
    if (config_.ppo.reward.score == "relative") return 1 - loss / none;
    auto gain = none - full_loss(b);
    return gain < 0.1 ? std::exp(-loss) : std::clamp((none - loss) / gain, -1.0, 1.0);
  }

  testing::TinyFacts facts_;
  RunConfig config_;
  LanguageModel model_{nullptr};
  Batch batch_;
  MethodState state_;
  Rollouts rollouts_;
};

TEST_F(ReaderRewardTest, IsTheScoreOfReadingEachSelectionAlone) {
  for (const char* kind : {"likelihood", "relative", "gain"}) {
    config_.ppo.reward.score = kind;
    config_.ppo.reward.task = 1.5;
    auto made = reward();
    auto scores = made.score(rollouts_);
    ASSERT_EQ(scores.sizes(), (std::vector<int64_t>{kSequences * kDraws}));
    EXPECT_EQ(scores.scalar_type(), at::kDouble);
    for (int64_t r = 0; r < scores.size(0); ++r)
      EXPECT_NEAR(scores[r].item<double>(),
                  1.5 * expected_score(r / kDraws, mean_loss(r / kDraws, tokens_of(r))), 2e-3)
          << kind << " " << r;
    EXPECT_GT(scores.std().item<double>(), 1e-4) << kind << ": the test would see any order";
  }
}

// An untrained reader profits from the context on some questions and not on others.
TEST_F(ReaderRewardTest, WithoutAGainItIsTheLikelihood) {
  double without = 0;
  for (int64_t b = 0; b < kSequences; ++b)
    without += (mean_loss(b, {}) - full_loss(b) < 0.1) / double(kSequences);
  auto made = reward();
  made.score(rollouts_);
  EXPECT_NEAR(made.metrics().at("ppo/without_gain"), without, 1e-12);
}

TEST_F(ReaderRewardTest, WithoutAGroupOfPicksIsReadingTheOthers) {
  config_.ppo.reward.score = "likelihood";
  auto made = reward();
  auto scores = made.score_without(rollouts_);
  ASSERT_EQ(scores.sizes(), (std::vector<int64_t>{kSequences * kDraws, 6}));  // 12 picks, pairs
  for (int64_t r : {0, 4, 11}) {
    auto tokens = tokens_of(r);
    for (int64_t group = 0; group < 6; ++group) {
      std::vector<int64_t> left;
      for (size_t i = 0; i < tokens.size(); ++i)
        if (int64_t(i) / 2 != group) left.push_back(tokens[i]);
      EXPECT_NEAR(scores[r][group].item<double>(), std::exp(-mean_loss(r / kDraws, left)), 1e-5)
          << r << " " << group;
    }
  }
}

TEST_F(ReaderRewardTest, PaysF1OfTheMostProbableTokens) {
  config_.ppo.reward.score = "likelihood";
  config_.ppo.reward.task = 0;
  config_.ppo.reward.f1 = 2;
  {
    torch::NoGradGuard no_grad;  // a reader whose favourite tokens are those of the answers
    for (auto& item : model_->named_parameters())
      if (item.key() == "backbone.embedding")
        for (int64_t b = 0; b < 2; ++b) {
          auto token = batch_.labels[b].max().item<int64_t>();
          item.value()[token].mul_(4);
        }
  }
  auto scores = reward().score(rollouts_);
  double total = 0;
  for (int64_t r = 0; r < scores.size(0); ++r) {
    auto logits = answers(r / kDraws, tokens_of(r)).first;
    std::vector<int32_t> tokens;
    for (int64_t t = 0; t < logits.size(0); ++t)
      tokens.push_back(int32_t(logits[t].argmax().item<int64_t>()));
    auto f1 =
        token_f1(facts_.tokenizer().decode(tokens), batch_.records[size_t(r / kDraws)][0].answers);
    EXPECT_NEAR(scores[r].item<double>(), 2 * f1, 1e-6) << r;
    total += f1;
  }
  EXPECT_GT(total, 0) << "the test would see F1 left out";
}

TEST_F(ReaderRewardTest, CountsWhatTheReaderReads) {
  config_.ppo.reward.score = "likelihood";
  auto plain = reward();
  plain.score(rollouts_);
  EXPECT_EQ(plain.reader_calls(), kSequences * kDraws);
  plain.score_without(rollouts_);
  EXPECT_EQ(plain.reader_calls(), kSequences * kDraws * (1 + 6));
  config_.ppo.reward.score = "relative";
  auto relative = reward();
  relative.score(rollouts_);
  EXPECT_EQ(relative.reader_calls(), kSequences * (kDraws + 1));
  config_.ppo.reward.score = "gain";
  auto gain = reward();
  gain.score(rollouts_);
  gain.score(rollouts_);
  EXPECT_EQ(gain.reader_calls(), kSequences * (2 * kDraws + 2)) << "references are read once";
}

// With the buffer on and picks of each segment: how rollouts are cut into batches changes nothing.
TEST_F(ReaderRewardTest, TheReadersBatchChangesNoScore) {
  config_.dsrsq.rckv.enabled = true;
  config_.dsrsq.rckv.source = "stream";
  make();
  config_.ppo.reader_batch = 64;
  auto whole = reward().score(rollouts_), without = reward().score_without(rollouts_);
  for (int64_t size : {1, 5}) {
    config_.ppo.reader_batch = size;
    EXPECT_TENSOR_NEAR(reward().score(rollouts_), whole, (Tolerance{0, 1e-4}));
    EXPECT_TENSOR_NEAR(reward().score_without(rollouts_), without, (Tolerance{0, 1e-4}));
  }
}

TEST_F(ReaderRewardTest, RecallIsThatOfTheDraws) {
  auto recall = [&](const at::Tensor& marked) {
    double found = 0, all = 0;
    for (int64_t r = 0; r < kSequences * kDraws; ++r) {
      for (auto token : tokens_of(r)) found += marked[r / kDraws][0][token].item<bool>();
      all += double(marked[r / kDraws][0].sum().item<int64_t>());
    }
    return found / all;
  };
  auto made = reward();
  EXPECT_EQ(made.metrics().count("ppo/evidence_recall"), 0u) << "nothing was scored";
  made.score(rollouts_);
  EXPECT_NEAR(made.metrics().at("ppo/evidence_recall"), recall(batch_.evidence), 1e-12);
  EXPECT_NEAR(made.metrics().at("ppo/answer_recall"), recall(batch_.answer_tokens), 1e-12);
  EXPECT_GT(made.metrics().at("ppo/evidence_recall"), 0);
  batch_.evidence.fill_(false);
  auto unmarked = reward();
  unmarked.score(rollouts_);
  EXPECT_EQ(unmarked.metrics().count("ppo/evidence_recall"), 0u);
}

// A baseline's selection without noise is scored too, and is no draw.
TEST_F(ReaderRewardTest, RecallIsNotThatOfAGreedyBaseline) {
  config_.dsrsq.dsr.complexity = "learned";
  config_.dsrsq.dsr.alpha = 1;
  make();
  auto made = reward();
  made.score(rollouts_);
  auto of_draws = made.metrics();
  auto greedy = model_->method().policy()->greedy(state_.policy_input, rollouts_);
  ASSERT_EQ(greedy.draws, kDraws);
  made.score(greedy);
  EXPECT_EQ(made.metrics(), of_draws);
}

TEST_F(ReaderRewardTest, LeavesModelAndStateAlone) {
  auto before = state_.selected.index.clone();
  auto made = reward();
  auto scores = made.score(rollouts_);
  EXPECT_FALSE(scores.requires_grad());
  EXPECT_TENSOR_EQUAL(state_.selected.index, before);
  EXPECT_TENSOR_EQUAL(made.score(rollouts_), scores);
}

// ---- what a training run looks at on held-out questions ----

TEST_F(ReaderRewardTest, HeldOutRecallAndShareByHand) {
  auto pass = loader(2);
  double evidence = 0, answers = 0, found_evidence = 0, found_answers = 0, read = 0, all = 0;
  double loss = 0, labels = 0;
  {
    torch::NoGradGuard no_grad;
    for (int64_t i = 0; i < 2; ++i) {
      auto batch = pass.pass_batch(i);
      for (int64_t b = 0; b < batch.size(); ++b) {
        auto one = batch.rows({b});
        auto state = model_->method().make_state(one, {});
        auto logits = model_->backbone()->logits(model_->read(one, state)).to(at::kDouble);
        std::vector<bool> chosen(size_t(one.context.size(1)));
        for (int64_t j = 0; j < state.selected.slots(); ++j)
          if (state.selected.mask[0][j].item<bool>())
            chosen[size_t(state.selected.index[0][j].item<int64_t>())] = true;
        for (int64_t t = 0; t < one.context.size(1); ++t) {
          bool is_evidence = one.evidence[0].select(1, t).any().item<bool>();
          bool is_answer = one.answer_tokens[0].select(1, t).any().item<bool>();
          evidence += is_evidence, answers += is_answer;
          found_evidence += is_evidence && chosen[size_t(t)];
          found_answers += is_answer && chosen[size_t(t)];
          read += chosen[size_t(t)];
          all += one.context_valid[0][t].item<bool>();
        }
        auto log_p = at::log_softmax(logits[0], -1);
        for (int64_t t = 0; t < one.labels.size(1); ++t)
          if (auto label = one.labels[0][t].item<int64_t>(); label >= 0)
            loss -= log_p[t][label].item<double>(), ++labels;
      }
    }
  }
  auto found = held_out(model_, pass, 2, {});
  EXPECT_NEAR(found.loss, loss / labels, 1e-4);
  EXPECT_NEAR(found.evidence_recall, found_evidence / evidence, 1e-12);
  EXPECT_NEAR(found.answer_recall, found_answers / answers, 1e-12);
  EXPECT_NEAR(found.token_share, read / all, 1e-12);
  EXPECT_GT(found.evidence_recall, 0);
  EXPECT_LT(found.evidence_recall, 1);
}

}  // namespace
}  // namespace dsrsq
