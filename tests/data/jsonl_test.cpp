#include "dsrsq/data/jsonl.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "reader_fixture.h"

namespace dsrsq {
namespace {

void expect_equal_spans(const std::vector<ByteSpan>& a, const std::vector<ByteSpan>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].begin, b[i].begin);
    EXPECT_EQ(a[i].end, b[i].end);
  }
}

// What to_jsonl writes, read again.
std::vector<DocumentExample> again(const DocumentExample& example) {
  testing::ReaderFixture fixture;
  return fixture.read_content("jsonl", to_jsonl(example));
}

TEST(Jsonl, ReadsTheSameExample) {
  DocumentExample example;
  example.document = "Größe: 12 µm.\nÉtage \"zwei\"";
  Question first{"7", "wie groß?", {"12 µm"}, {{0, 15}}, {}, "2020-01-02"};
  const auto at = static_cast<int64_t>(example.document.find("12"));
  first.answer_spans = {{at, at + 6}};
  Question none{"8", "und?", {}, {}, {}, ""};
  example.questions = {first, none};
  ASSERT_EQ(example.document.substr(size_t(at), 6), "12 µm");
  const auto found = again(example);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].document, example.document);
  ASSERT_EQ(found[0].questions.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    const Question &a = found[0].questions[i], &b = example.questions[i];
    EXPECT_EQ(a.id, b.id);
    EXPECT_EQ(a.text, b.text);
    EXPECT_EQ(a.answers, b.answers);
    EXPECT_EQ(a.timestamp, b.timestamp);
    expect_equal_spans(a.evidence, b.evidence);
    expect_equal_spans(a.answer_spans, b.answer_spans);
  }
}

TEST(Jsonl, KeepsPassages) {
  DocumentExample example;
  example.document = "Title\nfirst text\n\nsecond ü text";
  example.passages = {{0, 16}, {18, static_cast<int64_t>(example.document.size())}};
  example.questions = {{"1", "q", {"text"}, {}, {{12, 16}}, ""}};
  const auto found = again(example);
  ASSERT_EQ(found.size(), 1u);
  EXPECT_EQ(found[0].document, example.document);
  expect_equal_spans(found[0].passages, example.passages);
  expect_equal_spans(found[0].questions[0].answer_spans, example.questions[0].answer_spans);
}

}  // namespace
}  // namespace dsrsq
