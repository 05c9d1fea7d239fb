#include "dsrsq/data/span_check.h"

#include <gtest/gtest.h>

#include "reader_fixture.h"

namespace dsrsq {
namespace {

class SpanCheckTest : public ::testing::Test, protected testing::ReaderFixture {
 protected:
  // One document with one question whose answer stands at the bytes.
  SpanCheck check(const std::string& document, ByteSpan span, const std::string& answer) {
    const std::string path = write("");
    StoreWriter writer(path, tokenizer_, {});
    DocumentExample example;
    example.document = document;
    Question question;
    question.text = "q";
    question.id = "the id";
    question.answers = {"other", answer};
    question.answer_spans = {span};
    example.questions = {question};
    writer.add(example);
    writer.finish();
    return check_answer_spans(Store(path), tokenizer_);
  }

  // " alpha", " beta" and " Straße" are tokens; other text is bytes.
  Tokenizer tokenizer_ =
      Tokenizer::from_json(build_word_tokenizer({"alpha", "beta", "Straße"}), "test tokenizer");
};

TEST_F(SpanCheckTest, TokensMayHoldALittleMoreThanTheAnswer) {
  EXPECT_EQ(check(" alpha beta", {7, 11}, "beta").at_text, 1);   // the blank before it
  EXPECT_EQ(check(" alpha beta", {8, 10}, "et").at_text, 1);     // inside one token
  EXPECT_EQ(check(" alpha beta", {3, 9}, "pha be").at_text, 1);  // both ends inside tokens
  EXPECT_EQ(check("Zoë ging", {0, 4}, "Zoë").at_text, 1);        // bytes
}

TEST_F(SpanCheckTest, SpansBesideTheirTextAreFound) {
  const SpanCheck beside = check(" alpha beta", {1, 6}, "beta");
  EXPECT_EQ(beside.spans, 1);
  EXPECT_EQ(beside.at_text, 0);
  EXPECT_NE(beside.first_other.find("record 0 (id the id): tokens [0, 1) are \" alpha\""),
            std::string::npos)
      << beside.first_other;
  // A token too much, before or after: the text is there, but the span does not point at it.
  EXPECT_EQ(check(" alpha beta alpha", {1, 11}, "beta").at_text, 0);
  EXPECT_EQ(check(" alpha beta alpha", {7, 17}, "beta").at_text, 0);
  EXPECT_EQ(check(" alpha beta alpha", {1, 6}, "alpha").at_text, 1);
}

TEST_F(SpanCheckTest, AnotherTokenizerIsRefused) {
  const std::string path = write("");
  StoreWriter writer(path, tokenizer_, {});
  DocumentExample example;
  example.document = "x";
  writer.add(example);
  writer.finish();
  const Tokenizer other = Tokenizer::from_json(build_word_tokenizer({"gamma"}), "other");
  EXPECT_THROW(check_answer_spans(Store(path), other), DataError);
}

}  // namespace
}  // namespace dsrsq
