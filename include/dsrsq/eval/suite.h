// Evaluation suites whose rules are data: a file of configs/suites says how each task is prompted,
// cut, trimmed and scored, and where that rule comes from.
//
// A task is a split of the data set (dsrsq-data prepare --split-by input): its prompt takes the
// place of the run's (prompt.*), and `score` (QuestionResult) is its metric of the trimmed answer.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "dsrsq/core/config.h"
#include "dsrsq/eval/answers.h"

namespace dsrsq {

struct SuiteTask {
  std::string name;               // of the split; "niah_*": all that begin so and have no own entry
  std::string prompt;             // {context} once, and behind it {question} or its parts
  int64_t maximum_answer = 0;     // tokens
  bool chat = true;               // the prompt is a user's turn for a chat model
  bool first_line = false;        // the answer's first line after leading line feeds
  std::vector<std::string> stop;  // the answer ends before the first of these
  bool strip = false;             // then without white space at both ends
  std::string metric;             // of text/suite_metrics.h
  std::vector<std::string> classes;
  void visit_fields(ConfigVisitor& v);
};

struct Suite {
  std::string title, source, reader;
  int64_t maximum_prompt = 0;  // tokens; 0: no limit
  std::string truncation = "right";
  int64_t depths = 0;  // bins of the needle map; 0: none
  std::vector<SuiteTask> tasks;
  void visit_fields(ConfigVisitor& v);
  void validate(const ConfigLocations& locations) const;  // throws ConfigError
  // The task of a split: its own entry, else the longest name with "*" that fits. Throws DataError
  // naming the split and the tasks there are.
  const SuiteTask& task_of(const std::string& split) const;
};

// NAME.yaml, a path, or NAME: suites/NAME.yaml in `search_folders`. Throws ConfigError.
Suite load_suite(const std::string& name, const std::vector<std::string>& search_folders);
Suite parse_suite(const std::string& text, const std::string& name);

// What a prompt has in front of the context and behind it.
struct SuitePrompt {
  std::string prefix, question;
};
SuitePrompt split_prompt(const SuiteTask& task);

// The answer that is scored: first_line, stop and strip, in that order.
std::string trimmed_answer(const SuiteTask& task, const std::string& prediction);
// Fills `score`. Throws DataError where the metric cannot score such a question.
void score_question(const SuiteTask& task, QuestionResult& question);

// A record "score" of each row with a score: the mean over its cases, each as much as the others;
// case: `name`, shape: tasks, questions.
std::vector<ResultRecord> suite_means(const std::vector<ResultRecord>& records,
                                      const std::string& name);

// The needle map: "score_at_depth", where questions have scores, else "em_at_depth", of the
// questions whose answer begins in each of `bins` equal shares of the context. shape: depth (the
// share's middle), context_tokens (mean of the row), questions. A share without a question has no
// record.
std::vector<ResultRecord> depth_records(const AnsweredRow& row, int64_t bins);

// The rules of the tasks that `splits` are of, for results.json and in words, a Markdown list.
nlohmann::json suite_rules(const Suite& suite, const std::vector<std::string>& splits);
std::string describe_rules(const nlohmann::json& rules);

}  // namespace dsrsq
