#include "eval_stream.h"

#include <torch/torch.h>

#include <algorithm>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/core/timer.h"
#include "dsrsq/eval/stream_answers.h"
#include "dsrsq/ops/autocast.h"
#include "dsrsq/registry.h"
#include "dsrsq/train/trainer.h"

namespace dsrsq {

namespace {

constexpr const char* kConstant = "constant";

struct ChoiceEntry {
  const char* name;
  StreamChoice choice;
};
constexpr ChoiceEntry kChoices[] = {{"window", StreamChoice::kWindow},
                                    {"random", StreamChoice::kRandom},
                                    {"bm25", StreamChoice::kBm25},
                                    {"oracle_evidence", StreamChoice::kOracle},
                                    {"question_only", StreamChoice::kNothing}};

StreamChoice find_choice(const std::string& name) {
  std::string known;
  for (const auto& entry : kChoices) {
    if (name == entry.name) return entry.choice;
    known += concat(entry.name, ", ");
  }
  throw ConfigError(
      concat("--methods with --stream: unknown row '", name, "'; known: ", known, kConstant));
}

int64_t stream_budget(const EvalRequest& request, const RunConfig& config) {
  if (request.budgets.empty()) return config.dsrsq.dsr.budget;
  const auto& text = request.budgets[0];
  bool whole = text.size() < 10 && text.find_first_not_of("0123456789") == std::string::npos;
  if (request.budgets.size() > 1 || !whole || std::stoll(text) < 1)
    throw ConfigError(concat("--budget with --stream: expected one number of tokens (64), got '",
                             text, "'", request.budgets.size() > 1 ? " and more" : ""));
  return std::stoll(text);
}

bool has_retriever(const RunConfig& config) {
  return config.method == "dsrsq" && config.dsrsq.dsr.enabled;
}

// What only a retriever that sees a whole document at once can do.
void require_streamable(const RunConfig& config, const std::string& row) {
  auto refuse = [&](const std::string& key, const std::string& expected, const std::string& got) {
    throw ConfigError(concat("--stream: row ", row, ": ", key, ": expected ", expected, ", got ",
                             got, "; the text is encoded in chunks"));
  };
  const auto& dsr = config.dsrsq.dsr;
  if (dsr.pool != "mean") refuse("dsr.pool", "mean", dsr.pool);
  if (!dsr.encoder.empty()) refuse("dsr.encoder", "none", dsr.encoder);
  if (dsr.span != 1) refuse("dsr.span", "1", concat(dsr.span));
}

// Before anything is answered.
void require_passages(const RunConfig& config, const std::vector<std::string>& methods) {
  bool asked = std::find(methods.begin(), methods.end(), "bm25") != methods.end();
  if (asked && config.selectors.bm25_passage <= 0)
    throw ConfigError(
        "--stream with bm25: selectors.bm25_passage: expected tokens of a passage, got 0; give "
        "--set selectors.bm25_passage=64");
}

class StreamRows {
 public:
  StreamRows(const FactStream& stream, std::string case_name)
      : stream_(stream), case_(std::move(case_name)) {}

  void add(const std::string& row, const std::vector<StreamAnswer>& answers, int64_t budget) {
    std::vector<ProbeAnswer> scored;
    for (const auto& answer : answers) {
      scored.push_back(answer.scored);
      nlohmann::ordered_json line = {{"row", row},
                                     {"id", answer.id},
                                     {"prediction", answer.prediction},
                                     {"right", answer.scored.right},
                                     {"stale", answer.scored.stale},
                                     {"lag", answer.scored.lag},
                                     {"update", answer.scored.update},
                                     {"tokens_read", answer.scored.attended},
                                     {"context_tokens", answer.scored.available},
                                     {"evidence_recall", answer.evidence_recall},
                                     {"candidates", answer.scored.candidates}};
      outcome.probes += line.dump() + "\n";
    }
    auto records = adaptation_records(Adaptation(scored, stream_.segment), case_, row);
    add_recall(answers, row, records);
    for (auto& record : records) {
      record.shape["budget_tokens"] = double(budget);
      outcome.records.push_back(std::move(record));
    }
    rows_.push_back(row);
  }

  // The metrics, then the accuracy of each row at each lag.
  std::string table() const {
    auto text =
        markdown_table(outcome.records, {{"retention", "retention"},
                                         {"consistency", "consistency"},
                                         {"consistency_right", "consistency, both right"},
                                         {"adaptation_speed", "adaptation speed"},
                                         {"half_life", "half-life of adoption, tokens"},
                                         {"memory_half_life", "half-life of memory, tokens"},
                                         {"stale_rate", "stale answers"},
                                         {"token_efficiency", "tokens read / there"},
                                         {"evidence_recall", "evidence recall"}});
    std::set<double> lags;
    for (const auto& record : outcome.records)
      if (record.shape.count("lag") > 0) lags.insert(record.shape.at("lag"));
    std::ostringstream out;
    out << text << "\nAccuracy by tokens since the fact was last stated:\n\n| row |";
    for (auto lag : lags) out << " " << int64_t(lag) << " |";
    out << " never stated |\n|---|";
    for (size_t i = 0; i <= lags.size(); ++i) out << "---|";
    out << "\n" << std::fixed << std::setprecision(3);
    for (const auto& row : rows_) {
      out << "| " << row << " |";
      for (auto lag : lags) write(out, find(row, concat("accuracy_lag_", int64_t(lag))));
      write(out, find(row, "never_shown"));
      out << "\n";
    }
    out << "\nn/a: of half-lives, more than half are not adopted, or not forgotten, before the "
           "end; "
           "of retention, what was just said is answered less than .2 better than what never "
           "was.\n";
    return out.str();
  }

  StreamOutcome outcome;

 private:
  void add_recall(const std::vector<StreamAnswer>& answers, const std::string& row,
                  std::vector<ResultRecord>& records) const {
    std::vector<double> recall;
    for (const auto& answer : answers)
      if (answer.evidence_recall >= 0) recall.push_back(answer.evidence_recall);
    if (recall.empty()) return;
    auto interval = bootstrap_mean(recall);
    auto shape = records.front().shape;
    records.push_back({case_, row, shape, "evidence_recall", interval.mean, "share", interval.low,
                       interval.high});
  }

  const ResultRecord* find(const std::string& row, const std::string& metric) const {
    for (const auto& record : outcome.records)
      if (record.method == row && record.metric == metric) return &record;
    return nullptr;
  }

  static void write(std::ostream& out, const ResultRecord* record) {
    if (record != nullptr)
      out << " " << record->value << " |";
    else
      out << " n/a |";
  }

  const FactStream& stream_;
  std::string case_;
  std::vector<std::string> rows_;
};

void check_rows(const EvalRequest& request) {
  if (!request.probes.empty() || !request.audits.empty() || request.trace > 0)
    throw ConfigError("--stream: expected no --probes, --audit or --trace beside it");
  std::set<std::string> names;
  for (const auto& name : request.methods) {
    if (name != kConstant) find_choice(name);
    if (!names.insert(name).second)
      throw ConfigError(concat("--methods: expected each row once, got '", name, "' twice"));
  }
}

}  // namespace

StreamOutcome evaluate_stream(const std::string& stream_path, const EvalRequest& request) {
  check_rows(request);
  auto stream = read_fact_stream(stream_path);
  StreamRows rows(stream, "stream");
  StreamOptions options;
  for (size_t i = 0; i < request.checkpoints.size(); ++i) {
    const auto& text = request.checkpoints[i];
    auto equals = text.find('=');
    auto overrides = request.overrides;
    if (!request.device.empty()) overrides.push_back("train.device=" + request.device);
    auto source = find_model(equals == std::string::npos ? text : text.substr(equals + 1),
                             request.config, overrides);
    const auto& config = source.config;
    auto row = equals == std::string::npos ? config.method : text.substr(0, equals);
    if (has_retriever(config)) require_streamable(config, row);
    if (i == 0) require_passages(config, request.methods);
    auto opened = open_model(source);
    opened.model->eval();
    if (i == 0) {
      set_determinism(config.train.threads);
      rows.outcome.output_dir =
          request.output_dir.empty() ? source.folder + "/stream" : request.output_dir;
      rows.outcome.device = config.train.device;
      options.budget = stream_budget(request, config);
    }
    rows.outcome.seeds.push_back(config.train.seed);
    options.segment = config.dsrsq.rckv.segment;
    options.batch_size = config.eval.batch_size;
    options.maximum_tokens = config.eval.maximum_tokens;
    options.seed = request.seed >= 0 ? request.seed : config.train.seed;
    options.selector = config.selectors;
    auto answer = [&](const std::string& name, StreamChoice choice) {
      Timer timer;
      ops::AutocastGuard autocast(opened.model->device(), config.eval.precision == "bf16");
      options.choice = choice;
      auto answers =
          answer_stream(opened.model, *opened.tokenizer, config.prompt, stream, options, name);
      rows.add(name, answers, options.budget);
      log_info("row ", name, ": ", answers.size(), " probes in ", timer.seconds(), " s");
    };
    if (has_retriever(config))
      answer(row, StreamChoice::kRetrieved);
    else
      log_info("row ", row, ": no retriever, so its weights read for --methods alone");
    if (i > 0) continue;
    for (const auto& name : request.methods)
      if (name == kConstant)
        rows.add(name, answer_constantly(stream), 0);
      else
        answer(name, find_choice(name));
  }
  if (rows.outcome.records.empty())
    throw ConfigError(
        "--stream: expected a run with a retriever, or --methods that read with its weights");
  rows.outcome.table = rows.table();
  return std::move(rows.outcome);
}

}  // namespace dsrsq
