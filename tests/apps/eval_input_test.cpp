// dsrsq-eval --input: answers made elsewhere are scored without a checkpoint.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>

#include "apps/program.h"

namespace dsrsq {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ProgramResult;
using testing::read_bytes;
using testing::run_program;
using testing::TinyProject;
using testing::write_bytes;
namespace fs = std::filesystem;

const TinyProject& project() { return TinyProject::get(); }

std::string file(const std::string& name, const std::string& content) {
  auto path = project().folder() + "/" + name;
  write_bytes(path, content);
  return path;
}

// Forty questions of which the first `right` are answered well.
std::string answers(int right) {
  std::string lines;
  for (int i = 0; i < 40; ++i) {
    lines += json{{"id", i},
                  {"prediction", i < right ? "the house that is red" : "a tree"},
                  {"answers", {"red house", "the house that is red"}}}
                 .dump() +
             "\n";
  }
  return lines;
}

ProgramResult eval(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "dsrsq-eval");
  return run_program(arguments, project().folder() + "/output-input");
}

void expect_error(const ProgramResult& result, int code, const std::string& part) {
  EXPECT_EQ(result.code, code) << result.err;
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  EXPECT_THAT(result.errors()[0], HasSubstr(part));
}

std::map<std::string, json> records_of(const std::string& folder, const std::string& row) {
  std::map<std::string, json> records;
  const auto results = json::parse(read_bytes(folder + "/results.json"));
  for (const auto& record : results.at("records"))
    if (record["method"] == row) records[record["metric"]] = record;
  return records;
}

TEST(Input, IsScoredAndComparedWithoutAModel) {
  auto folder = project().folder() + "/input";
  auto result = eval({"--input", "weak=" + file("weak.jsonl", answers(20)), "--input",
                      file("strong.jsonl", answers(30)), "--output-dir", folder});
  ASSERT_EQ(result.code, 0) << result.err;
  for (const char* part :
       {"| weak ", "| strong ", "ROUGE-L", "BLEU", "Less weak, question by question"})
    EXPECT_THAT(result.out, HasSubstr(part));
  EXPECT_EQ(read_bytes(folder + "/table.md") + "\n", result.out);
  auto weak = records_of(folder, "weak"), strong = records_of(folder, "strong");
  for (const char* metric :
       {"em", "f1", "subspan_em", "rouge_1", "rouge_2", "rouge_l", "rouge_lsum", "bleu"}) {
    EXPECT_EQ(weak[metric]["ci"].size(), 2u) << metric;
    EXPECT_FALSE(weak[metric].contains("baseline")) << metric;
    EXPECT_EQ(strong[metric]["baseline"], "weak") << metric;
    EXPECT_EQ(strong[metric]["difference"]["pairs"], 40) << metric;
    EXPECT_GT(strong[metric]["difference"]["value"], 0) << metric;
  }
  EXPECT_EQ(weak["em"]["value"], 0.5);
  EXPECT_DOUBLE_EQ(strong["em"]["difference"]["value"], 0.25);
  EXPECT_NEAR(strong["em"]["difference"]["p"].get<double>(), 2.0 / 1024, 1e-12)
      << "ten questions differ, all one way";
}

TEST(Input, TheBaselineAndTheColumnsAreChosen) {
  auto weak = "weak=" + file("weak.jsonl", answers(20));
  auto strong = "strong=" + file("strong.jsonl", answers(30));
  auto result = eval(
      {"--input", weak, "--input", strong, "--baseline", "strong", "--columns", "subspan_em,em"});
  ASSERT_EQ(result.code, 0) << result.err;
  EXPECT_THAT(result.out, AllOf(HasSubstr("Less strong"), HasSubstr("subspan EM"),
                                HasSubstr("-0.250 ["), Not(HasSubstr("BLEU |"))));
  expect_error(eval({"--input", weak, "--baseline", "best"}), 2, "'best'; there are: weak");
  expect_error(eval({"--input", weak, "--columns", "rouge"}), 2, "unknown metric 'rouge'");
}

TEST(Input, BadFilesAreDataErrorsAndBadUseIsAUsageError) {
  expect_error(eval({"--input", file("empty.jsonl", "")}), 3, "empty.jsonl: no predictions");
  expect_error(eval({"--input", file("twice.jsonl", answers(1) + answers(1))}), 3,
               "twice.jsonl:41: the id \"0\" stands twice");
  expect_error(eval({"--input", project().folder() + "/none.jsonl"}), 3, "none.jsonl");
  auto good = file("good.jsonl", answers(1));
  expect_error(eval({"--input", good, "--input", good}), 2, "two rows are called 'good'");
  expect_error(eval({"--input", good, "--key", "prediction"}), 2, "expected FIELD=NAME");
  expect_error(eval({}), 2, "--input");
  EXPECT_EQ(eval({"--input", good, "--checkpoint", "x"}).code, 2);
  EXPECT_EQ(eval({"--input", good, "--methods", "bm25"}).code, 2);
  EXPECT_EQ(eval({"--input", good, "--missing", "ignore"}).code, 2);
  EXPECT_EQ(eval({"--checkpoint", "x", "--references", "y"}).code, 2);
}

// What a run dumps, scored as if another system had made it, gives the run's own numbers.
TEST(Input, ADumpOfARunScoresAsTheRun) {
  auto trained = run_program(project().train("dumped"), project().folder() + "/output-dumped");
  ASSERT_EQ(trained.code, 0) << trained.err;
  auto folder = project().folder() + "/dumped-eval", dump = project().folder() + "/dump.jsonl";
  auto own = eval({"--checkpoint", "full=" + project().run_folder("dumped"), "--methods",
                   "oracle_evidence", "--baseline", "oracle_evidence", "--dump", dump,
                   "--output-dir", folder});
  ASSERT_EQ(own.code, 0) << own.err;
  EXPECT_FALSE(fs::exists(folder + "/questions.jsonl")) << "--dump says where they go";
  auto first = json::parse(read_bytes(dump).substr(0, read_bytes(dump).find('\n')));
  for (const char* key : {"row", "id", "question", "prediction", "answers", "em", "f1", "rouge_l",
                          "sentence_bleu", "place", "tokens_read"})
    EXPECT_TRUE(first.contains(key)) << key;
  auto again = project().folder() + "/dumped-again";
  auto scored = eval({"--input", dump, "--references", project().store(), "--baseline",
                      "oracle_evidence", "--output-dir", again});
  ASSERT_EQ(scored.code, 0) << scored.err;
  for (const std::string row : {"full", "oracle_evidence"}) {
    auto was = records_of(folder, row), is = records_of(again, row);
    for (const std::string metric : {"em", "f1", "subspan_em", "rouge_1", "rouge_lsum", "bleu"}) {
      for (const char* key : {"value", "ci", "difference"})
        EXPECT_EQ(was[metric].value(key, json()), is[metric].value(key, json()))
            << row << " " << metric << " " << key;
      EXPECT_EQ(is[metric].contains("difference"), row == "full");
    }
    EXPECT_FALSE(is.count("throughput")) << "there was no model";
  }
  auto full = records_of(folder, "full");
  for (const char* metric : {"throughput", "flops", "bytes_held", "tokens_read"})
    EXPECT_TRUE(full[metric].contains("ratio")) << metric;
  auto bad = eval({"--checkpoint", "full=" + project().run_folder("dumped"), "--baseline", "ful"});
  expect_error(bad, 2, "no row is called 'ful'; there are: full");
}

}  // namespace
}  // namespace dsrsq
