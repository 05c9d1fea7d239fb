#include "dsrsq/data/dated_stream.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"

namespace dsrsq {
namespace {

// Words are tokens; releases of six packages in turn, the last two beginning late.
class DatedStreamTest : public ::testing::Test {
 protected:
  DatedStreamTest() {
    std::string pattern = ::testing::TempDir() + "/dsrsq-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
    for (int i = 0; i < 60; ++i) {
      auto package = i % (i < 30 ? 4 : 6);
      add(std::to_string(2000 + i / 12) + "-01-01T00:00:00Z", "pack" + std::to_string(package),
          "1." + std::to_string(i), "fixed a bug\nand another");
    }
    config_.segment = 16;
    config_.packages = 5;
    config_.controls = 2;
    config_.distractors = 3;
  }
  ~DatedStreamTest() override { std::filesystem::remove_all(folder_); }
  void add(const std::string& date, const std::string& package, const std::string& version,
           const std::string& text) {
    lines_ +=
        nlohmann::json{{"date", date}, {"package", package}, {"version", version}, {"text", text}}
            .dump() +
        "\n";
  }
  FactStream make() {
    auto path = folder_ + "/entries.jsonl";
    write_file_atomic(path, lines_);
    return make_dated_stream(path, tokenizer_, config_);
  }
  std::string error() {
    try {
      make();
    } catch (const DataError& error) {
      return error.what();
    }
    return "";
  }

  std::string folder_, lines_;
  DatedStreamConfig config_;
  Tokenizer tokenizer_ = Tokenizer::from_json(build_word_tokenizer({"fixed", "bug"}), "test");
};

// The versions of a package that the text names up to there, from the words of its lines alone.
std::vector<std::string> versions(const std::string& text, const std::string& package) {
  std::vector<std::string> found;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string day, name, version;
    words >> day >> name >> version;
    if (name == package) found.push_back(version);
  }
  return found;
}

TEST_F(DatedStreamTest, EveryProbeAsksForTheLastReleaseBefore) {
  auto stream = make();
  int64_t controls = 0, last = 0;
  for (const auto& probe : stream.probes) {
    SCOPED_TRACE(probe.id);
    EXPECT_GE(probe.prefix_bytes, last);
    last = probe.prefix_bytes;
    auto package = probe.question.substr(30, probe.question.size() - 31);
    EXPECT_EQ(probe.question, "What is the latest version of " + package + "?");
    auto known = versions(stream.text.substr(0, size_t(probe.prefix_bytes)), package);
    auto all = versions(stream.text, package);
    if (probe.is_control()) {
      ++controls;
      EXPECT_TRUE(known.empty() || stream.text.substr(size_t(probe.prefix_bytes) - 4, 4) != "\n");
      EXPECT_EQ(probe.values, std::vector<std::string>{all.at(0)});
      continue;
    }
    EXPECT_EQ(probe.answer(), known.back());
    for (int64_t i = 0; i <= probe.update; ++i)
      EXPECT_EQ(probe.values[size_t(i)],
                known[known.size() - 1 - size_t(probe.update) + size_t(i)]);
    auto stated = stream.text.substr(size_t(probe.stated.begin),
                                     size_t(probe.stated.end - probe.stated.begin));
    EXPECT_NE(stated.find(" " + package + " " + probe.answer()), std::string::npos);
    auto between =
        stream.text.substr(size_t(probe.stated.end), size_t(probe.prefix_bytes - probe.stated.end));
    EXPECT_EQ(int64_t(tokenizer_.encode(between).size()), probe.lag);
    for (const auto& value : probe.distractors)
      EXPECT_EQ(std::count(all.begin(), all.end(), value), 0);
  }
  EXPECT_EQ(controls, config_.controls);
}

TEST_F(DatedStreamTest, LeavesOutWhatIsEarlierAndCutsLongTexts) {
  config_.since = "2002-01-01";
  config_.text_bytes = 15;
  config_.controls = 0;
  auto stream = make();
  EXPECT_EQ(stream.text.find("2001-"), std::string::npos);
  EXPECT_EQ(stream.text.rfind("2002-01-01 pack", 0), 0u);
  EXPECT_EQ(stream.text.find("another"), std::string::npos);
  EXPECT_NE(stream.text.find("fixed a bug\n\n"), std::string::npos);
}

TEST_F(DatedStreamTest, HoldsAsManyTokensAsAskedFor) {
  config_.tokens = 600;
  config_.packages = 3;
  config_.controls = 0;
  auto tokens = int64_t(tokenizer_.encode(make().text).size());
  EXPECT_LE(tokens, 600);
  EXPECT_GT(tokens, 500);
}

TEST_F(DatedStreamTest, CommitsAreNewsOfTheirComponent) {
  lines_.clear();
  auto commit = [&](const std::string& subject) {
    lines_ += nlohmann::json{{"date", "2020-01-01"}, {"subject", subject}, {"body", "why"}}.dump();
    lines_ += "\n";
  };
  for (int i = 0; i < 6; ++i) {
    commit("ignore/types: add " + std::to_string(i));
    commit("doc: say " + std::to_string(i));
    commit("a sentence: with a colon");
    commit("nocolon");
    commit("empty: ");
  }
  config_.packages = 2;
  config_.controls = 0;
  config_.segment = 4;
  auto stream = make();
  EXPECT_EQ(stream.source.rfind("commits to 2 components", 0), 0u) << stream.source;
  ASSERT_FALSE(stream.probes.empty());
  for (const auto& probe : stream.probes) {
    SCOPED_TRACE(probe.id);
    bool doc = probe.question == "What is the latest change to doc?";
    EXPECT_TRUE(doc || probe.question == "What is the latest change to ignore/types?");
    auto before = stream.text.substr(0, size_t(probe.prefix_bytes));
    auto subject = std::string(doc ? "\n2020-01-01 doc: " : "2020-01-01 ignore/types: ");
    auto at = before.rfind(subject) + subject.size();
    EXPECT_EQ(probe.answer(), before.substr(at, before.find('\n', at) - at));
  }
  config_.packages = 3;
  EXPECT_NE(error().find("3 components that have two changes, found 2"), std::string::npos);
}

TEST_F(DatedStreamTest, SaysWhatIsWrong) {
  config_.packages = 7;
  EXPECT_NE(error().find("expected 7 packages that have two releases, found 6"), std::string::npos);
  lines_ = "{\"date\": \"2001-01-01\", \"package\": \"x\"}\n";
  EXPECT_NE(error().find("entries.jsonl:1: expected a text \"version\""), std::string::npos);
  lines_ = "[\n";
  EXPECT_NE(error().find("entries.jsonl:1: "), std::string::npos);
}

}  // namespace
}  // namespace dsrsq
