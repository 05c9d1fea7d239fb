// Dated streams and evaluation suites.
#include <gtest/gtest.h>

#include "reader_fixture.h"

namespace dsrsq {
namespace {

using nlohmann::json;
using testing::ReaderFixture;
using testing::text_at;
using Texts = std::vector<std::string>;

class ReaderSuitesTest : public ::testing::Test, protected ReaderFixture {
 protected:
  const DocumentExample& only(const std::string& format, const json& record) {
    read_content(format, record.dump());
    EXPECT_TRUE(report.bad.empty()) << first_bad();
    EXPECT_EQ(examples.size(), 1u);
    return examples.at(0);
  }
  void expect_reason(const std::string& format, const json& record, const std::string& reason) {
    read_content(format, record.dump());
    EXPECT_EQ(questions(), 0);
    EXPECT_NE(first_bad().find(reason), std::string::npos) << first_bad();
  }
};

json change(const std::string& date, const std::string& package, const std::string& version) {
  return {{"date", date},          {"ts", 1},
          {"package", package},    {"version", version},
          {"distribution", "sid"}, {"text", "  * A change of " + version + "."}};
}

TEST_F(ReaderSuitesTest, ChangelogsAskForTheLatestVersion) {
  const std::string lines = change("2001-01-01T00:00:00+01:00", "dpkg", "1.0").dump() + "\n" +
                            change("2001-01-02T00:00:00+01:00", "apt", "0.5").dump() + "\n" +
                            change("2001-01-03T00:00:00+01:00", "dpkg", "1.0.1").dump() + "\n" +
                            change("2001-01-04T00:00:00+01:00", "tar", "7").dump();
  read_content("dated_entries", lines);
  ASSERT_EQ(questions(), 1) << first_bad();  // apt and tar have one entry
  const DocumentExample& example = examples[0];
  const Question& question = example.questions[0];
  EXPECT_EQ(example.document.substr(0, 70),
            "2001-01-01T00:00:00+01:00 dpkg 1.0\n  * A change of 1.0.\n\n2001-01-02T00");
  EXPECT_EQ(question.text, "What is the latest version of dpkg?");
  EXPECT_EQ(question.answers, Texts{"1.0.1"});
  EXPECT_EQ(text_at(example, question.answer_spans.at(0)), "1.0.1");
  EXPECT_EQ(text_at(example, question.evidence.at(0)),
            "2001-01-03T00:00:00+01:00 dpkg 1.0.1\n  * A change of 1.0.1.");
  EXPECT_EQ(question.timestamp, "2001-01-04T00:00:00+01:00");
  EXPECT_EQ(question.id, "dpkg_1.0.1");
  EXPECT_EQ(question.source_line, 3);
  EXPECT_EQ(example.passages.size(), 4u);
}

TEST_F(ReaderSuitesTest, CommitsAskForTheLastOfADay) {
  const auto commit = [](const std::string& date, const std::string& subject) {
    return json{{"commit", "c" + subject}, {"date", date}, {"subject", subject}, {"body", ""}}
               .dump() +
           "\n";
  };
  // The clock of the second is ahead: the order of the stream counts.
  read_content("dated_entries", commit("2001-01-01T10:00:00Z", "One") +
                                    commit("2001-01-01T12:00:00Z", "Two") +
                                    commit("2001-01-01T11:00:00Z", "Three") +
                                    commit("2001-01-02T11:00:00Z", "Four"));
  ASSERT_EQ(questions(), 1) << first_bad();
  EXPECT_EQ(examples[0].questions[0].text, "What is the subject of the last commit of 2001-01-01?");
  EXPECT_EQ(examples[0].questions[0].answers, Texts{"Three"});
  EXPECT_EQ(examples[0].questions[0].id, "cThree");
}

TEST_F(ReaderSuitesTest, DocumentsOfAStreamAreThirtyTwoEntries) {
  std::string lines;
  for (int i = 0; i < 70; ++i)
    lines += change("2001-01-01T00:00:00Z", "dpkg", concat("v", i)).dump() + "\n";
  read_content("dated_entries", lines);
  ASSERT_EQ(examples.size(), 3u);
  EXPECT_EQ(examples[0].questions[0].answers, Texts{"v31"});
  EXPECT_EQ(examples[1].questions[0].answers, Texts{"v63"});
  EXPECT_EQ(examples[2].questions[0].answers, Texts{"v69"});
  EXPECT_EQ(examples[2].passages.size(), 6u);
  EXPECT_NE(examples[0].split_keys, examples[1].split_keys);
  expect_reason("dated_entries", change("yesterday", "dpkg", "1"), "\"date\" must be ISO 8601");
  expect_reason("dated_entries", change("2001-01", "dpkg", "1"), "\"date\" must name a day");
  expect_reason("dated_entries", change("2001-01-01", "dp\nkg", "1"), "\"package\" has several");
}

json longbench(const std::string& dataset, const std::string& input, const Texts& answers) {
  return {{"input", input},
          {"context", "Paragraph 12: Anna and Otto. Paragraph 1: no 5."},
          {"answers", answers},
          {"length", 8},
          {"dataset", dataset},
          {"language", "en"},
          {"all_classes", {"no", "yes"}},
          {"_id", "x1"}};
}

TEST_F(ReaderSuitesTest, LongBenchLooksForAnswersWhereTheContextHoldsThem) {
  const DocumentExample example = only("longbench", longbench("hotpotqa", "who", {"Otto", "Eva"}));
  EXPECT_EQ(example.questions[0].text, "who");
  EXPECT_EQ(example.questions[0].id, "x1");
  EXPECT_EQ(text_at(example, example.questions[0].answer_spans.at(0)), "Otto");
  EXPECT_EQ(report.unlocated, 1);
  const DocumentExample retrieval =
      only("longbench", longbench("passage_retrieval_en_e", "an abstract", {"Paragraph 1"}));
  EXPECT_EQ(retrieval.questions[0].answer_spans.at(0).begin, 29);  // not that of "Paragraph 12"
  // By chance: a class, a count, and what a yes or no question is answered by.
  for (const json& record :
       {longbench("trec", "q", {"no"}), longbench("passage_count_e", "", {"5"}),
        longbench("qasper", "q", {"no"})})
    EXPECT_TRUE(only("longbench", record).questions[0].answer_spans.empty()) << record;
}

TEST_F(ReaderSuitesTest, LongBenchAsksWhereTheInputIsEmpty) {
  EXPECT_EQ(only("longbench", longbench("gov_report", "", {"a"})).questions[0].text,
            "Write a one-page summary of the report.");
  EXPECT_EQ(only("longbench", longbench("lcc_e", "", {"a"})).questions[0].text,
            "What is the next line of code?");
  expect_reason("longbench", longbench("hotpotqa", "", {"a"}),
                "no question is known for dataset \"hotpotqa\"");
}

TEST_F(ReaderSuitesTest, LongBenchTwoHasOptions) {
  json record = {{"_id", "i"},      {"domain", "d"},      {"question", "Which? "},
                 {"choice_A", "w"}, {"choice_B", " x\n"}, {"choice_C", "y"},
                 {"choice_D", "z"}, {"answer", "B"},      {"context", "a x b"}};
  const DocumentExample& example = only("longbench", record);
  EXPECT_EQ(example.questions[0].text, "Which?\n(A) w\n(B) x\n(C) y\n(D) z");
  EXPECT_EQ(example.questions[0].answers, Texts{"x"});
  record["answer"] = "E";
  expect_reason("longbench", record, "\"answer\" must be A, B, C or D, got \"E\"");
}

TEST_F(ReaderSuitesTest, RulerTakesTheLastLineAsTheQuestion) {
  json record = {
      {"index", 3},
      {"input", "Memorize it.\nOne number for a is: 17. One for b is: 18.\n\nWhat is a? It is"},
      {"outputs", {"17"}},
      {"length", 20}};
  const DocumentExample example = only("ruler", record);
  EXPECT_EQ(example.document, "Memorize it.\nOne number for a is: 17. One for b is: 18.");
  EXPECT_EQ(example.questions[0].text, "What is a? It is");
  EXPECT_EQ(text_at(example, example.questions[0].answer_spans.at(0)), "17");
  EXPECT_EQ(text_at(example, example.questions[0].evidence.at(0)), "One number for a is: 17.");
  record["outputs"] = {"One", "18"};  // more than once: no needle
  record["answer_prefix"] = " the";
  const DocumentExample& other = only("ruler", record);
  EXPECT_EQ(other.questions[0].text, "What is a? It is the");
  EXPECT_EQ(other.questions[0].answers, (Texts{"One", "18"}));
  EXPECT_EQ(text_at(other, other.questions[0].answer_spans.at(0)), "18");
  EXPECT_EQ(report.unlocated, 1);
  for (const char* input : {"one line", "\n\nquestion", "\n", " "}) {
    record["input"] = input;
    expect_reason("ruler", record, "\"input\" has no line before its question");
  }
}

TEST_F(ReaderSuitesTest, BabiLong) {
  const json record = {{"input", "It was night. Mary went to the garden. She slept."},
                       {"question", "Where is Mary?"},
                       {"target", "garden"}};
  const DocumentExample& example = only("babilong", record);
  EXPECT_EQ(text_at(example, example.questions[0].answer_spans.at(0)), "garden");
  EXPECT_EQ(text_at(example, example.questions[0].evidence.at(0)), "Mary went to the garden.");
  EXPECT_EQ(example.questions[0].id, "1");
  json twice = record;
  twice["input"] = "Mary went to the garden. The garden was dark.";
  EXPECT_TRUE(only("babilong", twice).questions[0].evidence.empty());
}

TEST_F(ReaderSuitesTest, QualityNested) {
  const json good = {{"question", "Why? "},
                     {"options", {"a", "b ", "c", "d"}},
                     {"gold_label", 2},
                     {"writer_label", 1}};
  json unlabelled = good;
  unlabelled.erase("gold_label");
  const json record = {{"article_id", "52845"},
                       {"set_unique_id", "52845_X"},
                       {"title", "T"},
                       {"article", "<html><p>One &amp;\n two.</p><p>Three.</p></html>"},
                       {"questions", {good, unlabelled, good}}};
  read_content("quality", record.dump());
  ASSERT_EQ(examples.size(), 1u) << first_bad();
  EXPECT_EQ(examples[0].document, "One & two.\n\nThree.");
  ASSERT_EQ(examples[0].questions.size(), 2u);
  EXPECT_EQ(examples[0].questions[1].id, "52845_X_3");
  EXPECT_EQ(examples[0].questions[0].text, "Why?\n(A) a\n(B) b\n(C) c\n(D) d");
  EXPECT_EQ(examples[0].questions[0].answers, Texts{"b"});
  EXPECT_NE(first_bad().find("input:1 questions[1]: key \"questions[1].gold_label\" is missing"),
            std::string::npos)
      << first_bad();
  json stripped = record;
  stripped["article"] = "One < two.\n  Three.";
  read_content("quality", stripped.dump());
  EXPECT_EQ(examples.at(0).document, "One < two.\n  Three.");
}

TEST_F(ReaderSuitesTest, QualityFlat) {
  const json record = {{"article_id", 5},
                       {"unique_id", "5_X"},
                       {"title", "T"},
                       {"article", {"<p>\n", " One\n", "</p>\n"}},
                       {"question1", "Q"},
                       {"question1option1", "a"},
                       {"question1option2", "b"},
                       {"question1option3", "c"},
                       {"question1option4", "d\n"},
                       {"question1_gold_label", 4}};
  const DocumentExample& example = only("quality", record);
  EXPECT_EQ(example.document, "One");
  EXPECT_EQ(example.questions[0].answers, Texts{"d"});
  EXPECT_EQ(example.questions[0].id, "5_X_1");
}

TEST_F(ReaderSuitesTest, KeyValueRetrieval) {
  const json record = {
      {"ordered_kv_records", json::array({{"k1", "v1"}, {"k2", "v2"}, {"k3", "v1"}})},
      {"key", "k3"},
      {"value", "v1"}};
  const DocumentExample& example = only("kv_retrieval", record);
  EXPECT_EQ(example.document, "{\"k1\": \"v1\",\n \"k2\": \"v2\",\n \"k3\": \"v1\"}");
  EXPECT_EQ(example.questions[0].text, "What is the value of the key \"k3\"?");
  EXPECT_EQ(text_at(example, example.questions[0].evidence.at(0)), "\"k3\": \"v1\"");
  EXPECT_EQ(text_at(example, example.questions[0].answer_spans.at(0)), "v1");
  EXPECT_GT(example.questions[0].answer_spans[0].begin, example.questions[0].evidence[0].begin);
  json wrong = record;
  wrong["key"] = "k4";
  expect_reason("kv_retrieval", wrong, "\"key\" is none of the 3 keys");
  wrong = record;
  wrong["value"] = "v2";
  expect_reason("kv_retrieval", wrong, "\"value\" is not that of the key");
  wrong = record;
  wrong["ordered_kv_records"].push_back({"k3", "v1"});
  expect_reason("kv_retrieval", wrong, "\"key\" stands twice");
}

json tydi(const json& annotations) {
  return {{"example_id", -5},
          {"question_text", "wer"},
          {"document_title", "T"},
          {"document_plaintext", "Äsop schrieb.\nZoë lacht."},
          {"language", "german"},
          {"passage_answer_candidates",
           {{{"plaintext_start_byte", 0}, {"plaintext_end_byte", 14}},
            {{"plaintext_start_byte", 15}, {"plaintext_end_byte", 26}}}},
          {"annotations", annotations}};
}

json tydi_annotation(int64_t passage, int64_t begin, int64_t end, const std::string& yes_no) {
  return {{"annotation_id", 1},
          {"passage_answer", {{"candidate_index", passage}}},
          {"minimal_answer", {{"plaintext_start_byte", begin}, {"plaintext_end_byte", end}}},
          {"yes_no_answer", yes_no}};
}

TEST_F(ReaderSuitesTest, TydiQaTakesBytesOfAllAnnotators) {
  const DocumentExample example = only(
      "tydiqa", tydi({tydi_annotation(1, 15, 19, "NONE"), tydi_annotation(0, 0, 5, "NONE"),
                      tydi_annotation(1, 15, 19, "NONE"), tydi_annotation(-1, -1, -1, "NONE")}));
  const Question& question = example.questions[0];
  EXPECT_EQ(question.id, "-5");
  EXPECT_EQ(question.answers, (Texts{"Zoë", "Äsop"}));
  EXPECT_EQ(text_at(example, question.answer_spans.at(0)), "Zoë");
  EXPECT_EQ(text_at(example, question.evidence.at(0)), "Zoë lacht.");
  EXPECT_EQ(text_at(example, question.evidence.at(1)), "Äsop schrieb.");

  const DocumentExample yes = only(
      "tydiqa", tydi({tydi_annotation(1, -1, -1, "YES"), tydi_annotation(-1, -1, -1, "NONE")}));
  EXPECT_EQ(yes.questions[0].answers, Texts{"yes"});
  EXPECT_TRUE(yes.questions[0].answer_spans.empty());
  const DocumentExample passage = only(
      "tydiqa", tydi({tydi_annotation(0, -1, -1, "NONE"), tydi_annotation(-1, -1, -1, "NONE")}));
  EXPECT_EQ(passage.questions[0].answers, Texts{"Äsop schrieb."});
  const DocumentExample& none = only(
      "tydiqa", tydi({tydi_annotation(-1, -1, -1, "NONE"), tydi_annotation(-1, -1, -1, "NONE")}));
  EXPECT_TRUE(none.questions[0].answers.empty());
  expect_reason("tydiqa",
                tydi({tydi_annotation(0, 1, 5, "NONE"), tydi_annotation(0, 0, 5, "NONE")}),
                "\"annotations[0].minimal_answer\" is [1, 5), which cuts a character");
  expect_reason("tydiqa", tydi({tydi_annotation(0, 0, 5, "MAYBE"), tydi_annotation(0, 0, 5, "NO")}),
                "must be YES, NO or NONE");
}

// Packed by the tool that everybody has, and cut off.
TEST_F(ReaderSuitesTest, TruncatedGzipIsAnErrorOfEveryFormat) {
  const std::string path =
      write(std::string(300000, ' ') + "\n" + longbench("qasper", "q", {"a"}).dump());
  write("", "corpus.jsonl");  // beside the claims of scifact
  if (std::system(("gzip -kf '" + path + "'").c_str()) != 0) GTEST_SKIP() << "gzip is not there";
  std::filesystem::resize_file(path + ".gz", std::filesystem::file_size(path + ".gz") - 5);
  for (const ReaderEntry& entry : reader_table()) {
    if (entry.name.starts_with("narrativeqa")) continue;  // CSV, tests of its own
    try {
      read(entry.name, path + ".gz");
      ADD_FAILURE() << entry.name;
    } catch (const DataError& error) {
      EXPECT_NE(std::string(error.what()).find("truncated"), std::string::npos) << error.what();
      EXPECT_EQ(error.exit_code(), ExitCode::kData);
    }
  }
}

}  // namespace
}  // namespace dsrsq
