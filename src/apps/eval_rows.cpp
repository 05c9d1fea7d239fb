#include "eval_rows.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "dsrsq/core/logging.h"
#include "dsrsq/core/timer.h"
#include "dsrsq/eval/audit.h"
#include "dsrsq/registry.h"
#include "dsrsq/retriever/sentence_encoder.h"
#include "dsrsq/train/run_folder.h"
#include "dsrsq/train/trainer.h"
#include "eval_kept_rows.h"
#include "eval_suite.h"

namespace dsrsq {

namespace {

struct TrainedRun {
  std::string row;
  ModelSource source;
  RunConfig config;
  std::shared_ptr<Tokenizer> tokenizer;
  LanguageModel model{nullptr};
  double core_seconds = 0;
  std::string weights;  // the folder that they come from
};

// One --budget; `text` empty: none was given.
struct AskedBudget {
  std::string text;
  int64_t tokens = 0;
  double share = 0;
};

AskedBudget parse_budget(const std::string& text) {
  char* end = nullptr;
  auto number = std::strtod(text.c_str(), &end);
  bool share = std::string(end) == "%";
  bool whole = number >= 1 && number == std::floor(number) && number < 1e12;
  bool usable = share ? number > 0 && number <= 100 : *end == 0 && whole;
  if (end == text.c_str() || !usable)
    throw ConfigError(concat(
        "--budget: expected a whole number of tokens (512) or a share of the context (5%), got '",
        text, "'"));
  return share ? AskedBudget{text, 0, number / 100} : AskedBudget{text, int64_t(number), 0};
}

std::vector<AskedBudget> parse_budgets(const std::vector<std::string>& texts) {
  std::vector<AskedBudget> budgets;
  for (const auto& text : texts) budgets.push_back(parse_budget(text));
  if (budgets.empty()) budgets.emplace_back();
  return budgets;
}

// What of a run is known without its weights.
TrainedRun describe_run(const std::string& text, const EvalRequest& request) {
  TrainedRun run;
  auto equals = text.find('=');
  auto overrides = request.overrides;
  if (!request.device.empty()) overrides.push_back("train.device=" + request.device);
  run.source = find_model(equals == std::string::npos ? text : text.substr(equals + 1),
                          request.config, overrides);
  if (request.suite) apply_task(*request.suite, request.task, run.source.config);
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
  run.weights = opened.weights;
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
  if (own && config.dsrsq.sqa.enabled) flops.clusters = config.dsrsq.sqa.cluster_count();
  return flops;
}

PromptLimit prompt_limit(const TrainedRun& run) {
  const auto& eval = run.config.eval;
  auto tokens_of = [&](const std::string& text) {
    return int64_t(encode_template(*run.tokenizer, text).size());
  };
  return {eval.maximum_prompt, tokens_of(run.config.prompt.prefix) - tokens_of(eval.chat_begin),
          tokens_of(eval.chat_end), parse_truncation(eval.truncation)};
}

Loader test_loader(const TrainedRun& run, bool with_answers = false) {
  LoaderOptions options;
  options.split = run.config.data.test_split;
  options.batch_size = run.config.eval.batch_size;
  options.shuffle = false;
  options.with_answers = with_answers;
  options.maximum_context = run.config.data.maximum_context;
  options.maximum_sequences = run.config.eval.questions;
  options.prompt_limit = prompt_limit(run);
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

// The rows of a method: one, or one a budget.
std::vector<std::string> row_names(const std::string& row, const std::string& method,
                                   const std::vector<AskedBudget>& budgets) {
  if (budgets.size() == 1 || find_method(method).budget == Budget::kNone) return {row};
  std::vector<std::string> names;
  for (const auto& budget : budgets) names.push_back(concat(row, "@", budget.text));
  return names;
}

// Everything that the numbers of a row depend on.
std::string row_key(const std::string& commit, const TrainedRun& run, const EvalRequest& request,
                    const std::string& method, Probe probe, const AskedBudget& budget) {
  auto config = run.config;
  auto changed = std::filesystem::last_write_time(run.weights).time_since_epoch().count();
  std::string task;
  if (request.suite) {
    auto rules = request.suite->task_of(request.task);
    task = dump_config([&](ConfigVisitor& v) { rules.visit_fields(v); });
  }
  return concat("commit ", commit, "\nweights ", run.weights, " ", changed, "\nmethod ", method,
                " probe ", int(probe), " budget ", budget.tokens, " ", budget.share, " seed ",
                request.seed, "\n", dump_config([&](ConfigVisitor& v) { config.visit_fields(v); }),
                task);
}

// One way to read: its rows differ in their budget alone.
struct Reading {
  TrainedRun* run;
  LanguageModel model;
  std::string row, method;
  Probe probe = Probe::kNone;
  bool own = false;  // as the run was trained
};

class Rows {
 public:
  explicit Rows(const EvalRequest& request)
      : request_(request),
        budgets_(parse_budgets(request.budgets)),
        commit_(make_provenance({}, "", {}).at("commit").get<std::string>()) {}

  // Where finished rows are kept from here on.
  void keep_in(const std::string& folder) { kept_ = KeptRows(folder); }

  // A row a budget, where the method has one.
  void add(Reading reading) {
    RowClaim claim(request_.measure == Measure::kAll ? "" : kept_.claim_file(reading.row));
    if (!claim) {
      log_info("row ", reading.row, ": another process is at it");
      return;
    }
    auto rows = find_rows(reading);
    if (request_.measure == Measure::kAnswers)
      answer_together(reading, rows);
    else
      for (auto& row : rows) finish(reading, row);
    for (auto& row : rows) {
      auto& kept = row.kept;
      outcome.records.insert(outcome.records.end(), kept.records.begin(), kept.records.end());
      outcome.records.insert(outcome.records.end(), kept.costs.begin(), kept.costs.end());
      outcome.rows.push_back(std::move(kept.row));
      outcome.notes += kept.notes;
    }
  }

  void trace(TrainedRun& run) {
    TraceRequest trace{run.row, run.config.data.test_split, request_.trace, own_budget(run.config)};
    outcome.trace = trace_pages(run.model, test_loader(run), *run.tokenizer, run.config.eval,
                                pass_options(budgets_.front(), Probe::kNone), trace);
  }

  EvalOutcome outcome;

 private:
  struct Row {
    std::string name, key;
    AskedBudget budget;
    KeptRow kept;  // what is known of it so far
    bool own = false;
  };

  static PassOptions pass_options(const AskedBudget& budget, Probe probe) {
    PassOptions options;
    options.probe = probe;
    options.budget = budget.tokens;
    options.budget_share = budget.share;
    return options;
  }

  std::vector<Row> find_rows(const Reading& reading) const {
    auto kind = find_method(reading.method).budget;
    auto budgets = kind == Budget::kNone ? std::vector<AskedBudget>(1) : budgets_;
    auto names = row_names(reading.row, reading.method, budgets_);
    std::vector<Row> rows;
    for (size_t i = 0; i < budgets.size(); ++i) {
      Row row;
      row.name = names[i];
      row.budget = budgets[i];
      row.own = reading.own && i == 0;
      // A method that evicts always has a budget, and results say which.
      if (row.budget.text.empty() && (kind == Budget::kBytes || kind == Budget::kReads))
        row.budget.share = reading.run->config.eviction.share;
      row.key = row_key(commit_, *reading.run, request_, reading.method, reading.probe, row.budget);
      if (request_.resume) row.kept = kept_.find(row.name, row.key).value_or(KeptRow{});
      if (row.kept.answered())
        log_info("row ", row.name, ": taken from an evaluation that was here before");
      rows.push_back(std::move(row));
    }
    return rows;
  }

  // The answers of all rows in one pass over the prompts, where the method can.
  void answer_together(Reading& reading, std::vector<Row>& rows) const {
    std::vector<Row*> open;
    std::vector<PassOptions> options;
    for (auto& row : rows) {
      if (row.kept.answered()) continue;
      open.push_back(&row);
      options.push_back(pass_options(row.budget, reading.probe));
    }
    if (open.empty()) return;
    auto& run = *reading.run;
    Timer timer;
    auto results =
        evaluate_answers(reading.model, test_loader(run), *run.tokenizer, run.config.eval, options,
                         flop_settings(run, reading.method), reading.row);
    log_info("row ", reading.row, ": ", open.size(), " budgets answered in ", timer.seconds(),
             " s");
    for (size_t i = 0; i < open.size(); ++i) keep_answers(reading, *open[i], results[i]);
  }

  // What a row still lacks.
  void finish(Reading& reading, Row& row) const {
    auto& run = *reading.run;
    auto options = pass_options(row.budget, reading.probe);
    bool costs = row.kept.costs.empty();
    if (!row.kept.answered() && request_.measure == Measure::kAll) {
      auto result = evaluate(reading.model, test_loader(run), *run.tokenizer, run.config.eval,
                             options, flop_settings(run, reading.method), row.name);
      if (costs) row.kept.costs = with_budget(cost_records(result, split(run), row.name), row);
      keep_answers(reading, row, result);
    } else if (!row.kept.answered()) {
      log_warning("row ", row.name, ": --measure costs wants rows with answers, this has none yet");
    } else if (costs) {
      EvaluationResult result;
      result.questions = row.kept.row.questions;  // what costs are a row of
      evaluate_costs(reading.model, test_loader(run), *run.tokenizer, run.config.eval, options,
                     result);
      row.kept.costs = with_budget(cost_records(result, split(run), row.name), row);
      kept_.keep(row.name, row.key, row.kept);
    }
  }

  void keep_answers(Reading& reading, Row& row, EvaluationResult& result) const {
    auto& run = *reading.run;
    if (request_.suite)
      for (auto& question : result.questions)
        score_question(request_.suite->task_of(request_.task), question);
    row.kept.records = with_budget(quality_records(result, split(run), row.name), row);
    row.kept.row = {split(run), row.name, result.questions};
    row.kept.device = run.config.train.device;
    row.kept.seed = run.config.train.seed;
    add_findings(reading, row);
    if (row.own) add_training(run, result, row);
    kept_.keep(row.name, row.key, row.kept);
  }

  static const std::string& split(const TrainedRun& run) { return run.config.data.test_split; }

  static std::vector<ResultRecord> with_budget(std::vector<ResultRecord> records, const Row& row) {
    for (auto& record : records) {
      if (row.budget.tokens > 0) record.shape["budget_tokens"] = double(row.budget.tokens);
      if (row.budget.share > 0) record.shape["budget_share"] = row.budget.share;
    }
    return records;
  }

  // What a method found out about the weights (razor's heads).
  static void add_findings(Reading& reading, Row& row) {
    if (find_method(reading.method).trainable) return;
    auto& kept = row.kept;
    for (const auto& [name, value] : reading.model->method().scalars()) {
      kept.notes += concat("- ", row.name, ": ", name, " ", value, "\n");
      kept.records.push_back({split(*reading.run),
                              row.name,
                              kept.records.front().shape,
                              name,
                              value,
                              "share",
                              {},
                              {}});
    }
  }

  static void add_training(const TrainedRun& run, const EvaluationResult& result, Row& row) {
    auto training = row.kept.records.front();
    training.metric = "train_core_seconds";
    training.value = run.core_seconds;
    training.unit = "s";
    training.low = training.high = {};
    row.kept.records.push_back(training);
    row.kept.notes = activity(run, result);
  }

  const EvalRequest& request_;
  std::vector<AskedBudget> budgets_;
  std::string commit_;
  KeptRows kept_{""};
};

// "all" in full.
std::vector<std::string> method_names(const std::vector<std::string>& asked) {
  std::vector<std::string> names;
  for (const auto& name : asked) {
    if (name != "all") names.push_back(name);
    for (const auto& entry : method_table())
      if (name == "all" && !entry.needs_own_weights()) names.push_back(entry.name);
  }
  return names;
}

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
  auto budgets = parse_budgets(request.budgets);
  std::set<std::string> names;
  auto insert = [&](const std::string& row, const std::string& method, const std::string& advice) {
    for (const auto& name : row_names(row, method, budgets))
      if (!names.insert(name).second)
        throw ConfigError(concat(advice, ": two rows are called '", name, "'"));
  };
  for (const auto& name : method_names(request.methods)) {
    if (find_method(name).needs_own_weights())
      throw ConfigError(concat("--methods: '", name,
                               "' has weights of its own; give its run by another --checkpoint"));
    insert(name, name, "--methods and --budget: expected each name and budget once");
  }
  bool first = true;
  for (const auto& checkpoint : request.checkpoints) {
    auto run = describe_run(checkpoint, request);
    insert(run.row, run.config.method, "--checkpoint: name rows: ROW=FOLDER");
    for (const auto& probe : request.probes)
      if (first)
        insert(run.row + ":" + probe, run.config.method, "--probes: expected each probe once");
    first = false;
  }
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
    if (i == 0) {
      if (!request.suite) set_determinism(run.config.train.threads);  // else once, by its caller
      rows.outcome.output_dir =
          request.output_dir.empty() ? run.source.folder + "/eval" : request.output_dir;
      rows.keep_in(rows.outcome.output_dir + "/rows" +
                   (request.suite ? "/" + request.task : std::string()));
    }
    run.model->eval();
    rows.add({&run, run.model, run.row, run.config.method, Probe::kNone, true});
    rows.outcome.seeds.push_back(run.config.train.seed);
    if (i > 0) continue;
    if (request.trace > 0) rows.trace(run);
    rows.outcome.device = run.config.train.device;
    auto config = run.config;
    if (request.seed >= 0) config.train.seed = request.seed;
    for (const auto& name : method_names(request.methods)) {
      rows.add({&run, with_method(run.model, name, config), name, name});
    }
    for (const auto& [name, probe] : probes)
      rows.add({&run, run.model, run.row + ":" + name, run.config.method, probe});
  }
  rows.outcome.depths = request.depths;
  return rows.outcome;
}

RunConfig first_run_config(const EvalRequest& request) {
  auto plain = request;
  plain.suite = nullptr;
  return describe_run(request.checkpoints.at(0), plain).config;
}

namespace {
// The methods that `names` asks for, of those that the run's weights can read with.
std::vector<const MethodEntry*> audited_methods(const std::vector<std::string>& names,
                                                const std::string& own) {
  std::vector<const MethodEntry*> methods;
  bool all = std::find(names.begin(), names.end(), "all") != names.end();
  for (const auto& entry : method_table())
    if (all && (!entry.needs_own_weights() || entry.name == own)) methods.push_back(&entry);
  for (const auto& name : names) {
    if (name == "all") continue;
    const auto& entry = find_method(name);
    if (entry.needs_own_weights() && name != own)
      throw ConfigError(concat("--audit: '", name, "' has weights of its own; the run is of ", own,
                               "; give its run by --checkpoint"));
    methods.push_back(&entry);
  }
  return methods;
}
}  // namespace

AuditOutcome audit_rows(const EvalRequest& request) {
  auto own = describe_run(request.checkpoints.at(0), request).config.method;
  auto methods = audited_methods(request.audits, own);  // a typo is known before any work
  auto run = open_run(request.checkpoints.at(0), request);
  set_determinism(run.config.train.threads);
  run.model->eval();
  auto config = run.config;
  if (request.seed >= 0) config.train.seed = request.seed;
  auto loader = test_loader(run, true);
  AuditOutcome outcome;
  for (const auto* entry : methods) {
    auto model = run.model;
    if (!entry->trainable || entry->name != config.method)
      model = with_method(run.model, entry->name, config);
    AuditOptions options;
    options.budget = entry->budget;
    options.oracle = entry->oracle;
    options.query_aware = config.eviction.query_aware && entry->budget == Budget::kBytes;
    auto findings = audit_method(model, loader, options);
    outcome.report += audit_report(entry->name, findings);
    for (const auto& finding : findings) outcome.passed &= finding.passed;
  }
  return outcome;
}

}  // namespace dsrsq
