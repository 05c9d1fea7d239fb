// dsrsq-train as a user meets it: options, exit codes, one clear line.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "apps/program.h"

namespace dsrsq {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::read_bytes;
using testing::run_program;
using testing::TinyProject;
using testing::write_bytes;
namespace fs = std::filesystem;

const TinyProject& project() { return TinyProject::get(); }

ProgramResult train(const std::string& run, const std::vector<std::string>& more = {}) {
  return run_program(project().train(run, more), project().folder() + "/output-" + run);
}

std::set<std::string> options_of(const std::string& help) {
  std::set<std::string> options;
  std::istringstream words(help);
  for (std::string word; words >> word;) {
    if (word.rfind("--", 0) == 0)
      options.insert(word.substr(0, word.find_first_of(",=")));
    else if (auto comma = word.find(",--"); word.rfind("-", 0) == 0 && comma != std::string::npos)
      options.insert(word.substr(comma + 1));
  }
  return options;
}

// Scripts and papers name these: an option that is renamed or dropped breaks them.
TEST(Options, OfTrainingAreFrozen) {
  auto help = run_program({"dsrsq-train", "--help"}, project().folder() + "/help");
  EXPECT_EQ(help.code, 0);
  EXPECT_THAT(options_of(help.out),
              ::testing::UnorderedElementsAre("--help", "--config", "--set", "--output-dir",
                                              "--device", "--seed", "--resume", "--dry-run",
                                              "--profile", "--launch", "--log-level"));
}

TEST(Options, AnUnknownOneIsAUsageError) {
  auto result = train("unknown", {"--learning-rate", "1"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("--learning-rate"));
  EXPECT_EQ(run_program({"dsrsq-train"}, project().folder() + "/no-config").code, 2)
      << "--config is required";
}

// One line, exit code 2, and no run folder: nothing was begun.
void expect_config_error(const std::string& name, const std::vector<std::string>& more,
                         const std::vector<std::string>& parts) {
  auto result = train(name, more);
  EXPECT_EQ(result.code, 2) << result.err;
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  for (const auto& part : parts) EXPECT_THAT(result.errors()[0], HasSubstr(part));
  EXPECT_FALSE(fs::exists(project().run_folder(name)));
}

TEST(ConfigErrors, ATypoNamesFileLineColumnAndTheNearestKey) {
  auto path = project().folder() + "/typo.yaml";
  write_bytes(path, "extends: tiny.yaml\nsqa:\n  clusterz: 4\n");
  auto result =
      run_program({"dsrsq-train", "--config", path, "--output-dir", project().run_folder("typo")},
                  project().folder() + "/typo-out");
  EXPECT_EQ(result.code, 2);
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  EXPECT_THAT(result.errors()[0], AllOf(HasSubstr("typo.yaml:3:3"), HasSubstr("clusterz"),
                                        HasSubstr("'sqa.clusters'")));
  EXPECT_FALSE(fs::exists(project().run_folder("typo")));
}

TEST(ConfigErrors, MoreClustersAQueryThanThereAre) {
  expect_config_error("k_over_m", {"--set", "sqa.clusters_per_query=9"},
                      {"--set", "sqa.clusters_per_query", "sqa.clusters = 8", "9"});
}

TEST(ConfigErrors, ALatentWidthThatCompressesNothing) {
  expect_config_error("full_width", {"--set", "rckv.latent_width=16"},
                      {"rckv.latent_width", "16", "compresses nothing"});
}

TEST(ConfigErrors, APolicyThatCannotBeTrained) {
  expect_config_error("kmeans_all",
                      {"--set", "sqa.centroids=kmeans", "--set", "loss.task_tokens=all"},
                      {"sqa.centroids", "kmeans", "loss.task_tokens"});
  expect_config_error("ppo_without_dsr",
                      {"--set", "dsr.enabled=false", "--set", "stages.0.ppo=true"},
                      {"stages.0.ppo", "dsr.enabled"});
  expect_config_error("target_share",
                      {"--set", "stages.0.ppo=true", "--set", "dsr.complexity=learned", "--set",
                       "dsr.budget_minimum=4", "--set", "ppo.reward.target_share=0.9"},
                      {"ppo.reward.target_share", "0.9", "dsr.budget"});
}

TEST(ConfigErrors, ASwitchThatIsNotBuiltYetSaysSo) {
  expect_config_error("input", {"--set", "dsr.input=layer_1"}, {"dsr.input", "not built yet"});
  expect_config_error("launch", {"--launch", "2"}, {"--launch", "not built yet"});
}

TEST(ConfigErrors, AMissingFileAndADeviceThatIsNotThere) {
  auto result =
      run_program({"dsrsq-train", "--config", "no-such.yaml"}, project().folder() + "/no-such");
  EXPECT_EQ(result.code, 2);
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  EXPECT_THAT(result.errors()[0], HasSubstr("no-such.yaml"));
  expect_config_error("device", {"--device", "tpu"}, {"train.device", "tpu"});
}

TEST(ConfigErrors, AContinuedRunMayNotChange) {
  ASSERT_EQ(train("changed", {"--set", "stages.1.steps=1"}).code, 0);
  auto result = train("changed", {"--set", "stages.1.steps=1", "--set", "optimizer.clip=3"});
  EXPECT_EQ(result.code, 2);
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  EXPECT_THAT(result.errors()[0], AllOf(HasSubstr("clip"), HasSubstr("--output-dir")));
  auto never = train("changed", {"--set", "stages.1.steps=1", "--resume", "never"});
  EXPECT_EQ(never.code, 2) << never.err;
}

TEST(DataErrors, ADataSetOfAnotherTokenizer) {
  auto folder = project().folder() + "/other";
  ASSERT_EQ(run_program({"dsrsq-data", "synth", "--output", folder, "--name", "facts", "--set",
                         "values=30", "--set", "names=12", "--set", "facts=4", "--set",
                         "context_tokens=64", "--set", "train_documents=2"},
                        folder + "-out")
                .code,
            0);
  auto result = train("tokenizer", {"--set", "data.tokenizer=" + folder + "/tokenizer.json"});
  EXPECT_EQ(result.code, 3) << result.err;
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  EXPECT_THAT(result.errors()[0], AllOf(HasSubstr("another tokenizer"), HasSubstr("facts.h5")));
}

TEST(DataErrors, AMissingAndADamagedDataSet) {
  auto missing = train("missing", {"--set", "data.train=" + project().folder() + "/none.h5"});
  EXPECT_EQ(missing.code, 3) << missing.err;
  EXPECT_EQ(missing.errors().size(), 1u) << missing.err;
  auto path = project().folder() + "/half.h5";
  auto bytes = read_bytes(project().store());
  write_bytes(path, bytes.substr(0, bytes.size() / 2));
  auto damaged = train("damaged", {"--set", "data.train=" + path});
  EXPECT_EQ(damaged.code, 3) << damaged.err;
  ASSERT_EQ(damaged.errors().size(), 1u) << damaged.err;
  EXPECT_THAT(damaged.errors()[0], HasSubstr("half.h5"));
}

// One step makes weights with which the reader's losses are not numbers: the policy is not updated.
TEST(Diverged, ARewardThatIsNotFiniteStopsBeforeTheUpdate) {
  auto result =
      train("reward", {"--set", "optimizer.learning_rate=1e30", "--set", "optimizer.clip=1e30",
                       "--set", "optimizer.warmup_steps=0", "--set", "train.evaluate_every=0",
                       "--set", "stages.0.steps=1", "--set", "stages.1.ppo=true", "--set",
                       "stages.1.sqa=false", "--set", "stages.1.rckv=false"});
  EXPECT_EQ(result.code, 5) << result.err;
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  EXPECT_THAT(result.errors()[0], AllOf(HasSubstr("rewards"), HasSubstr("nothing was updated")));
}

TEST(Diverged, StopsWithItsOwnCodeAndKeepsTheCheckpoints) {
  auto result = train("diverged", {"--set", "optimizer.learning_rate=1e30", "--set",
                                   "optimizer.clip=1e30", "--set", "optimizer.warmup_steps=0"});
  EXPECT_EQ(result.code, 5) << result.err;
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  EXPECT_THAT(result.errors()[0], AllOf(HasSubstr("step "), HasSubstr("optimizer.learning_rate")));
}

TEST(Profile, RecordsStepsAsATraceAndATable) {
  auto result = train("profile", {"--profile", "2:3", "--set", "train.checkpoint_every=100"});
  EXPECT_EQ(result.code, 0) << result.err;
  auto folder = project().run_folder("profile") + "/profile";
  auto trace = nlohmann::json::parse(read_bytes(folder + "/trace.json"));
  int64_t steps = 0, products = 0;
  for (const auto& event : trace.at("traceEvents")) {
    auto name = event.value("name", "");
    bool complete = event.value("ph", "") == "X";
    steps += complete && name == "step" && event.value("cat", "") == "user_annotation";
    products += complete && name == "aten::mm";
  }
  EXPECT_EQ(steps, 3);
  EXPECT_GT(products, 0);
  auto table = read_bytes(folder + "/table.md");
  for (const char* part :
       {"Mean of 3 recorded steps", "| outside both |", "| data |", "| choose_tokens |", "| read |",
        "| backward |", "`aten::mm`", "`dsrsq::causal_conv`"})
    EXPECT_THAT(table, HasSubstr(part));
}

TEST(Profile, ASpecificationThatIsNoneAndARunThatIsTooShort) {
  expect_config_error("profile_steps", {"--profile", "many"}, {"--profile", "SKIP:COUNT", "many"});
  auto result = train("profile_short", {"--profile", "40:3"});
  EXPECT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.warnings(), ::testing::Contains(HasSubstr("nothing was recorded")));
}

TEST(DryRun, DescribesTheRunDoesOneStepAndWritesNothing) {
  auto result = train("dry", {"--dry-run"});
  EXPECT_EQ(result.code, 0) << result.err;
  for (const char* part : {"parameters: ", "backbone", "retriever", "projections",
                           "bytes held a sequence", "AdamW", "32 steps", "one step: loss"})
    EXPECT_THAT(result.out, HasSubstr(part));
  EXPECT_FALSE(fs::exists(project().run_folder("dry")));
}

}  // namespace
}  // namespace dsrsq
