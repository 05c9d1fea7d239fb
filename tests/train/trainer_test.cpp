#include "dsrsq/train/trainer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <cstring>
#include <filesystem>

#include "dsrsq/core/error.h"
#include "dsrsq/registry.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using dsrsq::testing::tiny_config;
using dsrsq::testing::tiny_stage;
using dsrsq::testing::TinyFacts;
using ::testing::HasSubstr;

bool same_bits(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != b.scalar_type() || a.sizes() != b.sizes()) return false;
  auto x = a.contiguous(), y = b.contiguous();
  return x.nbytes() == 0 || std::memcmp(x.const_data_ptr(), y.const_data_ptr(), x.nbytes()) == 0;
}

void expect_same_bits(const NamedTensors& a, const NamedTensors& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : a) {
    auto other = b.find(name);
    ASSERT_NE(other, b.end()) << name;
    EXPECT_TRUE(same_bits(tensor, other->second)) << name;
  }
}

NamedTensors copy_of(const LanguageModel& model) {
  NamedTensors copies;
  for (const auto& [name, tensor] : module_tensors(*model)) copies[name] = tensor.detach().clone();
  return copies;
}

// A run in a folder of its own; model and trainer may be looked into.
struct TinyRun {
  TinyRun(const TinyFacts& facts, const RunConfig& run_config, const std::string& name)
      : config(run_config), folder(facts.folder(name)) {
    std::filesystem::create_directories(folder);
    at::set_num_threads(int(config.train.threads));
    model = make_model(config, facts.tokenizer());
    trainer = std::make_unique<Trainer>(config, model, facts.tokenizer(), folder);
  }
  std::map<std::string, at::Tensor> gradients() const {
    std::map<std::string, at::Tensor> found;
    for (const auto& item : model->named_parameters())
      if (item.value().grad().defined()) found[item.key()] = item.value().grad().clone();
    return found;
  }
  Checkpoint checkpoint(int64_t step) const {
    for (const auto& one : CheckpointFolder(folder).list())
      if (one.step == step) return one;
    throw std::runtime_error(concat("no checkpoint of step ", step));
  }
  RunConfig config;
  std::string folder;
  LanguageModel model{nullptr};
  std::unique_ptr<Trainer> trainer;
};

void expect_near(const std::map<std::string, at::Tensor>& a,
                 const std::map<std::string, at::Tensor>& b, double tolerance) {
  ASSERT_EQ(a.size(), b.size());
  ASSERT_GT(a.size(), 10u);
  for (const auto& [name, gradient] : a) {
    ASSERT_TRUE(b.count(name)) << name;
    auto scale = std::max(1.0, gradient.abs().max().item<double>());
    EXPECT_LT((gradient - b.at(name)).abs().max().item<double>(), tolerance * scale) << name;
  }
}

void expect_same_results(const TinyRun& a, const TinyRun& b, int64_t step) {
  expect_same_bits(CheckpointFolder::read_model(a.checkpoint(step)),
                   CheckpointFolder::read_model(b.checkpoint(step)));
  expect_same_bits(CheckpointFolder::read_optimizer(a.checkpoint(step)),
                   CheckpointFolder::read_optimizer(b.checkpoint(step)));
}

class TrainerTest : public ::testing::Test {
 protected:
  TrainerTest() : config_(tiny_config(facts_)) {
    config_.optimizer.clip = 0;
  }  // gradients as the backward pass left them
  TinyFacts facts_;
  RunConfig config_;
};

// Dense, so that the first step of both is the same function of the same eight sequences.
TEST_F(TrainerTest, TwoMicroBatchesOfFourAreOneBatchOfEight) {
  config_.stages = {tiny_stage("dense", 4, false, false)};
  auto large = config_, small = config_;
  large.train.batch_size = 8;
  small.train.batch_size = 4;
  small.train.accumulation = 2;
  TinyRun one(facts_, large, "one"), two(facts_, small, "two");
  auto a = one.trainer->train_step(), b = two.trainer->train_step();
  EXPECT_NEAR(a.at("train/loss"), b.at("train/loss"), 1e-6 * std::abs(a.at("train/loss")));
  EXPECT_NEAR(a.at("train/retrieval"), b.at("train/retrieval"), 1e-5);
  expect_near(one.gradients(), two.gradients(), 1e-6);
}

// All parts on, from one checkpoint that holds a started codebook. The compression term is left out
// of the loss: it is a ratio of energies, so each micro-batch has its own denominator, and it
// agrees only nearly.
TEST_F(TrainerTest, MicroBatchesGiveTheSameGradientWithAllPartsOn) {
  auto large = config_, small = config_;
  large.loss.weight.compression = small.loss.weight.compression = 0;
  large.train.batch_size = 8;
  large.train.checkpoint_every = 1;
  large.stages[0].steps = 2;
  small.train.batch_size = 4;
  small.train.accumulation = 2;
  TinyRun one(facts_, large, "one"), two(facts_, small, "two"), again(facts_, large, "again");
  one.trainer->run();
  two.trainer->resume(one.checkpoint(1));
  again.trainer->resume(one.checkpoint(1));
  auto a = again.trainer->train_step(), b = two.trainer->train_step();
  EXPECT_NEAR(a.at("train/loss"), b.at("train/loss"), 1e-6 * std::abs(a.at("train/loss")));
  ASSERT_GT(a.at("train/compression"), 0);
  EXPECT_NEAR(a.at("train/compression"), b.at("train/compression"),
              1e-3 * a.at("train/compression"));
  expect_near(again.gradients(), two.gradients(), 1e-6);
  // The codebook is fed by all micro-batches.
  auto after = module_tensors(*again.model);
  for (const auto& [name, tensor] : module_tensors(*two.model)) {
    if (name.find("method.sqa.") == std::string::npos || name.find("started") != std::string::npos)
      continue;
    EXPECT_LT((tensor - after.at(name)).abs().max().item<double>(), 1e-4) << name;
  }
}

// RCKV and SQA switch on at step 4: one resume falls before the change, one on it, one after.
TEST_F(TrainerTest, AResumedRunEndsBitEqualToAnUninterruptedOne) {
  config_.optimizer.clip = 1;
  config_.stages = {tiny_stage("dense", 4, false, false), tiny_stage("joint", 5, true, true)};
  config_.stages[0].random_rest = 0.5;
  TinyRun straight(facts_, config_, "straight");
  straight.trainer->run();

  auto stepwise = config_;
  stepwise.train.checkpoint_every = 2;  // 2, 4, 6, 8, 9
  TinyRun first(facts_, stepwise, "first");
  first.trainer->run();
  expect_same_results(straight, first, 9);

  for (int64_t from : {2, 4, 6}) {
    TinyRun second(facts_, stepwise, concat("second", from));
    second.trainer->resume(first.checkpoint(from));
    EXPECT_EQ(second.trainer->step(), from);
    second.trainer->run();
    expect_same_results(straight, second, 9);
    // Resumed a second time, from what the resumed run itself wrote.
    TinyRun third(facts_, stepwise, concat("third", from));
    third.trainer->resume(second.checkpoint(from + 2));
    third.trainer->run();
    expect_same_results(straight, third, 9);
  }
}

TEST_F(TrainerTest, HeldOutLossAndBestCheckpointDoNotChangeWhatIsTrained) {
  TinyRun plain(facts_, config_, "plain");
  plain.trainer->run();
  auto watching = config_;
  watching.train.evaluate_every = 2;
  watching.train.evaluation_batches = 1;
  TinyRun watched(facts_, watching, "watched");
  watched.trainer->run();
  expect_same_results(plain, watched, 6);
  auto best = CheckpointFolder(watched.folder).best();
  ASSERT_TRUE(best.has_value());
  EXPECT_EQ(best->step % 2, 0);
}

TEST_F(TrainerTest, TheLossFalls) {
  config_.optimizer.clip = 1;
  config_.loss.ramp = "constant";
  config_.stages[0].steps = 40;
  TinyRun run(facts_, config_, "run");
  double first = 0, last = 0;
  for (int step = 0; step < 40; ++step) {
    auto loss = run.trainer->train_step().at("train/task");
    if (step < 5) first += loss / 5;
    if (step >= 35) last += loss / 5;
  }
  EXPECT_LT(last, 0.8 * first);
}

TEST_F(TrainerTest, ANonFiniteLossStopsBeforeTheUpdate) {
  TinyRun run(facts_, config_, "run");
  run.trainer->train_step();
  {
    torch::NoGradGuard no_grad;
    for (auto& item : run.model->named_parameters())
      if (item.key().find("final_norm") != std::string::npos) item.value().fill_(INFINITY);
  }
  auto before = copy_of(run.model);
  try {
    run.trainer->train_step();
    FAIL() << "no error";
  } catch (const DivergedError& error) {
    EXPECT_THAT(error.what(), HasSubstr("step 1"));
    EXPECT_THAT(error.what(), HasSubstr("optimizer.learning_rate"));
  }
  EXPECT_EQ(run.trainer->step(), 1);
  expect_same_bits(before, copy_of(run.model));
}

class FrozenGroup : public TrainerTest, public ::testing::WithParamInterface<std::string> {};

TEST_P(FrozenGroup, DoesNotChangeAndTheOthersDo) {
  config_.stages[0].frozen = {GetParam()};
  config_.loss.ramp = "constant";
  TinyRun run(facts_, config_, "run");
  run.trainer->train_step();  // calibrates the projections
  auto before = copy_of(run.model);
  for (int i = 0; i < 3; ++i) run.trainer->train_step();
  std::map<std::string, int> still, total;
  auto after = module_tensors(*run.model);
  for (const auto& item : run.model->named_parameters()) {
    auto frozen = is_frozen(item.key(), {GetParam()});
    ++total[parameter_group(item.key())];
    still[parameter_group(item.key())] += frozen;
    EXPECT_EQ(same_bits(before.at(item.key()), after.at(item.key())), frozen) << item.key();
  }
  ASSERT_EQ(total.size(), 3u);
  for (const auto& [group, count] : total) {
    // The reader looks through the retriever's convolution, so that stands still with the backbone.
    auto shared = group == "retriever" && GetParam() == "backbone" ? 1 : 0;
    EXPECT_EQ(still[group], group == GetParam() ? count : shared) << group;
  }
}

INSTANTIATE_TEST_SUITE_P(Groups, FrozenGroup,
                         ::testing::Values("backbone", "retriever", "projections"),
                         [](const auto& info) { return info.param; });

TEST_F(TrainerTest, FrozenLayersStandStillWithWhatIsBelowThem) {
  config_.train.frozen_layers = 1;
  config_.loss.ramp = "constant";
  TinyRun run(facts_, config_, "run");
  run.trainer->train_step();  // calibrates the projections
  auto before = copy_of(run.model);
  for (int i = 0; i < 3; ++i) run.trainer->train_step();
  auto after = module_tensors(*run.model);
  int still = 0;
  for (const auto& item : run.model->named_parameters()) {
    const auto& name = item.key();
    auto below = name == "backbone.embedding" || name.find("backbone.block_0_") == 0;
    still += below;
    EXPECT_EQ(same_bits(before.at(name), after.at(name)), below) << name;
  }
  EXPECT_GT(still, 8);
}

// Two steps, so that the first one's update and codebook sums are part of what is compared.
TEST_F(TrainerTest, ActivationCheckpointingTrainsTheSameWeights) {
  auto checkpointing = config_;
  checkpointing.train.activation_checkpointing = true;
  TinyRun plain(facts_, config_, "plain"), run(facts_, checkpointing, "checkpointing");
  for (int step = 0; step < 2; ++step) {
    auto a = plain.trainer->train_step(), b = run.trainer->train_step();
    EXPECT_NEAR(b.at("train/loss"), a.at("train/loss"), 1e-5) << step;
    EXPECT_NEAR(b.at("train/compression"), a.at("train/compression"), 1e-5) << step;
  }
  expect_near(plain.gradients(), run.gradients(), 1e-4);
}

TEST_F(TrainerTest, TheStandardTransformerTrainsOnTheSameConfig) {
  config_.method = "standard";
  TinyRun run(facts_, config_, "run");
  auto values = run.trainer->train_step();
  EXPECT_TRUE(std::isfinite(values.at("train/loss")));
  EXPECT_DOUBLE_EQ(values.at("train/token_share"), 1.0);
  for (const auto& item : run.model->named_parameters())
    EXPECT_EQ(parameter_group(item.key()), "backbone") << item.key();
}

TEST(ParameterGroup, FollowsThePart) {
  EXPECT_EQ(parameter_group("method.dsr.conv"), "retriever");
  EXPECT_EQ(parameter_group("method.rckv.key_projection_0"), "projections");
  EXPECT_EQ(parameter_group("backbone.embedding"), "backbone");
}

}  // namespace
}  // namespace dsrsq
