#include "dsrsq/text/question_parts.h"

#include <gtest/gtest.h>

namespace dsrsq {
namespace {

TEST(QuestionParts, OptionsAreTheMarkedLinesAtTheEnd) {
  auto parts = question_parts("Who\nspoke?\n(A) Anna\n(B) Bob\nand (C) others\n(C) nobody");
  EXPECT_EQ(parts.stem, "Who\nspoke?");
  EXPECT_EQ(parts.options, "(A) Anna\n(B) Bob\nand (C) others\n(C) nobody");
  EXPECT_EQ(parts.option_texts,
            (std::vector<std::string>{"Anna", "Bob\nand (C) others", "nobody"}));
}

TEST(QuestionParts, WithoutOptionsAllIsTheStem) {
  for (const char* text : {"Who spoke?", "Who?\n(A) one option is none", "", "(A) x (B) y"}) {
    auto parts = question_parts(text);
    EXPECT_EQ(parts.stem, text);
    EXPECT_EQ(parts.options, "");
    EXPECT_TRUE(parts.option_texts.empty());
  }
}

TEST(QuestionParts, QuotedIsBetweenTheOuterQuotes) {
  EXPECT_EQ(question_parts("the key \"a-b\"?").quoted, "a-b");
  EXPECT_EQ(question_parts("the key \"a\\\"b\"?").quoted, "a\\\"b");
  EXPECT_EQ(question_parts("5\" wide").quoted, "");
  EXPECT_EQ(question_parts("none").quoted, "");
}

}  // namespace
}  // namespace dsrsq
