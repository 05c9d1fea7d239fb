#include "eval_context.h"

#include <torch/torch.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/core/timer.h"
#include "dsrsq/eval/context_lengths.h"
#include "dsrsq/ops/autocast.h"
#include "dsrsq/registry.h"
#include "dsrsq/train/trainer.h"

namespace dsrsq {

namespace {

struct ScoredRow {
  std::string name;
  std::vector<ScoredText> texts;
};

// What is predicted is part of what is read, so a method that evicts by the end of what it read, or
// that decodes, has no place here; nor have labels, which texts do not have.
void require_chooser(const std::string& name) {
  const auto& entry = find_method(name);
  bool chooses = entry.budget == Budget::kTokens || name == "question_only";
  if (!chooses || entry.oracle || entry.needs_own_weights() || name == "attention_rag")
    throw ConfigError(
        concat("--methods with --context-lengths: expected methods that choose tokens "
               "without labels (random, bm25, rag, longrag, question_only), got '",
               name, "'"));
}

Probe find_probe(const std::string& name) {
  for (const auto& entry : probe_table())
    if (entry.name == name) return entry.probe;
  throw ConfigError(concat("--probes: unknown probe '", name,
                           "'; known: dense_read, random_routing, latents_masked"));
}

void check_request(const EvalRequest& request) {
  if (!request.audits.empty() || request.trace > 0 || !request.budgets.empty() ||
      !request.suite_name.empty())
    throw ConfigError(
        "--context-lengths: expected no --audit, --trace, --budget or --suite beside it");
  for (const auto& name : request.methods) require_chooser(name);
  for (const auto& name : request.probes) find_probe(name);
}

std::string row_of(const std::string& text, const RunConfig& config) {
  auto equals = text.find('=');
  return equals == std::string::npos ? config.method : text.substr(0, equals);
}

std::string texts_of(const ScoredRow& row, const ContextLengthOptions& options) {
  std::string lines;
  for (const auto& text : row.texts) {
    nlohmann::ordered_json line = {{"row", row.name},       {"id", text.id},
                                   {"tokens", text.tokens}, {"context_tokens", options.lengths},
                                   {"loss", text.loss},     {"tokens_read", text.tokens_read}};
    lines += line.dump() + "\n";
  }
  return lines;
}

std::string table_of(const std::vector<ResultRecord>& records,
                     const ContextLengthOptions& options) {
  auto columns_of = [&](const std::string& metric) {
    std::vector<Column> columns;
    for (auto length : options.lengths)
      columns.push_back({concat(metric, "_context_", length), concat(length)});
    return columns;
  };
  auto table = concat("Perplexity of the last ", options.scored_tokens,
                      " tokens of each text, by the tokens before them that may be read:\n\n",
                      markdown_table(records, columns_of("perplexity")),
                      "\nContext tokens that the reader reads of these, the query among them:\n\n",
                      markdown_table(records, columns_of("tokens_read")));
  auto differences = comparison_table(records, columns_of("loss"));
  return differences.empty() ? table : table + "\nLoss, nats a token:\n\n" + differences;
}

}  // namespace

ContextOutcome evaluate_context_lengths(const EvalRequest& request,
                                        const std::vector<int64_t>& lengths,
                                        int64_t scored_tokens) {
  check_request(request);
  ContextOutcome outcome;
  ContextLengthOptions options;
  options.lengths = lengths;
  std::vector<ScoredRow> rows;
  std::unique_ptr<Store> store;
  std::vector<ScoredText> texts;
  for (size_t i = 0; i < request.checkpoints.size(); ++i) {
    const auto& text = request.checkpoints[i];
    auto overrides = request.overrides;
    if (!request.device.empty()) overrides.push_back("train.device=" + request.device);
    auto source = find_model(text.substr(text.find('=') + 1), request.config, overrides);
    const auto& config = source.config;
    config.require_data();
    if (i == 0) {
      set_determinism(config.train.threads);
      outcome.output_dir =
          request.output_dir.empty() ? source.folder + "/context" : request.output_dir;
      outcome.device = config.train.device;
      options.chunk_tokens = config.data.chunk_tokens;
      options.scored_tokens = scored_tokens > 0 ? scored_tokens : options.chunk_tokens;
      options.batch_size = config.eval.batch_size;
      options.maximum_texts = config.eval.questions;
      store = std::make_unique<Store>(config.data.train);
      texts = find_scored_texts(*store, config.data.test_split, options);
    }
    auto opened = open_model(source);
    store->require_tokenizer(*opened.tokenizer);
    opened.model->eval();
    outcome.seeds.push_back(config.train.seed);
    const TextCollator collator(*store, *opened.tokenizer, encoder_collator(config));
    auto score = [&](const std::string& name, LanguageModel model, Probe probe) {
      for (const auto& row : rows)
        if (row.name == name)
          throw ConfigError(concat("--context-lengths: two rows are called '", name,
                                   "'; name them: --checkpoint ROW=FOLDER"));
      Timer timer;
      ops::AutocastGuard autocast(model->device(), config.eval.precision == "bf16");
      PassOptions pass;
      pass.probe = probe;
      rows.push_back({name, texts});
      score_texts(model, collator, pass, options, rows.back().texts);
      log_info("row ", name, ": ", texts.size(), " texts in ", timer.seconds(), " s");
    };
    score(row_of(text, config), opened.model, Probe::kNone);
    if (i > 0) continue;
    for (const auto& name : request.probes)
      score(concat(row_of(text, config), ":", name), opened.model, find_probe(name));
    for (const auto& name : request.methods)
      score(name, with_method(opened.model, name, config), Probe::kNone);
  }
  auto baseline = request.baseline.empty() ? rows.at(0).name : request.baseline;
  auto found = std::find_if(rows.begin(), rows.end(),
                            [&](const ScoredRow& row) { return row.name == baseline; });
  if (found == rows.end()) throw ConfigError(concat("--baseline ", baseline, ": no such row"));
  for (const auto& row : rows) {
    auto records = context_length_records(row.texts, options, "context", row.name,
                                          &row == &*found ? nullptr : &found->texts, baseline);
    outcome.records.insert(outcome.records.end(), records.begin(), records.end());
    outcome.texts += texts_of(row, options);
  }
  outcome.table = table_of(outcome.records, options);
  return outcome;
}

}  // namespace dsrsq
