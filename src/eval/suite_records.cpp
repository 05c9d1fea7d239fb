// What an evaluation of a suite has besides the records of its tasks.
#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/eval/suite.h"
#include "dsrsq/text/resampling.h"

namespace dsrsq {

using nlohmann::json;

std::vector<ResultRecord> suite_means(const std::vector<ResultRecord>& records,
                                      const std::string& name) {
  std::vector<std::string> order;
  std::map<std::string, ResultRecord> means;
  for (const auto& record : records) {
    if (record.metric != "score") continue;
    auto [found, fresh] = means.try_emplace(
        record.method, ResultRecord{name, record.method, {}, "score", 0, "share", {}, {}});
    if (fresh) order.push_back(record.method);
    auto& mean = found->second;
    mean.value += record.value;
    mean.shape["tasks"] += 1;
    mean.shape["questions"] += record.shape.at("questions");
  }
  std::vector<ResultRecord> list;
  for (const auto& method : order) {
    auto& mean = means.at(method);
    mean.value /= mean.shape["tasks"];
    list.push_back(std::move(mean));
  }
  return list;
}

std::vector<ResultRecord> depth_records(const AnsweredRow& row, int64_t bins) {
  std::vector<std::vector<double>> of_bin(static_cast<size_t>(bins));
  double context = 0;
  bool scored = std::any_of(row.questions.begin(), row.questions.end(),
                            [](const QuestionResult& question) { return question.score >= 0; });
  for (const auto& question : row.questions) {
    context += question.context_tokens / double(row.questions.size());
    auto value = scored ? question.score : question.exact_match;
    if (question.depth < 0 || value < 0) continue;
    auto bin = std::min(bins - 1, int64_t(std::floor(question.depth * double(bins))));
    of_bin[size_t(bin)].push_back(value);
  }
  std::vector<ResultRecord> records;
  for (size_t bin = 0; bin < of_bin.size(); ++bin) {
    if (of_bin[bin].empty()) continue;
    auto interval = bootstrap_mean(of_bin[bin]);
    records.push_back({row.case_name,
                       row.row,
                       {{"depth", (double(bin) + 0.5) / double(bins)},
                        {"context_tokens", context},
                        {"questions", double(of_bin[bin].size())}},
                       scored ? "score_at_depth" : "em_at_depth",
                       interval.mean,
                       "share",
                       interval.low,
                       interval.high});
  }
  return records;
}

namespace {

std::string trimming_of(const SuiteTask& task) {
  std::string words;
  auto add = [&](const std::string& part) { words += (words.empty() ? "" : ", then ") + part; };
  if (task.first_line) add("the first line after leading line feeds");
  for (const auto& stop : task.stop) add("up to " + json(stop).dump());
  if (task.strip) add("without white space at its ends");
  return words.empty() ? "as decoded" : words;
}

}  // namespace

json suite_rules(const Suite& suite, const std::vector<std::string>& splits) {
  json rules{{"title", suite.title},
             {"source", suite.source},
             {"maximum_prompt", suite.maximum_prompt},
             {"truncation", suite.truncation},
             {"tasks", json::array()}};
  for (const auto& split : splits) {
    const auto& task = suite.task_of(split);
    json item{
        {"task", split},     {"prompt", task.prompt},       {"maximum_answer", task.maximum_answer},
        {"chat", task.chat}, {"answer", trimming_of(task)}, {"metric", task.metric}};
    if (!task.classes.empty()) item["classes"] = task.classes;
    rules["tasks"].push_back(std::move(item));
  }
  return rules;
}

std::string describe_rules(const json& rules) {
  auto limit = rules.at("maximum_prompt").get<int64_t>();
  auto text = concat("Rules: ", rules.at("title").get<std::string>(), ". ",
                     rules.at("source").get<std::string>(), "\n\n- prompts: ",
                     limit == 0 ? "never cut"
                                : concat("at most ", limit, " tokens; what goes of the context: ",
                                         rules.at("truncation").get<std::string>()),
                     "\n");
  for (const auto& task : rules.at("tasks"))
    text += concat(
        "- ", task.at("task").get<std::string>(), ": ", task.at("metric").get<std::string>(),
        " of the answer, ", task.at("answer").get<std::string>(), ", at most ",
        task.at("maximum_answer").get<int64_t>(), " tokens; prompt `", task.at("prompt").dump(),
        "`", task.at("chat").get<bool>() ? "" : ", never a chat turn", "\n");
  return text;
}

}  // namespace dsrsq
