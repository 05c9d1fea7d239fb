// dsrsq-eval --suite and --nq, dsrsq-data prepare --split-by input: from files to results.json.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "apps/program.h"

namespace dsrsq {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;
using testing::ProgramResult;
using testing::read_bytes;
using testing::run_program;
using testing::TinyProject;
using testing::write_bytes;

const TinyProject& project() { return TinyProject::get(); }

std::string file(const std::string& name, const std::string& content) {
  auto path = project().folder() + "/" + name;
  write_bytes(path, content);
  return path;
}

ProgramResult run(std::vector<std::string> arguments) {
  return run_program(arguments, project().folder() + "/output-suite");
}

std::string questions(int count, const std::string& answer) {
  std::string lines;
  for (int i = 0; i < count; ++i)
    lines += json{{"question", "what"},
                  {"context", "the answer is " + answer + " of " + std::to_string(i)},
                  {"answers", {answer}}}
                 .dump() +
             "\n";
  return lines;
}

std::string store_of_two_tasks(const std::string& second) {
  auto one = file("one.x.jsonl", questions(3, "red")), two = file("b.jsonl", questions(2, "blue"));
  auto store = project().folder() + "/suite-" + second + ".h5";
  auto made = run({"dsrsq-data", "prepare", one, second + "=" + two, "--format", "jsonl",
                   "--split-by", "input", "--tokenizer", project().tokenizer(), "--output", store});
  EXPECT_EQ(made.code, 0) << made.err;
  EXPECT_THAT(made.out, HasSubstr("one: 3 records"));
  EXPECT_THAT(made.out, HasSubstr(second + ": 2 records"));
  return store;
}

std::string suite_file() {
  return file("small.yaml",
              "title: Small\nsource: made up\nmaximum_prompt: 40\ntruncation: middle\ndepths: 2\n"
              "tasks:\n"
              "  - {name: one, prompt: \"read {context} now {question}\", maximum_answer: 3, "
              "metric: token_f1}\n"
              "  - {name: \"tw*\", prompt: \"{context} {question}\", maximum_answer: 2, "
              "metric: string_match_all, strip: true}\n");
}

std::string trained_run() {
  static const ProgramResult trained = run_program(project().train("suite"), project().folder());
  EXPECT_EQ(trained.code, 0) << trained.err;
  return project().run_folder("suite");
}

TEST(EvalSuite, EveryTaskByItsOwnRules) {
  auto out = project().folder() + "/suite-eval";
  auto result = run({"dsrsq-eval", "--checkpoint", trained_run(), "--suite", suite_file(), "--set",
                     "data.train=" + store_of_two_tasks("two"), "--output-dir", out});
  ASSERT_EQ(result.code, 0) << result.err;
  auto results = json::parse(read_bytes(out + "/results.json"));
  std::map<std::string, double> scores;
  int at_depth = 0;
  for (const auto& record : results["records"]) {
    if (record["metric"] == "score") {
      scores[record["case"]] = record["value"];
      if (record["case"] != "small") {
        EXPECT_EQ(record["shape"]["questions"], record["case"] == "one" ? 3 : 2);
      }
    }
    at_depth += record["metric"] == "score_at_depth";
  }
  ASSERT_EQ(scores.size(), 3u);
  EXPECT_DOUBLE_EQ(scores["small"], (scores["one"] + scores["two"]) / 2);
  EXPECT_GE(at_depth, 2);
  const auto& rules = results["provenance"]["suite"];
  EXPECT_EQ(rules["maximum_prompt"], 40);
  EXPECT_EQ(rules["tasks"][1]["task"], "two");
  EXPECT_EQ(rules["tasks"][1]["metric"], "string_match_all");
  EXPECT_THAT(read_bytes(out + "/table.md"), HasSubstr("read {context} now {question}"));
  EXPECT_THAT(read_bytes(out + "/questions-two.jsonl"), HasSubstr("\"score\":"));
}

TEST(EvalSuite, AnUnknownTaskIsNamedBeforeAnyWork) {
  auto result = run({"dsrsq-eval", "--checkpoint", trained_run(), "--suite", suite_file(), "--set",
                     "data.train=" + store_of_two_tasks("three")});
  EXPECT_EQ(result.code, 3);
  ASSERT_EQ(result.errors().size(), 1u) << result.err;
  EXPECT_THAT(result.errors()[0], HasSubstr("split 'three'"));
  result = run({"dsrsq-eval", "--checkpoint", trained_run(), "--suite", "no_such_suite"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("no_such_suite"));
  result = run({"dsrsq-data", "prepare", file("c.jsonl", questions(1, "x")), "--format", "jsonl",
                "--split-by", "input", "--split", "a=1", "--tokenizer", project().tokenizer(),
                "--output", project().folder() + "/no.h5"});
  EXPECT_EQ(result.code, 2);
  EXPECT_THAT(result.err, HasSubstr("leave --split out"));
}

TEST(EvalSuite, NaturalQuestionsByTheirOwnScore) {
  auto span = [](int begin, int end) { return json{{"start_token", begin}, {"end_token", end}}; };
  json annotation{
      {"long_answer", span(0, 4)}, {"short_answers", {span(1, 2)}}, {"yes_no_answer", "NONE"}};
  json page{
      {"example_id", 5}, {"document_text", "a b c d"}, {"annotations", {annotation, annotation}}};
  json prediction = annotation;
  prediction.update({{"example_id", 5}, {"long_answer_score", 1}, {"short_answers_score", 1}});
  auto gold = file("gold.jsonl", page.dump() + "\n");
  auto spans = file("spans.json", json{{"predictions", {prediction}}}.dump());
  auto words = file("words.jsonl", "{\"id\": 5, \"prediction\": \"c\"}\n");
  auto out = project().folder() + "/nq";
  auto result = run({"dsrsq-eval", "--input", "spans=" + spans, "--input", "words=" + words, "--nq",
                     gold, "--output-dir", out});
  ASSERT_EQ(result.code, 0) << result.err;
  std::map<std::string, double> values;
  auto results = json::parse(read_bytes(out + "/results.json"));
  for (const auto& record : results["records"]) values[record["metric"]] = record["value"];
  EXPECT_EQ(values.at("nq_long_f1"), 1);
  EXPECT_EQ(values.at("nq_short_best_f1"), 1);
  EXPECT_EQ(values.at("nq_short_text_f1"), 0);
  result =
      run({"dsrsq-eval", "--input",
           "words=" + file("other.jsonl", "{\"id\": 6, \"prediction\": \"\"}\n"), "--nq", gold});
  EXPECT_EQ(result.code, 3);
  EXPECT_THAT(result.err, HasSubstr("no prediction for example_id 5"));
}

}  // namespace
}  // namespace dsrsq
