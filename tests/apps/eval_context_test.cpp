// Texts without questions, from the file to a perplexity, as programs: dsrsq-data prepare --format
// text, dsrsq-train, dsrsq-eval --context-lengths.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  return run_program(arguments, project().folder() + "/output-context");
}

void require(const ProgramResult& result) {
  if (result.code != 0) throw std::runtime_error(result.err);
}

const std::string& texts() {
  static std::string path;
  if (!path.empty()) return path;
  auto source = project().folder() + "/articles.txt";
  std::string text;
  for (int i = 0; i < 40; ++i) {
    text += "\n\n = Article " + std::to_string(i) + " = \n\n";
    for (int t = 0; t < 30; ++t) text += "word " + std::to_string(t * (i + 3) % 9) + " . ";
  }
  write_bytes(source, text + "\n");
  path = project().folder() + "/texts.h5";
  require(run({"dsrsq-data", "prepare", source, "--format", "text", "--tokenizer",
               project().tokenizer(), "--output", path, "--split",
               "train=0.5,validation=0.2,test=0.3"}));
  return path;
}

const std::string& trained() {
  static std::string folder;
  if (!folder.empty()) return folder;
  std::vector<std::string> more;
  for (const std::string& set :
       {"data.train=" + texts(), std::string("data.chunk_tokens=16"),
        std::string("data.maximum_context=64"), std::string("loss.task_tokens=all"),
        std::string("loss.retrieval_target=attention")}) {
    more.push_back("--set");
    more.push_back(set);
  }
  require(run(project().train("texts", more)));
  return folder = project().run_folder("texts");
}

ProgramResult eval(const std::vector<std::string>& more) {
  std::vector<std::string> arguments{"dsrsq-eval", "--checkpoint", "full=" + trained()};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return run(arguments);
}

TEST(EvalContext, EveryRowHasItsPerplexitiesOfTheSameTexts) {
  auto folder = project().folder() + "/context-eval";
  auto result = eval({"--context-lengths", "16,32,96", "--scored-tokens", "32", "--methods",
                      "random,question_only", "--probes", "dense_read", "--output-dir", folder});
  ASSERT_EQ(result.code, 0) << result.err;
  auto results = json::parse(read_bytes(folder + "/results.json"));
  std::map<std::string, std::map<std::string, json>> rows;
  for (const auto& record : results.at("records"))
    rows[record.at("method")][record.at("metric")] = record;
  ASSERT_EQ(rows.size(), 4u);
  for (const char* row : {"full", "full:dense_read", "random", "question_only"})
    for (const char* length : {"16", "32", "96"}) {
      auto& own = rows.at(row);
      auto& loss = own.at(std::string("loss_context_") + length);
      EXPECT_NEAR(std::exp(loss.at("value").get<double>()),
                  own.at(std::string("perplexity_context_") + length).at("value").get<double>(),
                  1e-6);
      EXPECT_EQ(loss.contains("difference"), std::string(row) != "full") << row;
    }
  auto read = [&](const char* row, const char* length) {
    return rows.at(row).at(std::string("tokens_read_context_") + length).at("value").get<double>();
  };
  EXPECT_EQ(read("full", "16"), 16);
  EXPECT_EQ(read("full", "96"), 16 + 32) << "the budget";
  EXPECT_EQ(read("question_only", "96"), 16);
  std::istringstream lines(read_bytes(folder + "/texts.jsonl"));
  std::map<std::string, std::set<std::string>> ids;
  for (std::string line; std::getline(lines, line);) {
    auto text = json::parse(line);
    ids[text.at("row")].insert(text.at("id").get<std::string>());
    EXPECT_EQ(text.at("loss").size(), 3u);
  }
  EXPECT_EQ(ids.at("full"), ids.at("random"));
  EXPECT_EQ(read_bytes(folder + "/table.md") + "\n", result.out);
}

TEST(EvalContext, WhatDoesNotGoIsOneLineWithTheCodeOfUsage) {
  auto expect_error = [&](const std::vector<std::string>& arguments, const std::string& text,
                          int code = 2) {
    auto result = eval(arguments);
    EXPECT_EQ(result.code, code) << text;
    ASSERT_EQ(result.errors().size(), 1u) << result.err;
    EXPECT_THAT(result.errors()[0], HasSubstr(text));
  };
  expect_error({"--context-lengths", "8"}, "none below data.chunk_tokens = 16");
  expect_error({"--context-lengths", "32", "--methods", "snapkv"}, "got 'snapkv'");
  expect_error({"--context-lengths", "32", "--methods", "oracle_evidence"}, "without labels");
  expect_error({"--context-lengths", "32", "--budget", "5%"}, "no --audit, --trace, --budget");
  expect_error({"--context-lengths", "32", "--columns", "f1"}, "no --collect, --columns");
  expect_error({"--context-lengths", "32", "--baseline", "none"}, "--baseline none: no such row");
  expect_error({"--context-lengths", "100000"}, "holds no text of", 3);
  expect_error({}, "measure them with dsrsq-eval --context-lengths", 3);
}

}  // namespace
}  // namespace dsrsq
