#include "dsrsq/train/run_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"

namespace dsrsq {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

const std::string kConfigs = DSRSQ_SOURCE_DIR "/configs";

std::vector<std::string> config_files() {
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(kConfigs))  // suites: eval/suite_test
    if (entry.path().extension() == ".yaml" && entry.path().parent_path().filename() != "suites")
      files.push_back(fs::relative(entry.path(), kConfigs).string());
  std::sort(files.begin(), files.end());
  return files;
}

std::string test_name(const ::testing::TestParamInfo<std::string>& info) {
  auto name = info.param;
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
}

class ConfigFile : public ::testing::TestWithParam<std::string> {};

// Data sets and folders of pretrained weights are not opened: other commands make them. The
// architecture is then the default one.
TEST_P(ConfigFile, LoadsAndItsResolvedFormLoadsToTheSame) {
  auto config = load_run_config({GetParam(), {}, {kConfigs}}, /*resolved=*/true);
  EXPECT_FALSE(config.stages.empty());
  auto resolved = dump_config([&](ConfigVisitor& v) { config.visit_fields(v); });
  RunConfig again;
  load_config_text(resolved, "resolved", [&](ConfigVisitor& v) { again.visit_fields(v); });
  EXPECT_EQ(dump_config([&](ConfigVisitor& v) { again.visit_fields(v); }), resolved);
}

INSTANTIATE_TEST_SUITE_P(Configs, ConfigFile, ::testing::ValuesIn(config_files()), test_name);

TEST(Configs, AblationsSwitchOffExactlyTheirPart) {
  const std::vector<std::string> parts{"dsr", "sqa", "rckv"};
  for (const std::string folder : {"ablations", "quickstart"}) {
    for (const auto& off : parts) {
      auto config = load_run_config({folder + "/no_" + off + ".yaml", {}, {kConfigs}});
      auto visit = [&](ConfigVisitor& v) { config.visit_fields(v); };
      for (const auto& part : parts)
        EXPECT_EQ(config_value(visit, part + ".enabled"), part == off ? "false" : "true")
            << folder << " " << off;
    }
  }
}

// D23: rows differ in their method alone: same seed, batch, number of steps, optimiser.
TEST(Configs, RowsOfTheQuickstartTrainForTheSameSteps) {
  auto full = load_run_config({"quickstart.yaml", {}, {kConfigs}});
  for (const std::string row : {"no_sqa", "no_rckv", "no_dsr", "standard"}) {
    auto config = load_run_config({"quickstart/" + row + ".yaml", {}, {kConfigs}});
    EXPECT_EQ(total_steps(config.stages), total_steps(full.stages)) << row;
    EXPECT_EQ(config.train.batch_size * config.train.accumulation,
              full.train.batch_size * full.train.accumulation)
        << row;
    EXPECT_EQ(config.train.seed, full.train.seed) << row;
    EXPECT_EQ(config.optimizer.learning_rate, full.optimizer.learning_rate) << row;
    EXPECT_EQ(config.data.train, full.data.train) << row;
  }
}

std::string error_of(const std::vector<std::string>& overrides) {
  try {
    load_run_config({kConfigs + "/quickstart.yaml", overrides, {}});
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no ConfigError was thrown";
}

TEST(RunConfig, CrossFieldErrorsNameTheKeyTheBoundAndWhereItWasSet) {
  EXPECT_THAT(error_of({"sqa.clusters=16", "sqa.clusters_per_query=17"}),
              AllOf(HasSubstr("--set"), HasSubstr("sqa.clusters_per_query"), HasSubstr("16"),
                    HasSubstr("17")));
  EXPECT_THAT(
      error_of({"rckv.latent_width=128"}),
      AllOf(HasSubstr("rckv.latent_width"), HasSubstr("128"), HasSubstr("compresses nothing")));
  EXPECT_THAT(error_of({"stages.0.clusters_per_query=99"}),
              AllOf(HasSubstr("stages.0.clusters_per_query"), HasSubstr("99")));
  EXPECT_THAT(error_of({"train.frozen_layers=99"}), HasSubstr("train.frozen_layers"));
  EXPECT_THAT(error_of({"train.device=gpu"}), AllOf(HasSubstr("train.device"), HasSubstr("gpu")));
  EXPECT_THAT(error_of({"prompt.question=ask"}),
              AllOf(HasSubstr("prompt.question"), HasSubstr("{question}")));
}

TEST(RunConfig, SwitchesOfTheDesignThatAreNotBuiltYetSaySo) {
  EXPECT_THAT(error_of({"dsr.input=layer_1"}), HasSubstr("not built yet"));
}

const std::string kNoError = "no ConfigError was thrown";

TEST(RunConfig, AKernelThatCanNeverServeIsAnError) {
  for (const std::string kernel : {"native", "aten"}) {
    EXPECT_THAT(error_of({"sqa.kernel=" + kernel, "sqa.centroids=segment"}),
                AllOf(HasSubstr("sqa.kernel"), HasSubstr("segment"), HasSubstr("masked_dense")));
    EXPECT_EQ(error_of({"sqa.kernel=" + kernel, "rckv.weight=attention_rate"}), kNoError);
  }
  EXPECT_EQ(error_of({"sqa.kernel=auto", "sqa.centroids=segment"}), kNoError);
}

TEST(RunConfig, ClustersMayBeSizedByTheLongestText) {
  EXPECT_THAT(
      error_of({"sqa.clusters=auto"}),
      AllOf(HasSubstr("--set sqa.clusters=auto: sqa.clusters: "), HasSubstr("sqa.max_length")));
  EXPECT_THAT(error_of({"sqa.clusters=auto", "sqa.max_length=1000", "sqa.clusters_per_query=33"}),
              AllOf(HasSubstr("sqa.clusters_per_query"), HasSubstr("at most sqa.clusters = 32")));
  EXPECT_THAT(
      error_of({"sqa.clusters=auto", "sqa.max_length=1000", "stages.0.clusters_per_query=33"}),
      AllOf(HasSubstr("stages.0.clusters_per_query"), HasSubstr("32")));
  EXPECT_THAT(error_of({"sqa.clusters=auto", "sqa.max_length=1000", "sqa.centroids=segment"}),
              AllOf(HasSubstr("sqa.clusters"), HasSubstr("segment")));
  auto config = load_run_config(
      {kConfigs + "/quickstart.yaml", {"sqa.clusters=auto", "sqa.max_length=131072"}, {}});
  EXPECT_EQ(config.dsrsq.sqa.cluster_count(), 384);
  auto visit = [&](ConfigVisitor& v) { config.visit_fields(v); };
  EXPECT_EQ(config_value(visit, "sqa.clusters"), "auto");  // so it is written into the run
  EXPECT_EQ(DsrsqMethod(config.dsrsq, config.model, 1).config().sqa.clusters, 384);
}

TEST(RunConfig, SwitchesOfTheRetrieverLoad) {
  for (const std::string set :
       {"dsr.complexity=learned", "dsr.reader_gradient=bias", "sqa.centroids=kmeans",
        "sqa.centroids=segment", "loss.retrieval_form=inclusion", "loss.retrieval_form=printed",
        "loss.retrieval_target=attention", "loss.retrieval_negatives=batch", "loss.ramp=cosine",
        "stages.0.ppo=true", "stages.0.buffer_from=0.5", "stages.0.sample=true",
        "stages.0.selection=all"})
    EXPECT_EQ(error_of({set}), kNoError) << set;
}

TEST(RunConfig, AStageWithPpoNeedsAPolicyThatMayLearn) {
  const std::string ppo = "stages.0.ppo=true";
  EXPECT_THAT(error_of({"dsr.enabled=false", ppo}),
              AllOf(HasSubstr("stages.0.ppo"), HasSubstr("dsr.enabled")));
  EXPECT_THAT(error_of({"method=standard", ppo}),
              AllOf(HasSubstr("stages.0.ppo"), HasSubstr("method")));
  EXPECT_THAT(error_of({ppo, "stages.0.frozen=[backbone, retriever]"}),
              AllOf(HasSubstr("stages.0.frozen"), HasSubstr("retriever")));
  EXPECT_EQ(error_of({ppo, "stages.0.frozen=[backbone]"}), kNoError);
  EXPECT_THAT(error_of({ppo, "stages.0.selection=all"}),
              AllOf(HasSubstr("stages.0.selection"), HasSubstr("all")));
  EXPECT_THAT(error_of({ppo, "dsr.complexity=learned", "stages.0.budget=32"}),
              AllOf(HasSubstr("stages.0.budget"), HasSubstr("32"), HasSubstr("learned")));
}

TEST(RunConfig, PpoNeedsSomethingToCompareADrawWith) {
  const std::string ppo = "stages.0.ppo=true", one = "ppo.rollouts=1";
  EXPECT_THAT(error_of({ppo, one}),
              AllOf(HasSubstr("ppo.rollouts"), HasSubstr("rloo"), HasSubstr("at least 2")));
  for (const std::string other :
       {"ppo.baseline=value", "ppo.baseline=greedy", "ppo.credit=span_loo"})
    EXPECT_EQ(error_of({ppo, one, other}), kNoError) << other;
  EXPECT_EQ(error_of({one}), kNoError) << "no stage trains by reward";
}

TEST(RunConfig, ATargetShareNeedsTheLearnedBudget) {
  const std::string ppo = "stages.0.ppo=true", share = "ppo.reward.target_share=0.1";
  EXPECT_THAT(error_of({ppo, share}),
              AllOf(HasSubstr("ppo.reward.target_share"), HasSubstr("learned")));
  EXPECT_EQ(error_of({ppo, share, "dsr.complexity=learned", "stages.0.budget=0"}), kNoError);
  EXPECT_THAT(error_of({"dsr.complexity=learned", "dsr.budget_minimum=1000"}),
              AllOf(HasSubstr("dsr.budget_minimum"), HasSubstr("1000")));
}

// Clusters of the prefix know what an all-token loss is to predict.
TEST(RunConfig, KmeansNeedsALossOverTheAnswerAlone) {
  EXPECT_THAT(
      error_of({"sqa.centroids=kmeans", "loss.task_tokens=all"}),
      AllOf(HasSubstr("sqa.centroids"), HasSubstr("loss.task_tokens"), HasSubstr("kmeans")));
  EXPECT_EQ(error_of({"sqa.centroids=segment", "loss.task_tokens=all"}), kNoError);
}

TEST(RunConfig, OnlySoftmaxHasNegativesOfTheBatch) {
  for (const std::string form : {"inclusion", "printed"}) {
    EXPECT_THAT(error_of({"loss.retrieval_form=" + form, "loss.retrieval_negatives=batch"}),
                AllOf(HasSubstr("retrieval_negatives"), HasSubstr(form)));
    EXPECT_THAT(error_of({"stages.1.retrieval_form=" + form, "loss.retrieval_negatives=batch"}),
                AllOf(HasSubstr("stages.1.retrieval_negatives"), HasSubstr(form)));
    EXPECT_EQ(error_of({"stages.1.retrieval_form=" + form, "loss.retrieval_negatives=batch",
                        "stages.1.retrieval_negatives=sequence"}),
              kNoError);
  }
}

TEST(RunConfig, WithoutStagesThereIsOneWithEverythingOn) {
  auto config = load_run_config({kConfigs + "/base.yaml", {}, {}});
  ASSERT_EQ(config.stages.size(), 1u);
  EXPECT_EQ(config.stages[0].steps, 1000);
  EXPECT_TRUE(config.stages[0].sqa);
  EXPECT_TRUE(config.stages[0].rckv);
}

// ---- configs/README.md ----

constexpr const char* kReadmeHead =
    "<!-- Made from the config structs: DSRSQ_UPDATE_DOCS=1 build/bin/test_train "
    "--gtest_filter='ConfigsReadme.*' -->\n"
    "# Configuration\n\n"
    "A YAML file names only what it changes: `extends: other.yaml` (a path beside it) takes over "
    "everything that file says, a "
    "map is merged key by key and a list, such as `stages`, is replaced whole.\n"
    "`--set a.b=c` (repeatable; `--set stages.0.steps=5` for an element of a list) overrides one "
    "key last; unknown and "
    "duplicate keys, wrong types and values out of range are errors that name file, line, column "
    "and the nearest key.\n\n";

TEST(ConfigsReadme, IsWhatTheStructsSay) {
  RunConfig config;
  auto expected = kReadmeHead + document_config([&](ConfigVisitor& v) { config.visit_fields(v); });
  auto path = kConfigs + "/README.md";
  if (const char* update = std::getenv("DSRSQ_UPDATE_DOCS");
      update != nullptr && std::string(update) == "1")
    write_file_atomic(path, expected);
  ASSERT_TRUE(fs::exists(path)) << "run this test with DSRSQ_UPDATE_DOCS=1";
  EXPECT_EQ(read_file(path), expected)
      << "configs/README.md is old: run this test with DSRSQ_UPDATE_DOCS=1";
}

}  // namespace
}  // namespace dsrsq
