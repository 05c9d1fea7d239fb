// Facts that are stated twice (SyntheticConfig::updates), read back from the text alone.
#include <gtest/gtest.h>

#include <map>
#include <sstream>

#include "dsrsq/core/error.h"
#include "dsrsq/data/synthetic.h"

namespace dsrsq {
namespace {

SyntheticConfig config_with(int64_t updates) {
  SyntheticConfig config;
  config.context_tokens = 256;
  config.facts = 12;
  config.updates = updates;
  return config;
}

// "attribute of name" -> its values, in the order of the text.
std::map<std::string, std::vector<std::string>> read_facts(const std::string& text,
                                                           int64_t& words) {
  std::vector<std::string> all;
  std::istringstream in(text);
  for (std::string word; in >> word;) all.push_back(word);
  words = int64_t(all.size());
  std::map<std::string, std::vector<std::string>> facts;
  for (size_t i = 0; i + 8 <= all.size(); ++i)
    if (all[i] == "the" && all[i + 4] == "is")
      facts[all[i + 1] + " of " + all[i + 3]].push_back(all[i + 5] + " " + all[i + 6]);
  return facts;
}

TEST(SyntheticUpdates, TheLastStatementIsTheAnswer) {
  auto config = config_with(5);
  config.validate();
  int64_t asked_updated = 0;
  for (const char* split : {"train", "validation", "test"})
    for (int64_t i = 0; i < 20; ++i) {
      auto example = synthetic_document(config, split, i);
      int64_t words = 0, updated = 0;
      auto facts = read_facts(example.document, words);
      EXPECT_EQ(words, config.context_tokens);
      EXPECT_EQ(int64_t(facts.size()), config.facts);
      for (const auto& [pair, values] : facts) {
        ASSERT_LE(values.size(), 2u);
        updated += values.size() == 2;
        if (values.size() == 2) {
          EXPECT_NE(values[0], values[1]);
        }
      }
      EXPECT_EQ(updated, config.updates);
      for (const auto& question : example.questions) {
        auto asked = question.text.substr(5, question.text.size() - 7);  // " ask ... ?"
        const auto& values = facts.at(asked);
        asked_updated += values.size() == 2;
        EXPECT_EQ(question.answers, std::vector<std::string>{values.back()});
        auto statement = " the " + asked + " is " + values.back() + " .";
        const auto& span = question.evidence.at(0);
        EXPECT_EQ(example.document.substr(size_t(span.begin), size_t(span.end - span.begin)),
                  statement);
        EXPECT_EQ(int64_t(example.document.rfind(" the " + asked + " is ")), span.begin);
        const auto& answer = question.answer_spans.at(0);
        EXPECT_EQ(example.document.substr(size_t(answer.begin), size_t(answer.end - answer.begin)),
                  " " + values.back());
      }
    }
  EXPECT_GT(asked_updated, 20);
}

TEST(SyntheticUpdates, AreRefusedWhereTheyDoNotFit) {
  auto refuses = [](SyntheticConfig config, const std::string& message) {
    try {
      config.validate();
      ADD_FAILURE() << "expected: " << message;
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  };
  refuses(config_with(13), "at most facts (12), got 13");
  auto needle = config_with(1);
  needle.task = "needle";
  refuses(needle, "updates is for the task facts");
  auto tight = config_with(12);
  tight.context_tokens = 191;
  refuses(tight, "at least 192, got 191");
}

}  // namespace
}  // namespace dsrsq
