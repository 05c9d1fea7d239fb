#include "dsrsq/train/run_config.h"

#include "dsrsq/core/error.h"

namespace dsrsq {

void DataConfig::visit_fields(ConfigVisitor& v) {
  v.field("tokenizer", tokenizer, "tokenizer.json that the data set was made with.");
  v.field("train", train, "HDF5 data set made by dsrsq-data; it holds all splits.");
  v.field("train_split", train_split, "Split to train on.");
  v.field("validation_split", validation_split, "Split of the held-out loss during training.");
  v.field("test_split", test_split, "Split that dsrsq-eval measures.");
  v.field("questions_per_sequence", questions_per_sequence,
          "Questions of one document that share a training sequence, at most.", at_least(1));
  v.field("maximum_context", maximum_context,
          "Documents are cut after this many tokens (counted and logged); 0: never.", at_least(0));
}

void GroupRates::visit_fields(ConfigVisitor& v) {
  v.field("backbone", backbone, "Multiplies the learning rate of the transformer.", at_least(0));
  v.field("retriever", retriever, "Multiplies the learning rate of the retriever.", at_least(0));
  v.field("projections", projections,
          "Multiplies the learning rate of the cache's projections; they wander at the full rate.",
          at_least(0));
}

void TrainConfig::visit_fields(ConfigVisitor& v) {
  v.field("seed", seed, "Seed of weights, data order and noise.", at_least(0));
  v.field("device", device, "cpu, cuda or cuda:N; never changed silently.");
  v.field(
      "precision", precision,
      "fp32, or bf16 autocast with fp32 weights, of the training steps; evaluation runs in fp32.",
      one_of({"fp32", "bf16"}));
  v.field("threads", threads,
          "CPU threads; 0: all cores. Part of what makes a run repeat bit by bit.", at_least(0));
  v.field("batch_size", batch_size, "Sequences a micro-batch.", at_least(1));
  v.field("accumulation", accumulation,
          "Micro-batches a step; losses are averaged over all their tokens.", at_least(1));
  v.field("log_every", log_every, "Steps between lines of metrics.", at_least(1));
  v.field("evaluate_every", evaluate_every, "Steps between held-out losses; 0: never.",
          at_least(0));
  v.field("evaluation_batches", evaluation_batches, "Batches of a held-out loss.", at_least(1));
  v.field("checkpoint_every", checkpoint_every,
          "Steps between checkpoints; the last step is always kept.", at_least(1));
  v.field("keep_checkpoints", keep_checkpoints, "Newest checkpoints that stay, beside the best.",
          at_least(1));
  v.group("groups", groups, "Learning rates of parameter groups.");
}

void RunConfig::visit_fields(ConfigVisitor& v) {
  v.field("method", method, "What is trained.", one_of({"dsrsq", "standard"}));
  v.group("model", model, "The backbone.");
  v.group("prompt", prompt, "How a question stands in the reader's sequence.");
  v.group("data", data, "Data sets.");
  dsrsq.visit_fields(v);
  v.group("standard", standard, "The standard transformer.");
  v.group("selectors", selectors, "The controls of dsrsq-eval.");
  v.group("loss", loss, "The hybrid loss.");
  v.group("optimizer", optimizer, "AdamW and its learning rate.");
  v.group("train", train, "The training loop.");
  v.list("stages", stages,
         "The curriculum, in order; empty: one stage of 1000 steps with everything on.");
  v.group("eval", eval, "Evaluation.");
}

void RunConfig::validate(const ConfigLocations& locations) const {
  model.validate(locations);
  prompt.validate(locations);
  if (method == "dsrsq") dsrsq.validate(model, locations);
  for (size_t i = 0; i < stages.size(); ++i) {
    auto key = concat("stages.", i, ".clusters_per_query");
    if (stages[i].clusters_per_query > dsrsq.sqa.clusters)
      throw ConfigError(concat(locations.of(key), ": ", key, ": expected at most sqa.clusters = ",
                               dsrsq.sqa.clusters, ", got ", stages[i].clusters_per_query));
  }
  if (train.device != "cpu" && train.device.rfind("cuda", 0) != 0)
    throw ConfigError(concat(locations.of("train.device"),
                             ": train.device: expected cpu, cuda or cuda:N, got '", train.device,
                             "'"));
}

void RunConfig::require_data() const {
  for (auto [key, value] :
       {std::pair{"data.tokenizer", &data.tokenizer}, {"data.train", &data.train}})
    if (value->empty())
      throw ConfigError(concat(
          key, ": expected a path, got nothing; set it in the config or by --set ", key, "=PATH"));
}

RunConfig load_run_config(const ConfigSource& source) {
  RunConfig config;
  auto locations = load_config(source, [&config](ConfigVisitor& v) { config.visit_fields(v); });
  if (config.stages.empty()) config.stages.emplace_back();
  config.validate(locations);
  return config;
}

}  // namespace dsrsq
