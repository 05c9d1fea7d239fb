#include "dsrsq/train/run_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/registry.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using dsrsq::testing::tiny_config;
using dsrsq::testing::TinyFacts;
using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

class RunFolderTest : public ::testing::Test {
 protected:
  RunFolderTest() : config_(tiny_config(facts_)) {}
  std::string folder() const { return facts_.folder("run"); }
  std::optional<Checkpoint> open(const std::string& resume = "auto") {
    return open_run_folder(folder(), config_, resume, {"dsrsq-train", "--config", "tiny.yaml"});
  }
  Checkpoint save(int64_t step) {
    NamedTensors tensors{{"weight", torch::ones({2})}};
    return CheckpointFolder(folder()).save(step, tensors, tensors, nlohmann::json::object(), 10);
  }
  template <typename Error>
  std::string error_of(const std::string& resume = "auto") {
    try {
      open(resume);
    } catch (const Error& error) {
      return error.what();
    }
    return "nothing was thrown";
  }
  TinyFacts facts_;
  RunConfig config_;
};

TEST_F(RunFolderTest, ANewOneHoldsTheResolvedConfigAndItsProvenance) {
  EXPECT_FALSE(open().has_value());
  auto run = nlohmann::json::parse(read_file(folder() + "/run.json"));
  EXPECT_EQ(run.at("seeds"), nlohmann::json({0}));
  EXPECT_THAT(run.at("command").dump(), HasSubstr("tiny.yaml"));
  auto loaded = load_run_folder_config(folder(), {"train.log_every=7"});
  EXPECT_EQ(loaded.train.log_every, 7);
  loaded.train.log_every = config_.train.log_every;
  EXPECT_EQ(dump_config([&](ConfigVisitor& v) { loaded.visit_fields(v); }),
            dump_config([&](ConfigVisitor& v) { config_.visit_fields(v); }));
}

TEST_F(RunFolderTest, AutoContinuesFromTheNewestCheckpoint) {
  open();
  EXPECT_FALSE(open().has_value())
      << "a run that was killed before its first checkpoint starts again";
  save(2);
  save(4);
  auto from = open();
  ASSERT_TRUE(from.has_value());
  EXPECT_EQ(from->step, 4);
}

TEST_F(RunFolderTest, APathContinuesFromThatCheckpoint) {
  open();
  auto two = save(2);
  EXPECT_EQ(open(two.folder)->step, 2);
  save(4);
  EXPECT_THAT(error_of<ConfigError>(two.folder),
              AllOf(HasSubstr("step 4"), HasSubstr("--output-dir")))
      << "two branches of one run would mix";
}

TEST_F(RunFolderTest, NeverRefusesAFolderWithCheckpoints) {
  open("never");
  open("never");  // still none
  save(2);
  EXPECT_THAT(error_of<ConfigError>("never"),
              AllOf(HasSubstr("--resume never"), HasSubstr("--output-dir")));
}

TEST_F(RunFolderTest, AChangedConfigIsAnErrorThatNamesTheDifference) {
  open();
  save(2);
  config_.optimizer.learning_rate = 0.25;
  EXPECT_THAT(error_of<ConfigError>(), AllOf(HasSubstr("learning_rate"), HasSubstr("0.01"),
                                             HasSubstr("0.25"), HasSubstr("--output-dir")));
  EXPECT_THAT(read_file(folder() + "/config.yaml"), HasSubstr("learning_rate: 0.01"))
      << "the run's config is untouched";
}

TEST_F(RunFolderTest, AMissingStageIsADifference) {
  config_.stages.push_back(dsrsq::testing::tiny_stage("more", 3, true, true));
  open();
  save(2);
  config_.stages.pop_back();
  EXPECT_THAT(error_of<ConfigError>(), HasSubstr("another configuration"));
}

TEST_F(RunFolderTest, HowOftenThingsAreWrittenMayChange) {
  open();
  save(2);
  config_.train.log_every = 5;
  config_.train.checkpoint_every = 3;
  config_.train.keep_checkpoints = 1;
  EXPECT_EQ(open()->step, 2);
}

TEST_F(RunFolderTest, WithoutAWholeCheckpointItDoesNotStartAnewSilently) {
  open();
  auto only = save(2);
  std::ofstream(only.folder + "/model.safetensors", std::ios::trunc) << "gone";
  EXPECT_THAT(error_of<CheckpointError>(), AllOf(HasSubstr(folder()), HasSubstr("whole")));
}

TEST_F(RunFolderTest, AFolderOfSomethingElseIsNotTouched) {
  fs::create_directories(folder());
  std::ofstream(folder() + "/thesis.txt") << "mine";
  EXPECT_THAT(error_of<ConfigError>(), HasSubstr("--output-dir"));
  EXPECT_FALSE(fs::exists(folder() + "/config.yaml"));
}

TEST_F(RunFolderTest, WhatAKilledProcessLeftHalfWrittenGoesAndTheRunGoesOn) {
  // Killed while it wrote its first file.
  fs::create_directories(folder());
  std::ofstream(folder() + "/.tmp-config.yaml-0-999999999") << "dat";
  EXPECT_FALSE(open().has_value());
  EXPECT_FALSE(fs::exists(folder() + "/.tmp-config.yaml-0-999999999"));
  save(2);
  // And once more in the middle of everything else.
  for (const char* name :
       {"/checkpoints/.tmp-step-00000004-999999999", "/.tmp-run.json-1-999999999",
        "/checkpoints/.tmp-pruned-step-00000001-999999999"})
    fs::create_directories(folder() + name + "/inner");
  const std::string living = concat(folder(), "/checkpoints/.tmp-step-00000006-", ::getppid());
  fs::create_directories(living);
  EXPECT_EQ(open()->step, 2);
  std::vector<std::string> temporaries;
  for (const auto& entry : fs::recursive_directory_iterator(folder()))
    if (entry.path().filename().string().rfind(".tmp-", 0) == 0)
      temporaries.push_back(entry.path().string());
  EXPECT_EQ(temporaries, std::vector<std::string>{living}) << "its process runs";
}

TEST_F(RunFolderTest, AFolderThatCannotBeWrittenIsAnOutputError) {
  std::ofstream(facts_.folder("file")) << "x";
  try {
    open_run_folder(facts_.folder("file") + "/run", config_, "auto", {});
    ADD_FAILURE() << "a folder in a file";
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), ExitCode::kCheckpoint);
    EXPECT_THAT(error.what(), AllOf(HasSubstr("/file/run"), HasSubstr("--output-dir")));
  }
}

TEST_F(RunFolderTest, AFolderThatIsNoRunIsACheckpointError) {
  EXPECT_THROW(load_run_folder_config(facts_.folder("nothing"), {}), CheckpointError);
}

TEST_F(RunFolderTest, TheDescriptionCountsParametersOfEachPart) {
  auto model = make_model(config_, facts_.tokenizer());
  auto text = describe_run(config_, model, 64);
  int64_t total = 0;
  for (const auto& parameter : model->parameters()) total += parameter.numel();
  EXPECT_THAT(text, AllOf(HasSubstr(concat("parameters: ", total)), HasSubstr("backbone"),
                          HasSubstr("retriever"), HasSubstr("projections"),
                          HasSubstr("reads at most 32"), HasSubstr("6 steps")));
  config_.dsrsq.dsr.enabled = false;
  auto without = make_model(config_, facts_.tokenizer());
  auto ablated = describe_run(config_, without, 64);
  EXPECT_EQ(ablated.find("retriever  "), std::string::npos) << ablated;
  EXPECT_THAT(ablated, HasSubstr("reads at most 64"));
}

}  // namespace
}  // namespace dsrsq
