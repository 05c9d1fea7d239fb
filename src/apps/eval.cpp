// dsrsq-eval: compares methods on a test split: quality, cost, and what each part did.
#include <torch/torch.h>

#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "eval_rows.h"
#include "run_program.h"

namespace {

struct Options {
  dsrsq::EvalRequest request;
  std::string output_dir, log_level = "info";
};

void add_options(CLI::App& app, Options& options) {
  auto& request = options.request;
  app.add_option("--checkpoint", request.checkpoints,
                 "[ROW=]FOLDER of a run or of one checkpoint; repeatable, one row each")
      ->required()
      ->allow_extra_args(false);
  app.add_option("--config", request.config,
                 "YAML file; default: the one that the run was trained with");
  app.add_option("--set", request.overrides, "a.b=c: overrides one key (repeatable)")
      ->allow_extra_args(false);
  app.add_option("--methods", request.methods,
                 "rows beside the runs' own, with the first run's reader: random, bm25, ...")
      ->delimiter(',');
  app.add_option("--probes", request.probes,
                 "diagnostics of the first run: dense_read, random_routing, latents_masked")
      ->delimiter(',');
  app.add_option("--budget", request.budget, "tokens (512) or a share of the context (5%)");
  app.add_option("--trace", request.trace,
                 "questions, the split's first N, that get a page in <output-dir>/trace: the text "
                 "with what the first run picked, evidence and answer marked")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--output-dir", options.output_dir,
                 "where results.json and table.md go; default: <first run>/eval");
  app.add_option("--device", request.device, "cpu, cuda, cuda:N");
  app.add_option("--seed", request.seed, "seed of the selectors");
  app.add_option("--log-level", options.log_level, "debug, info, warning, error")
      ->capture_default_str();
}

void run(Options& options, const std::vector<std::string>& command) {
  using namespace dsrsq;
  set_log_level(parse_log_level(options.log_level));
  auto outcome = evaluate_rows(options.request);
  auto folder = options.output_dir.empty() ? outcome.run_folder + "/eval" : options.output_dir;
  std::filesystem::create_directories(folder);
  auto results =
      results_json(make_provenance(command, outcome.device, outcome.seeds), outcome.records);
  write_file_atomic(folder + "/results.json", results.dump(1) + "\n");
  write_file_atomic(folder + "/questions.jsonl", outcome.questions);
  auto table = markdown_table(outcome.records, result_columns()) + "\n" + outcome.notes;
  write_file_atomic(folder + "/table.md", table);
  if (!outcome.trace.empty()) write_trace(folder + "/trace", outcome.trace);
  std::cout << table << "\n";
  log_info("wrote ", folder, "/results.json, questions.jsonl and table.md",
           outcome.trace.empty() ? "" : ", trace/index.html");
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app{"Evaluates trained runs and the controls on the same reader (DSRSQ)."};
  Options options;
  add_options(app, options);
  return dsrsq::run_program(app, argc, argv, [&] { run(options, {argv, argv + argc}); });
}
