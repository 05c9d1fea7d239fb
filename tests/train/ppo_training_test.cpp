// Stages that train by reward, in the trainer: what they change, what they log, how they resume.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/registry.h"
#include "dsrsq/train/trainer.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::tiny_stage;

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  auto x = a.contiguous(), y = b.contiguous();
  return x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

void expect_same_bits(const NamedTensors& a, const NamedTensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : a) {
    ASSERT_TRUE(b.count(name)) << name;
    EXPECT_TRUE(same_bits(tensor, b.at(name))) << name;
  }
}

struct TinyRun {
  TinyRun(const testing::TinyFacts& facts, const RunConfig& run_config, const std::string& name)
      : folder(facts.folder(name)) {
    std::filesystem::create_directories(folder);
    at::set_num_threads(1);
    model = make_model(run_config, facts.tokenizer());
    trainer = std::make_unique<Trainer>(run_config, model, facts.tokenizer(), folder);
  }
  Checkpoint checkpoint(int64_t step) const {
    for (const auto& one : CheckpointFolder(folder).list())
      if (one.step == step) return one;
    throw std::runtime_error(concat("no checkpoint of step ", step));
  }
  NamedTensors weights() const {
    NamedTensors copies;
    for (const auto& [name, tensor] : module_tensors(*model))
      copies[name] = tensor.detach().clone();
    return copies;
  }
  std::string folder;
  LanguageModel model{nullptr};
  std::unique_ptr<Trainer> trainer;
};

class PpoTrainingTest : public ::testing::Test {
 protected:
  PpoTrainingTest() : config_(testing::tiny_config(facts_)) {
    config_.stages = {tiny_stage("joint", 2, true, true), tiny_stage("ppo", 4, true, true)};
    config_.stages[1].ppo = true;
    config_.ppo.rollouts = 3;
    config_.ppo.epochs = 2;
    config_.ppo.learning_rate = 1e-2;
    config_.ppo.maximum_kl = 1;
  }
  // Bins of 4 to 48 of 64 tokens, driven to a share by dual ascent, with a critic.
  void learn_the_budget() {
    config_.dsrsq.dsr.complexity = "learned";
    config_.dsrsq.dsr.budget_minimum = 4;
    config_.dsrsq.dsr.alpha = 0.5;
    config_.ppo.baseline = "value";
    config_.ppo.reward.target_share = 0.2;
  }
  testing::TinyFacts facts_;
  RunConfig config_;
};

TEST_F(PpoTrainingTest, ResumedInsideTheStageARunEndsBitEqual) {
  learn_the_budget();
  config_.ppo.lm_steps = 1;
  config_.train.checkpoint_every = 1;
  TinyRun straight(facts_, config_, "straight");
  straight.trainer->run();
  auto optimizer = CheckpointFolder::read_optimizer(straight.checkpoint(6));
  ASSERT_TRUE(optimizer.count("ppo/token_cost"));
  EXPECT_TRUE((optimizer.at("ppo/token_cost") != 0).all().item<bool>())
      << "the test would not see it lost";
  std::set<std::string> critics;
  for (const auto& [name, tensor] : optimizer)
    if (name.find("critic") != std::string::npos) critics.insert(name);
  EXPECT_GE(critics.size(), 6u);
  for (int64_t from : {1, 2, 4}) {
    TinyRun second(facts_, config_, concat("second", from));
    second.trainer->resume(straight.checkpoint(from));
    second.trainer->run();
    expect_same_bits(CheckpointFolder::read_model(straight.checkpoint(6)),
                     CheckpointFolder::read_model(second.checkpoint(6)));
    expect_same_bits(optimizer, CheckpointFolder::read_optimizer(second.checkpoint(6)));
    EXPECT_EQ(CheckpointFolder::read_state(straight.checkpoint(6)).at("reader_calls"),
              CheckpointFolder::read_state(second.checkpoint(6)).at("reader_calls"));
  }
}

TEST_F(PpoTrainingTest, WithoutHybridStepsOnlyThePolicyLearns) {
  learn_the_budget();
  TinyRun run(facts_, config_, "run");
  for (int i = 0; i < 2; ++i) run.trainer->train_step();
  auto before = run.weights();
  for (int i = 0; i < 3; ++i) run.trainer->train_step();
  auto after = run.weights();
  for (const auto& [name, tensor] : before) {
    bool policy = name.rfind("method.dsr.", 0) == 0 && name != "method.dsr.conv";
    EXPECT_EQ(same_bits(tensor, after.at(name)), !policy) << name;
  }
}

TEST_F(PpoTrainingTest, HybridStepsLetTheReaderFollow) {
  config_.ppo.lm_steps = 2;
  TinyRun run(facts_, config_, "run");
  for (int i = 0; i < 2; ++i) run.trainer->train_step();
  auto before = run.weights();
  auto values = run.trainer->train_step();
  auto after = run.weights();
  for (const char* name :
       {"method.dsr.conv", "backbone.embedding", "method.dsr.question_projection"})
    EXPECT_FALSE(same_bits(before.at(name), after.at(name))) << name;
  EXPECT_TRUE(values.count("train/loss"));
  EXPECT_TRUE(values.count("ppo/task_score"));
  EXPECT_EQ(run.trainer->step(), 3) << "one step of the run, whatever is in it";
}

TEST_F(PpoTrainingTest, MetricsAreThoseThatAResearcherLooksAt) {
  learn_the_budget();
  config_.ppo.reward.score = "gain";
  TinyRun run(facts_, config_, "run");
  auto joint = run.trainer->train_step();
  run.trainer->train_step();
  for (const auto& [name, value] : joint) EXPECT_NE(name.rfind("ppo/", 0), 0u) << name;
  EXPECT_EQ(joint.at("train/reader_calls"), 4);
  auto values = run.trainer->train_step();
  for (const char* name :
       {"ppo/reward", "ppo/task_score", "ppo/token_share", "ppo/token_cost", "ppo/target_share",
        "ppo/clip_fraction", "ppo/approximate_kl", "ppo/entropy", "ppo/budget_entropy",
        "ppo/value_loss", "ppo/epochs", "ppo/first_ratio_deviation", "ppo/evidence_recall",
        "ppo/answer_recall", "ppo/without_gain", "ppo/budget_share_0", "ppo/budget_tokens_4",
        "train/reader_calls", "train/stage"}) {
    ASSERT_TRUE(values.count(name)) << name;
    EXPECT_TRUE(std::isfinite(values.at(name))) << name;
  }
  EXPECT_EQ(values.at("ppo/first_ratio_deviation"), 0);
  EXPECT_EQ(values.at("ppo/budget_tokens_0"), 4);
  EXPECT_EQ(values.at("ppo/budget_tokens_4"), 48);
  // Two joint steps, then 4 questions: 3 draws, without context, with the whole of it.
  EXPECT_EQ(values.at("train/reader_calls"), 2 * 4 + 4 * (3 + 2));
  EXPECT_EQ(values.at("train/stage"), 1);
}

TEST_F(PpoTrainingTest, EveryBaselineAndCreditRuns) {
  config_.stages = {tiny_stage("ppo", 2, false, false)};
  config_.stages[0].ppo = true;
  for (auto [baseline, credit] : {std::pair{"rloo", "shared"},
                                  {"greedy", "shared"},
                                  {"value", "shared"},
                                  {"rloo", "span_loo"}})
    for (const char* source : {"stream", "selected"}) {
      config_.ppo.baseline = baseline;
      config_.ppo.credit = credit;
      config_.ppo.credit_group = 8;
      config_.dsrsq.rckv.source = source;
      auto name = concat(baseline, "_", credit, "_", source);
      TinyRun run(facts_, config_, name);
      auto values = run.trainer->train_step();
      EXPECT_EQ(values.at("ppo/first_ratio_deviation"), 0) << name;
      EXPECT_TRUE(std::isfinite(values.at("ppo/approximate_kl"))) << name;
      EXPECT_NEAR(values.at("ppo/token_share"), 0.5, 0.1) << name;
    }
}

// A reader that is not finite stops the run before the policy is updated.
TEST_F(PpoTrainingTest, ANonFiniteRewardStopsBeforeTheUpdate) {
  TinyRun run(facts_, config_, "run");
  for (int i = 0; i < 2; ++i) run.trainer->train_step();
  {
    torch::NoGradGuard no_grad;
    for (auto& item : run.model->named_parameters())
      if (item.key().find("final_norm") != std::string::npos) item.value().fill_(INFINITY);
  }
  auto before = run.weights();
  try {
    run.trainer->train_step();
    FAIL() << "no error";
  } catch (const DivergedError& error) {
    EXPECT_THAT(error.what(), HasSubstr("step 2"));
  }
  EXPECT_EQ(run.trainer->step(), 2);
  expect_same_bits(before, run.weights());
}

TEST_F(PpoTrainingTest, ATargetShareOutsideTheBinsIsAConfigError) {
  learn_the_budget();
  auto error_of = [&](double share, const std::string& name) -> std::string {
    config_.ppo.reward.target_share = share;
    try {
      TinyRun run(facts_, config_, name);
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  // 4 to 48 of about 64 tokens.
  EXPECT_THAT(error_of(0.03, "low"), AllOf(HasSubstr("ppo.reward.target_share"), HasSubstr("0.03"),
                                           HasSubstr("dsr.budget")));
  EXPECT_THAT(error_of(0.95, "high"),
              AllOf(HasSubstr("ppo.reward.target_share"), HasSubstr("0.95")));
  EXPECT_EQ(error_of(0.1, "inside"), "");
  EXPECT_EQ(error_of(0, "none"), "");
  config_.stages[1].ppo = false;
  EXPECT_EQ(error_of(0.95, "unused"), "") << "no stage trains by reward";
}

TEST_F(PpoTrainingTest, AFrozenBackboneStaysWhereHybridStepsFollow) {
  config_.ppo.lm_steps = 1;
  config_.stages[1].frozen = {"backbone", "projections"};
  TinyRun run(facts_, config_, "run");
  for (int i = 0; i < 2; ++i) run.trainer->train_step();
  auto before = run.weights();
  for (int i = 0; i < 2; ++i) run.trainer->train_step();
  auto after = run.weights();
  for (const auto& item : run.model->named_parameters()) {
    bool policy = item.key().rfind("method.dsr.", 0) == 0 && item.key() != "method.dsr.conv";
    EXPECT_EQ(same_bits(before.at(item.key()), after.at(item.key())), !policy) << item.key();
  }
}

}  // namespace
}  // namespace dsrsq
