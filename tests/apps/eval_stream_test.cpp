// dsrsq-data stream and dsrsq-eval --stream, as programs.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>
#include <stdexcept>

#include "apps/program.h"

namespace dsrsq {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::read_bytes;
using testing::run_program;
using testing::TinyProject;
using testing::write_bytes;

const TinyProject& project() { return TinyProject::get(); }

ProgramResult run(const std::vector<std::string>& arguments) {
  return run_program(arguments, project().folder() + "/output-stream");
}

ProgramResult make_stream(const std::string& path, const std::vector<std::string>& settings) {
  std::vector<std::string> arguments{"dsrsq-data", "stream", "--output", path};
  for (const auto& setting : settings) {
    arguments.push_back("--set");
    arguments.push_back(setting);
  }
  return run(arguments);
}

const std::string& small_stream() {
  static std::string path;
  if (!path.empty()) return path;
  path = project().folder() + "/stream.jsonl";
  auto made =
      make_stream(path, {"tokens=1000", "segment=64", "facts=20", "updates=10", "probed_facts=8",
                         "controls=4", "names=12", "attributes=8", "values=24", "filler_words=16"});
  if (made.code != 0) throw std::runtime_error("dsrsq-data stream failed: " + made.err);
  return path;
}

const std::string& trained() {
  static std::string folder;
  if (!folder.empty()) return folder;
  auto made = run(project().train("streamed"));
  if (made.code != 0) throw std::runtime_error("training failed: " + made.err);
  return folder = project().run_folder("streamed");
}

ProgramResult eval(const std::string& stream, const std::vector<std::string>& more) {
  std::vector<std::string> arguments{"dsrsq-eval", "--stream", stream};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run(arguments);
}

TEST(EvalStream, EveryRowHasItsMetricsAndItsAnswers) {
  auto folder = project().folder() + "/streamed-eval";
  auto result = eval(small_stream(), {"--checkpoint", "full=" + trained(), "--methods",
                                      "window,random,bm25,oracle_evidence,question_only,constant",
                                      "--budget", "16", "--output-dir", folder});
  ASSERT_EQ(result.code, 0) << result.err;
  auto results = json::parse(read_bytes(folder + "/results.json"));
  std::map<std::string, std::set<std::string>> metrics;
  double tokens = 0;
  for (const auto& record : results.at("records")) {
    metrics[record.at("method")].insert(record.at("metric").get<std::string>());
    EXPECT_EQ(record.at("shape").at("budget_tokens"), record.at("method") == "constant" ? 0 : 16);
  }
  EXPECT_EQ(metrics.size(), 7u);
  for (const auto& [row, own] : metrics)
    for (const char* name :
         {"consistency", "consistency_right", "adaptation_speed", "stale_rate", "token_efficiency",
          "never_shown", "accuracy_lag_0", "accuracy_lag_512"})
      EXPECT_EQ(own.count(name), 1u) << row << " " << name;
  std::istringstream lines(read_bytes(folder + "/probes.jsonl"));
  std::map<std::string, int64_t> answers;
  for (std::string line; std::getline(lines, line);) {
    auto probe = json::parse(line);
    ++answers[probe.at("row")];
    tokens = std::max(tokens, probe.at("tokens_read").get<double>());
    double sum = 0;
    for (const auto& share : probe.at("candidates")) sum += share.get<double>();
    EXPECT_NEAR(sum, 1, 1e-9);
  }
  EXPECT_EQ(tokens, 16);
  EXPECT_EQ(answers.size(), 7u);
  for (const auto& [row, count] : answers) EXPECT_EQ(count, answers.at("full")) << row;
  EXPECT_THAT(result.out, HasSubstr("| full |"));
  EXPECT_EQ(read_bytes(folder + "/table.md") + "\n", result.out);
}

TEST(EvalStream, ReadsInHalfPrecisionAlike) {
  auto evaluate = [&](const std::string& precision) {
    auto folder = project().folder() + "/streamed-" + precision;
    auto result = eval(small_stream(), {"--checkpoint", trained(), "--set",
                                        "eval.precision=" + precision, "--output-dir", folder});
    EXPECT_EQ(result.code, 0) << result.err;
    std::vector<double> first;
    std::istringstream lines(read_bytes(folder + "/probes.jsonl"));
    for (std::string line; std::getline(lines, line);)
      first.push_back(json::parse(line).at("candidates").at(0));
    return first;
  };
  auto exact = evaluate("fp32"), half = evaluate("bf16");
  ASSERT_EQ(exact.size(), half.size());
  double change = 0;
  for (size_t i = 0; i < exact.size(); ++i) change += std::abs(exact[i] - half[i]);
  EXPECT_LT(change / double(exact.size()), 0.05);
  EXPECT_GT(change, 0);
}

TEST(EvalStream, SaysWhatItCannotDo) {
  auto fails = [&](int code, const std::vector<std::string>& more, const std::string& message,
                   const std::string& stream = small_stream()) {
    auto result = eval(stream, more);
    EXPECT_EQ(result.code, code) << message;
    ASSERT_EQ(result.errors().size(), 1u) << result.err;
    EXPECT_THAT(result.errors()[0], HasSubstr(message));
  };
  fails(2, {}, "give --checkpoint");
  fails(2, {"--checkpoint", trained(), "--methods", "windows"}, "unknown row 'windows'; known: ");
  fails(2, {"--checkpoint", trained(), "--methods", "window,window"}, "'window' twice");
  fails(2, {"--checkpoint", trained(), "--budget", "5%"}, "expected one number of tokens");
  fails(2, {"--checkpoint", trained(), "--probes", "dense_read"}, "no --probes");
  fails(2, {"--checkpoint", trained(), "--set", "dsr.pool=rarity"}, "dsr.pool: expected mean");
  fails(2, {"--checkpoint", trained(), "--columns", "em"}, "no --collect, --columns");
  fails(2, {"--checkpoint", trained(), "--baseline", "window"}, "no --collect, --columns");
  fails(
      2,
      {"--checkpoint", trained(), "--methods", "window,bm25", "--set", "selectors.bm25_passage=0"},
      "selectors.bm25_passage: expected tokens of a passage");
  auto bad = project().folder() + "/bad-stream.jsonl";
  write_bytes(bad, "{\"format\": \"other\"}\n");
  fails(3, {"--checkpoint", trained()}, "bad-stream.jsonl:1: expected {\"format\"", bad);
}

TEST(DataStream, SaysWhatDoesNotFit) {
  auto dated = run({"dsrsq-data", "stream", "--output", project().folder() + "/none.jsonl",
                    "--dated", small_stream()});
  EXPECT_EQ(dated.code, 2);
  EXPECT_THAT(dated.err, HasSubstr("needs --tokenizer"));
  auto result = make_stream(project().folder() + "/none.jsonl", {"tokens=100"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("tokens must be at least 12000, got 100"));
}

}  // namespace
}  // namespace dsrsq
