#include "dsrsq/train/run_config.h"

#include <algorithm>

#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/model/pretrained_folder.h"

namespace dsrsq {

void DataConfig::visit_fields(ConfigVisitor& v) {
  v.field("tokenizer", tokenizer, "tokenizer.json that the data set was made with.");
  v.field("train", train, "HDF5 data set made by dsrsq-data; it holds all splits.");
  v.field("train_split", train_split, "Split to train on.");
  v.field("validation_split", validation_split, "Split of the held-out loss during training.");
  v.field("test_split", test_split, "Split that dsrsq-eval measures.");
  v.field("questions_per_sequence", questions_per_sequence,
          "Questions of one document that share a training sequence, at most.", at_least(1));
  v.field(
      "maximum_context", maximum_context,
      "Documents are cut after this many tokens (counted and logged); 0: never. Of texts without "
      "questions: the nearest so many tokens before a chunk and its query can be chosen from.",
      at_least(0));
  v.field("chunk_tokens", chunk_tokens,
          "Texts without questions (format text) are predicted in chunks of this many tokens: the "
          "retriever's query is the chunk before, and its candidates end before that one.",
          at_least(1));
}

void GroupRates::visit_fields(ConfigVisitor& v) {
  v.field("backbone", backbone, "Multiplies the learning rate of the transformer.", at_least(0));
  v.field("retriever", retriever,
          "Multiplies the learning rate of the retriever, or of what gca adds.", at_least(0));
  v.field("projections", projections,
          "Multiplies the learning rate of the cache's projections; they wander at the full rate.",
          at_least(0));
  v.field("encoder", encoder,
          "Multiplies the learning rate of the retriever's sentence encoder, where "
          "dsr.encoder_learns.",
          at_least(0));
}

std::shared_ptr<const EncoderCollator> encoder_collator(const RunConfig& config) {
  const auto& dsr = config.dsrsq.dsr;
  if (config.method != "dsrsq" || !dsr.enabled || dsr.encoder.empty()) return nullptr;
  return std::make_shared<const EncoderCollator>(dsr.encoder, dsr.encoder_window);
}

void TrainConfig::visit_fields(ConfigVisitor& v) {
  v.field("seed", seed, "Seed of weights, data order and noise.", at_least(0));
  v.field("start_from", start_from,
          "Run folder or checkpoint whose weights a new run starts from, so that several runs "
          "share what "
          "was trained once: of a run folder its best, else its newest. Empty: seeded weights.");
  v.field(
      "start_groups", start_groups,
      "Parameter groups that are taken from there; the others start anew. backbone brings what the "
      "reader reads through (the retriever's convolution) and the codebooks along.",
      one_of({"backbone", "retriever", "projections", "encoder"}));
  v.field("device", device, "cpu, cuda or cuda:N; never changed silently.");
  v.field(
      "precision", precision,
      "fp32, or bf16 autocast with fp32 weights, of the training steps; evaluation runs in fp32.",
      one_of({"fp32", "bf16"}));
  v.field("activation_checkpointing", activation_checkpointing,
          "Keep only each block's input for the backward pass and compute the rest again there: "
          "memory for a third more arithmetic. Same results.");
  v.field("frozen_layers", frozen_layers,
          "The embeddings and this many blocks from below stand still in every stage; 0: none.",
          at_least(0));
  v.field("threads", threads,
          "CPU threads; 0: all cores. Part of what makes a run repeat bit by bit.", at_least(0));
  v.field("batch_size", batch_size, "Sequences a micro-batch.", at_least(1));
  v.field("accumulation", accumulation,
          "Micro-batches a step; losses are averaged over all their tokens.", at_least(1));
  v.field("log_every", log_every, "Steps between lines of metrics.", at_least(1));
  v.field("evaluate_every", evaluate_every, "Steps between held-out losses; 0: never.",
          at_least(0));
  v.field("evaluation_batches", evaluation_batches, "Batches of a held-out loss.", at_least(1));
  v.field("evaluate_answers", evaluate_answers,
          "Held-out evaluations also decode the answers (validation/em, validation/f1); it costs a "
          "second pass.");
  v.field("checkpoint_every", checkpoint_every,
          "Steps between checkpoints; the last step is always kept.", at_least(1));
  v.field("keep_checkpoints", keep_checkpoints, "Newest checkpoints that stay, beside the best.",
          at_least(1));
  v.group("groups", groups, "Learning rates of parameter groups.");
}

void RunConfig::visit_fields(ConfigVisitor& v) {
  v.field("method", method, "What is trained.",
          one_of({"dsrsq", "standard", "gca", "shared_attention"}));
  v.group("model", model, "The backbone.");
  v.group("prompt", prompt, "How a question stands in the reader's sequence.");
  v.group("data", data, "Data sets.");
  dsrsq.visit_fields(v);
  v.group("standard", standard, "The standard transformer.");
  v.group("gca", gca, "Grouped cross-attention with chunk retrieval.");
  v.group("shared_attention", shared_attention, "Attention weights reused across layers.");
  v.group("selectors", selectors, "The controls of dsrsq-eval.");
  v.group("rag", rag, "Methods that rank passages of the context.");
  v.group("attention_rag", attention_rag, "AttentionRAG.");
  v.group("eviction", eviction, "Methods that evict keys and values of a context that was read.");
  v.group("pyramid", pyramid, "PyramidKV's split over layers.");
  v.group("streaming_llm", streaming_llm, "StreamingLLM.");
  v.group("razor", razor, "RazorAttention.");
  v.group("kv_compress", kv_compress, "KV-Compress.");
  v.group("quest", quest, "Quest.");
  v.group("squeeze", squeeze, "SqueezeAttention's split over layers.");
  v.group("loss", loss, "The hybrid loss.");
  v.group("optimizer", optimizer, "AdamW and its learning rate.");
  v.group("ppo", ppo, "Training the choice of tokens by reward, in stages with ppo: true.");
  v.group("train", train, "The training loop.");
  v.list("stages", stages,
         "The curriculum, in order; empty: one stage of 1000 steps with everything on.");
  v.group("eval", eval, "Evaluation.");
}

void RunConfig::validate(const ConfigLocations& locations) const {
  model.validate(locations);
  prompt.validate(locations);
  rag.validate(locations);
  eviction.validate(locations);
  if (method == "dsrsq") dsrsq.validate(model, locations);
  if (method == "gca") gca.validate(model, locations);
  if (method == "shared_attention") shared_attention.validate(model, locations);
  if (train.activation_checkpointing && (method == "gca" || method == "shared_attention"))
    throw ConfigError(concat(locations.of("train.activation_checkpointing"),
                             ": train.activation_checkpointing: expected false with method: ",
                             method, ", whose layers read what others computed; got true"));
  if (method == "dsrsq" && dsrsq.sqa.enabled && dsrsq.sqa.centroids == "kmeans" &&
      loss.task_tokens == "all")
    throw ConfigError(
        concat(locations.of("sqa.centroids"),
               ": sqa.centroids: expected codebook or segment with loss.task_tokens: all, "
               "got kmeans, whose clusters know the tokens to be predicted"));
  for (size_t i = 0; i < stages.size(); ++i) {
    auto key = concat("stages.", i, ".clusters_per_query");
    if (stages[i].clusters_per_query > 0 &&
        stages[i].clusters_per_query > dsrsq.sqa.cluster_count())
      throw ConfigError(concat(locations.of(key), ": ", key, ": expected at most sqa.clusters = ",
                               dsrsq.sqa.cluster_count(), ", got ", stages[i].clusters_per_query));
  }
  validate_policy(locations);
  if (train.frozen_layers > model.layers)
    throw ConfigError(concat(locations.of("train.frozen_layers"),
                             ": train.frozen_layers: expected at most model.layers = ",
                             model.layers, ", got ", train.frozen_layers));
  if (train.device != "cpu" && train.device.rfind("cuda", 0) != 0)
    throw ConfigError(concat(locations.of("train.device"),
                             ": train.device: expected cpu, cuda or cuda:N, got '", train.device,
                             "'"));
}

void RunConfig::validate_policy(const ConfigLocations& locations) const {
  auto error = [&](const std::string& key, const std::string& message) {
    return ConfigError(concat(locations.of(key), ": ", key, ": ", message));
  };
  bool selects = method == "dsrsq" && dsrsq.dsr.enabled;
  bool learned = selects && dsrsq.dsr.complexity == "learned";
  bool any_ppo = false;
  for (size_t i = 0; i < stages.size(); ++i) {
    const auto& stage = stages[i];
    auto key = [&](const char* name) { return concat("stages.", i, ".", name); };
    auto form = stage.retrieval_form.empty() ? loss.retrieval_form : stage.retrieval_form;
    auto negatives =
        stage.retrieval_negatives.empty() ? loss.retrieval_negatives : stage.retrieval_negatives;
    if (negatives == "batch" && form != "softmax")
      throw error(key("retrieval_negatives"), concat("expected sequence with retrieval_form: ",
                                                     form, ", got batch, which only softmax has"));
    if (!stage.ppo) continue;
    any_ppo = true;
    if (!selects)
      throw error(key("ppo"),
                  "expected method: dsrsq with dsr.enabled: true, got a model without a "
                  "retriever; there is no policy to train");
    if (std::count(stage.frozen.begin(), stage.frozen.end(), "retriever") > 0)
      throw error(key("frozen"),
                  "expected no retriever in a stage with ppo: true, which trains it");
    if (stage.selection == "all")
      throw error(key("selection"), "expected config or global in a stage with ppo: true, got all");
    if (learned && stage.budget > 0)
      throw error(key("budget"),
                  concat("expected 0 with ppo and dsr.complexity: learned, whose budget "
                         "is an action, got ",
                         stage.budget));
  }
  if (learned && !any_ppo)
    log_warning(
        "dsr.complexity: learned, but no stage has ppo: true: nothing trains the budget, which "
        "stays at the mean of its bins");
  if (!any_ppo) return;
  if (dsrsq.dsr.reader_gradient == "bias")
    throw error(
        "dsr.reader_gradient",
        "expected none in a run with a stage of ppo: true, got bias: rollouts are read without "
        "the scores' bias, so reward would be of another reader");
  if (ppo.rollouts < 2 && ppo.baseline == "rloo" && ppo.credit == "shared")
    throw error("ppo.rollouts", concat("expected at least 2 with ppo.baseline: rloo, got ",
                                       ppo.rollouts, "; a draw is compared with the others"));
  if (ppo.credit == "span_loo" && ppo.baseline != "rloo")
    throw error("ppo.baseline",
                concat("expected rloo with ppo.credit: span_loo, got ", ppo.baseline,
                       "; what a group of picks adds is compared with nothing else"));
  if (ppo.reward.target_share > 0 && !learned)
    throw error(
        "ppo.reward.target_share",
        "expected 0 unless dsr.complexity is learned: a fixed budget cannot be driven to a share");
}

void RunConfig::require_data() const {
  for (auto [key, value] :
       {std::pair{"data.tokenizer", &data.tokenizer}, {"data.train", &data.train}})
    if (value->empty())
      throw ConfigError(concat(
          key, ": expected a path, got nothing; set it in the config or by --set ", key, "=PATH"));
}

RunConfig load_run_config(const ConfigSource& source, bool resolved) {
  RunConfig config;
  auto locations = load_config(source, [&config](ConfigVisitor& v) { config.visit_fields(v); });
  if (config.stages.empty()) config.stages.emplace_back();
  if (config.model.init != "random" && !resolved) {
    PretrainedFolder folder(config.model.init);
    take_architecture(config.model, folder, locations);
    if (config.data.tokenizer.empty()) config.data.tokenizer = folder.tokenizer();
  }
  config.validate(locations);
  return config;
}

}  // namespace dsrsq
