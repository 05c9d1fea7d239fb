#include <gtest/gtest.h>

#include "reader_fixture.h"

namespace dsrsq {
namespace {

using testing::ReaderFixture;
using testing::text_at;
using Texts = std::vector<std::string>;

const std::string kHeader =
    "document_id,set,question,answer1,answer2,question_tokenized,answer1_tokenized,"
    "answer2_tokenized\n";

std::string row(const std::string& document, const std::string& question, const std::string& first,
                const std::string& second) {
  return concat(document, ",train,", question, ",", first, ",", second, ",q,a,b\n");
}

class ReaderNarrativeQaTest : public ::testing::Test, protected ReaderFixture {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::path(write("")).parent_path();
    put("summaries.csv",
        "document_id,set,summary,summary_tokenized\n"
        "d1,train,\" Anna, the \"\"witch\"\",\n\nmeets Zoë and Zoë. \",x\nd2,test,Otto "
        "sleeps.,x\n");
    put("documents.csv",
        "document_id,set,kind,story_url,wiki_title\nd1,train,gutenberg,u,The Witch\n");
  }
  void put(const std::string& file, const std::string& content) {
    std::filesystem::create_directories((folder_ / file).parent_path());
    std::ofstream(folder_ / file, std::ios::binary) << content;
  }
  void read_questions(const std::string& rows, const std::string& format = "narrativeqa") {
    put("qaps.csv", kHeader + rows);
    read(format, folder_ / "qaps.csv");
  }
  void expect_reason(const std::string& reason) {
    EXPECT_EQ(questions(), 0);
    EXPECT_NE(first_bad().find(reason), std::string::npos) << first_bad();
  }
  std::filesystem::path folder_;
};

TEST_F(ReaderNarrativeQaTest, SummariesAreDocuments) {
  read_questions(row("d1", "\"Whom, then, does Anna meet? \"", "Zoë", "the witch") +
                 row("d1", "Who?", "Anna", "Anna") + row("d2", "Who sleeps?", "Otto", ""));
  ASSERT_EQ(examples.size(), 2u) << first_bad();
  const DocumentExample& example = examples[0];
  EXPECT_EQ(example.document, "Anna, the \"witch\",\n\nmeets Zoë and Zoë.");
  EXPECT_EQ(example.title, "The Witch");
  ASSERT_EQ(example.questions.size(), 2u);
  EXPECT_EQ(example.questions[0].text, "Whom, then, does Anna meet?");
  EXPECT_EQ(example.questions[0].answers, (Texts{"Zoë", "the witch"}));
  EXPECT_TRUE(example.questions[0].answer_spans.empty());  // one stands twice, the other nowhere
  EXPECT_EQ(example.questions[0].id, "2");
  EXPECT_EQ(example.questions[1].answers, Texts{"Anna"});
  EXPECT_EQ(text_at(example, example.questions[1].answer_spans.at(0)), "Anna");
  EXPECT_EQ(examples[1].document, "Otto sleeps.");
  EXPECT_EQ(examples[1].title, "");
  EXPECT_EQ(report.records, 3);
  EXPECT_EQ(report.unlocated, 2);
}

TEST_F(ReaderNarrativeQaTest, StoriesAreFilesBeside) {
  put("tmp/d1.content", "<html><p>Anna &amp; Otto.</p></html>");
  put("tmp/d2.content", "\n Zo\xEB \n");
  put("secret.content", "text");
  std::filesystem::remove(folder_ / "summaries.csv");
  read_questions(row("d1", "Who?", "Otto", "x"), "narrativeqa_stories");
  ASSERT_EQ(questions(), 1) << first_bad();
  EXPECT_EQ(examples[0].document, "Anna & Otto.");
  read_questions(row("d2", "Who?", "Otto", "x"), "narrativeqa_stories");
  expect_reason("d2.content is not UTF-8; convert it");
  read_questions(row("d3", "Who?", "Otto", "x"), "narrativeqa_stories");
  expect_reason("d3.content is not there");
  read_questions(row("../secret", "Who?", "Otto", "x"), "narrativeqa_stories");
  expect_reason("document_id \"../secret\" is no file name");
  EXPECT_THROW(read("narrativeqa", folder_ / "qaps.csv"), DataError) << "no summaries";
}

TEST_F(ReaderNarrativeQaTest, ABadRowLeavesItsNeighbours) {
  const std::string good = row("d2", "Who sleeps?", "Otto", "x");
  const std::vector<std::pair<std::string, std::string>> damaged = {
      {row("d9", "Who?", "a", "b"), "document \"d9\" is not in summaries.csv"},
      {row("d2", " ", "a", "b"), "\"question\" is empty"},
      {row("d2", "Who?", "", ""), "both answers are empty"},
      {row("d2", "Who\xFF?", "a", "b"), "invalid UTF-8 in column \"question\""},
      {"d2,train,Who?\n", "the row has 3 fields, the header names 8"},
      {row("d2", "\"Who\"?", "a", "b"), "invalid CSV (text after a closing quote"}};
  for (const auto& [bad, reason] : damaged) {
    read_questions(good + bad + good);
    EXPECT_EQ(questions(), 2) << reason;
    ASSERT_EQ(report.bad.size(), 1u) << reason;
    EXPECT_NE(first_bad().find("qaps.csv:3: " + reason), std::string::npos) << first_bad();
  }
}

TEST_F(ReaderNarrativeQaTest, FilesThatAreSomethingElse) {
  put("qaps.csv", "document_id,question,answer1\nd2,q,a\n");
  read("narrativeqa", folder_ / "qaps.csv");
  expect_reason("qaps.csv:1: the header has no column \"answer2\"; nothing after it is read");
  EXPECT_EQ(report.bad.size(), 1u);
  for (const char* content : {"", "{}", "\"", "a,b\r", "\n\n\n"}) {
    put("qaps.csv", content);
    read("narrativeqa", folder_ / "qaps.csv");
    EXPECT_EQ(questions(), 0) << content;
    EXPECT_LE(report.bad.size(), 2u) << content;
  }
  const std::string whole = kHeader + row("d2", "\"Who, \"\"then\"\"?\"", "Otto", "x");
  for (size_t size = 0; size < whole.size(); ++size) {
    put("qaps.csv", whole.substr(0, size));
    read("narrativeqa", folder_ / "qaps.csv");
    EXPECT_LE(report.bad.size(), 1u) << size;
  }
  put("summaries.csv", "document_id,summary\nd2,a\nd2,b\n");
  read_questions(row("d2", "Who?", "a", "b"));
  EXPECT_NE(first_bad().find("summaries.csv:3: document_id \"d2\" stands twice"), std::string::npos)
      << first_bad();
}

TEST_F(ReaderNarrativeQaTest, PackedFilesAreReadAndTruncatedOnesAreErrors) {
  read_questions(row("d2", "Who?", "Otto", "x"));
  const std::string path = folder_ / "qaps.csv";
  if (std::system(("gzip -kf '" + path + "'").c_str()) != 0) GTEST_SKIP() << "gzip is not there";
  read("narrativeqa", path + ".gz");
  EXPECT_EQ(questions(), 1) << first_bad();
  std::filesystem::resize_file(path + ".gz", std::filesystem::file_size(path + ".gz") - 5);
  EXPECT_THROW(read("narrativeqa", path + ".gz"), DataError);
}

}  // namespace
}  // namespace dsrsq
