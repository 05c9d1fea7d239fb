#include "eval_columns.h"

#include <algorithm>
#include <set>

#include "dsrsq/core/error.h"

namespace dsrsq {

std::vector<Column> result_columns() {
  return {{"score", "score"},
          {"em", "EM"},
          {"f1", "F1"},
          {"subspan_em", "subspan EM"},
          {"rouge_1", "ROUGE-1"},
          {"rouge_2", "ROUGE-2"},
          {"rouge_l", "ROUGE-L"},
          {"rouge_lsum", "ROUGE-Lsum"},
          {"bleu", "BLEU"},
          {"evidence_recall", "evidence recall"},
          {"answer_recall", "answer recall"},
          {"answer_held", "answer entries held"},
          {"answer_loss", "answer loss (nats a token)"},
          {"em_exact", "EM, answer exact"},
          {"em_latent", "EM, answer in latents only"},
          {"share_latent", "share in latents only"},
          {"tokens_read", "tokens read"},
          {"tokens_spent", "tokens spent"},
          {"token_efficiency", "token efficiency"},
          {"bytes_held", "bytes held"},
          {"prefill_bytes", "most bytes held in prefill"},
          {"budget_bytes", "budget"},
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
  const std::set<std::string> hidden{"subspan_em",  "rouge_1",       "rouge_2",
                                     "rouge_lsum",  "prefill_bytes", "budget_bytes",
                                     "answer_held", "tokens_spent"};
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
