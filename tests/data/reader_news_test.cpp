// CNN/DailyMail in its three forms, with and without days of publication.
#include <gtest/gtest.h>

#include "reader_fixture.h"

namespace dsrsq {
namespace {

using testing::ReaderFixture;
using testing::text_at;
using Texts = std::vector<std::string>;

const std::string kDays =
    "url\tid\tcrawled\tpublished\n"
    "u\tb\t-\t2015-03-02\nu\ta\t-\t2015-03-02\nu\tc\t-\t2007-07-13\n\n";

class ReaderNewsTest : public ::testing::Test, protected ReaderFixture {
 protected:
  const std::vector<DocumentExample>& read_news(const std::string& content) {
    return read_content("cnn_dailymail", content);
  }
  Texts ids() const {
    Texts ids;
    for (const DocumentExample& example : examples) ids.push_back(example.questions[0].id);
    return ids;
  }
  std::string error_of(const std::string& content) {
    try {
      read_news(content);
    } catch (const DataError& error) {
      return error.what();
    }
    return "no error";
  }
};

TEST_F(ReaderNewsTest, CsvRowsAreArticles) {
  read_news(
      "id,highlights,article,url\r\n"
      "b,\"One .\n Two .\nOne .\n\",\"(CNN)He said \"\"no\"\", twice.\nThen left.\",u\r\n"
      "a,Three .,Short.,u\r\n");
  EXPECT_TRUE(report.bad.empty()) << first_bad();
  EXPECT_EQ(ids(), (Texts{"b", "a"}));  // without days, in the order of the file
  const Question& question = examples.at(0).questions.at(0);
  EXPECT_EQ(examples[0].document, "(CNN)He said \"no\", twice.\nThen left.");
  EXPECT_EQ(question.answers, Texts{"One .\nTwo ."});  // trimmed, each once
  EXPECT_EQ(examples[0].split_keys, Texts{examples[0].document});
  EXPECT_EQ(question.timestamp, "");
  EXPECT_EQ(question.source_line, 2);
  EXPECT_EQ(examples[0].questions.size(), 1u);
  EXPECT_EQ(report.records, 2);
}

TEST_F(ReaderNewsTest, BadRowsAreListedWithTheirLine) {
  read_news(
      "article,highlights,id\n"
      "\"a\nb\",h,1\n"
      "a,h\n"
      ",h,2\n"
      "a,\" \n\",3\n"
      "a,h,\n"
      "a\xff,h,4\n"
      "a,\"h\"x,5\n"
      "a,h,6\n"
      "a,\"h,7\n");
  EXPECT_EQ(ids(), (Texts{"1", "6"}));
  Texts bad;
  for (const ReadReport::Bad& record : report.bad)
    bad.push_back(record.where.substr(record.where.rfind("input")) + " " + record.reason);
  EXPECT_EQ(bad, (Texts{"input:4 the row has 2 fields, the header names 3",
                        "input:5 the article is empty", "input:6 the article has no highlights",
                        "input:8 \"id\" is empty", "input:9 invalid UTF-8 in column \"article\"",
                        "input:10 invalid CSV (text after a closing quote in line 10)",
                        "input:12 invalid CSV (the file ends inside a quoted field)"}));
}

TEST_F(ReaderNewsTest, TheHeaderNamesTheColumns) {
  read_news("article,summary,id\na,h,1\n\"x\n");
  EXPECT_TRUE(examples.empty());
  ASSERT_EQ(report.bad.size(), 1u);
  EXPECT_NE(first_bad().find("input:1: the header has no column \"highlights\""), std::string::npos)
      << first_bad();
}

TEST_F(ReaderNewsTest, TruncatedAnywhere) {
  const std::string whole = "article,highlights,id\r\n\"a, \"\"b\"\"\n\",h,1\r\nb,\"h\ni\",2\r\n";
  const size_t first = whole.find("\r\nb") + 2;
  for (size_t size = 0; size <= whole.size(); ++size) {
    read_news(whole.substr(0, size));
    EXPECT_LE(report.bad.size(), 1u) << size << first_bad();
    EXPECT_EQ(report.records, questions());
    // The id is what stands last: a row that is cut before it has too few fields.
    EXPECT_EQ(questions(), size + 2 >= whole.size() ? 2 : size + 2 >= first ? 1 : 0) << size;
  }
}

TEST_F(ReaderNewsTest, PackedAndTruncatedStreams) {
  const std::string path =
      write("id,article,highlights\n1,\"" + std::string(200'000, '\n') + "a\",h\n");
  if (std::system(("gzip -k '" + path + "'").c_str()) != 0) GTEST_SKIP() << "gzip is not there";
  EXPECT_EQ(read("cnn_dailymail", path + ".gz").size(), 1u) << first_bad();
  std::filesystem::resize_file(path + ".gz", std::filesystem::file_size(path + ".gz") - 6);
  try {
    read("cnn_dailymail", path + ".gz");
    ADD_FAILURE();
  } catch (const DataError& error) {
    EXPECT_NE(std::string(error.what()).find("truncated"), std::string::npos) << error.what();
  }
}

TEST_F(ReaderNewsTest, AVeryLongRowIsOneBadRecord) {
  const std::string large(size_t{65} << 20, '\n');
  read_news("id,article,highlights\n1,\"" + large + "\",h\n2,a,h\n");
  EXPECT_EQ(ids(), Texts{"2"});
  ASSERT_EQ(report.bad.size(), 1u);
  EXPECT_NE(first_bad().find("input:2: the row is longer than 67108864 bytes"), std::string::npos)
      << first_bad();
}

TEST_F(ReaderNewsTest, StoriesOfAFolder) {
  write("First line.\n\nSecond, with Zoë.\n\n@highlight\n\nOne\n\n@highlight\n\nTwo\n",
        "stories/b.story");
  write("\n\n@highlight\n\nOne\n", "stories/c.story");  // as 114 of the full data are
  write("Text.\r\n\r\n@highlight\r\n\r\nOne\r\n", "stories/a.story");
  write("Text.\n", "stories/d.story");
  write("not a story", "stories/README");
  const std::string folder =
      std::filesystem::path(write("", "stories/z.txt")).parent_path().string();
  read("cnn_dailymail", folder);
  EXPECT_EQ(ids(), (Texts{"a", "b"}));
  EXPECT_EQ(examples.at(1).document, "First line.\n\nSecond, with Zoë.");
  EXPECT_EQ(examples.at(1).questions.at(0).answers, Texts{"One\nTwo"});
  EXPECT_EQ(examples.at(0).document, "Text.");
  ASSERT_EQ(report.bad.size(), 2u);
  EXPECT_NE(first_bad().find("c.story:1: the article is empty"), std::string::npos) << first_bad();
  EXPECT_EQ(report.bad[1].reason, "the article has no highlights");
  EXPECT_EQ(read("cnn_dailymail", folder + "/b.story").size(), 1u);
}

TEST_F(ReaderNewsTest, DaysMakeADatedStream) {
  companion = write(kDays, "dates.tsv");
  read_news(
      "{\"id\": \"b\", \"article\": \"B.\", \"highlights\": \"hb\"}\n"
      "{\"id\": \"x\", \"article\": \"X.\", \"highlights\": \"hx\"}\n"
      "{\"id\": \"c\", \"article\": \"C, Zoë.\", \"highlights\": \"hc\"}\n"
      "{\"id\": \"a\", \"article\": \"A.\", \"highlights\": \"ha\"}\n");
  EXPECT_EQ(ids(), (Texts{"c", "a", "b"}));
  EXPECT_NE(first_bad().find("input:2: id x has no publication day"), std::string::npos)
      << first_bad();
  const DocumentExample& first = examples.at(0);
  EXPECT_EQ(first.document, "[2007-07-13]\nC, Zoë.");
  ASSERT_EQ(first.questions.size(), 2u);
  for (const Question& question : first.questions) {
    EXPECT_EQ(question.timestamp, "2007-07-13");
    EXPECT_EQ(question.source_line, 3);
  }
  EXPECT_EQ(first.questions[0].answers, Texts{"hc"});
  EXPECT_EQ(first.questions[1].id, "c#published");
  EXPECT_EQ(first.questions[1].answers, Texts{"2007-07-13"});
  EXPECT_EQ(text_at(first, first.questions[1].answer_spans.at(0)), "2007-07-13");
  EXPECT_EQ(text_at(first, first.questions[1].evidence.at(0)), "[2007-07-13]");
  EXPECT_EQ(report.answer_spans, 3);
  EXPECT_EQ(report.answer_spans_at_text, 3);
}

TEST_F(ReaderNewsTest, WrongDaysAreBadRecordsOfTheCompanion) {
  companion = write(
      "id\tpublished\na\t2015-02-29\nb\t2015-03-02\nb\t2015-03-03\nc\n\t2015-03-02\n"
      "d\t2015-3-2\nb\t2015-03-02\n",
      "dates.tsv");
  read_news("{\"id\": \"b\", \"article\": \"B.\", \"highlights\": \"hb\"}\n");
  EXPECT_EQ(ids(), Texts{"b"});
  EXPECT_EQ(examples.at(0).questions.at(0).timestamp, "2015-03-02");
  Texts bad;
  for (const ReadReport::Bad& record : report.bad)
    bad.push_back(record.where.substr(record.where.rfind("dates")) + " " + record.reason);
  EXPECT_EQ(
      bad, (Texts{"dates.tsv:2 \"published\" must be a day such as 2015-03-01, got \"2015-02-29\"",
                  "dates.tsv:4 the id has another day, 2015-03-02, in a line above",
                  "dates.tsv:5 expected an id and a day, got 1 columns",
                  "dates.tsv:6 expected an id and a day, got 2 columns",
                  "dates.tsv:7 \"published\" must be a day such as 2015-03-01, got \"2015-3-2\""}));
}

TEST_F(ReaderNewsTest, ACompanionWithoutTheColumnsIsAnError) {
  companion = write("id,published\na,2015-03-02\n", "dates.tsv");
  EXPECT_NE(error_of("").find("dates.tsv:1: expected tab-separated columns"), std::string::npos);
  companion = write("", "dates.tsv");
  EXPECT_NE(error_of("").find("the file is empty"), std::string::npos);
  companion += "-missing";
  EXPECT_NE(error_of("").find("dates.tsv-missing"), std::string::npos);
}

// More than any buffer, in an order that is not the source's: texts come back whole.
TEST_F(ReaderNewsTest, SortedTextsComeBackWhole) {
  std::string days = "id\tpublished\n", csv = "id,article,highlights\n";
  const auto text = [](int i) { return concat(i, std::string(static_cast<size_t>(i % 977), 'x')); };
  for (int i = 0; i < 3000; ++i) {
    days += concat("id", i, "\t20", 10 + (i * 7919) % 80, "-01-02\n");
    csv += concat("id", i, ",", text(i), ",h", i, "\n");
  }
  companion = write(days, "dates.tsv");
  read_news(csv);
  ASSERT_EQ(examples.size(), 3000u) << first_bad();
  std::string before;
  for (const DocumentExample& example : examples) {
    const Question& question = example.questions.at(0);
    const int i = std::stoi(question.id.substr(2));
    EXPECT_EQ(example.document, concat("[", question.timestamp, "]\n", text(i)));
    EXPECT_EQ(question.answers, Texts{concat("h", i)});
    const std::string key = question.timestamp + question.id;
    EXPECT_LT(before, key);
    before = key;
  }
}

}  // namespace
}  // namespace dsrsq
