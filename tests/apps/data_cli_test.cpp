// dsrsq-data and dsrsq-eval as a user meets them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

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

ProgramResult data(const std::vector<std::string>& arguments) {
  std::vector<std::string> all{"dsrsq-data"};
  all.insert(all.end(), arguments.begin(), arguments.end());
  return run_program(all, project().folder() + "/output-data");
}

std::string jsonl() {
  std::string lines;
  for (int i = 0; i < 200; ++i)
    lines += R"({"question": "who is )" + std::to_string(i) +
             R"(", "context": "the answer is anna )" + std::to_string(i * 7919) +
             R"(", "answers": ["anna"]})" + "\n";
  return lines;
}

std::vector<std::string> prepare(const std::string& input, const std::string& output) {
  return {"prepare",  input, "--format", "jsonl", "--tokenizer", project().tokenizer(),
          "--output", output};
}

// A real gzip file, by the tool that everybody has; the test needs nothing of ours to make it.
std::string gzip(const std::string& name, const std::string& content) {
  auto path = project().folder() + "/" + name;
  write_bytes(path, content);
  if (std::system(("gzip -f -k '" + path + "'").c_str()) != 0)
    throw std::runtime_error("gzip failed");
  return path + ".gz";
}

TEST(Prepare, ReadsGzipAndTheDataSetValidates) {
  auto input = gzip("whole.jsonl", jsonl());
  auto output = project().folder() + "/whole.h5";
  auto made = data(prepare(input, output));
  EXPECT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("records           200"));
  EXPECT_EQ(data({"validate", output, "--tokenizer", project().tokenizer()}).code, 0);
}

TEST(Prepare, ATruncatedGzipFileIsADataErrorAndLeavesNothingBehind) {
  auto input = gzip("cut.jsonl", jsonl());
  auto bytes = read_bytes(input);
  write_bytes(input, bytes.substr(0, bytes.size() / 2));
  auto output = project().folder() + "/cut.h5";
  auto result = data(prepare(input, output));
  EXPECT_EQ(result.code, 3) << result.err;
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  EXPECT_THAT(result.errors()[0], AllOf(HasSubstr("cut.jsonl.gz"), HasSubstr("truncated")));
  for (const auto& entry : fs::directory_iterator(project().folder()))
    EXPECT_EQ(entry.path().filename().string().find("cut.h5"), std::string::npos) << entry.path();
}

TEST(Prepare, UsageErrorsHaveTheirCode) {
  EXPECT_EQ(data({}).code, 2);
  EXPECT_EQ(data({"prepare", "x.jsonl"}).code, 2);
  auto unknown = data({"prepare", project().config(), "--format", "squad", "--tokenizer",
                       project().tokenizer(), "--output", project().folder() + "/x.h5"});
  EXPECT_EQ(unknown.code, 2);
  ASSERT_EQ(unknown.errors().size(), 1u) << unknown.err;
  EXPECT_THAT(unknown.errors()[0], AllOf(HasSubstr("squad"), HasSubstr("jsonl")));
}

TEST(Validate, AnotherTokenizerIsADataError) {
  auto folder = project().folder() + "/words";
  ASSERT_EQ(data({"synth", "--output", folder, "--name", "needle", "--set", "task=needle", "--set",
                  "facts=1", "--set", "question_pairs=0", "--set", "context_tokens=32", "--set",
                  "train_documents=2"})
                .code,
            0);
  auto result = data({"validate", project().store(), "--tokenizer", folder + "/tokenizer.json"});
  EXPECT_EQ(result.code, 3);
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  EXPECT_THAT(result.errors()[0], HasSubstr("another tokenizer"));
}

class Evaluation : public ::testing::Test {
 protected:
  static std::string run() {
    static const std::string folder = [] {
      auto trained =
          run_program(project().train("evaluated"), project().folder() + "/output-evaluated");
      if (trained.code != 0) throw std::runtime_error("training failed: " + trained.err);
      return project().run_folder("evaluated");
    }();
    return folder;
  }
  static ProgramResult eval(const std::vector<std::string>& more) {
    std::vector<std::string> all{"dsrsq-eval", "--checkpoint", "full=" + run()};
    all.insert(all.end(), more.begin(), more.end());
    return run_program(all, project().folder() + "/output-eval");
  }
};

TEST_F(Evaluation, FillsEveryRowAndTheTable) {
  auto folder = project().folder() + "/report";
  auto result = eval({"--methods", "random,question_only,oracle_evidence,bm25", "--probes",
                      "dense_read,random_routing,latents_masked", "--output-dir", folder});
  ASSERT_EQ(result.code, 0) << result.err;
  auto results = nlohmann::json::parse(read_bytes(folder + "/results.json"));
  for (const char* key : {"commit", "command", "date", "device", "versions", "seeds"})
    EXPECT_TRUE(results.at("provenance").contains(key)) << key;
  std::map<std::string, std::set<std::string>> metrics;
  for (const auto& record : results.at("records"))
    metrics[record.at("method")].insert(record.at("metric").get<std::string>());
  auto table = read_bytes(folder + "/table.md");
  for (const std::string row : {"full", "random", "question_only", "oracle_evidence", "bm25",
                                "full:dense_read", "full:random_routing", "full:latents_masked"}) {
    EXPECT_THAT(table, HasSubstr("| " + row));
    for (const std::string metric :
         {"em", "f1", "tokens_read", "bytes_held", "throughput", "latency_p50", "latency_p95",
          "flops", "peak_memory", "token_efficiency"})
      EXPECT_TRUE(metrics[row].count(metric)) << row << " " << metric;
  }
  EXPECT_THAT(result.out, HasSubstr("| full"));
}

TEST_F(Evaluation, UnknownNamesAreUsageErrors) {
  auto method = eval({"--methods", "oracle_evidense"});
  EXPECT_EQ(method.code, 2);
  ASSERT_EQ(method.errors().size(), 1u) << method.err;
  EXPECT_THAT(method.errors()[0],
              AllOf(HasSubstr("oracle_evidense"), HasSubstr("'oracle_evidence'")));
  EXPECT_EQ(eval({"--probes", "dense"}).code, 2);
  EXPECT_EQ(eval({"--budget", "many"}).code, 2);
}

TEST_F(Evaluation, AFolderThatIsNoRunIsACheckpointError) {
  auto result = run_program({"dsrsq-eval", "--checkpoint", project().folder() + "/data"},
                            project().folder() + "/output-eval");
  EXPECT_EQ(result.code, 4) << result.err;
  EXPECT_EQ(result.errors().size(), 1u) << result.err;
}

}  // namespace
}  // namespace dsrsq
