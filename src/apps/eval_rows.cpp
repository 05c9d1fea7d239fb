#include "eval_rows.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>

#include "dsrsq/core/logging.h"
#include "dsrsq/registry.h"
#include "dsrsq/retriever/sentence_encoder.h"
#include "dsrsq/train/run_folder.h"
#include "dsrsq/train/trainer.h"

namespace dsrsq {

namespace {

struct TrainedRun {
  std::string row;
  ModelSource source;
  RunConfig config;
  std::shared_ptr<Tokenizer> tokenizer;
  LanguageModel model{nullptr};
  double core_seconds = 0;
};

void set_budget(const std::string& text, PassOptions& options) {
  if (text.empty()) return;
  char* end = nullptr;
  auto number = std::strtod(text.c_str(), &end);
  bool share = std::string(end) == "%";
  bool whole = number >= 1 && number == std::floor(number) && number < 1e12;
  bool usable = share ? number > 0 && number <= 100 : *end == 0 && whole;
  if (end == text.c_str() || !usable)
    throw ConfigError(concat(
        "--budget: expected a whole number of tokens (512) or a share of the context (5%), got '",
        text, "'"));
  if (share)
    options.budget_share = number / 100;
  else
    options.budget = int64_t(number);
}

// What of a run is known without its weights.
TrainedRun describe_run(const std::string& text, const EvalRequest& request) {
  TrainedRun run;
  auto equals = text.find('=');
  auto overrides = request.overrides;
  if (!request.device.empty()) overrides.push_back("train.device=" + request.device);
  run.source = find_model(equals == std::string::npos ? text : text.substr(equals + 1),
                          request.config, overrides);
  run.config = run.source.config;
  run.row = equals == std::string::npos ? run.config.method : text.substr(0, equals);
  run.config.require_data();
  return run;
}

TrainedRun open_run(const std::string& text, const EvalRequest& request) {
  auto run = describe_run(text, request);
  auto opened = open_model(run.source);
  run.tokenizer = opened.tokenizer;
  run.model = opened.model;
  run.core_seconds = opened.core_seconds;
  log_info("row ", run.row, ": ", opened.weights);
  return run;
}

FlopSettings flop_settings(const TrainedRun& run, const std::string& method) {
  FlopSettings flops;
  const auto& config = run.config;
  flops.vocabulary_size = run.tokenizer->vocabulary_size();
  bool own = config.method == "dsrsq";
  if (own && config.dsrsq.dsr.enabled && method != "question_only") {
    flops.retriever_width = config.dsrsq.dsr.width;
    const auto& dsr = config.dsrsq.dsr;
    if (!dsr.encoder.empty()) {
      auto encoder = read_sentence_encoder_config(dsr.encoder);
      flops.encoder_width = encoder.width;
      flops.encoder_layers = encoder.layers;
      flops.encoder_mlp_width = encoder.mlp_width;
      flops.encoder_window = dsr.encoder_window;
    } else if (dsr.input == "embedding_conv") {
      flops.retriever_conv_width = dsr.conv_width;
    }
  }
  if (own && config.dsrsq.rckv.enabled) flops.latent_width = config.dsrsq.rckv.latent_width;
  if (own && config.dsrsq.sqa.enabled) flops.clusters = config.dsrsq.sqa.clusters;
  return flops;
}

Loader test_loader(const TrainedRun& run) {
  LoaderOptions options;
  options.split = run.config.data.test_split;
  options.batch_size = run.config.eval.batch_size;
  options.shuffle = false;
  options.with_answers = false;
  options.maximum_context = run.config.data.maximum_context;
  options.maximum_sequences = run.config.eval.questions;
  options.encoder = encoder_collator(run.config);
  return Loader(run.config.data.train, *run.tokenizer, run.config.prompt, options);
}

// When a part counts as active: the retriever reads at most 1/8 of the context, 30 % of query rows
// attend under half of their exact keys, and latents get 5 % of the attention. A part that is on
// and idle is called inactive (D17).
constexpr double kActiveSelection = 0.125;
constexpr double kActiveSparseRows = 0.30;
constexpr double kActiveLatentMass = 0.05;

std::string activity(const TrainedRun& run, const EvaluationResult& result) {
  if (run.config.method != "dsrsq") return "";
  const auto& d = run.config.dsrsq;
  double selected = 0, context = 0;
  for (const auto& question : result.questions) {
    selected += question.selected_tokens;
    context += question.context_tokens;
  }
  auto part = [](const char* name, bool enabled, bool active, const std::string& what) {
    return concat(name, " ",
                  !enabled ? "off"
                  : active ? "active"
                           : "inactive",
                  enabled ? concat(" (", what, ")") : "");
  };
  auto share = context > 0 ? selected / context : 1;
  return concat(
      "- ", run.row, ": ",
      part("DSR", d.dsr.enabled, share <= kActiveSelection,
           concat("selects ", share, " of the context")),
      ", ",
      part("SQA", d.sqa.enabled, result.sparse_share >= kActiveSparseRows,
           concat(result.sparse_share, " of query rows attend under half of their exact keys")),
      ", ",
      part("RCKV", d.rckv.enabled, result.latent_mass >= kActiveLatentMass,
           concat("attention mass on latents ", result.latent_mass)),
      "\n");
}

// What the run's own method reads where no --budget is given.
std::string own_budget(const RunConfig& config) {
  const auto& dsr = config.dsrsq.dsr;
  if (config.method != "dsrsq") return concat("none asked for: as ", config.method, " reads");
  if (!dsr.enabled) return "none: dsr.enabled is false, everything is read";
  bool fixed = dsr.complexity == "none" || (dsr.alpha == 0 && dsr.complexity != "learned");
  if (fixed) return concat(dsr.budget, " (dsr.budget)");
  return concat("up to ", int64_t(double(dsr.budget) * (1 + dsr.alpha)), " (dsr.budget ",
                dsr.budget, ", dsr.alpha ", dsr.alpha, ", dsr.complexity ", dsr.complexity, ")");
}

class Rows {
 public:
  explicit Rows(const EvalRequest& request) : request_(request) {
    set_budget(request.budget, options_);
  }

  void add(TrainedRun& run, LanguageModel model, const std::string& row, const std::string& method,
           Probe probe, bool own) {
    auto loader = test_loader(run);
    auto options = options_;
    options.probe = probe;
    auto result = evaluate(model, loader, *run.tokenizer, run.config.eval, options,
                           flop_settings(run, method), row);
    auto records = result_records(result, run.config.data.test_split, row);
    outcome.records.insert(outcome.records.end(), records.begin(), records.end());
    outcome.rows.push_back({run.config.data.test_split, row, result.questions});
    if (!own) return;
    auto training = records.front();
    training.metric = "train_core_seconds";
    training.value = run.core_seconds;
    training.unit = "s";
    training.low = training.high = {};
    outcome.records.push_back(training);
    outcome.notes += activity(run, result);
  }

  void trace(TrainedRun& run) {
    TraceRequest trace{run.row, run.config.data.test_split, request_.trace, own_budget(run.config)};
    outcome.trace =
        trace_pages(run.model, test_loader(run), *run.tokenizer, run.config.eval, options_, trace);
  }

  EvalOutcome outcome;

 private:
  const EvalRequest& request_;
  PassOptions options_;
};

std::vector<std::pair<std::string, Probe>> find_probes(const std::vector<std::string>& names) {
  std::vector<std::pair<std::string, Probe>> probes;
  for (const auto& name : names) {
    bool found = false;
    for (const auto& entry : probe_table())
      if (entry.name == name) {
        probes.emplace_back(name, entry.probe);
        found = true;
      }
    if (!found)
      throw ConfigError(concat("--probes: unknown probe '", name,
                               "'; known: dense_read, random_routing, latents_masked"));
  }
  return probes;
}

// A typo is known before any work, which may take hours.
void check_names(const EvalRequest& request) {
  std::set<std::string> names;
  for (const auto& name : request.methods) {
    if (find_method(name).trainable)
      throw ConfigError(concat("--methods: '", name,
                               "' has weights of its own; give its run by another --checkpoint"));
    names.insert(name);
  }
  std::string first;
  for (const auto& checkpoint : request.checkpoints) {
    auto row = describe_run(checkpoint, request).row;
    if (!names.insert(row).second)
      throw ConfigError(
          concat("--checkpoint: two rows are called '", row, "'; name them: ROW=FOLDER"));
    if (first.empty()) first = row;
  }
  for (const auto& probe : request.probes) names.insert(first + ":" + probe);
  if (request.baseline.empty() || names.count(request.baseline)) return;
  std::string known;
  for (const auto& name : names) known += (known.empty() ? "" : ", ") + name;
  throw ConfigError(
      concat("--baseline: no row is called '", request.baseline, "'; there are: ", known));
}

}  // namespace

EvalOutcome evaluate_rows(const EvalRequest& request) {
  auto probes = find_probes(request.probes);
  check_names(request);
  Rows rows(request);
  for (size_t i = 0; i < request.checkpoints.size(); ++i) {
    auto run = open_run(request.checkpoints[i], request);
    if (i == 0) set_determinism(run.config.train.threads);
    run.model->eval();
    rows.add(run, run.model, run.row, run.config.method, Probe::kNone, true);
    rows.outcome.seeds.push_back(run.config.train.seed);
    if (i > 0) continue;
    if (request.trace > 0) rows.trace(run);
    rows.outcome.run_folder = run.source.folder;
    rows.outcome.device = run.config.train.device;
    auto config = run.config;
    if (request.seed >= 0) config.train.seed = request.seed;
    for (const auto& name : request.methods) {
      auto method = find_method(name).make(config, run.model->shared_method());
      LanguageModel model(run.model->backbone(), method, run.model->begin_id(),
                          run.model->prefix());
      rows.add(run, model, name, name, Probe::kNone, false);
    }
    for (const auto& [name, probe] : probes)
      rows.add(run, run.model, run.row + ":" + name, run.config.method, probe, false);
  }
  return rows.outcome;
}

std::vector<Column> result_columns() {
  return {{"em", "EM"},
          {"f1", "F1"},
          {"subspan_em", "subspan EM"},
          {"rouge_1", "ROUGE-1"},
          {"rouge_2", "ROUGE-2"},
          {"rouge_l", "ROUGE-L"},
          {"rouge_lsum", "ROUGE-Lsum"},
          {"bleu", "BLEU"},
          {"evidence_recall", "evidence recall"},
          {"answer_recall", "answer recall"},
          {"em_exact", "EM, answer exact"},
          {"em_latent", "EM, answer in latents only"},
          {"share_latent", "share in latents only"},
          {"tokens_read", "tokens read"},
          {"token_efficiency", "token efficiency"},
          {"bytes_held", "bytes held"},
          {"peak_memory", "peak memory"},
          {"throughput", "throughput"},
          {"latency_p50", "latency p50"},
          {"latency_p95", "latency p95"},
          {"flops", "FLOP"},
          {"sparse_share", "sparse queries"},
          {"density", "density"},
          {"latent_mass", "latent mass"},
          {"train_core_seconds", "training, core-seconds"}};
}

std::vector<Column> choose_columns(const std::vector<std::string>& names) {
  const std::set<std::string> hidden{"subspan_em", "rouge_1", "rouge_2", "rouge_lsum"};
  const auto all = result_columns();
  std::vector<Column> columns;
  for (const auto& column : all)
    if (names.empty() && !hidden.count(column.metric)) columns.push_back(column);
  for (const auto& name : names) {
    auto found = std::find_if(all.begin(), all.end(),
                              [&](const Column& column) { return column.metric == name; });
    if (found == all.end()) {
      std::string known;
      for (const auto& column : all) known += (known.empty() ? "" : ", ") + column.metric;
      throw ConfigError(concat("--columns: unknown metric '", name, "'; known: ", known));
    }
    columns.push_back(*found);
  }
  return columns;
}

}  // namespace dsrsq
