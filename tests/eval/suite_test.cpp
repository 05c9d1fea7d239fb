#include "dsrsq/eval/suite.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

using ::testing::HasSubstr;

const std::string kHead = "title: T\nsource: S\n";
const std::string kTask =
    "tasks:\n  - {name: a, prompt: 'x {context} y {question}', maximum_answer: 4, "
    "metric: token_f1}\n";

void expect_config_error(const std::string& text, const std::vector<std::string>& parts) {
  try {
    parse_suite(text, "s.yaml");
    FAIL() << text;
  } catch (const ConfigError& error) {
    for (const auto& part : parts) EXPECT_THAT(error.what(), HasSubstr(part));
  }
}

QuestionResult answered(const std::string& prediction, const std::vector<std::string>& answers,
                        const std::string& question = "Q?") {
  QuestionResult result;
  result.question = question;
  result.prediction = prediction;
  result.answers = answers;
  score_answer(result);
  return result;
}

double score(const SuiteTask& task, QuestionResult question) {
  score_question(task, question);
  return question.score;
}

TEST(Suite, ErrorsNameLineAndColumn) {
  EXPECT_EQ(parse_suite(kHead + kTask, "s.yaml").tasks.size(), 1u);
  expect_config_error(kHead + "truncation: centre\n" + kTask, {"s.yaml:3:13", "middle"});
  expect_config_error(kHead + "truncations: middle\n" + kTask, {"s.yaml:3:1", "truncation"});
  expect_config_error(kHead + kTask +
                          "  - {name: b, prompt: '{context}', maximum_answer: 4, "
                          "metric: token_f2}\n",
                      {"s.yaml:5:", "token_f1"});
  expect_config_error("source: S\n" + kTask, {"title"});
  expect_config_error(kHead, {"tasks", "at least one"});
}

TEST(Suite, PromptsAndTasksAreChecked) {
  auto task = [](const std::string& fields) {
    return kHead + "tasks:\n  - {name: a, maximum_answer: 4, metric: token_f1, " + fields + "}\n";
  };
  expect_config_error(task("prompt: 'x {question}'"), {"s.yaml:4:", "tasks.0.prompt", "{context}"});
  expect_config_error(task("prompt: '{context} {context}'"), {"tasks.0.prompt"});
  expect_config_error(task("prompt: '{question} {context}'"), {"tasks.0.prompt", "{question}"});
  expect_config_error(kHead + kTask + kTask.substr(7), {"tasks.1.name", "a second 'a'"});
  expect_config_error(kHead +
                          "tasks:\n  - {name: a, maximum_answer: 4, prompt: '{context}', "
                          "metric: single_label}\n",
                      {"tasks.0.classes", "single_label"});
  expect_config_error(kHead + "tasks:\n  - {name: a, prompt: '{context}', metric: token_f1}\n",
                      {"tasks.0.maximum_answer"});
}

TEST(Suite, APromptIsCutAtTheContext) {
  SuiteTask task;
  task.prompt = "Read.\n{context}\nQ: {question}\nA:";
  auto prompt = split_prompt(task);
  EXPECT_EQ(prompt.prefix, "Read.\n");
  EXPECT_EQ(prompt.question, "\nQ: {question}\nA:");
}

TEST(Suite, ASplitIsTheTaskThatSaysMostOfItsName) {
  Suite suite;
  for (const char* name : {"niah_*", "niah_multi*", "niah_multikey_3", "vt"}) {
    suite.tasks.emplace_back();
    suite.tasks.back().name = name;
  }
  EXPECT_EQ(suite.task_of("niah_single_1").name, "niah_*");
  EXPECT_EQ(suite.task_of("niah_multikey_1").name, "niah_multi*");
  EXPECT_EQ(suite.task_of("niah_multikey_3").name, "niah_multikey_3");
  EXPECT_EQ(suite.task_of("vt").name, "vt");
  suite.title = "RULER";
  try {
    suite.task_of("vt_2");
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("'vt_2'"));
    EXPECT_THAT(error.what(), HasSubstr("RULER"));
    EXPECT_THAT(error.what(), HasSubstr("niah_multikey_3"));
  }
}

TEST(Suite, AnswersAreTrimmedInOrder) {
  SuiteTask task;
  EXPECT_EQ(trimmed_answer(task, "\n a\nb "), "\n a\nb ");
  task.first_line = true;
  EXPECT_EQ(trimmed_answer(task, "\n\n a \nb"), " a ");
  task.strip = true;
  EXPECT_EQ(trimmed_answer(task, "\n\n a \nb"), "a");
  task = {};
  task.stop = {"\n", "Question"};
  task.strip = true;
  EXPECT_EQ(trimmed_answer(task, " a Question b\nc"), "a");
  EXPECT_EQ(trimmed_answer(task, "\na"), "") << "up to the first line feed, unlike first_line";
  EXPECT_EQ(trimmed_answer(task, "  "), "");
}

TEST(Suite, ScoresAreOfTheTrimmedAnswer) {
  SuiteTask task;
  task.metric = "subspan_exact_match";
  EXPECT_EQ(score(task, answered("no idea\nthe red house", {"red house"})), 1);
  task.stop = {"\n"};
  EXPECT_EQ(score(task, answered("no idea\nthe red house", {"red house"})), 0);
  task = {};
  task.metric = "classification";
  task.classes = {"City", "Country", "Other location"};
  EXPECT_EQ(score(task, answered("City or Country", {"City"})), 0.5);
}

TEST(Suite, TheFilesOfTheProjectAreSuites) {
  std::map<std::string, Suite> suites;
  const std::string folder = std::string(DSRSQ_SOURCE_DIR) + "/configs/suites";
  for (const auto& file : std::filesystem::directory_iterator(folder))
    suites[file.path().stem().string()] =
        load_suite(file.path().stem().string(), {std::string(DSRSQ_SOURCE_DIR) + "/configs"});
  for (const char* name : {"babilong", "hotpotqa", "kv_retrieval", "longbench", "longbench_v2",
                           "lost_in_the_middle", "narrativeqa", "quality", "ruler", "timeqa"})
    EXPECT_EQ(suites.count(name), 1u) << name;
  const auto& longbench = suites["longbench"];
  EXPECT_EQ(longbench.truncation, "middle");
  EXPECT_EQ(longbench.task_of("hotpotqa").maximum_answer, 32);
  EXPECT_EQ(longbench.task_of("gov_report_e").metric, "set_rouge_l");
  EXPECT_TRUE(longbench.task_of("trec").first_line);
  EXPECT_FALSE(longbench.task_of("trec").chat);
  EXPECT_EQ(longbench.task_of("trec").classes.size(), 50u);
  EXPECT_FALSE(longbench.task_of("narrativeqa").first_line);
  EXPECT_THROW(longbench.task_of("dureader"), DataError);
  EXPECT_EQ(suites["ruler"].task_of("niah_multikey_3").maximum_answer, 128);
  EXPECT_EQ(suites["ruler"].task_of("qa_2").metric, "string_match_part");
  EXPECT_EQ(suites["babilong"].tasks.size(), 20u);
  try {
    load_suite("longbanch", {std::string(DSRSQ_SOURCE_DIR) + "/configs"});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(), HasSubstr("longbanch"));
  }
}

ResultRecord record(const std::string& case_name, const std::string& row, double value) {
  return {case_name, row, {{"questions", 5}}, "score", value, "share", {}, {}};
}

TEST(SuiteRecords, TasksCountAlike) {
  auto means = suite_means({record("a", "x", 0.2),
                            record("a", "y", 1),
                            record("b", "x", 0.6),
                            {"b", "x", {}, "em", 1, "share", {}, {}}},
                           "suite");
  ASSERT_EQ(means.size(), 2u);
  EXPECT_EQ(means[0].case_name, "suite");
  EXPECT_EQ(means[0].method, "x");
  EXPECT_DOUBLE_EQ(means[0].value, 0.4);
  EXPECT_EQ(means[0].shape.at("tasks"), 2);
  EXPECT_EQ(means[0].shape.at("questions"), 10);
  EXPECT_EQ(means[1].value, 1);
}

TEST(SuiteRecords, TheNeedleMapIsByWhereTheAnswerBegins) {
  AnsweredRow row{"4096", "x", {}};
  for (auto [depth, right] :
       {std::pair{0.0, true}, {0.19, false}, {0.2, true}, {1.0, true}, {-1.0, false}}) {
    auto question = answered(right ? "a" : "b", {"a"});
    question.depth = depth;
    question.context_tokens = 100;
    row.questions.push_back(question);
  }
  auto map = depth_records(row, 5);
  ASSERT_EQ(map.size(), 3u);
  EXPECT_EQ(map[0].metric, "em_at_depth");
  EXPECT_DOUBLE_EQ(map[0].shape.at("depth"), 0.1);
  EXPECT_EQ(map[0].shape.at("questions"), 2);
  EXPECT_DOUBLE_EQ(map[0].shape.at("context_tokens"), 100);
  EXPECT_EQ(map[0].value, 0.5);
  EXPECT_DOUBLE_EQ(map[1].shape.at("depth"), 0.3);
  EXPECT_DOUBLE_EQ(map[2].shape.at("depth"), 0.9);
  for (auto& question : row.questions) question.score = 0.25;
  EXPECT_EQ(depth_records(row, 5)[0].metric, "score_at_depth");
  EXPECT_EQ(depth_records(row, 5)[0].value, 0.25);
}

TEST(SuiteRecords, RulesSayWhatWasDone) {
  auto suite = parse_suite(kHead + "maximum_prompt: 100\ntruncation: middle\n" + kTask, "s.yaml");
  auto rules = suite_rules(suite, {"a"});
  EXPECT_EQ(rules["tasks"][0]["prompt"], "x {context} y {question}");
  auto words = describe_rules(rules);
  for (const char* part : {"T. S", "at most 100 tokens", "middle", "token_f1", "as decoded",
                           "x {context} y {question}"})
    EXPECT_THAT(words, HasSubstr(part));
  EXPECT_THROW(suite_rules(suite, {"a", "b"}), DataError);
}

}  // namespace
}  // namespace dsrsq
