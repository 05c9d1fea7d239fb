// dsrsq-eval --nq: predictions made elsewhere, scored as Natural Questions scores them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
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
  return run_program(arguments, project().folder() + "/output-nq");
}

TEST(EvalNq, SpansAndWords) {
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
  for (const auto& record : results["records"])
    values[record["metric"]] = record["value"];
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
