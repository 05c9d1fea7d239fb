#include "dsrsq/data/numbered_passages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dsrsq/core/error.h"
#include "reader_fixture.h"

namespace dsrsq {
namespace {

using ::testing::HasSubstr;
using testing::text_at;

DocumentExample two_passages() {
  DocumentExample example;
  example.document = "Rome\nA city in Italy.\n\nParis\nA city\nin France.";
  example.passages = {{0, 21}, {23, 46}};
  Question question;
  question.evidence = {{29, 46}};                // the second text
  question.answer_spans = {{39, 45}, {23, 28}};  // "France", and the title
  example.questions = {question};
  return example;
}

TEST(NumberedPassages, StandAsThePromptShowsThem) {
  auto shown = number_passages(two_passages());
  EXPECT_EQ(shown.document,
            "Document [1](Title: Rome) A city in Italy.\n"
            "Document [2](Title: Paris) A city\nin France.");
  ASSERT_EQ(shown.passages.size(), 2u);
  EXPECT_EQ(text_at(shown, shown.passages[0]), "Document [1](Title: Rome) A city in Italy.");
  EXPECT_EQ(text_at(shown, shown.passages[1]), "Document [2](Title: Paris) A city\nin France.");
}

TEST(NumberedPassages, SpansStayAtTheirText) {
  auto before = two_passages();
  auto shown = number_passages(before);
  const auto& question = shown.questions[0];
  EXPECT_EQ(text_at(shown, question.evidence[0]), "A city\nin France.");
  for (size_t i = 0; i < 2; ++i)
    EXPECT_EQ(text_at(shown, question.answer_spans[i]),
              text_at(before, before.questions[0].answer_spans[i]));
}

TEST(NumberedPassages, WithoutPassagesOrTitlesIsAnError) {
  DocumentExample example;
  example.document = "text";
  EXPECT_THROW(number_passages(example), DataError);
  example.passages = {{0, 4}};
  try {
    number_passages(example);
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("passage 1 has no title"));
  }
}

}  // namespace
}  // namespace dsrsq
