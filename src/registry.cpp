#include "dsrsq/registry.h"

#include <torch/torch.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/methods/h2o.h"
#include "dsrsq/methods/longrag.h"
#include "dsrsq/methods/oracle_attention.h"
#include "dsrsq/methods/random_eviction.h"
#include "dsrsq/methods/snapkv.h"
#include "dsrsq/model/pretrained.h"
#include "dsrsq/train/checkpoint.h"
#include "dsrsq/train/run_folder.h"
#include "dsrsq/train/trainer.h"

namespace dsrsq {

namespace fs = std::filesystem;

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
std::shared_ptr<Method> make_gca(const RunConfig& config, std::shared_ptr<Method>) {
  return std::make_shared<GcaMethod>(config.gca, config.model, config.train.seed);
}
std::shared_ptr<Method> make_shared_attention(const RunConfig& config, std::shared_ptr<Method>) {
  return std::make_shared<SharedAttentionMethod>(config.shared_attention, config.model);
}
// Of methods that cut passages and sentences, which only text has.
std::shared_ptr<const Tokenizer> open_tokenizer(const RunConfig& config) {
  if (config.data.tokenizer.empty())
    throw ConfigError("data.tokenizer: expected a path, got nothing; passages are cut from text");
  return std::make_shared<const Tokenizer>(Tokenizer::from_file(config.data.tokenizer));
}
template <typename Rag>
std::shared_ptr<Method> make_rag(const RunConfig& config, std::shared_ptr<Method> reader) {
  return std::make_shared<Rag>(std::move(reader), config.rag, open_tokenizer(config),
                               RagExamples{config.data.train, config.prompt});
}
std::shared_ptr<Method> make_attention_rag(const RunConfig& config,
                                           std::shared_ptr<Method> reader) {
  return std::make_shared<AttentionRagMethod>(std::move(reader), config.attention_rag,
                                              config.prompt, open_tokenizer(config));
}
template <typename Eviction>
std::shared_ptr<Method> make_eviction(const RunConfig& config, std::shared_ptr<Method>) {
  return std::make_shared<Eviction>(config.eviction, config.model);
}
std::shared_ptr<Method> make_random_eviction(const RunConfig& config, std::shared_ptr<Method>) {
  return std::make_shared<RandomEvictionMethod>(config.eviction, config.model, config.train.seed);
}
// With settings of its own.
template <typename Eviction, auto settings>
std::shared_ptr<Method> make_eviction_with(const RunConfig& config, std::shared_ptr<Method>) {
  return std::make_shared<Eviction>(config.eviction, config.*settings, config.model);
}
}  // namespace

const std::vector<MethodEntry>& method_table() {
  static const std::vector<MethodEntry> table{
      {"dsrsq", "the paper's model, with its parts as the config switches them", true,
       Budget::kTokens, make_dsrsq},
      {"standard", "dense attention over a window of the context", true, Budget::kNone,
       make_standard},
      {"gca", "a window, and chunks that the chunk before retrieved, by cross-attention", true,
       Budget::kNone, make_gca},
      {"shared_attention", "a span of layers attends with the probabilities of one layer", true,
       Budget::kNone, make_shared_attention, false, true},
      {"random", "random tokens, same reader and budget", false, Budget::kTokens,
       make_selector<RandomSelector>},
      {"bm25", "passages ranked by BM25, same reader and budget", false, Budget::kTokens,
       make_selector<Bm25Selector>},
      {"oracle_evidence", "the evidence and random tokens, same reader and budget", false,
       Budget::kTokens, make_selector<OracleEvidenceSelector>, true},
      {"bm25_top_passage", "BM25's first passage alone, same reader", false, Budget::kNone,
       make_selector<Bm25TopPassageSelector>},
      {"oracle_passage", "the passages that hold the evidence alone, same reader", false,
       Budget::kNone, make_selector<OraclePassageSelector>, true},
      {"question_only", "no context, same reader", false, Budget::kNone,
       make_selector<QuestionOnlySelector>},
      {"rag", "passages ranked against the question, the best last, same reader", false,
       Budget::kTokens, make_rag<RagMethod>},
      {"attention_rag", "sentences that the beginning of an answer attends, same reader", false,
       Budget::kTokens, make_attention_rag},
      {"longrag", "long units ranked by their best passage, same reader", false, Budget::kTokens,
       make_rag<LongRagMethod>},
      {"snapkv", "entries that the last tokens attend stay", false, Budget::kBytes,
       make_eviction<SnapKvMethod>},
      {"pyramid", "as snapkv, lower layers keep more", false, Budget::kBytes,
       make_eviction_with<PyramidMethod, &RunConfig::pyramid>},
      {"razor", "retrieval heads keep everything, the others the first and the last entries", false,
       Budget::kBytes, make_eviction_with<RazorMethod, &RunConfig::razor>},
      {"h2o", "entries that all rows attended most and the last ones stay", false, Budget::kBytes,
       make_eviction<H2oMethod>},
      {"kv_compress", "blocks go from whichever head can spare them", false, Budget::kBytes,
       make_eviction_with<KvCompressMethod, &RunConfig::kv_compress>},
      {"squeeze", "layers whose attention changes least keep less", false, Budget::kBytes,
       make_eviction_with<SqueezeMethod, &RunConfig::squeeze>},
      {"quest", "every query attends the pages that could matter most to it", false, Budget::kReads,
       make_eviction_with<QuestMethod, &RunConfig::quest>},
      {"oracle_attention", "every query attends the keys that it would attend most", false,
       Budget::kReads, make_eviction<OracleAttentionMethod>},
      {"random_eviction", "random entries stay", false, Budget::kBytes, make_random_eviction},
      {"streaming_llm", "the first and the last entries stay", false, Budget::kBytes,
       make_eviction_with<StreamingLlmMethod, &RunConfig::streaming_llm>},
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
  auto rows =
      config.model.vocabulary_size > 0 ? config.model.vocabulary_size : tokenizer.vocabulary_size();
  if (rows < tokenizer.vocabulary_size())
    throw ConfigError(concat("data.tokenizer: ", config.data.tokenizer, ": expected at most ", rows,
                             " ids, which the model has embeddings for, got ",
                             tokenizer.vocabulary_size(), "; take the model's own tokenizer"));
  // What stands in front of every context counts as sinks from here on.
  auto prefix = encode_template(tokenizer, config.prompt.prefix);
  auto with_prefix = config;
  with_prefix.model.sinks += int64_t(prefix.size());
  auto method = find_method(config.method).make(with_prefix, nullptr);
  Transformer backbone(with_prefix.model, rows, config.train.seed, method.get());
  return LanguageModel(backbone, method, tokenizer.begin_id(), prefix);
}

LanguageModel with_method(LanguageModel model, const std::string& name, RunConfig config) {
  config.model.sinks = model->backbone()->config().sinks;
  return LanguageModel(model->backbone(), find_method(name).make(config, model->shared_method()),
                       model->begin_id(), model->prefix());
}

namespace {
// A checkpoint folder lies in <run>/checkpoints/.
std::string run_folder_of(const std::string& path) {
  if (fs::exists(fs::path(path) / "config.yaml")) return path;
  auto folder = fs::absolute(path).lexically_normal();
  if (!folder.has_filename()) folder = folder.parent_path();  // a trailing slash
  return folder.parent_path().parent_path().string();
}
}  // namespace

ModelSource find_model(const std::string& path, const std::string& config,
                       std::vector<std::string> overrides) {
  ModelSource source;
  source.path = path;
  source.pretrained = fs::exists(fs::path(path) / "config.json");
  source.folder = source.pretrained ? path : run_folder_of(path);
  if (!source.pretrained && config.empty() && !fs::exists(source.folder + "/config.yaml"))
    throw CheckpointError(concat(path,
                                 ": expected a run's folder (with config.yaml), one of its "
                                 "checkpoints, or a Hugging Face folder (with config.json), found ",
                                 fs::exists(path) ? "neither in it" : "no such folder"));
  if (source.pretrained) {
    std::vector<std::string> first{"model.init=" + path};
    if (config.empty()) first.push_back("method=standard");
    overrides.insert(overrides.begin(), first.begin(), first.end());
  }
  source.config = config.empty() && !source.pretrained
                      ? load_run_folder_config(source.folder, overrides)
                      : load_run_config({config, overrides, config_search_folders()});
  return source;
}

OpenModel open_model(const ModelSource& source) {
  OpenModel opened;
  opened.tokenizer =
      std::make_shared<Tokenizer>(Tokenizer::from_file(source.config.data.tokenizer));
  opened.model = make_model(source.config, *opened.tokenizer);
  if (source.pretrained) {
    load_pretrained(opened.model->backbone(), PretrainedFolder(source.path));
    opened.weights = source.path;
  } else {
    auto checkpoint = find_checkpoint(source.path, true);
    load_module_tensors(*opened.model, CheckpointFolder::read_model(checkpoint), checkpoint.folder);
    opened.core_seconds = CheckpointFolder::read_state(checkpoint).value("core_seconds", 0.0);
    opened.weights = checkpoint.folder;
  }
  opened.model->to(parse_device(source.config.train.device));
  return opened;
}

}  // namespace dsrsq
