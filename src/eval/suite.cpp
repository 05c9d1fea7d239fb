#include "dsrsq/eval/suite.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/text/suite_metrics.h"

namespace dsrsq {

namespace {

const std::string kContext = "{context}";

std::vector<std::string> metric_names() {
  std::vector<std::string> names;
  for (const auto& metric : suite_metrics()) names.emplace_back(metric.name);
  return names;
}

// How much of `split` the task's name says; -1: another task.
int64_t fit(const std::string& name, const std::string& split) {
  if (name == split) return int64_t(split.size()) + 1;
  bool open = !name.empty() && name.back() == '*';
  bool fits = open && split.compare(0, name.size() - 1, name, 0, name.size() - 1) == 0;
  return fits ? int64_t(name.size()) - 1 : -1;
}

std::string stripped(const std::string& text) {
  const char* white = " \t\n\v\f\r";
  auto begin = text.find_first_not_of(white);
  if (begin == std::string::npos) return "";
  return text.substr(begin, text.find_last_not_of(white) + 1 - begin);
}

}  // namespace

void SuiteTask::visit_fields(ConfigVisitor& v) {
  v.field("name", name,
          "The split of the data set; with * at the end: every split that begins so.");
  v.field("prompt", prompt,
          "The whole prompt: {context} once, behind it {question}, or {stem}, {options}, {quoted} "
          "of it.");
  v.field("maximum_answer", maximum_answer, "Tokens decoded for an answer, at most.", at_least(0));
  v.field("chat", chat, "The prompt is a user's turn where the run has eval.chat_begin.");
  v.field("first_line", first_line,
          "Of the answer, the first line after leading line feeds is scored.");
  v.field("stop", stop, "The answer ends before the first of these.");
  v.field("strip", strip, "White space at both ends of the answer goes.");
  v.field("metric", metric, "What `score` is.", one_of(metric_names()));
  v.field("classes", classes, "What classification and single_label look for.");
}

void Suite::visit_fields(ConfigVisitor& v) {
  v.field("title", title, "Name, authors, year.");
  v.field("source", source, "Where the rules come from, and under which licence.");
  v.field("reader", reader, "The --format that dsrsq-data prepare reads its files with.");
  v.field("maximum_prompt", maximum_prompt,
          "Tokens of a prompt; longer ones lose some of their context. 0: never. A run's "
          "eval.maximum_prompt goes before.",
          at_least(0));
  v.field("truncation", truncation, "As eval.truncation.", one_of({"right", "middle", "left"}));
  v.field("depths", depths, "Shares of the context that the needle map has; 0: no map.",
          at_least(0));
  v.list("tasks", tasks, "Its tasks.");
}

void Suite::validate(const ConfigLocations& locations) const {
  auto require = [&](bool holds, const std::string& key, const std::string& message) {
    if (!holds) throw ConfigError(concat(locations.of(key), ": ", key, ": expected ", message));
  };
  require(!title.empty(), "title", "the suite's name, got nothing");
  require(!source.empty(), "source", "where the rules come from, got nothing");
  require(!tasks.empty(), "tasks", "at least one task, got none");
  for (size_t i = 0; i < tasks.size(); ++i) {
    const auto& task = tasks[i];
    auto key = [&](const char* name) { return concat("tasks.", i, ".", name); };
    require(!task.name.empty(), key("name"), "the name of a split, got nothing");
    for (size_t j = 0; j < i; ++j)
      require(tasks[j].name != task.name, key("name"),
              concat("each task once, got a second '", task.name, "'"));
    auto at = task.prompt.find(kContext);
    require(at != std::string::npos &&
                task.prompt.find(kContext, at + kContext.size()) == std::string::npos,
            key("prompt"), concat("a text that contains ", kContext, " once"));
    for (const char* placeholder : {"{question}", "{stem}", "{options}", "{quoted}"})
      require(task.prompt.find(placeholder) >= at, key("prompt"),
              concat(placeholder, " behind ", kContext,
                     ": what chooses and compresses reads a context before its question"));
    require(task.maximum_answer > 0, key("maximum_answer"), "a number of tokens, got 0");
    require(!task.metric.empty(), key("metric"), "a metric, got nothing");
    bool listed = task.metric == "classification" || task.metric == "single_label";
    require(!listed || !task.classes.empty(), key("classes"),
            concat("the classes that ", task.metric, " looks for, got none"));
  }
}

const SuiteTask& Suite::task_of(const std::string& split) const {
  const SuiteTask* best = nullptr;
  std::string known;
  for (const auto& task : tasks) {
    auto fits = fit(task.name, split);
    if (fits >= 0 && (best == nullptr || fits > fit(best->name, split))) best = &task;
    known += (known.empty() ? "" : ", ") + task.name;
  }
  if (best == nullptr)
    throw DataError(concat("split '", split, "': no task of ", title, " is called so; it has ",
                           known,
                           ". Name the split after its task: prepare --split-by input, "
                           "TASK=FILE"));
  return *best;
}

namespace {
Suite checked(Suite suite, const ConfigLocations& locations) {
  suite.validate(locations);
  return suite;
}
}  // namespace

Suite load_suite(const std::string& name, const std::vector<std::string>& search_folders) {
  Suite suite;
  auto file = name.ends_with(".yaml") ? name : concat("suites/", name, ".yaml");
  auto locations = load_config({file, {}, search_folders},
                               [&suite](ConfigVisitor& v) { suite.visit_fields(v); });
  return checked(std::move(suite), locations);
}

Suite parse_suite(const std::string& text, const std::string& name) {
  Suite suite;
  auto locations =
      load_config_text(text, name, [&suite](ConfigVisitor& v) { suite.visit_fields(v); });
  return checked(std::move(suite), locations);
}

SuitePrompt split_prompt(const SuiteTask& task) {
  auto at = task.prompt.find(kContext);
  return {task.prompt.substr(0, at), task.prompt.substr(at + kContext.size())};
}

std::string trimmed_answer(const SuiteTask& task, const std::string& prediction) {
  auto answer = task.first_line ? first_answer_line(prediction) : prediction;
  auto end = answer.size();
  for (const auto& stop : task.stop) end = std::min(end, answer.find(stop));
  answer.resize(end);
  return task.strip ? stripped(answer) : answer;
}

void score_question(const SuiteTask& task, QuestionResult& question) {
  question.score = find_suite_metric(task.metric)
                       .score({trimmed_answer(task, question.prediction), question.answers,
                               task.classes, question.question});
}

}  // namespace dsrsq
