// dsrsq-eval: compares methods on a test split: quality, cost, and what each part did; or scores
// answers that were made elsewhere.
#include <torch/torch.h>

#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/eval/predictions.h"
#include "eval_collect.h"
#include "eval_columns.h"
#include "eval_context.h"
#include "eval_nq.h"
#include "eval_rows.h"
#include "eval_stream.h"
#include "eval_suite.h"
#include "run_program.h"

namespace {

struct Options {
  dsrsq::EvalRequest request;
  dsrsq::PredictionRequest predictions;
  std::vector<std::string> collected;
  std::string missing = "error", measure = "all", stream;
  std::vector<int64_t> context_lengths;
  int64_t scored_tokens = 0;
  std::vector<std::string> columns, keys;
  std::string nq;
  int64_t nq_annotators = 2;
  std::string dump, output_dir, resume = "auto", log_level = "info";
};

// What runs a model.
void add_model_options(CLI::App& app, dsrsq::EvalRequest& request, CLI::Option* input) {
  app.add_option("--checkpoint", request.checkpoints,
                 "[ROW=]FOLDER of a run or of one checkpoint; repeatable, one row each")
      ->allow_extra_args(false)
      ->excludes(input);
  app.add_option("--config", request.config,
                 "YAML file; default: the one that the run was trained with")
      ->excludes(input);
  app.add_option("--set", request.overrides, "a.b=c: overrides one key (repeatable)")
      ->allow_extra_args(false)
      ->excludes(input);
  app.add_option("--methods", request.methods,
                 "rows beside the runs' own, with the first run's reader: random, bm25, ...; all")
      ->delimiter(',')
      ->excludes(input);
  app.add_option("--probes", request.probes,
                 "diagnostics of the first run: dense_read, random_routing, latents_masked")
      ->delimiter(',')
      ->excludes(input);
  app.add_option("--budget", request.budgets,
                 "tokens (512) or a share of the context (5%); several, 3%,12%: a row each")
      ->delimiter(',')
      ->excludes(input);
  app.add_option("--suite", request.suite_name,
                 "NAME of configs/suites or FILE: every split of the data set is a task of it, "
                 "prompted, cut, trimmed and scored by its rules")
      ->excludes(input);
  app.add_option("--depths", request.depths,
                 "needle map: N equal shares of the context by where the answer stands, a record "
                 "each in results.json; default: what the suite says, else none")
      ->check(CLI::NonNegativeNumber)
      ->excludes(input);
  app.add_option("--audit", request.audits,
                 "methods (all: every one that these weights can read with) that are audited "
                 "instead: leaks, budget, isolation of samples; exit code 1 where one fails")
      ->delimiter(',')
      ->excludes(input);
  app.add_option("--trace", request.trace,
                 "questions, the split's first N, that get a page in <output-dir>/trace: the text "
                 "with what the first run picked, evidence and answer marked")
      ->check(CLI::NonNegativeNumber)
      ->excludes(input);
  app.add_option("--device", request.device, "cpu, cuda, cuda:N")->excludes(input);
  app.add_option("--seed", request.seed, "seed of the selectors")->excludes(input);
}

// What scores answers made elsewhere, without a model. Returns --input.
CLI::Option* add_input_options(CLI::App& app, Options& options) {
  auto& request = options.predictions;
  auto* input =
      app.add_option("--input", request.inputs,
                     "[ROW=]FILE of JSON lines {\"id\", \"prediction\", \"answers\"} (plain "
                     "or gzip) instead of --checkpoint; repeatable; also a questions.jsonl")
          ->allow_extra_args(false);
  app.add_option(
         "--references", request.references,
         "where --input's answers come from: JSON lines {\"id\", \"answers\"} or a data set")
      ->needs(input);
  app.add_option("--split", request.split, "split of the data set that --references names")
      ->needs(input)
      ->capture_default_str();
  app.add_option("--missing", options.missing,
                 "a question of --references without a prediction: error, empty (scored as an "
                 "empty answer), skip")
      ->check(CLI::IsMember({"error", "empty", "skip"}))
      ->needs(input)
      ->capture_default_str();
  app.add_option("--key", options.keys,
                 "FIELD=NAME: what id, question, prediction or answers is called in these files "
                 "(repeatable)")
      ->allow_extra_args(false)
      ->needs(input);
  auto* nq = app.add_option("--nq", options.nq,
                            "annotated pages of Natural Questions: scores --input by their "
                            "evaluation; NAME.json are spans with scores, JSON lines are words")
                 ->needs(input);
  app.add_option("--nq-annotators", options.nq_annotators,
                 "how many of a page's annotators make an answer; 1 for training pages")
      ->check(CLI::PositiveNumber)
      ->needs(nq)
      ->capture_default_str();
  return input;
}

void add_options(CLI::App& app, Options& options) {
  auto* input = add_input_options(app, options);
  add_model_options(app, options.request, input);
  app.add_option("--collect", options.collected,
                 "FOLDER with rows that --measure left (<output-dir>/rows; repeatable) instead of "
                 "--checkpoint: compared and written without a model")
      ->allow_extra_args(false)
      ->excludes(input);
  app.add_option("--stream", options.stream,
                 "FILE.jsonl of a fact stream (dsrsq-data stream) instead of the test split: "
                 "retention, consistency, adaptation; --methods: window, random, bm25, "
                 "oracle_evidence, question_only, constant")
      ->excludes(input);
  auto* lengths =
      app.add_option("--context-lengths", options.context_lengths,
                     "N,N,...: of texts without questions, the perplexity of the last tokens "
                     "given the N tokens before them; --methods: random, bm25, question_only")
          ->delimiter(',')
          ->excludes(input);
  app.add_option("--scored-tokens", options.scored_tokens,
                 "how many tokens at each text's end; default: data.chunk_tokens")
      ->check(CLI::PositiveNumber)
      ->needs(lengths);
  app.add_option("--baseline", options.request.baseline,
                 "the row that the others are compared with; default: the first");
  app.add_option("--columns", options.columns,
                 "metrics of the table (score,em,f1,subspan_em,...); results.json has them all")
      ->delimiter(',');
  app.add_option("--dump", options.dump,
                 "where the questions with predictions and scores go; default: "
                 "<output-dir>/questions.jsonl");
  app.add_option("--output-dir", options.output_dir,
                 "where results.json and table.md go; default: <first run>/eval; with --input "
                 "nothing is written without it");
  app.add_option(
         "--measure", options.measure,
         "all; answers: without their costs, all budgets of a method in one pass over the prompts, "
         "several processes of one command share the methods; costs: of these rows, alone on the "
         "machine. answers and costs leave rows in <output-dir>/rows for all or --collect")
      ->check(CLI::IsMember({"all", "answers", "costs"}))
      ->capture_default_str();
  app.add_option(
         "--resume", options.resume,
         "auto: rows that an interrupted evaluation of the same output, program, weights and "
         "settings finished are taken from it; never: all are evaluated")
      ->check(CLI::IsMember({"auto", "never"}))
      ->capture_default_str();
  app.add_option("--log-level", options.log_level, "debug, info, warning, error")
      ->capture_default_str();
}

dsrsq::EvalOutcome score_inputs(Options& options) {
  using namespace dsrsq;
  auto& request = options.predictions;
  for (const auto& key : options.keys) {
    auto equals = key.find('=');
    if (equals == std::string::npos || equals + 1 == key.size())
      throw ConfigError(concat("--key ", key, ": expected FIELD=NAME"));
    request.keys[key.substr(0, equals)] = key.substr(equals + 1);
  }
  request.missing = options.missing == "empty"  ? MissingPrediction::kEmpty
                    : options.missing == "skip" ? MissingPrediction::kSkip
                                                : MissingPrediction::kError;
  EvalOutcome outcome;
  outcome.device = "none";
  outcome.rows = read_predictions(request);
  for (const auto& row : outcome.rows) {
    auto records = answer_records(row);
    outcome.records.insert(outcome.records.end(), records.begin(), records.end());
  }
  return outcome;
}

void write_outcome(const std::string& folder, const std::string& dump,
                   const std::vector<std::string>& command, const dsrsq::EvalOutcome& outcome,
                   const std::string& table) {
  using namespace dsrsq;
  std::string questions;
  std::map<std::string, std::string> of_task;  // of a suite: ids repeat from task to task
  for (const auto& row : outcome.rows) {
    questions += question_lines(row);
    of_task[row.case_name] += question_lines(row);
  }
  if (!dump.empty()) write_file_atomic(dump, questions);
  if (folder.empty()) return;
  std::filesystem::create_directories(folder);
  auto provenance = make_provenance(command, outcome.device, outcome.seeds);
  if (!outcome.commit.empty()) provenance["commit"] = outcome.commit;
  if (!outcome.rules.is_null()) provenance["suite"] = outcome.rules;
  auto records = outcome.records;
  if (outcome.depths > 0)
    for (const auto& row : outcome.rows) {
      auto map = depth_records(row, outcome.depths);
      records.insert(records.end(), map.begin(), map.end());
    }
  auto results = results_json(provenance, records);
  write_file_atomic(folder + "/results.json", results.dump(1) + "\n");
  if (dump.empty() && outcome.rules.is_null() && !outcome.rows.empty())
    write_file_atomic(folder + "/questions.jsonl", questions);
  else if (dump.empty())
    for (const auto& [task, lines] : of_task)
      write_file_atomic(concat(folder, "/questions-", task, ".jsonl"), lines);
  write_file_atomic(folder + "/table.md", table);
  if (!outcome.trace.empty()) write_trace(folder + "/trace", outcome.trace);
  log_info("wrote ", folder, "/results.json, ", dump.empty() ? "questions.jsonl" : dump,
           " and table.md", outcome.trace.empty() ? "" : ", trace/index.html");
}

// What runs a model but asks no questions of a data set goes without these.
void require_alone(const Options& options, const std::string& option, bool compares) {
  if (!options.collected.empty() || !options.columns.empty() || !options.dump.empty() ||
      (!compares && !options.request.baseline.empty()) || options.measure != "all")
    throw dsrsq::ConfigError(dsrsq::concat(option, ": expected no --collect, --columns, --dump, ",
                                           compares ? "" : "--baseline ",
                                           "or --measure beside it"));
}

// Writes results.json, table.md and the lines of single items as `items_name`.
template <typename Outcome>
void write_alone(const Outcome& outcome, const std::vector<std::string>& command,
                 const std::string& items_name, const std::string& items) {
  using namespace dsrsq;
  const auto& folder = outcome.output_dir;
  std::filesystem::create_directories(folder);
  auto provenance = make_provenance(command, outcome.device, outcome.seeds);
  write_file_atomic(folder + "/results.json",
                    results_json(provenance, outcome.records).dump(1) + "\n");
  write_file_atomic(folder + "/table.md", outcome.table);
  write_file_atomic(folder + "/" + items_name, items);
  log_info("wrote ", folder, "/results.json, ", items_name, " and table.md");
  std::cout << outcome.table << "\n";
}

void run_stream(const Options& options, const std::vector<std::string>& command) {
  using namespace dsrsq;
  require_alone(options, "--stream", /*compares=*/false);
  auto request = options.request;
  request.output_dir = options.output_dir;
  if (!options.output_dir.empty()) std::filesystem::create_directories(options.output_dir);
  auto outcome = evaluate_stream(options.stream, request);
  write_alone(outcome, command, "probes.jsonl", outcome.probes);
}

void run_context_lengths(const Options& options, const std::vector<std::string>& command) {
  using namespace dsrsq;
  require_alone(options, "--context-lengths", /*compares=*/true);
  auto request = options.request;
  request.output_dir = options.output_dir;
  if (!options.output_dir.empty()) std::filesystem::create_directories(options.output_dir);
  auto outcome = evaluate_context_lengths(request, options.context_lengths, options.scored_tokens);
  write_alone(outcome, command, "texts.jsonl", outcome.texts);
}

void run(Options& options, const std::vector<std::string>& command) {
  using namespace dsrsq;
  set_log_level(parse_log_level(options.log_level));
  const auto& request = options.request;
  if (request.checkpoints.empty() && options.predictions.inputs.empty() &&
      options.collected.empty())
    throw ConfigError(
        "give --checkpoint FOLDER of a run, --input FILE of predictions, or --collect FOLDER of "
        "rows");
  const auto* alone = !options.stream.empty()            ? "--stream"
                      : !options.context_lengths.empty() ? "--context-lengths"
                                                         : nullptr;
  if (alone != nullptr && request.checkpoints.empty())
    throw ConfigError(concat(alone, ": give --checkpoint FOLDER of the run that reads it"));
  if (!options.stream.empty() && !options.context_lengths.empty())
    throw ConfigError("--stream and --context-lengths: give one of them");
  if (!options.stream.empty()) return run_stream(options, command);
  if (!options.context_lengths.empty()) return run_context_lengths(options, command);
  if (!request.suite_name.empty() && (!request.audits.empty() || request.trace > 0))
    throw ConfigError("--suite goes with neither --audit nor --trace, which look at one split");
  if (!request.audits.empty() && !request.checkpoints.empty()) {
    auto audit = audit_rows(request);
    std::cout << audit.report;
    if (!audit.passed) throw Error(ExitCode::kInternal, "--audit: a check failed; see the report");
    return;
  }
  if (!options.nq.empty()) {
    auto outcome = score_nq(options.predictions.inputs, options.nq, options.nq_annotators);
    auto table = markdown_table(outcome.records, nq_columns());
    write_outcome(options.output_dir, options.dump, command, outcome, table);
    std::cout << table << "\n";
    return;
  }
  auto columns = choose_columns(options.columns);
  if (!options.output_dir.empty())  // an evaluation of hours must not end in a bad path
    std::filesystem::create_directories(options.output_dir);
  bool collects = !options.collected.empty();
  bool scored = !options.predictions.inputs.empty() || collects;
  options.request.output_dir = options.output_dir;
  options.request.resume = options.resume == "auto";
  options.request.measure = options.measure == "answers" ? Measure::kAnswers
                            : options.measure == "costs" ? Measure::kCosts
                                                         : Measure::kAll;
  auto outcome = collects                     ? collect_rows(options.collected)
                 : scored                     ? score_inputs(options)
                 : request.suite_name.empty() ? evaluate_rows(request)
                                              : evaluate_suite(request);
  if (request.measure != Measure::kAll) {
    log_info("kept the ", options.measure, " of ", outcome.rows.size(), " rows in ",
             outcome.output_dir, "/rows");
    return;
  }
  auto baseline = request.baseline.empty() ? outcome.rows.at(0).row : request.baseline;
  outcome.notes += compare_rows(outcome.rows, baseline, outcome.records);
  auto table = markdown_table(outcome.records, columns) + "\n";
  if (options.columns.empty())  // a difference takes a wide column: of the answers alone
    columns = choose_columns({"score", "em", "f1", "rouge_l", "bleu", "answer_loss"});
  if (auto comparison = comparison_table(outcome.records, columns); !comparison.empty())
    table += comparison + "\n";
  table += outcome.notes;
  if (!outcome.rules.is_null()) table += "\n" + describe_rules(outcome.rules);
  auto folder = scored ? options.output_dir : outcome.output_dir;
  write_outcome(folder, options.dump, command, outcome, table);
  std::cout << table << "\n";
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Evaluates trained runs and the controls on the same reader (DSRSQ)."};
  Options options;
  add_options(app, options);
  return dsrsq::run_program(app, argc, argv, [&] { run(options, {argv, argv + argc}); });
}
