// Everything that a run's YAML says: one struct of each component. Only programs and the trainer
// see the whole.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dsrsq/batch/collate.h"
#include "dsrsq/eval/evaluator.h"
#include "dsrsq/methods/attention_rag.h"
#include "dsrsq/methods/dsrsq.h"
#include "dsrsq/methods/gca.h"
#include "dsrsq/methods/kv_compress.h"
#include "dsrsq/methods/pyramid.h"
#include "dsrsq/methods/quest.h"
#include "dsrsq/methods/rag.h"
#include "dsrsq/methods/razor.h"
#include "dsrsq/methods/selectors.h"
#include "dsrsq/methods/shared_attention.h"
#include "dsrsq/methods/squeeze.h"
#include "dsrsq/methods/standard.h"
#include "dsrsq/methods/streaming_llm.h"
#include "dsrsq/model/config.h"
#include "dsrsq/objective/schedule.h"
#include "dsrsq/train/optimizer.h"
#include "dsrsq/train/ppo.h"

namespace dsrsq {

struct DataConfig {
  std::string tokenizer;
  std::string train;
  std::string train_split = "train";
  std::string validation_split = "validation";
  std::string test_split = "test";
  int64_t questions_per_sequence = 1;
  int64_t maximum_context = 0;
  int64_t chunk_tokens = 128;
  void visit_fields(ConfigVisitor& v);
};

// Multiplies optimizer.learning_rate for a group of parameters.
struct GroupRates {
  double backbone = 1.0;
  double retriever = 1.0;
  double projections = 0.1;
  double encoder = 0.1;
  void visit_fields(ConfigVisitor& v);
};

struct TrainConfig {
  int64_t seed = 0;
  std::string device = "cpu";
  std::string start_from;
  std::vector<std::string> start_groups = {"backbone", "retriever", "projections", "encoder"};
  std::string precision = "fp32";
  bool activation_checkpointing = false;
  int64_t frozen_layers = 0;
  int64_t threads = 0;
  int64_t batch_size = 8;
  int64_t accumulation = 1;
  int64_t log_every = 10;
  int64_t evaluate_every = 200;
  int64_t evaluation_batches = 8;
  bool evaluate_answers = false;
  int64_t checkpoint_every = 200;
  int64_t keep_checkpoints = 2;
  GroupRates groups;
  void visit_fields(ConfigVisitor& v);
};

struct RunConfig {
  std::string method = "dsrsq";
  TransformerConfig model;
  PromptConfig prompt;
  DataConfig data;
  DsrsqConfig dsrsq;  // its groups dsr, sqa, rckv stand at the top level
  StandardConfig standard;
  GcaConfig gca;
  SharedAttentionConfig shared_attention;
  SelectorConfig selectors;
  RagConfig rag;
  AttentionRagConfig attention_rag;
  EvictionConfig eviction;
  PyramidConfig pyramid;
  StreamingLlmConfig streaming_llm;
  RazorConfig razor;
  KvCompressConfig kv_compress;
  SqueezeConfig squeeze;
  QuestConfig quest;
  LossConfig loss;
  OptimizerConfig optimizer;
  PpoConfig ppo;
  TrainConfig train;
  std::vector<StageConfig> stages;
  EvalConfig eval;

  void visit_fields(ConfigVisitor& v);
  void require_data() const;  // throws ConfigError where no data set or tokenizer is named
  void validate(const ConfigLocations& locations)
      const;  // cross-field checks, before any work; throws ConfigError

 private:
  void validate_policy(const ConfigLocations& locations) const;
};

// What collates for the run's sentence encoder; null where it has none. Throws DataError.
std::shared_ptr<const EncoderCollator> encoder_collator(const RunConfig& config);

// Loads, adds the default stage where there is none, takes the architecture (and, where none is
// named, the tokenizer) of a pretrained model.init, validates. `resolved`: the config of a run,
// which holds the architecture already: the folder need not be there any more.
RunConfig load_run_config(const ConfigSource& source, bool resolved = false);

}  // namespace dsrsq
