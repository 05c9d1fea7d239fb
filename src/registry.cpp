#include "dsrsq/registry.h"

#include <torch/torch.h>

#include "dsrsq/core/error.h"

namespace dsrsq {

namespace {
template <typename Selector>
std::shared_ptr<Method> make_selector(const RunConfig& config, std::shared_ptr<Method> reader) {
  return std::make_shared<Selector>(std::move(reader), config.selectors, config.train.seed);
}
std::shared_ptr<Method> make_dsrsq(const RunConfig& config, std::shared_ptr<Method>) {
  return std::make_shared<DsrsqMethod>(config.dsrsq, config.model, config.train.seed);
}
std::shared_ptr<Method> make_standard(const RunConfig& config, std::shared_ptr<Method>) {
  return std::make_shared<StandardMethod>(config.standard, config.model);
}
}  // namespace

const std::vector<MethodEntry>& method_table() {
  static const std::vector<MethodEntry> table{
      {"dsrsq", "the paper's model, with its parts as the config switches them", true, make_dsrsq},
      {"standard", "dense attention over a window of the context", true, make_standard},
      {"random", "random tokens, same reader and budget", false, make_selector<RandomSelector>},
      {"bm25", "passages ranked by BM25, same reader and budget", false,
       make_selector<Bm25Selector>},
      {"oracle_evidence", "the evidence and random tokens, same reader and budget", false,
       make_selector<OracleEvidenceSelector>},
      {"question_only", "no context, same reader", false, make_selector<QuestionOnlySelector>},
  };
  return table;
}

const MethodEntry& find_method(const std::string& name) {
  std::vector<std::string> known;
  for (const auto& entry : method_table()) {
    if (entry.name == name) return entry;
    known.push_back(entry.name);
  }
  std::string list;
  for (const auto& one : known) list += (list.empty() ? "" : ", ") + one;
  auto nearest = nearest_name(name, known);
  throw ConfigError(concat("--methods: unknown method '", name, "'; known: ", list,
                           nearest.empty() ? "" : "; did you mean '" + nearest + "'?"));
}

const std::vector<ProbeEntry>& probe_table() {
  static const std::vector<ProbeEntry> table{
      {"dense_read", "same weights, every exact key attended", Probe::kDenseRead},
      {"random_routing", "same weights, as many clusters chosen at random", Probe::kRandomRouting},
      {"latents_masked", "same weights, the latent buffer not read", Probe::kLatentsMasked},
  };
  return table;
}

LanguageModel make_model(const RunConfig& config, const Tokenizer& tokenizer) {
  Transformer backbone(config.model, tokenizer.vocabulary_size(), config.train.seed);
  return LanguageModel(backbone, find_method(config.method).make(config, nullptr),
                       tokenizer.begin_id());
}

}  // namespace dsrsq
