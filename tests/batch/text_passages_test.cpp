#include "dsrsq/batch/text_passages.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace dsrsq {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

class TextPassagesTest : public ::testing::Test {
 protected:
  std::vector<int64_t> passages(const std::string& text) const {
    return TextPassages(tokenizer_).passages(tokenizer_.encode(text));
  }
  // Every other character is a token of its own, but " a" and " b".
  Tokenizer tokenizer_ = Tokenizer::from_json(build_word_tokenizer({"a", "b"}), "words");
};

TEST_F(TextPassagesTest, BlankLinesEndPassages) {
  EXPECT_THAT(passages(" a b\n\n b"), ElementsAre(0, 0, 0, 0, 1));
  EXPECT_THAT(passages("x\n\n\n\ny\n\nz"), ElementsAre(0, 0, 0, 0, 0, 1, 1, 1, 2));
}

TEST_F(TextPassagesTest, OneNewlineDoesNotAndBlanksBetweenTwoDo) {
  EXPECT_THAT(passages("x\ny\nz"), ElementsAre(0, 0, 0, 0, 0));
  EXPECT_THAT(passages("x\n \t\r\n b"), ElementsAre(0, 0, 0, 0, 0, 0, 1));
}

TEST_F(TextPassagesTest, ADocumentBeginsWithPassageZero) {
  EXPECT_THAT(passages("\n\n\nx"), ElementsAre(0, 0, 0, 0));
  EXPECT_THAT(passages(""), IsEmpty());
}

}  // namespace
}  // namespace dsrsq
