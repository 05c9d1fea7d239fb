#include "dsrsq/eval/predictions.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

class Predictions : public ::testing::Test {
 protected:
  // A file of these lines; its path.
  std::string file(const std::string& name, const std::string& lines) {
    write_file_atomic(folder_ / name, lines);
    return folder_ / name;
  }
  std::vector<AnsweredRow> read(const std::vector<std::string>& inputs) {
    request_.inputs = inputs;
    return read_predictions(request_);
  }
  std::string error_of(const std::string& lines) {
    try {
      read({file("bad.jsonl", lines)});
    } catch (const DataError& error) {
      return error.what();
    }
    return "no DataError";
  }

  testing::TemporaryFolder folder_;
  PredictionRequest request_;
};

constexpr char kTwo[] =
    "{\"id\": \"a\", \"question\": \"q?\", \"prediction\": \"Paris\", \"answers\": [\"paris\"]}\n"
    "\n"
    "{\"id\": 7, \"prediction\": \"\", \"answers\": [], \"score\": 0.5, \"row_\": 1}\n";

TEST_F(Predictions, AreScoredAndNamedAfterTheFile) {
  auto rows = read({file("gpt.jsonl", kTwo), "named=" + file("other.jsonl", kTwo)});
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].row, "gpt");
  EXPECT_EQ(rows[1].row, "named");
  EXPECT_EQ(rows[0].case_name, "test");
  ASSERT_EQ(rows[0].questions.size(), 2u);
  EXPECT_EQ(rows[0].questions[0].question, "q?");
  EXPECT_EQ(rows[0].questions[0].exact_match, 1);
  EXPECT_EQ(rows[0].questions[1].id, "7");
  EXPECT_EQ(rows[0].questions[1].exact_match, 1) << "nothing answered where nothing is to answer";
}

TEST_F(Predictions, WhatWasWrittenIsReadAgain) {
  AnsweredRow row{"test", "full", {}};
  for (const char* prediction : {"the house", "a \"tree\"\nand more", ""}) {
    QuestionResult question;
    question.id = std::to_string(row.questions.size());
    question.question = "what?";
    question.prediction = prediction;
    question.answers = {"house", "tree and moor"};
    question.evidence_recall = 0.5;
    question.place = AnswerPlace::kExact;
    question.context_tokens = 64;
    score_answer(question);
    row.questions.push_back(question);
  }
  auto other = row;
  other.row = "other";
  auto path = file("questions.jsonl", question_lines(row) + question_lines(other));
  auto rows = read({path});
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].row, "full");
  EXPECT_EQ(rows[1].row, "other");
  for (size_t i = 0; i < row.questions.size(); ++i) {
    const auto &was = row.questions[i], &is = rows[1].questions[i];
    EXPECT_EQ(is.id, was.id);
    EXPECT_EQ(is.question, was.question);
    EXPECT_EQ(is.prediction, was.prediction);
    EXPECT_EQ(is.answers, was.answers);
    for (const auto& metric : answer_metrics()) {
      if (metric.name == "evidence_recall") continue;
      EXPECT_EQ(is.*metric.value, was.*metric.value) << metric.name;
    }
    EXPECT_EQ(is.evidence_recall, -1) << "of text, nothing else is taken over";
  }
  auto named = read({"x=" + path});
  EXPECT_EQ(named[0].row, "x:full");
  EXPECT_EQ(named[1].row, "x:other");
  EXPECT_EQ(read({"x=" + file("one.jsonl", question_lines(row))})[0].row, "x");
}

// What a row knows of a question beside its answer comes back too, where it is asked for.
TEST_F(Predictions, AQuestionComesBackWhole) {
  QuestionResult question;
  question.id = "7";
  question.question = "what?";
  question.prediction = "the house";
  question.answers = {"house"};
  question.answer_recall = 0.25;
  question.answer_held = 0.125;
  question.answer_loss = 3.25;
  question.place = AnswerPlace::kMixed;
  question.retained = true;
  question.selected_tokens = 12;
  question.context_tokens = 64;
  score_answer(question);
  auto back = parse_question_json(nlohmann::json(question_json(question)));
  EXPECT_EQ(back.id, question.id);
  EXPECT_EQ(back.prediction, question.prediction);
  EXPECT_EQ(back.answers, question.answers);
  EXPECT_EQ(back.exact_match, 1);
  for (const auto& metric : answer_metrics())
    EXPECT_EQ(back.*metric.value, question.*metric.value) << metric.name;
  EXPECT_EQ(back.place, question.place);
  EXPECT_TRUE(back.retained);
  EXPECT_EQ(back.selected_tokens, 12);
  EXPECT_EQ(back.context_tokens, 64);
}

TEST_F(Predictions, AnswersComeFromReferences) {
  request_.references = file("refs.jsonl",
                             "{\"id\": \"a\", \"answers\": [\"x\", \"y\"], \"context\": \"...\"}\n"
                             "{\"id\": \"b\", \"answers\": \"z\", \"question\": \"which?\"}\n");
  auto rows = read({file("p.jsonl",
                         "{\"id\": \"b\", \"prediction\": \"z\"}\n{\"id\": \"a\", \"prediction\": "
                         "\"Y\", \"answers\": [\"x\", \"y\"]}\n")});
  EXPECT_THAT(rows[0].questions[0].answers, ElementsAre("z"));
  EXPECT_EQ(rows[0].questions[0].question, "which?");
  EXPECT_EQ(rows[0].questions[1].exact_match, 1);
  EXPECT_THAT(error_of("{\"id\": \"c\", \"prediction\": \"z\"}\n"),
              AllOf(HasSubstr("bad.jsonl:1: the id \"c\" is not in"), HasSubstr("refs.jsonl")));
  EXPECT_THAT(error_of("{\"id\": \"a\", \"prediction\": \"z\", \"answers\": [\"x\"]}\n"),
              HasSubstr("bad.jsonl:1: the answers differ from those of"));
}

TEST_F(Predictions, AMissingOneIsAnErrorUnlessToldWhatItIs) {
  request_.references = file("refs.jsonl",
                             "{\"id\": \"a\", \"answers\": [\"x\"]}\n{\"id\": \"b\", \"answers\": "
                             "[\"y\"]}\n{\"id\": \"c\", \"answers\": [\"z\"]}\n");
  const std::string one = "{\"id\": \"a\", \"prediction\": \"x\"}\n";
  EXPECT_THAT(error_of(one), AllOf(HasSubstr("bad.jsonl: no prediction for 2 of the 3 questions"),
                                   HasSubstr("(first: \"b\")"), HasSubstr("--missing")));
  request_.missing = MissingPrediction::kSkip;
  EXPECT_EQ(read({file("one.jsonl", one)})[0].questions.size(), 1u);
  request_.missing = MissingPrediction::kEmpty;
  auto questions = read({file("one.jsonl", one)})[0].questions;
  ASSERT_EQ(questions.size(), 3u);
  EXPECT_EQ(questions[2].id, "c");
  EXPECT_EQ(questions[2].exact_match, 0);
}

TEST_F(Predictions, ReferencesMayBeADataSet) {
  testing::TinyFacts facts;
  const Store store(facts.store_path());
  std::string lines;
  for (auto index : store.records_of_split("test")) {
    auto record = store.record(index);
    lines += "{\"id\": \"" + record.id + "\", \"prediction\": \"" + record.answers.at(0) + "\"}\n";
  }
  request_.references = facts.store_path();
  auto rows = read({file("p.jsonl", lines)});
  ASSERT_EQ(rows[0].questions.size(), 8u);
  for (const auto& question : rows[0].questions) {
    EXPECT_EQ(question.exact_match, 1);
    EXPECT_NE(question.question, "");
  }
  request_.split = "validation";
  EXPECT_THAT(error_of(lines), HasSubstr("bad.jsonl:1: the id"));
}

TEST_F(Predictions, OtherNamesOfTheKeys) {
  request_.keys = {{"prediction", "model_answer"}, {"id", "question"}, {"answers", "gold"}};
  auto rows = read(
      {file("p.jsonl", "{\"question\": \"who?\", \"model_answer\": \"me\", \"gold\": \"me\"}\n")});
  EXPECT_EQ(rows[0].questions[0].id, "who?");
  EXPECT_EQ(rows[0].questions[0].exact_match, 1);
  EXPECT_THAT(error_of("{\"question\": \"who?\", \"prediction\": \"me\", \"gold\": \"me\"}\n"),
              HasSubstr("bad.jsonl:1: the key \"model_answer\" is missing; --key prediction=NAME"));
  request_.keys = {{"text", "x"}};
  EXPECT_THROW(read({file("p.jsonl", kTwo)}), ConfigError);
}

TEST_F(Predictions, BadLinesAreNamed) {
  const std::string good = "{\"id\": \"a\", \"prediction\": \"x\", \"answers\": [\"x\"]}\n";
  EXPECT_THAT(error_of(""), HasSubstr("bad.jsonl: no predictions in it"));
  EXPECT_THAT(error_of(" \n\n"), HasSubstr("bad.jsonl: no predictions in it"));
  EXPECT_THAT(error_of(good + good),
              AllOf(HasSubstr("bad.jsonl:2: the id \"a\" stands twice"), HasSubstr("bad.jsonl:1")));
  EXPECT_THAT(error_of(good + "{\"id\": \"b\", \"prediction\": 3, \"answers\": []}\n"),
              HasSubstr("bad.jsonl:2: \"prediction\" must be a string, got number"));
  EXPECT_THAT(error_of("{\"id\": \"b\", \"prediction\": null, \"answers\": []}\n"),
              HasSubstr("bad.jsonl:1: \"prediction\" must be a string, got null"));
  EXPECT_THAT(error_of("{\"prediction\": \"x\", \"answers\": []}\n"),
              HasSubstr("bad.jsonl:1: the key \"id\" is missing"));
  EXPECT_THAT(error_of("{\"id\": 1.5, \"prediction\": \"x\", \"answers\": []}\n"),
              HasSubstr("\"id\" must be a string or an integer, got number"));
  EXPECT_THAT(
      error_of("{\"id\": \"b\", \"prediction\": \"x\"}\n"),
      AllOf(HasSubstr("bad.jsonl:1: the key \"answers\" is missing"), HasSubstr("--references")));
  EXPECT_THAT(error_of("{\"id\": \"b\", \"prediction\": \"x\", \"answers\": [1]}\n"),
              HasSubstr("\"answers\" must be a list of strings, got number"));
  EXPECT_THAT(error_of("{\"id\": \"b\", \"prediction\": \"x\", \"answers\": {}}\n"),
              HasSubstr("\"answers\" must be a list of strings, got object"));
  EXPECT_THAT(error_of(good + "[1]\n"),
              HasSubstr("bad.jsonl:2: expected a JSON object, got array"));
  EXPECT_THAT(error_of(good + "{\"id\": \"b\", \"predi"),
              HasSubstr("bad.jsonl:2: expected a JSON"));
  EXPECT_THAT(error_of("{\"id\": \"b\", \"prediction\": \"" + std::string(300000, 'x') + "\"}\n"),
              HasSubstr("bad.jsonl:1: \"prediction\" has 300000 bytes, at most 262144"));
  EXPECT_THAT(error_of("{\"id\": \"\xff\", \"prediction\": \"x\"}\n"), HasSubstr("bad.jsonl:1"));
  EXPECT_THAT(error_of(std::string(100, '[') + "\n"), HasSubstr("bad.jsonl:1: nested over 32"));
  EXPECT_THAT(error_of(good + "{\"row\": \"r\", \"id\": \"b\", \"prediction\": \"\", \"answers\": "
                              "[]}\n"),
              HasSubstr("bad.jsonl:2: some lines have the key \"row\""));
  EXPECT_THAT(error_of("{\"row\": 1, \"id\": \"b\", \"prediction\": \"\", \"answers\": []}\n"),
              HasSubstr("bad.jsonl:1: \"row\" must be a string"));
}

TEST_F(Predictions, RowsAreToldApartAndAgreeOnTheAnswers) {
  auto path = file("p.jsonl", kTwo);
  try {
    read({path, path});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("two rows are called 'p'"));
  }
  auto other = file("q.jsonl", "{\"id\": 7, \"prediction\": \"\", \"answers\": [\"x\"]}\n");
  try {
    read({path, other});
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), AllOf(HasSubstr("rows p and q"), HasSubstr("\"7\"")));
  }
  EXPECT_THROW(read({folder_ / "none.jsonl"}), DataError);
}

}  // namespace
}  // namespace dsrsq
