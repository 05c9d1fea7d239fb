#include "dsrsq/data/splits.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

using Records = std::vector<std::pair<std::string, std::string>>;  // question, document

const std::string kShares = "train=0.8,validation=0.1,test=0.1";

std::vector<uint8_t> assign(const Records& records, uint64_t seed = 0,
                            const std::string& shares = kShares) {
  SplitAssigner assigner(parse_splits(shares), seed);
  for (const auto& [question, document] : records) assigner.add(question, document);
  return assigner.assign();
}

TEST(SplitsTest, ParsesAndNormalisesShares) {
  const std::vector<SplitShare> shares = parse_splits("train=8,test=2");
  ASSERT_EQ(shares.size(), 2u);
  EXPECT_EQ(shares[0].name, "train");
  EXPECT_DOUBLE_EQ(shares[0].share, 0.8);
  EXPECT_DOUBLE_EQ(shares[1].share, 0.2);
  for (const char* bad : {"", "train", "train=", "train=x", "train=0", "train=-1", "train=nan",
                          "train=inf", "=1", "a=1,", "a=1,a=2", "a b=1", "a=1 "}) {
    EXPECT_THROW(parse_splits(bad), ConfigError) << bad;
  }
}

TEST(SplitsTest, ByTimeTheEarliestFillTheFirstSplit) {
  std::vector<std::string> timestamps;  // ten days of 10 records, in no order
  for (int i = 0; i < 100; ++i) timestamps.push_back(concat("2015-03-", 10 + (i * 7) % 10));
  const std::vector<uint8_t> splits = split_by_time(timestamps, parse_splits(kShares));
  for (size_t i = 0; i < timestamps.size(); ++i)
    EXPECT_EQ(splits[i], timestamps[i] < "2015-03-18" ? 0 : timestamps[i] < "2015-03-19" ? 1 : 2);
  // One day cannot be divided, and years are before their days.
  EXPECT_EQ(split_by_time({"2015", "2015", "2015", "2015-03-01", "2014"}, parse_splits("a=1,b=1")),
            (std::vector<uint8_t>{1, 1, 1, 1, 0}));
  EXPECT_EQ(split_by_time({"2015", "2015"}, parse_splits("a=9,b=1")), (std::vector<uint8_t>{0, 0}));
  EXPECT_THROW(split_by_time({"2015", ""}, parse_splits(kShares)), DataError);
}

TEST(SplitsTest, SharesAreMetOnIndependentRecords) {
  Records records;
  for (int i = 0; i < 20000; ++i)
    records.push_back({concat("question ", i), concat("document ", i)});
  std::map<int, int> count;
  for (const uint8_t split : assign(records)) ++count[split];
  EXPECT_NEAR(count[0] / 20000.0, 0.8, 0.015);
  EXPECT_NEAR(count[1] / 20000.0, 0.1, 0.01);
  EXPECT_NEAR(count[2] / 20000.0, 0.1, 0.01);
}

TEST(SplitsTest, NeitherQuestionNorDocumentIsInTwoSplits) {
  Records records;
  for (int i = 0; i < 3000; ++i)
    records.push_back(
        {concat("question ", (i * 7919) % 2500), concat("document ", (i * 104729) % 2700)});
  const std::vector<uint8_t> splits = assign(records);
  std::map<std::string, std::set<int>> of_question, of_document;
  for (size_t i = 0; i < records.size(); ++i) {
    of_question[records[i].first].insert(splits[i]);
    of_document[records[i].second].insert(splits[i]);
  }
  for (const auto& [question, set] : of_question) EXPECT_EQ(set.size(), 1u) << question;
  for (const auto& [document, set] : of_document) EXPECT_EQ(set.size(), 1u) << document;
  EXPECT_EQ(std::set<uint8_t>(splits.begin(), splits.end()).size(), 3u);
}

TEST(SplitsTest, ChainsOfSharedQuestionsAndDocumentsStayTogether) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    Records chain;
    for (int i = 0; i < 50; ++i) chain.push_back({concat("q", (i + 1) / 2), concat("d", i / 2)});
    const std::vector<uint8_t> splits = assign(chain, seed);
    EXPECT_EQ(std::count(splits.begin(), splits.end(), splits[0]), 50);
  }
}

TEST(SplitsTest, QuestionsAreComparedNormalised) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    const std::vector<uint8_t> splits =
        assign({{"Who  was\tHe?", "a"}, {" who was he ", "b"}, {"who was he ?", "c"}}, seed);
    EXPECT_EQ(splits[0], splits[1]);
    EXPECT_EQ(splits[0], splits[2]);
  }
}

TEST(SplitsTest, TheSplitOfARecordDoesNotDependOnTheOrder) {
  Records records;
  for (int i = 0; i < 2000; ++i)
    records.push_back({concat("question ", i % 1500), concat("document ", i % 1100)});
  const std::vector<uint8_t> forward = assign(records, 3);
  Records reversed(records.rbegin(), records.rend());
  std::vector<uint8_t> backward = assign(reversed, 3);
  std::reverse(backward.begin(), backward.end());
  EXPECT_EQ(forward, backward);
  EXPECT_EQ(forward, assign(records, 3));
  EXPECT_NE(forward, assign(records, 4));
}

TEST(SplitsTest, EveryPassageOfADocumentCounts) {
  const auto example = [](const std::string& question, const std::vector<std::string>& passages) {
    DocumentExample out;
    out.questions.push_back({});
    out.questions[0].text = question;
    for (const std::string& passage : passages) {
      if (!out.document.empty()) out.document += "\n\n";
      const int64_t begin = static_cast<int64_t>(out.document.size());
      out.document += passage;
      out.passages.push_back({begin, static_cast<int64_t>(out.document.size())});
    }
    return out;
  };
  std::set<int> of_others;
  for (uint64_t seed = 0; seed < 40; ++seed) {
    SplitAssigner assigner(parse_splits(kShares), seed);
    assigner.add(example("a", {"one", "two", "three"}));
    assigner.add(example("b", {"four", "three"}));
    assigner.add("c", "four");  // a document of its own that is a passage of another
    assigner.add(example("d", {"five", "six"}));
    const std::vector<uint8_t> splits = assigner.assign();
    EXPECT_EQ(splits[0], splits[1]);
    EXPECT_EQ(splits[0], splits[2]);
    of_others.insert(splits[0] == splits[3]);
  }
  EXPECT_EQ(of_others.size(), 2u);  // the fourth shares nothing
}

TEST(SplitsTest, ClosedBookQuestionsHangTogetherByTheirTextAlone) {
  Records records;
  for (int i = 0; i < 400; ++i) records.push_back({concat("question ", i % 200), ""});
  const std::vector<uint8_t> splits = assign(records);
  EXPECT_EQ(std::set<uint8_t>(splits.begin(), splits.end()).size(), 3u);
  for (int i = 0; i < 200; ++i) EXPECT_EQ(splits[i], splits[i + 200]);
}

TEST(SplitsTest, NoRecordsGiveNoSplits) { EXPECT_TRUE(assign({}).empty()); }

// Cuts of one file are one thing, whatever they ask; the same instruction over another is not.
TEST(SplitKeys, TakeThePlaceOfQuestionsAndDocuments) {
  const auto example = [](const std::string& document, const std::vector<std::string>& keys) {
    DocumentExample made;
    made.document = document;
    made.questions.resize(1);
    made.questions[0].text = "What is the next line?";
    made.split_keys = keys;
    return made;
  };
  SplitAssigner assigner(parse_splits("a=0.5,b=0.5"), 3);
  constexpr int kFiles = 200;
  for (int i = 0; i < kFiles; ++i) {
    const std::string key = concat("file", i);
    assigner.add(example("the same text", {key}));
    assigner.add(example(concat("a cut of file ", i), {concat("other", i), key}));
  }
  const std::vector<uint8_t> splits = assigner.assign();
  int first = 0;
  for (int i = 0; i < kFiles; ++i) {
    EXPECT_EQ(splits[2 * i], splits[2 * i + 1]) << i;
    first += splits[2 * i] == 0;
  }
  EXPECT_GT(first, kFiles / 4);
  EXPECT_LT(first, 3 * kFiles / 4);
}

}  // namespace
}  // namespace dsrsq
