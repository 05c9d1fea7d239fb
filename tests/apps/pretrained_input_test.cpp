// What the programs say of a Hugging Face folder that is incomplete, damaged or of another kind:
// one line, and the exit code of its reason.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "apps/program.h"

namespace dsrsq {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::read_bytes;
using testing::run_program;
using testing::TinyProject;
using testing::write_bytes;
namespace fs = std::filesystem;

const TinyProject& project() { return TinyProject::get(); }

class PretrainedInput : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto trained = run_program(project().train("to_damage", {"--set", "stages.1.steps=1"}), out());
    ASSERT_EQ(trained.code, 0) << trained.err;
    auto exported = run_program(
        {"dsrsq-data", "export", project().run_folder("to_damage"), whole_folder()}, out());
    ASSERT_EQ(exported.code, 0) << exported.err;
    // More names, so more ids than the model has rows.
    auto other = run_program({"dsrsq-data", "synth",
                              "--output",   project().folder() + "/other",
                              "--name",     "facts",
                              "--set",      "context_tokens=64",
                              "--set",      "facts=4",
                              "--set",      "names=40",
                              "--set",      "filler_words=16",
                              "--set",      "train_documents=8",
                              "--set",      "validation_documents=8",
                              "--set",      "test_documents=8"},
                             out());
    ASSERT_EQ(other.code, 0) << other.err;
  }
  static std::string out() { return project().folder() + "/pretrained-out"; }
  static std::string whole_folder() { return project().folder() + "/whole"; }

  void SetUp() override { fs::copy(whole_folder(), folder_, fs::copy_options::recursive); }
  void TearDown() override { fs::remove_all(folder_); }

  std::string file(const std::string& name) const { return folder_ + "/" + name; }
  testing::ProgramResult generate() {
    return run_program({"dsrsq-generate", "--model", folder_, "--question", "what", "--max-tokens",
                        "2", "--threads", "1"},
                       out());
  }
  testing::ProgramResult evaluate() {
    return run_program(
        {"dsrsq-eval", "--checkpoint", folder_, "--set", "data.train=" + project().store(), "--set",
         "data.tokenizer=" + file("tokenizer.json"), "--output-dir",
         project().folder() + "/pretrained-eval"},
        out());
  }
  testing::ProgramResult train() {
    return run_program(
        project().train("of_folder", {"--dry-run", "--set", "model.init=" + folder_, "--set",
                                      "data.tokenizer=" + file("tokenizer.json")}),
        out());
  }
  // All three programs say so, in one line, with this exit code.
  void expect_all(int code, const ::testing::Matcher<std::string>& line) {
    for (const auto& [name, program] :
         std::map<std::string, std::function<testing::ProgramResult()>>{
             {"generate", [&] { return generate(); }},
             {"eval", [&] { return evaluate(); }},
             {"train", [&] { return train(); }}}) {
      auto result = program();
      EXPECT_EQ(result.code, code) << name << ": " << result.err;
      EXPECT_THAT(result.errors(), ElementsAre(line)) << name;
      EXPECT_EQ(result.out, "") << name;
    }
  }
  std::string folder_ = project().folder() + "/damaged";
};

TEST_F(PretrainedInput, AWholeFolderIsTaken) {
  for (auto result : {generate(), evaluate(), train()}) EXPECT_EQ(result.code, 0) << result.err;
}

// A folder that a program reads as a model may be a run's too; `model.init` takes the one kind.
TEST_F(PretrainedInput, WithoutConfig) {
  fs::remove(file("config.json"));
  for (auto result : {generate(), evaluate()}) {
    EXPECT_EQ(result.code, 4) << result.err;
    EXPECT_THAT(result.errors(), ElementsAre(AllOf(HasSubstr("damaged"), HasSubstr("config.yaml"),
                                                   HasSubstr("config.json"))));
  }
  auto trained = train();
  EXPECT_EQ(trained.code, 2) << trained.err;
  EXPECT_THAT(trained.errors(),
              ElementsAre(AllOf(HasSubstr("model.init"), HasSubstr("config.json"))));
}

TEST_F(PretrainedInput, OfAnUnknownArchitecture) {
  auto config = json::parse(read_bytes(file("config.json")));
  config["architectures"] = {"MambaForCausalLM"};
  write_bytes(file("config.json"), config.dump());
  expect_all(2, AllOf(HasSubstr("config.json"), HasSubstr("MambaForCausalLM")));
}

TEST_F(PretrainedInput, WithoutWeightsOrAShard) {
  fs::remove(file("model.safetensors"));
  expect_all(4, HasSubstr("model.safetensors"));
  json index{{"weight_map", {{"model.norm.weight", "model-00002-of-00002.safetensors"}}}};
  write_bytes(file("model.safetensors.index.json"), index.dump());
  expect_all(4, HasSubstr("shard model-00002-of-00002.safetensors is missing"));
}

TEST_F(PretrainedInput, Truncated) {
  auto path = file("model.safetensors");
  fs::resize_file(path, fs::file_size(path) - 100);
  expect_all(4, AllOf(HasSubstr("model.safetensors"), HasSubstr("truncated")));
}

TEST_F(PretrainedInput, AFlippedBitOfTheHeader) {
  auto path = file("model.safetensors");
  auto at = read_bytes(path).find("data_offsets");
  ASSERT_NE(at, std::string::npos);
  testing::flip_bit(path, at);
  expect_all(4, AllOf(HasSubstr("model.safetensors"), HasSubstr("data_offsets")));
}

// Only the checksum knows: any bits are a number.
TEST_F(PretrainedInput, AFlippedBitOfAWeight) {
  auto path = file("model.safetensors");
  testing::flip_bit(path, fs::file_size(path) - 400);
  expect_all(4, AllOf(HasSubstr("model.safetensors"), HasSubstr("dsrsq_manifest.json")));
  fs::remove(file("dsrsq_manifest.json"));
  EXPECT_EQ(generate().code, 0);
}

TEST_F(PretrainedInput, AWeightThatIsNoNumber) {
  fs::remove(file("dsrsq_manifest.json"));  // as a folder that others made
  auto bytes = read_bytes(file("model.safetensors"));
  auto nan = std::numeric_limits<float>::quiet_NaN();
  bytes.replace(bytes.size() - sizeof(nan), sizeof(nan), reinterpret_cast<const char*>(&nan),
                sizeof(nan));
  write_bytes(file("model.safetensors"), bytes);
  expect_all(4, AllOf(HasSubstr("damaged"), HasSubstr("finite")));
}

TEST_F(PretrainedInput, ATokenizerThatDoesNotFitTheWeights) {
  fs::copy_file(project().folder() + "/other/tokenizer.json", file("tokenizer.json"),
                fs::copy_options::overwrite_existing);
  auto line = AllOf(HasSubstr("tokenizer.json"), HasSubstr("ids"));
  auto generated = generate();
  EXPECT_EQ(generated.code, 2) << generated.err;
  EXPECT_THAT(generated.errors(), ElementsAre(line));
  auto evaluated = evaluate();
  EXPECT_EQ(evaluated.code, 2) << evaluated.err;
  EXPECT_THAT(evaluated.errors(), ElementsAre(line));
  fs::remove(file("tokenizer.json"));
  auto without = generate();
  EXPECT_EQ(without.code, 3) << without.err;
  EXPECT_THAT(without.errors(), ElementsAre(HasSubstr("tokenizer.json")));
}

// The run's config names a tokenizer by its path, where another may stand by now.
TEST_F(PretrainedInput, ARunWithATokenizerThatDoesNotFitIsNotExported) {
  auto copy = project().folder() + "/other_tokenizer";
  fs::copy(project().run_folder("to_damage"), copy, fs::copy_options::recursive);
  auto config = read_bytes(copy + "/config.yaml");
  auto at = config.find(project().tokenizer());
  ASSERT_NE(at, std::string::npos);
  config.replace(at, project().tokenizer().size(), project().folder() + "/other/tokenizer.json");
  write_bytes(copy + "/config.yaml", config);
  auto target = project().folder() + "/not_exported";
  auto result = run_program({"dsrsq-data", "export", copy, target}, out());
  EXPECT_EQ(result.code, 2) << result.err;
  EXPECT_THAT(result.errors(), ElementsAre(AllOf(HasSubstr("tokenizer.json"), HasSubstr("ids"))));
  EXPECT_FALSE(fs::exists(target));
  fs::remove_all(copy);
}

}  // namespace
}  // namespace dsrsq
