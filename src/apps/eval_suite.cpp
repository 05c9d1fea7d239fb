#include "eval_suite.h"

#include <filesystem>

#include "dsrsq/core/logging.h"
#include "dsrsq/data/store.h"
#include "dsrsq/train/run_folder.h"
#include "dsrsq/train/trainer.h"

namespace dsrsq {

namespace {

std::vector<std::string> tasks_in(const Store& store) {
  std::vector<std::string> splits;
  const auto& info = store.info();
  for (size_t i = 0; i < info.splits.size(); ++i)
    if (info.records_per_split[i] > 0) splits.push_back(info.splits[i]);
  return splits;
}

void append(EvalOutcome& all, EvalOutcome&& task) {
  all.records.insert(all.records.end(), task.records.begin(), task.records.end());
  for (auto& row : task.rows) all.rows.push_back(std::move(row));
  all.notes += task.notes;
  all.output_dir = task.output_dir;
  all.device = task.device;
  all.seeds = task.seeds;
}

}  // namespace

void apply_task(const Suite& suite, const std::string& split, RunConfig& config) {
  const auto& task = suite.task_of(split);
  auto prompt = split_prompt(task);
  auto& eval = config.eval;
  if (!task.chat) eval.chat_begin = eval.chat_end = "";
  config.prompt.prefix = eval.chat_begin + prompt.prefix;
  config.prompt.question = prompt.question + eval.chat_end;
  if (eval.maximum_prompt == 0) eval.maximum_prompt = suite.maximum_prompt;
  eval.truncation = suite.truncation;
  eval.maximum_tokens = task.maximum_answer;
  config.data.test_split = split;
}

EvalOutcome evaluate_suite(EvalRequest request) {
  request.suite =
      std::make_shared<const Suite>(load_suite(request.suite_name, config_search_folders()));
  const auto& suite = *request.suite;
  auto config = first_run_config(request);
  auto splits = tasks_in(Store(config.data.train));
  auto rules = suite_rules(suite, splits);  // throws where a split is no task
  if (config.eval.maximum_prompt > 0) rules["maximum_prompt"] = config.eval.maximum_prompt;
  if (request.depths == 0) request.depths = suite.depths;
  set_determinism(config.train.threads);
  EvalOutcome all;
  for (const auto& split : splits) {
    log_info("task ", split, " of ", suite.title);
    request.task = split;
    append(all, evaluate_rows(request));
  }
  auto name = std::filesystem::path(request.suite_name).stem().string();
  auto means = suite_means(all.records, name);
  if (splits.size() > 1) all.records.insert(all.records.end(), means.begin(), means.end());
  all.rules = rules;
  all.depths = request.depths;
  return all;
}

}  // namespace dsrsq
