#include "dsrsq/data/fact_stream.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <sstream>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/text/tokenizer.h"

namespace dsrsq {
namespace {

FactStreamConfig small_config() {
  FactStreamConfig config;
  config.tokens = 3000;
  config.segment = 64;
  config.facts = 40;
  config.updates = 20;
  config.probed_facts = 20;
  config.controls = 10;
  config.names = 32;
  config.attributes = 8;
  config.values = 48;
  config.filler_words = 20;
  return config;
}

// What the words of a prefix say of each (attribute, name): its values, in order; and where the
// last statement ended, in words.
struct Told {
  std::vector<std::string> values;
  int64_t end = 0;
};
std::map<std::string, Told> read_facts(const std::string& text) {
  std::vector<std::string> words;
  std::istringstream in(text);
  for (std::string word; in >> word;) words.push_back(word);
  std::map<std::string, Told> told;
  for (size_t i = 0; i + 8 <= words.size(); ++i) {
    if (words[i] != "the" || words[i + 2] != "of" || words[i + 4] != "is") continue;
    auto& fact = told[words[i + 1] + " of " + words[i + 3]];
    fact.values.push_back(words[i + 5] + " " + words[i + 6]);
    fact.end = int64_t(i) + 8;
  }
  return told;
}

int64_t count_words(const std::string& text) { return std::count(text.begin(), text.end(), ' '); }

TEST(FactStream, HoldsTheFactsAndUpdatesAskedFor) {
  auto config = small_config();
  auto stream = make_fact_stream(config);
  EXPECT_EQ(count_words(stream.text), config.tokens);
  auto told = read_facts(stream.text);
  EXPECT_EQ(int64_t(told.size()), config.facts);
  int64_t updated = 0;
  for (const auto& [pair, fact] : told) {
    ASSERT_LE(fact.values.size(), 2u);
    updated += fact.values.size() == 2;
    if (fact.values.size() == 2) {
      EXPECT_NE(fact.values[0], fact.values[1]) << pair;
    }
  }
  EXPECT_EQ(updated, config.updates);
}

TEST(FactStream, EveryProbeSaysWhatItsPrefixSays) {
  auto config = small_config();
  auto stream = make_fact_stream(config);
  int64_t controls = 0, last = 0;
  std::set<int64_t> facts, updated;
  for (const auto& probe : stream.probes) {
    SCOPED_TRACE(probe.id);
    EXPECT_GE(probe.prefix_bytes, last);
    last = probe.prefix_bytes;
    auto prefix = stream.text.substr(0, size_t(probe.prefix_bytes));
    auto told = read_facts(prefix);
    auto asked = probe.question.substr(5, probe.question.size() - 7);  // " ask ... ?"
    if (probe.is_control()) {
      ++controls;
      EXPECT_EQ(read_facts(stream.text).count(asked), 0u);
      continue;
    }
    facts.insert(probe.fact);
    const auto& fact = told.at(asked);
    EXPECT_EQ(int64_t(fact.values.size()), probe.update + 1);
    EXPECT_EQ(fact.values.back(), probe.answer());
    EXPECT_EQ(count_words(prefix) - fact.end, probe.lag);
    auto stated = stream.text.substr(size_t(probe.stated.begin),
                                     size_t(probe.stated.end - probe.stated.begin));
    EXPECT_EQ(stated, " the " + asked + " is " + probe.answer() + " .");
    if (probe.values.size() == 2) updated.insert(probe.fact);
    for (const auto& value : probe.distractors)
      EXPECT_EQ(std::count(probe.values.begin(), probe.values.end(), value), 0);
    EXPECT_EQ(int64_t(probe.distractors.size()), config.distractors);
  }
  EXPECT_EQ(controls, config.controls);
  EXPECT_EQ(int64_t(facts.size()), config.probed_facts);
  EXPECT_EQ(int64_t(updated.size()), config.probed_facts * config.updates / config.facts);
}

TEST(FactStream, AsksAtEveryLagThatFitsAndJustBeforeAnUpdate) {
  auto config = small_config();
  auto stream = make_fact_stream(config);
  std::map<std::pair<int64_t, int64_t>, std::set<int64_t>> lags;  // fact, update
  std::map<int64_t, int64_t> second_begin;
  for (const auto& probe : stream.probes)
    if (!probe.is_control()) {
      lags[{probe.fact, probe.update}].insert(probe.lag);
      if (probe.update == 1)
        second_begin[probe.fact] = count_words(stream.text.substr(0, size_t(probe.stated.begin)));
    }
  for (const auto& [key, seen] : lags) {
    auto [fact, update] = key;
    EXPECT_EQ(*seen.begin(), 0);
    int64_t end = 0;
    for (const auto& probe : stream.probes)
      if (probe.fact == fact && probe.update == update && probe.lag == 0)
        end = count_words(stream.text.substr(0, size_t(probe.prefix_bytes)));
    bool has_update = update == 0 && second_begin.count(fact) > 0;
    auto until = (has_update ? second_begin[fact] : config.tokens) - end;
    std::set<int64_t> expected{0};
    for (auto lag = config.segment; lag <= until; lag *= 2) expected.insert(lag);
    if (has_update) expected.insert(until);
    EXPECT_EQ(seen, expected) << "fact " << fact << " update " << update;
  }
}

TEST(FactStream, AWordIsATokenOfTheSyntheticTask) {
  auto config = small_config();
  auto tokenizer = Tokenizer::from_json(
      build_word_tokenizer(synthetic_words(config.language()), synthetic_pieces()), "test");
  auto stream = make_fact_stream(config);
  EXPECT_EQ(int64_t(tokenizer.encode(stream.text).size()), config.tokens);
}

TEST(FactStream, FollowsItsSeed) {
  auto config = small_config();
  auto lines = fact_stream_lines(make_fact_stream(config));
  EXPECT_EQ(lines, fact_stream_lines(make_fact_stream(config)));
  config.seed = 1;
  EXPECT_NE(lines, fact_stream_lines(make_fact_stream(config)));
}

class FactStreamFile : public ::testing::Test {
 protected:
  FactStreamFile() {
    std::string pattern = ::testing::TempDir() + "/dsrsq-XXXXXX";
    folder_ = ::mkdtemp(pattern.data());
  }
  ~FactStreamFile() override { std::filesystem::remove_all(folder_); }
  std::string write(const std::string& text) const {
    write_file_atomic(folder_ + "/stream.jsonl", text);
    return folder_ + "/stream.jsonl";
  }
  std::string error_of(const std::string& text) const {
    try {
      read_fact_stream(write(text));
    } catch (const DataError& error) {
      return error.what();
    }
    return "";
  }
  std::string folder_;
};

TEST_F(FactStreamFile, ReadsWhatWasWritten) {
  auto stream = make_fact_stream(small_config());
  auto lines = fact_stream_lines(stream);
  auto read = read_fact_stream(write(lines));
  EXPECT_EQ(read.probes.size(), stream.probes.size());
  EXPECT_EQ(fact_stream_lines(read), lines);
}

TEST_F(FactStreamFile, NamesTheLineAndWhatIsWrongWithIt) {
  const std::string head =
      R"({"format": "dsrsq-stream", "version": 1, "source": "s", "segment": 4, "text": "a b c"})"
      "\n";
  auto probe = [](const std::string& update, const std::string& prefix, const std::string& rest) {
    return R"({"id": "p", "fact": 0, "question": "q", "values": ["v"], "distractors": [],)"
           R"( "update": )" +
           update + R"(, "prefix_bytes": )" + prefix + rest + "}\n";
  };
  const std::string stated = R"(, "lag": 1, "stated": [0, 2])";
  EXPECT_EQ(error_of(head + probe("0", "3", stated)), "");
  EXPECT_EQ(error_of(head + probe("-1", "3", "")), "");
  EXPECT_NE(error_of("{}\n").find("stream.jsonl:1: expected {\"format\""), std::string::npos);
  EXPECT_NE(error_of(head).find("found no probe"), std::string::npos);
  auto fails = [&](const std::string& lines, const std::string& message) {
    auto error = error_of(head + lines);
    EXPECT_NE(error.find(message), std::string::npos) << error;
  };
  fails(probe("1", "3", stated), ":2: \"update\": expected a whole number from -1 to 0");
  fails(probe("0", "6", stated), "\"prefix_bytes\": expected a whole number from 1 to 5");
  fails(probe("0", "1", stated), "\"stated\": expected [begin, end) before byte 1");
  fails(probe("0", "3", R"(, "stated": [0, 2])"), "expected \"lag\"");
  fails(probe("0", "3", stated) + probe("0", "2", stated),
        ":3: \"prefix_bytes\": expected at least");
  fails("not json\n", ":2: ");
}

TEST(FactStreamConfig, RefusesWhatDoesNotFit) {
  auto refuses = [](auto&& change, const std::string& message) {
    auto config = small_config();
    change(config);
    try {
      config.validate();
      ADD_FAILURE() << "expected: " << message;
    } catch (const ConfigError& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
  };
  refuses([](auto& c) { c.updates = 41; }, "updates (41) must be at most facts (40)");
  refuses([](auto& c) { c.probed_facts = 41; }, "probed_facts (41)");
  refuses([](auto& c) { c.controls = 60; }, "64 test pairs");
  refuses([](auto& c) { c.tokens = 479; }, "at least 480, got 479");
  refuses([](auto& c) { c.facts = 250; }, "names x attributes = 256");
}

}  // namespace
}  // namespace dsrsq
