#include "dsrsq/data/assembly.h"

#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <set>

#include "dsrsq/data/splits.h"
#include "reader_fixture.h"

namespace dsrsq {
namespace {

using testing::ReaderFixture;
using testing::shared_data;
using testing::text_at;

DocumentExample make_example(const std::string& title, const std::string& text,
                             const std::string& id, const std::string& answer) {
  DocumentExample example;
  example.title = title;
  example.document = text;
  Question question;
  question.id = id;
  question.text = "question " + id;
  if (!answer.empty()) {
    const int64_t at = static_cast<int64_t>(text.find(answer));
    question.answers = {answer};
    question.answer_spans = {{at, at + static_cast<int64_t>(answer.size())}};
    question.evidence = {{0, static_cast<int64_t>(text.size())}};
  }
  example.questions = {question};
  return example;
}

class AssemblyTest : public ::testing::Test, protected ReaderFixture {
 protected:
  // 40 passages in two splits (even and odd), each with an answer of its own.
  std::vector<DocumentExample> many() const {
    std::vector<DocumentExample> all;
    for (int i = 0; i < 40; ++i)
      all.push_back(make_example(concat("Title ", i), concat("Zoë has the answer", i, " here."),
                                 concat("id", i), concat("answer", i)));
    return all;
  }
  std::unique_ptr<PassagePool> pool_of(const std::vector<DocumentExample>& examples,
                                       const std::function<uint8_t(size_t)>& split) {
    auto pool = std::make_unique<PassagePool>(write(""));
    std::vector<uint8_t> splits;
    for (size_t i = 0; i < examples.size(); ++i) {
      pool->add(examples[i], static_cast<int64_t>(i));
      splits.push_back(split(i));
    }
    pool->set_splits(splits);
    return pool;
  }
  static std::vector<std::string> passages(const DocumentExample& example) {
    std::vector<std::string> texts;
    for (const ByteSpan& span : example.passages) texts.push_back(text_at(example, span));
    return texts;
  }
  static uint8_t parity(size_t i) { return static_cast<uint8_t>(i % 2); }
};

TEST_F(AssemblyTest, GoldPositions) {
  EXPECT_EQ(gold_position("first", 10), 0);
  EXPECT_EQ(gold_position("last", 10), 9);
  // The middle ones of Liu et al. 2023.
  EXPECT_EQ(gold_position("middle", 10), 4);
  EXPECT_EQ(gold_position("middle", 20), 9);
  EXPECT_EQ(gold_position("middle", 30), 14);
  EXPECT_EQ(gold_position("middle", 1), 0);
  EXPECT_EQ(gold_position("7", 10), 7);
  for (const char* bad : {"10", "-1", "", "centre", "1.5", "1 ", "99999999999999999999"})
    EXPECT_THROW(gold_position(bad, 10), ConfigError) << bad;
  EXPECT_THROW(gold_position("first", 0), ConfigError);
}

TEST_F(AssemblyTest, AnswersAreComparedNormalisedAndAsWholeWords) {
  EXPECT_TRUE(holds_answer("It was the Statue-of Liberty!", "a statueof liberty"));
  EXPECT_TRUE(holds_answer("MÜNCHEN.", "münchen"));
  EXPECT_FALSE(holds_answer("1999", "99"));
  EXPECT_FALSE(holds_answer("knowing", "no"));
  EXPECT_TRUE(holds_answer("they said no.", "No"));
  EXPECT_TRUE(holds_answer("by The The in 1986", "The"));  // nothing is left of it: verbatim
  EXPECT_FALSE(holds_answer("by them", "The"));
}

TEST_F(AssemblyTest, SpansFollowTheOwnPassageToEveryPlace) {
  const auto examples = many();
  const auto pool = pool_of(examples, parity);
  for (int64_t position = 0; position < 5; ++position) {
    const DocumentExample out =
        pool->assemble(examples[6], examples[6].questions[0], 0, 5, position, 1);
    ASSERT_EQ(out.passages.size(), 5u);
    EXPECT_EQ(passages(out)[position], "Title 6\nZoë has the answer6 here.");
    const Question& question = out.questions.at(0);
    EXPECT_EQ(question.id, "id6");
    EXPECT_EQ(text_at(out, question.answer_spans.at(0)), "answer6");
    EXPECT_EQ(text_at(out, question.evidence.at(0)), "Zoë has the answer6 here.");
    std::string joined;
    for (const std::string& passage : passages(out))
      joined += (joined.empty() ? "" : "\n\n") + passage;
    EXPECT_EQ(out.document, joined);
    EXPECT_EQ(out.title, "");
  }
  const DocumentExample alone = pool->assemble(examples[6], examples[6].questions[0], 0, 1, 0, 1);
  EXPECT_EQ(alone.document, "Title 6\nZoë has the answer6 here.");
  EXPECT_EQ(alone.title, "Title 6");
}

TEST_F(AssemblyTest, ATitleThatIsThereAlreadyIsNotRepeated) {
  const std::vector<DocumentExample> examples = {make_example("T", "T\nthe text", "a", "text"),
                                                 make_example("T", "Other\nof T", "b", "of")};
  const auto pool = pool_of(examples, [](size_t) { return uint8_t{0}; });
  const DocumentExample out = pool->assemble(examples[0], examples[0].questions[0], 0, 2, 0, 0);
  EXPECT_EQ(out.document, "T\nthe text\n\nT\nOther\nof T");
  EXPECT_EQ(text_at(out, out.questions[0].answer_spans.at(0)), "text");
}

TEST_F(AssemblyTest, OtherPassagesAreOfTheSplitWithoutTheAnswerAndDistinct) {
  auto examples = many();
  examples[8].document = "Also ANSWER6, as it happens.";  // not for id6
  examples[10].document = examples[6].document;           // the own passage once more,
  examples[10].title = examples[6].title;
  examples[14].document = examples[12].document;  // and a pair of others
  examples[14].title = examples[12].title;
  const auto pool = pool_of(examples, parity);
  EXPECT_EQ(pool->passages_of(0), 18);
  EXPECT_EQ(pool->passages_of(1), 20);
  const DocumentExample out = pool->assemble(examples[6], examples[6].questions[0], 0, 17, 3, 1);
  const std::vector<std::string> texts = passages(out);
  EXPECT_EQ(std::set<std::string>(texts.begin(), texts.end()).size(), 17u);
  for (size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(texts[i].find("ANSWER6"), std::string::npos);
    const int number = std::stoi(texts[i].substr(6));  // "Title 12..."
    EXPECT_EQ(number % 2, 0);
    EXPECT_EQ(number == 6, i == 3);
  }
  // One more than there are.
  try {
    pool->assemble(examples[6], examples[6].questions[0], 0, 18, 3, 1);
    FAIL() << "too few passages";
  } catch (const DataError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("id6"), std::string::npos) << message;
    EXPECT_NE(message.find("needs 17 other passages"), std::string::npos) << message;
    EXPECT_NE(message.find("16 of the 18"), std::string::npos) << message;
  }
  // And of the other split, for a question of it.
  const DocumentExample odd = pool->assemble(examples[7], examples[7].questions[0], 1, 17, 3, 1);
  for (const std::string& text : passages(odd)) EXPECT_EQ(std::stoi(text.substr(6)) % 2, 1);
}

TEST_F(AssemblyTest, DrawsDependOnSeedAndIdAlone) {
  const auto examples = many();
  const auto pool = pool_of(examples, parity);
  auto reversed = examples;
  std::reverse(reversed.begin(), reversed.end());
  ReaderFixture other;
  PassagePool backward(other.write(""));
  std::vector<uint8_t> splits;
  for (size_t i = 0; i < reversed.size(); ++i) {
    backward.add(reversed[i], static_cast<int64_t>(i));
    splits.push_back(parity(reversed.size() - 1 - i));
  }
  backward.set_splits(splits);
  std::set<std::string> by_seed, by_id;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    const Question& question = examples[6].questions[0];
    const std::string document = pool->assemble(examples[6], question, 0, 5, 0, seed).document;
    EXPECT_EQ(document, pool->assemble(examples[6], question, 0, 5, 0, seed).document);
    EXPECT_EQ(document, backward.assemble(examples[6], question, 0, 5, 0, seed).document);
    by_seed.insert(document);
    Question renamed = question;
    renamed.id = concat("other", seed);
    by_id.insert(pool->assemble(examples[6], renamed, 0, 5, 0, 0).document);
  }
  EXPECT_EQ(by_seed.size(), 8u);
  EXPECT_EQ(by_id.size(), 8u);
}

TEST_F(AssemblyTest, DocumentsThatAreNotOnePassageAreRefused) {
  PassagePool pool(write(""));
  DocumentExample several = make_example("", "a\n\nb", "x", "a");
  several.passages = {{0, 1}, {3, 4}};
  EXPECT_THROW(pool.add(several, 0), DataError);
  EXPECT_THROW(pool.add(make_example("", "", "x", ""), 0), DataError);
  EXPECT_THROW(PassagePool("/no/such/folder/pool"), DataError);
  DocumentExample request = make_example("", "a text", "x", "text");
  request.split_keys = {request.document};  // of which of the passages?
  EXPECT_THROW(pool.add(request, 0), DataError);
}

// Over real questions: neither a question nor a passage stands in two splits, distractors included.
TEST_F(AssemblyTest, RealQuestionsAndPassagesStayInTheirSplit) {
  const std::string litm = shared_data("lost_in_the_middle/nq-open-oracle.jsonl.gz");
  const std::string qed = shared_data("qed_nq_dev/qed-dev.jsonlines");
  if (!std::filesystem::exists(litm) || !std::filesystem::exists(qed))
    GTEST_SKIP() << "no shared data: set DSRSQ_SHARED_DATA";
  std::vector<DocumentExample> all = read("lost_in_the_middle", litm);
  for (const DocumentExample& example : read("qed", qed)) all.push_back(example);
  SplitAssigner assigner(parse_splits("train=0.8,validation=0.1,test=0.1"), 3);
  for (const DocumentExample& example : all) assigner.add(example);
  const std::vector<uint8_t> splits = assigner.assign();
  const auto pool = pool_of(all, [&splits](size_t i) { return splits[i]; });
  std::map<std::string, std::set<int>> of_passage, of_question;
  for (size_t i = 0; i < all.size(); ++i) {
    const Question& question = all[i].questions.at(0);
    const DocumentExample out = pool->assemble(all[i], question, splits[i], 10, 4, 3);
    of_question[question.text].insert(splits[i]);
    const std::vector<std::string> texts = passages(out);
    for (size_t j = 0; j < texts.size(); ++j) {
      of_passage[texts[j]].insert(splits[i]);
      if (i % 20 != 0) continue;  // normalising is slow
      for (const std::string& answer : question.answers)
        EXPECT_TRUE(j == 4 || !holds_answer(texts[j], answer)) << texts[j] << answer;
    }
    for (const ByteSpan& span : out.questions[0].answer_spans) {
      const auto& answers = question.answers;
      EXPECT_EQ(std::count(answers.begin(), answers.end(), text_at(out, span)), 1);
    }
  }
  for (const auto& [text, set] : of_passage) EXPECT_EQ(set.size(), 1u) << text;
  for (const auto& [text, set] : of_question) EXPECT_EQ(set.size(), 1u) << text;
  // Most of QED's questions are in both.
  EXPECT_LT(of_question.size(), all.size());
}

}  // namespace
}  // namespace dsrsq
