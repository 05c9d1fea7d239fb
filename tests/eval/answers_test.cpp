#include "dsrsq/eval/answers.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

using ::testing::HasSubstr;

QuestionResult answered(const std::string& id, const std::string& prediction,
                        const std::vector<std::string>& answers) {
  QuestionResult question;
  question.id = id;
  question.prediction = prediction;
  question.answers = answers;
  score_answer(question);
  return question;
}

AnsweredRow row_of(const std::string& name, const std::vector<std::string>& predictions) {
  AnsweredRow row{"test", name, {}};
  for (size_t i = 0; i < predictions.size(); ++i)
    row.questions.push_back(
        answered(std::to_string(i), predictions[i], {"the small red house on the hill", "house"}));
  return row;
}

const ResultRecord* find(const std::vector<ResultRecord>& records, const std::string& row,
                         const std::string& metric) {
  for (const auto& record : records)
    if (record.method == row && record.metric == metric) return &record;
  return nullptr;
}

TEST(Answers, EveryMetricIsThatOfTheText) {
  auto question = answered("1", "It is a house.", {"house", "small house"});
  EXPECT_EQ(question.exact_match, 0);
  EXPECT_DOUBLE_EQ(question.f1, 0.5);  // it is house | house: 1/3, 1 -> 0.5
  EXPECT_EQ(question.subspan_exact_match, 1);
  EXPECT_DOUBLE_EQ(question.rouge_1, 0.4);  // it is a house | house: 1/4, 1
  EXPECT_EQ(question.rouge_2, 0);
  EXPECT_DOUBLE_EQ(question.rouge_l, 0.4);
  EXPECT_DOUBLE_EQ(question.rouge_lsum, 0.4);
  EXPECT_GT(question.sentence_bleu, 0);
  EXPECT_EQ(question.bleu.prediction_length, 5);
  EXPECT_EQ(question.bleu.matched[0], 1);
}

TEST(Answers, RecordsHaveIntervalsAndBleuIsOfTheCorpus) {
  auto row =
      row_of("a", {"the small red house on a hill", "house", "a tree", "small red house on"});
  row.questions.push_back(answered("none", "word", {}));
  auto records = answer_records(row);
  BleuCounts sum;
  for (const auto& question : row.questions) sum += question.bleu;
  auto bleu = find(records, "a", "bleu");
  ASSERT_NE(bleu, nullptr);
  EXPECT_DOUBLE_EQ(bleu->value, corpus_bleu(sum));
  EXPECT_EQ(sum.prediction_length, 7 + 1 + 2 + 4) << "a question without an answer has no counts";
  for (const char* metric :
       {"em", "f1", "subspan_em", "rouge_1", "rouge_2", "rouge_l", "rouge_lsum", "bleu"}) {
    auto record = find(records, "a", metric);
    ASSERT_NE(record, nullptr) << metric;
    EXPECT_LE(*record->low, record->value) << metric;
    EXPECT_GE(*record->high, record->value) << metric;
    EXPECT_EQ(record->shape.at("questions"), 5) << metric;
    EXPECT_EQ(record->unit, "share") << metric;
  }
  EXPECT_DOUBLE_EQ(find(records, "a", "em")->value, 2.0 / 5) << "both ways of saying it";
  EXPECT_EQ(find(records, "a", "evidence_recall"), nullptr) << "no model, no recall";
}

TEST(Answers, RowsAreComparedQuestionByQuestion) {
  auto first = row_of("first", {"house", "house", "tree", "house", "tree"});
  auto second = row_of("second", {"house", "tree", "tree", "tree", "tree"});
  std::reverse(second.questions.begin(), second.questions.end());  // by id, not by place
  std::vector<ResultRecord> records;
  for (const auto& row : {first, second})
    for (const auto& record : answer_records(row)) records.push_back(record);
  records.push_back({"test", "first", {}, "throughput", 20, "tokens/s", {}, {}});
  records.push_back({"test", "second", {}, "throughput", 50, "tokens/s", {}, {}});
  EXPECT_EQ(compare_rows({first, second}, "first", records), "");
  auto em = find(records, "second", "em");
  ASSERT_TRUE(em->difference);
  EXPECT_EQ(em->baseline, "first");
  EXPECT_DOUBLE_EQ(em->difference->value, -0.4);
  EXPECT_EQ(em->difference->pairs, 5);
  EXPECT_TRUE(em->difference->exact);
  EXPECT_DOUBLE_EQ(em->difference->p, 0.5) << "two questions differ, both one way: 2 / 4";
  EXPECT_LE(em->difference->low, -0.4);
  EXPECT_GE(em->difference->high, -0.4);
  EXPECT_TRUE(find(records, "second", "bleu")->difference);
  EXPECT_DOUBLE_EQ(*find(records, "second", "throughput")->ratio, 2.5);
  EXPECT_FALSE(find(records, "second", "throughput")->difference);
  for (const char* metric : {"em", "throughput"})
    EXPECT_EQ(find(records, "first", metric)->baseline, "") << "not compared with itself";
}

// A loss is compared like a share, question by question, but keeps its unit; less is better.
TEST(Answers, TheLossOfTheAnswerIsInNats) {
  auto first = row_of("first", {"house", "house"}), second = first;
  second.row = "second";
  first.questions[0].answer_loss = 2.5;
  first.questions[1].answer_loss = 4.5;
  second.questions[0].answer_loss = 1.5;
  second.questions[1].answer_loss = 3.75;
  auto other = row_of("other", {"house", "house"});  // nobody measured it
  std::vector<ResultRecord> records;
  for (const auto& row : {first, second, other})
    for (const auto& record : answer_records(row)) records.push_back(record);
  compare_rows({first, second, other}, "first", records);
  EXPECT_EQ(find(records, "first", "answer_loss")->unit, "nats");
  EXPECT_DOUBLE_EQ(find(records, "first", "answer_loss")->value, 3.5);
  auto loss = find(records, "second", "answer_loss");
  ASSERT_TRUE(loss->difference);
  EXPECT_DOUBLE_EQ(loss->difference->value, -0.875);
  EXPECT_EQ(loss->difference->pairs, 2);
  EXPECT_FALSE(loss->ratio);
  EXPECT_EQ(find(records, "other", "answer_loss"), nullptr);
}

TEST(Answers, WhatIsNotSharedIsSaid) {
  auto first = row_of("first", {"house", "tree", "house"});
  auto part = row_of("part", {"house", "house"});
  auto other = row_of("other", {"house"});
  other.questions[0].id = "x";
  auto elsewhere = row_of("elsewhere", {"house"});
  elsewhere.case_name = "validation";
  std::vector<ResultRecord> records;
  for (const auto& row : {first, part, other, elsewhere})
    for (const auto& record : answer_records(row)) records.push_back(record);
  auto notes = compare_rows({first, part, other, elsewhere}, "first", records);
  EXPECT_THAT(notes, HasSubstr("- part: compared with first on the 2 questions that both answered, "
                               "of 2 and 3\n"));
  EXPECT_THAT(notes, HasSubstr("- other: shares no question with first, not compared\n"));
  EXPECT_EQ(find(records, "part", "em")->difference->pairs, 2);
  EXPECT_FALSE(find(records, "other", "em")->difference);
  EXPECT_FALSE(find(records, "elsewhere", "em")->difference) << "of another split";
}

// A data set may ask several questions under one id.
TEST(Answers, TheNthOfAnIdIsComparedWithTheNth) {
  auto first = row_of("first", {"house", "tree"}), second = first;
  first.questions[1].id = second.questions[1].id = "0";
  second.row = "second";
  std::vector<ResultRecord> records = answer_records(second);
  EXPECT_EQ(compare_rows({first, second}, "first", records), "");
  EXPECT_EQ(find(records, "second", "em")->difference->pairs, 2);
  EXPECT_EQ(find(records, "second", "em")->difference->low, 0);
  EXPECT_EQ(find(records, "second", "em")->difference->high, 0);
}

TEST(Answers, ABaselineThatIsNoRowIsAnError) {
  std::vector<ResultRecord> records;
  try {
    compare_rows({row_of("a", {"x"}), row_of("b", {"x"})}, "c", records);
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("'c'; there are: a, b"));
  }
}

}  // namespace
}  // namespace dsrsq
