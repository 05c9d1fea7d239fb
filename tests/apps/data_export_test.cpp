// A trained run becomes a Hugging Face folder, and such a folder answers questions.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "apps/program.h"

namespace dsrsq {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::read_bytes;
using testing::run_program;
using testing::TinyProject;
namespace fs = std::filesystem;

const TinyProject& project() { return TinyProject::get(); }

class Export : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto trained = run_program(project().train("to_export", {"--set", "stages.1.steps=1"}),
                               project().folder() + "/to-export-out");
    ASSERT_EQ(trained.code, 0) << trained.err;
  }
  testing::ProgramResult run(const std::vector<std::string>& arguments) {
    return run_program(arguments, project().folder() + "/export-out");
  }
  std::string folder_ = project().folder() + "/exported";
  void TearDown() override { fs::remove_all(folder_); }
};

TEST_F(Export, WritesAFolderThatIsReadAgain) {
  auto result = run({"dsrsq-data", "export", project().run_folder("to_export"), folder_});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("LlamaForCausalLM"), HasSubstr("dsrsq.safetensors")));
  auto config = nlohmann::json::parse(read_bytes(folder_ + "/config.json"));
  EXPECT_EQ(config.at("architectures")[0], "LlamaForCausalLM");
  auto own = nlohmann::json::parse(read_bytes(folder_ + "/dsrsq_config.json"));
  EXPECT_EQ(own.at("model").at("layers"), config.at("num_hidden_layers"));
  EXPECT_TRUE(own.at("sqa").at("enabled").is_boolean());
  EXPECT_EQ(read_bytes(folder_ + "/tokenizer.json"), read_bytes(project().tokenizer()));
  auto answered = run({"dsrsq-generate", "--model", folder_, "--question", "what", "--question",
                       "who", "--max-tokens", "3"});
  EXPECT_EQ(answered.code, 0) << answered.err;
  EXPECT_THAT(answered.out, HasSubstr("who\n"));
  auto of_run = run({"dsrsq-generate", "--model", project().run_folder("to_export"), "--question",
                     "what", "--max-tokens", "3"});
  EXPECT_EQ(of_run.code, 0) << of_run.err;
}

TEST_F(Export, RefusesWhatItCannotDo) {
  auto nothing = run({"dsrsq-data", "export", project().folder() + "/none", folder_});
  EXPECT_EQ(nothing.code, 4);
  EXPECT_THAT(nothing.errors(), ::testing::ElementsAre(HasSubstr("checkpoints/step-")));
  auto there = run({"dsrsq-data", "export", project().run_folder("to_export"), project().folder()});
  EXPECT_EQ(there.code, 2);
  EXPECT_THAT(there.errors(), ::testing::ElementsAre(HasSubstr("is there already")));
  EXPECT_FALSE(fs::exists(folder_));
}

TEST_F(Export, ADamagedCheckpointIsNotExported) {
  auto copy = project().folder() + "/damaged_export";
  fs::copy(project().run_folder("to_export"), copy, fs::copy_options::recursive);
  for (const auto& entry : fs::directory_iterator(copy + "/checkpoints"))
    if (entry.is_directory()) testing::flip_bit(entry.path() / "model.safetensors", 2000);
  auto result = run({"dsrsq-data", "export", copy, folder_});
  EXPECT_EQ(result.code, 4);
  EXPECT_THAT(result.errors(), ::testing::ElementsAre(HasSubstr("is not what manifest.json says")));
  EXPECT_FALSE(fs::exists(folder_));
}

TEST_F(Export, AFolderThatIsNoModelIsAUsageError) {
  fs::create_directories(folder_);
  testing::write_bytes(folder_ + "/config.json", "{\"architectures\": [\"T5\"]}");
  auto result = run({"dsrsq-generate", "--model", folder_, "--question", "what"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.errors(), ::testing::ElementsAre(HasSubstr("T5")));
}

}  // namespace
}  // namespace dsrsq
