// Texts and code without questions: files, folders and JSONL become documents to predict.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "dsrsq/data/jsonl.h"
#include "dsrsq/data/splits.h"
#include "reader_fixture.h"

namespace dsrsq {
namespace {

using ::testing::ElementsAre;
using testing::ReaderFixture;
using Texts = std::vector<std::string>;

class ReaderTextTest : public ::testing::Test, protected ReaderFixture {
 protected:
  Texts documents() const {
    Texts texts;
    for (const DocumentExample& example : examples) texts.push_back(example.document);
    return texts;
  }
  Texts titles() const {
    Texts texts;
    for (const DocumentExample& example : examples) texts.push_back(example.title);
    return texts;
  }
};

TEST_F(ReaderTextTest, AFileIsOneDocumentWithoutAQuestion) {
  read("text", write("First line.\r\n\r\nSecond paragraph.", "book.txt"));
  ASSERT_EQ(examples.size(), 1u) << first_bad();
  EXPECT_EQ(examples[0].document, "First line.\n\nSecond paragraph.\n");
  EXPECT_EQ(examples[0].title, "book.txt");
  ASSERT_EQ(examples[0].questions.size(), 1u);
  EXPECT_EQ(examples[0].questions[0].id, "book.txt:1");
  EXPECT_EQ(examples[0].questions[0].text, "");
  EXPECT_TRUE(examples[0].questions[0].answers.empty());
  EXPECT_EQ(report.records, 1);
  EXPECT_EQ(report.unanswerable, 0) << "it asks nothing";
}

TEST_F(ReaderTextTest, HeadingsOfWikiTextBeginDocuments) {
  read_content(
      "text",
      " \n = Homarus gammarus = \n \n A lobster . \n \n = = Description = = \n \n Large . \n"
      " \n = Capel = \n \n A village . \n");
  EXPECT_THAT(titles(), ElementsAre("Homarus gammarus", "Capel"));
  EXPECT_THAT(documents(),
              ElementsAre(" = Homarus gammarus = \n \n A lobster . \n \n = = Description = = \n \n "
                          "Large . \n \n",
                          " = Capel = \n \n A village . \n"));
  EXPECT_EQ(examples[1].questions[0].id, "input:10");
  EXPECT_EQ(examples[1].questions[0].source_line, 10);
}

// Only between blank lines; text in front of the first heading is a document of its own.
TEST_F(ReaderTextTest, WhatOnlyLooksLikeAHeadingStaysInItsDocument) {
  const std::string text = "a\n= b =\nc\n\n= d =\ne\n\n= =\n\n= = f = =\n\n==\n\n=g=\n\n= h\n\n";
  read_content("text", text);
  EXPECT_THAT(documents(), ElementsAre(text));
  read_content("text", "preface\n\n= a =\n\n= b =\n\nrest\n\n= c =");
  EXPECT_THAT(documents(), ElementsAre("preface\n\n", "= a =\n\n", "= b =\n\nrest\n\n= c =\n"))
      << "no line follows the last one";
}

TEST_F(ReaderTextTest, AFolderGivesADocumentAFileInTheOrderOfPaths) {
  const auto folder = std::filesystem::path(write("def f(): pass\n", "repository/b/x.py"));
  write("# A\n\n= B =\n\nc\n", "repository/README.md");
  write(" \n\n", "repository/a/__init__.py");
  write(std::string("\0\1", 2), "repository/a/image.png");
  write("secret", "repository/.git/config");
  read("text", folder.parent_path().parent_path().string());
  EXPECT_THAT(titles(), ElementsAre("README.md", "b/x.py"));
  EXPECT_EQ(examples[0].document, "# A\n\n= B =\n\nc\n") << "a file of a folder is never cut";
  EXPECT_EQ(report.records, 2);
  std::filesystem::create_directories(folder.parent_path() / "empty");
  EXPECT_THROW(read("text", (folder.parent_path() / "empty").string()), DataError);
}

TEST_F(ReaderTextTest, LinesOfJsonAreDocuments) {
  read("text", write(R"({"text": "a b", "title": "t", "id": 7})"
                     "\n\n"
                     R"({"code": "int x;", "path": "x.cc", "repo_name": "r"})"
                     "\n"
                     R"({"content": " \n"})"
                     "\n"
                     R"({"context": "c", "question": "q?", "answers": ["c"]})"
                     "\n",
                     "some.jsonl"));
  EXPECT_TRUE(report.bad.empty()) << first_bad();
  EXPECT_THAT(documents(), ElementsAre("a b", "int x;", "c"));
  EXPECT_THAT(titles(), ElementsAre("t", "x.cc", ""));
  EXPECT_EQ(examples[0].questions[0].id, "7");
  EXPECT_EQ(examples[1].questions[0].id, "x.cc");
  EXPECT_EQ(examples[2].questions[0].id, "5") << "the line";
  EXPECT_EQ(examples[2].questions[0].text, "") << "questions are not read";
  read("text", write(R"({"title": "t"})", "some.jsonl"));
  EXPECT_NE(first_bad().find("expected one of the keys"), std::string::npos) << first_bad();
}

TEST_F(ReaderTextTest, WhatJsonlOfThisFormatHoldsIsReadAgain) {
  read_content("text", "= a =\n\nb\n\n= c =\n\nd\n");
  std::string lines;
  for (const DocumentExample& example : examples) lines += to_jsonl(example);
  const Texts before = documents();
  read("text", write(lines, "again.jsonl"));
  EXPECT_TRUE(report.bad.empty()) << first_bad();
  EXPECT_EQ(documents(), before);
}

TEST_F(ReaderTextTest, BytesThatAreNoTextAreBadRecordsAndTheRestIsRead) {
  for (const std::string& bytes : {std::string("\xff"), std::string("\xed\xa0\x80"),
                                   std::string("x\0y", 3), std::string("\xc3")}) {
    read_content("text", "= a =\n\nb\n\n= c =\n\n" + bytes + "\n\n= d =\n\ne\n");
    EXPECT_THAT(titles(), ElementsAre("a", "d"));
    ASSERT_EQ(report.bad.size(), 1u);
    EXPECT_NE(first_bad().find("input:5: the text"), std::string::npos) << first_bad();
  }
  EXPECT_THROW(read_content("text", "\x1f\x8b garbage"), DataError);
  read_content("text", "");
  EXPECT_EQ(report.records, 0);
}

TEST_F(ReaderTextTest, ADocumentOverTheLimitIsABadRecordAndTheNextOneIsRead) {
  const std::string line(size_t{1} << 20, 'x');
  std::string text = "= long =\n\n";
  for (int i = 0; i < 64; ++i) text += line + "\n";
  read_content("text", text + "\n= short =\n\na\n");
  EXPECT_THAT(titles(), ElementsAre("short"));
  ASSERT_EQ(report.bad.size(), 1u);
  EXPECT_NE(first_bad().find("input:1: the document is longer"), std::string::npos) << first_bad();
}

// All have the same question, none; that must not join them. Copies are in one split.
TEST_F(ReaderTextTest, DocumentsFallIntoSplitsAndCopiesTogether) {
  std::string lines;
  for (int i = 0; i < 200; ++i) lines += concat("{\"text\": \"number ", i / 2, "\"}\n");
  read("text", write(lines, "copies.jsonl"));
  ASSERT_EQ(examples.size(), 200u);
  SplitAssigner assigner(parse_splits("train=0.5,test=0.5"), 0);
  for (const DocumentExample& example : examples) assigner.add(example);
  const std::vector<uint8_t> splits = assigner.assign();
  std::set<uint8_t> found(splits.begin(), splits.end());
  EXPECT_EQ(found.size(), 2u);
  for (size_t i = 0; i < splits.size(); i += 2) EXPECT_EQ(splits[i], splits[i + 1]);
}

}  // namespace
}  // namespace dsrsq
