#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <filesystem>

#include "dsrsq/core/error.h"
#include "dsrsq/registry.h"
#include "dsrsq/train/trainer.h"
#include "support/expect_tensor.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using dsrsq::testing::tiny_config;
using dsrsq::testing::TinyFacts;
using ::testing::HasSubstr;

struct Started {
  LanguageModel model{nullptr};
  std::unique_ptr<Trainer> trainer;
};

class StartFrom : public ::testing::Test {
 protected:
  StartFrom() : config_(tiny_config(facts_)) {
    config_.stages[0].steps = 2;
    auto first = start(config_, "first");
    first.trainer->run();
    trained_ = CheckpointFolder::read_model(checkpoint());
  }
  Started start(const RunConfig& config, const std::string& name) {
    std::filesystem::create_directories(facts_.folder(name));
    at::set_num_threads(1);
    Started run;
    run.model = make_model(config, facts_.tokenizer());
    run.trainer =
        std::make_unique<Trainer>(config, run.model, facts_.tokenizer(), facts_.folder(name));
    return run;
  }
  Checkpoint checkpoint() { return find_checkpoint(facts_.folder("first"), false); }

  TinyFacts facts_;
  RunConfig config_;
  NamedTensors trained_;
};

// The backbone brings what the reader reads through; the rest of the retriever starts anew.
TEST_F(StartFrom, TakesTheNamedGroupsOnly) {
  auto config = config_;
  config.train.seed = 9;
  config.train.start_groups = {"backbone"};
  auto run = start(config, "second");
  auto fresh = start(config, "fresh");
  run.trainer->start_from(checkpoint());
  auto untouched = module_tensors(*fresh.model);
  int64_t taken = 0, anew = 0;
  for (const auto& [name, tensor] : module_tensors(*run.model)) {
    bool of_backbone = parameter_group(name) == "backbone" || name == "method.dsr.conv";
    EXPECT_TRUE(at::equal(tensor, of_backbone ? trained_.at(name) : untouched.at(name))) << name;
    (of_backbone ? taken : anew) += 1;
  }
  EXPECT_GT(taken, 10);
  EXPECT_GT(anew, 2);
  EXPECT_FALSE(at::equal(trained_.at("method.dsr.conv"), untouched.at("method.dsr.conv")));
  EXPECT_EQ(run.trainer->step(), 0);
}

// The first stage does not calibrate projections that were taken, and does those that were not.
TEST_F(StartFrom, TakenProjectionsAreNotCalibratedAnew) {
  for (bool taken : {true, false}) {
    auto config = config_;
    config.train.start_groups = {"backbone"};
    if (taken) config.train.start_groups.push_back("projections");
    config.stages[0].frozen = {"projections"};
    config.data.train_split = "validation";  // other keys than those that made them
    auto run = start(config, taken ? "taken" : "anew");
    run.trainer->start_from(checkpoint());
    run.trainer->train_step();
    auto name = "method.rckv.key_projection_0";
    EXPECT_EQ(at::equal(module_tensors(*run.model).at(name), trained_.at(name)), taken);
  }
}

// A stage whose first steps do without the buffer calibrates it all the same.
TEST_F(StartFrom, ABufferThatComesSlowlyIsCalibrated) {
  auto config = config_;
  config.stages[0].buffer_from = config.stages[0].buffer_to = 0;
  config.stages[0].frozen = {"projections"};
  auto run = start(config, "slow");
  auto name = "method.rckv.key_projection_0";
  auto before = module_tensors(*run.model).at(name).clone();
  run.trainer->train_step();
  EXPECT_FALSE(at::equal(module_tensors(*run.model).at(name), before));
}

// A dense checkpoint to which GCA is added reads as before; what is missing there starts anew.
TEST_F(StartFrom, AMethodWithMoreWeightsIsAddedToACheckpoint) {
  auto config = config_;
  config.method = "standard";
  auto dense = start(config, "dense");
  dense.trainer->run();
  config.method = "gca";
  config.gca.chunk = 8;
  config.gca.window = 0;
  config.train.seed = 9;
  auto added = start(config, "added");
  added.trainer->start_from(find_checkpoint(facts_.folder("dense"), false));
  LoaderOptions options;
  options.split = "test";
  options.batch_size = 3;
  Loader loader(facts_.store_path(), facts_.tokenizer(), config.prompt, options);
  auto batch = loader.pass_batch(0);
  auto read = [&](LanguageModel& model) {
    torch::NoGradGuard no_grad;
    auto state = model->method().make_state(batch, {});
    return model->read(batch, state) * batch.tail_valid.unsqueeze(-1);
  };
  EXPECT_TENSOR_NEAR(read(added.model), read(dense.model), (dsrsq::testing::Tolerance{0, 1e-6}));
  // The first step moves what was added.
  added.trainer->train_step();
  EXPECT_GT((read(added.model) - read(dense.model)).abs().max().item<double>(), 1e-6);
  int64_t own = 0;
  for (const auto& [name, tensor] : module_tensors(*added.model))
    own += parameter_group(name) == "retriever";
  EXPECT_GT(own, 10);
}

TEST_F(StartFrom, AnotherShapeIsAnError) {
  auto config = config_;
  config.dsrsq.dsr.width = 8;
  auto run = start(config, "second");
  try {
    run.trainer->start_from(checkpoint());
    FAIL() << "expected a CheckpointError";
  } catch (const CheckpointError& error) {
    EXPECT_THAT(error.what(), HasSubstr("train.start_from"));
    EXPECT_THAT(error.what(), HasSubstr("method.dsr."));
  }
  config.train.start_groups = {"backbone"};  // what differs is not asked for
  start(config, "third").trainer->start_from(checkpoint());
}

}  // namespace
}  // namespace dsrsq
