#include "dsrsq/data/readers.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"

namespace dsrsq {
namespace {

using nlohmann::json;

class ReadersTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() /
              concat("dsrsq-readers-", ::getpid(), "-",
                     testing::UnitTest::GetInstance()->current_test_info()->name());
    std::filesystem::create_directories(folder_);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& content) {
    const std::string path = folder_ / "input.jsonl";
    std::ofstream(path, std::ios::binary) << content;
    return path;
  }
  // Reads with every bad record allowed.
  std::vector<DocumentExample> read(const std::string& format, const std::string& path) {
    std::vector<DocumentExample> examples;
    ReadOptions options;
    options.maximum_bad = 1000;
    report_ = find_reader(format).read(
        path, options, [&](DocumentExample&& example) { examples.push_back(std::move(example)); });
    return examples;
  }
  std::vector<DocumentExample> read_content(const std::string& format, const std::string& content) {
    return read(format, write(content));
  }
  // The reason for which the one record of `content` is bad.
  std::string reason(const std::string& format, const std::string& content) {
    EXPECT_TRUE(read_content(format, content).empty()) << content;
    return report_.bad.size() == 1 ? report_.bad[0].reason
                                   : concat(report_.bad.size(), " bad records");
  }

  std::filesystem::path folder_;
  ReadReport report_;
};

std::string text_at(const DocumentExample& example, const ByteSpan& span) {
  return example.document.substr(span.begin, span.end - span.begin);
}

json span(int64_t begin, int64_t end) { return {{"start_token", begin}, {"end_token", end}}; }

// Lists as vectors: json itself would take a list of one for that one.
using Jsons = std::vector<json>;

json annotation(const json& long_answer, const Jsons& short_answers,
                const std::string& yes_no = "NONE") {
  return {{"long_answer", long_answer},
          {"short_answers", short_answers},
          {"yes_no_answer", yes_no},
          {"annotation_id", 18446744073709551615u}};
}

json nq_record(const Jsons& annotations) {
  return {
      {"document_text", "<P> Röntgen was  born in 1845 . </P> <P> Bye . </P>"},
      {"question_text", "when was röntgen born"},
      {"example_id", -4340755100872459608},
      {"document_url", "https://en.wikipedia.org//w/index.php?title=Wilhelm_R%C3%B6ntgen&oldid=1"},
      {"long_answer_candidates", json::array()},
      {"annotations", annotations}};
}

TEST_F(ReadersTest, NqTakesAllAnnotatorsOnce) {
  const json record = nq_record({annotation(span(0, 9), {span(6, 7)}),
                                 annotation(span(0, 9), {span(6, 7), span(5, 7)}),
                                 annotation(span(-1, -1), Jsons{})});
  const auto examples = read_content("nq_simplified", record.dump() + "\n");
  ASSERT_EQ(examples.size(), 1u);
  const Question& question = examples[0].questions.at(0);
  EXPECT_EQ(examples[0].title, "Wilhelm Röntgen");
  EXPECT_EQ(question.id, "-4340755100872459608");
  EXPECT_EQ(question.answers, (std::vector<std::string>{"1845", "in 1845"}));
  ASSERT_EQ(question.evidence.size(), 1u);
  // The empty token between the two blanks counts as one of the nine.
  EXPECT_EQ(text_at(examples[0], question.evidence[0]), "<P> Röntgen was  born in 1845 . </P>");
  ASSERT_EQ(question.answer_spans.size(), 2u);
  EXPECT_EQ(text_at(examples[0], question.answer_spans[1]), "in 1845");
  EXPECT_EQ(report_.records, 1);
  EXPECT_EQ(report_.unanswerable, 0);
}

TEST_F(ReadersTest, NqLongAnswerYesNoAndUnanswerable) {
  const std::string content = nq_record({annotation(span(9, 13), Jsons{})}).dump() + "\n" +
                              nq_record({annotation(span(9, 13), Jsons{}, "YES")}).dump() + "\n\n" +
                              nq_record({annotation(span(-1, -1), Jsons{})}).dump();
  const auto examples = read_content("nq_simplified", content);
  ASSERT_EQ(examples.size(), 3u);
  EXPECT_EQ(examples[0].questions[0].answers, std::vector<std::string>{"<P> Bye . </P>"});
  EXPECT_EQ(examples[0].questions[0].answer_spans.size(), 1u);
  EXPECT_EQ(examples[1].questions[0].answers, std::vector<std::string>{"yes"});
  EXPECT_TRUE(examples[1].questions[0].answer_spans.empty());
  EXPECT_EQ(examples[1].questions[0].evidence.size(), 1u);
  EXPECT_TRUE(examples[2].questions[0].answers.empty());
  EXPECT_EQ(examples[2].questions[0].source_line, 4);
  EXPECT_EQ(report_.unanswerable, 1);
}

TEST_F(ReadersTest, NqSplitsAtSingleBlanksOnly) {
  json record = nq_record({annotation(span(1, 2), {span(1, 2)})});
  record["document_text"] = "a b\u180E\u00A0c\td e";
  const auto examples = read_content("nq_simplified", record.dump());
  ASSERT_EQ(examples.size(), 1u);
  EXPECT_EQ(examples[0].questions[0].answers[0], "b\u180E\u00A0c\td");
}

TEST_F(ReadersTest, NqIdsKeepAll64Bits) {
  for (const char* id : {"9007199254740993", "9223372036854775807", "-9223372036854775808",
                         "18446744073709551615"}) {
    json record = nq_record({annotation(span(0, 9), {span(6, 7)})});
    record["example_id"] = json::parse(id);
    EXPECT_EQ(read_content("nq_simplified", record.dump()).at(0).questions[0].id, id);
  }
  json record = nq_record({});
  record["example_id"] = json::parse("18446744073709551616");
  EXPECT_NE(reason("nq_simplified", record.dump()).find("\"example_id\" must be an integer"),
            std::string::npos);
}

TEST_F(ReadersTest, NqBadRecordsNameTheKey) {
  const auto expect = [this](const json& record, const std::string& part) {
    EXPECT_NE(reason("nq_simplified", record.dump()).find(part), std::string::npos)
        << report_.bad.at(0).reason;
  };
  const json good = nq_record({annotation(span(0, 9), {span(6, 7)})});
  for (const char* key : {"document_text", "question_text", "example_id", "annotations"}) {
    json record = good;
    record.erase(key);
    expect(record, concat("\"", key, "\" is missing"));
    record[key] = 1.5;
    expect(record, concat("\"", key, "\" must be"));
  }
  expect(nq_record({annotation(span(0, 14), Jsons{})}),
         "\"annotations[0].long_answer\" is [0, 14), the document has 13 tokens");
  expect(nq_record({annotation(span(0, 9), {span(6, 7), span(7, 7)})}),
         "\"annotations[0].short_answers[1]\" is [7, 7)");
  expect(nq_record({annotation(span(-2, 3), Jsons{})}), "is [-2, 3)");
  expect(nq_record({annotation(span(0, 9), {span(3, 4)})}), "covers no text");
  expect(nq_record({annotation(span(0, 9), Jsons{}, "MAYBE")}),
         "yes_no_answer\" must be YES, NO or NONE");
  expect(nq_record({annotation({{"start_token", "0"}, {"end_token", 1}}, Jsons{})}),
         "\"annotations[0].long_answer.start_token\" must be an integer");
}

TEST_F(ReadersTest, DamagedLinesAreBadRecords) {
  EXPECT_NE(reason("jsonl", "{\"question\": \"a\xff\"}").find("invalid UTF-8"), std::string::npos);
  EXPECT_NE(reason("jsonl", "{\"question\": ").find("invalid JSON"), std::string::npos);
  EXPECT_NE(reason("jsonl", "[1]").find("must be an object"), std::string::npos);
  EXPECT_NE(reason("jsonl", std::string(100000, '[')).find("nested over"), std::string::npos);
  EXPECT_LT(reason("jsonl", "{\"" + std::string(1 << 20, 'x')).size(),
            200u);  // the line itself is not in the message
}

TEST_F(ReadersTest, OverTheLimitIsAnErrorThatListsThem) {
  const std::string good = R"({"question": "q", "context": "c", "answers": []})";
  const std::string path = write(good + "\n{}\n" + good + "\n[]\n");
  ReadOptions options;
  options.maximum_bad = 2;
  int64_t seen = 0;
  const auto sink = [&](DocumentExample&& example) {
    seen += static_cast<int64_t>(example.questions.size());
  };
  const ReadReport report = read_jsonl(path, options, sink);
  EXPECT_EQ(report.records, 2);
  EXPECT_EQ(seen, 2);
  ASSERT_EQ(report.bad.size(), 2u);
  EXPECT_EQ(report.bad[1].where, path + ":4");
  options.maximum_bad = 1;
  try {
    read_jsonl(path, options, sink);
    FAIL() << "two bad records of one allowed";
  } catch (const DataError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find(path + ":2"), std::string::npos) << message;
    EXPECT_NE(message.find("--maximum-bad"), std::string::npos) << message;
  }
}

TEST_F(ReadersTest, JsonlCodePointsAndStrings) {
  const json record = {{"question", "wer?"},
                       {"context", "Æsop traf Zoë. Zoë lacht 🙂 laut."},
                       {"answers", {"Zoë"}},
                       {"evidence", {json::array({15, 26})}},
                       {"id", 7},
                       {"timestamp", "2026-11-24T08:00:00Z"}};
  const auto examples = read_content("jsonl", record.dump());
  ASSERT_EQ(examples.size(), 1u) << (report_.bad.empty() ? "" : report_.bad[0].reason);
  const Question& question = examples[0].questions[0];
  EXPECT_EQ(text_at(examples[0], question.evidence.at(0)), "Zoë lacht 🙂");
  // In the evidence, not at its first place in the context.
  EXPECT_EQ(question.answer_spans.at(0).begin, question.evidence[0].begin);
  EXPECT_EQ(text_at(examples[0], question.answer_spans[0]), "Zoë");
  EXPECT_EQ(question.id, "7");
  EXPECT_EQ(question.timestamp, "2026-11-24T08:00:00Z");
}

TEST_F(ReadersTest, JsonlDocumentsAreJoinedByABlankLine) {
  const json record = {{"question", "q"},
                       {"documents", {"one two", {{"title", "T"}, {"text", "three four"}}}},
                       {"answers", {"three"}},
                       {"evidence", {"three four"}},
                       {"answer_spans", json::array({"four"})}};
  const auto examples = read_content("jsonl", record.dump());
  ASSERT_EQ(examples.size(), 1u);
  EXPECT_EQ(examples[0].document, "one two\n\nT\nthree four");
  EXPECT_EQ(text_at(examples[0], examples[0].questions[0].evidence.at(0)), "three four");
  EXPECT_EQ(text_at(examples[0], examples[0].questions[0].answer_spans.at(0)), "four");
}

TEST_F(ReadersTest, JsonlGathersConsecutiveQuestionsOfOneContext) {
  const auto line = [](const std::string& question, const std::string& context) {
    return json{{"question", question}, {"context", context}, {"answers", {"free words"}}}.dump() +
           "\n";
  };
  const auto examples = read_content("jsonl", line("a", "x") + line("b", "x") + "{}\n" +
                                                  line("c", "x") + line("d", "y") + line("e", "x"));
  ASSERT_EQ(examples.size(), 3u);
  EXPECT_EQ(examples[0].questions.size(), 3u);
  EXPECT_EQ(examples[0].questions[2].text, "c");
  EXPECT_TRUE(examples[0].questions[0].answer_spans.empty());
  EXPECT_EQ(report_.records, 5);
  EXPECT_EQ(report_.bad.size(), 1u);
}

TEST_F(ReadersTest, JsonlBadRecordsNameTheKey) {
  const json good = {{"question", "q"}, {"context", "äbc"}, {"answers", {"b"}}};
  const auto expect = [&](const json& change, const std::string& part) {
    json record = good;
    record.merge_patch(change);
    EXPECT_NE(reason("jsonl", record.dump()).find(part), std::string::npos)
        << record << report_.bad.at(0).reason;
  };
  expect({{"question", 1}}, "\"question\" must be a string, got number");
  expect({{"answers", "b"}}, "\"answers\" must be a list");
  expect({{"answers", {""}}}, "\"answers[0]\" is empty");
  expect({{"context", nullptr}}, "either \"context\" or \"documents\"");
  expect({{"documents", {"x"}}}, "either \"context\" or \"documents\"");
  expect({{"context", ""}}, "\"context\" is empty");
  expect({{"evidence", {"z"}}}, "\"evidence[0]\" does not occur");
  expect({{"evidence", {json::array({0, 4})}}},
         "\"evidence[0]\" is [0, 4), the context has 3 code points");
  expect({{"evidence", {json::array({2, 1})}}}, "is [2, 1)");
  expect({{"evidence", {json::array({0, 18446744073709551615u})}}},
         "\"evidence[0][1]\" must be an integer");
  expect({{"answer_spans", {3}}}, "\"answer_spans[0]\" must be a string or");
  expect({{"timestamp", "yesterday"}}, "\"timestamp\" must be ISO 8601");
  expect({{"id", 1.5}}, "\"id\" must be an integer");
}

TEST_F(ReadersTest, GzipIsReadAndATruncatedOneIsAnError) {
  // gzip of {"question":"q","context":"c","answers":[]} and a line feed
  const unsigned char bytes[] = {0x1f, 0x8b, 0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x02, 0x03, 0xab,
                                 0x56, 0x2a, 0x2c, 0x4d, 0x2d, 0x2e, 0xc9, 0xcc, 0xcf, 0x53, 0xb2,
                                 0x52, 0x2a, 0x54, 0xd2, 0x51, 0x4a, 0xce, 0xcf, 0x2b, 0x49, 0xad,
                                 0x28, 0x01, 0xf2, 0x92, 0x81, 0xbc, 0xc4, 0xbc, 0xe2, 0xf2, 0xd4,
                                 0xa2, 0x62, 0x25, 0xab, 0xe8, 0xd8, 0x5a, 0x2e, 0x00, 0x8f, 0xe9,
                                 0x86, 0x8b, 0x2c, 0x00, 0x00, 0x00};
  const std::string content(reinterpret_cast<const char*>(bytes), sizeof bytes);
  EXPECT_EQ(read_content("jsonl", content).size(), 1u);
  EXPECT_THROW(read_content("jsonl", content.substr(0, content.size() - 12)), DataError);
}

TEST_F(ReadersTest, UnknownFormatNamesTheKnownOnes) {
  try {
    find_reader("nq_simplifed");
    FAIL() << "an unknown format";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("expected one of nq_simplified, "), std::string::npos)
        << error.what();
  }
}

// The official text of a span, " ".join(document_text.split(" ")[start:end]), computed here without
// our reader.
std::string official_text(const std::string& document, int64_t begin, int64_t end) {
  std::vector<std::string> tokens(1);
  for (const char c : document) {
    if (c == ' ') {
      tokens.emplace_back();
    } else {
      tokens.back() += c;
    }
  }
  std::string text;
  for (int64_t i = begin; i < end; ++i) text += (i > begin ? " " : "") + tokens.at(i);
  return text;
}

TEST_F(ReadersTest, NqRealRecordsHaveTheOfficialSpanTexts) {
  const char* variable = std::getenv("DSRSQ_SHARED_DATA");
  const std::string data =
      variable != nullptr ? variable : std::string(DSRSQ_SOURCE_DIR) + "/../shared/data";
  const std::string path = data + "/nq_simplified_derived/simplified-nq-from-qed-40p.jsonl.gz";
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no shared data: set DSRSQ_SHARED_DATA";
  const auto examples = read("nq_simplified", path);
  ASSERT_EQ(examples.size(), 323u);
  EXPECT_TRUE(report_.bad.empty());
  size_t index = 0;
  int64_t short_answers = 0;
  for_each_line(path, [&](int64_t, const std::string& line) {
    const json record = json::parse(line);
    const std::string& document = record["document_text"].get_ref<const std::string&>();
    const DocumentExample& example = examples.at(index++);
    const Question& question = example.questions.at(0);
    ASSERT_EQ(example.document, document);
    EXPECT_EQ(question.id, std::to_string(record["example_id"].get<int64_t>()));
    const json& first = record["annotations"][0];
    EXPECT_EQ(text_at(example, question.evidence.at(0)),
              official_text(document, first["long_answer"]["start_token"],
                            first["long_answer"]["end_token"]));
    size_t span_index = 0;
    for (const json& answer : first["short_answers"]) {
      const std::string official =
          official_text(document, answer["start_token"], answer["end_token"]);
      EXPECT_EQ(text_at(example, question.answer_spans.at(span_index++)), official);
      EXPECT_NE(std::find(question.answers.begin(), question.answers.end(), official),
                question.answers.end());
      ++short_answers;
    }
  });
  EXPECT_EQ(index, 323u);
  EXPECT_GE(short_answers, 323);
}

}  // namespace
}  // namespace dsrsq
