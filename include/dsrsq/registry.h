// The explicit tables of what can be named on a command line. Only programs and tests include this;
// nothing below knows the lists. A new method is one pair of files in methods/, one line in
// src/registry.cpp and one config.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dsrsq/train/run_config.h"

namespace dsrsq {

struct MethodEntry {
  std::string name;
  std::string description;
  bool trainable = false;  // else it reads with a trained reader's weights
  Budget budget = Budget::kNone;
  // `reader`: the trained method, for those that are not trainable themselves.
  std::shared_ptr<Method> (*make)(const RunConfig& config, std::shared_ptr<Method> reader);
  bool oracle = false;          // sees labels, as no method may: it bounds what one could do
  bool of_any_weights = false;  // trainable, but nothing is its own: --methods reads with it, too
  bool needs_own_weights() const { return trainable && !of_any_weights; }
};

const std::vector<MethodEntry>& method_table();
// Throws ConfigError naming the known ones and the nearest.
const MethodEntry& find_method(const std::string& name);

struct ProbeEntry {
  std::string name;
  std::string description;
  Probe probe;
};
// Diagnostics of trained DSRSQ weights: dense_read, random_routing, latents_masked.
const std::vector<ProbeEntry>& probe_table();

// The model of a run: backbone and its trainable method, weights at their seeded start, on the CPU.
LanguageModel make_model(const RunConfig& config, const Tokenizer& tokenizer);

// `model` read with the method of that name in place of its own: the same weights, and the same
// prefix in front of every context, which counts as sinks as in make_model.
LanguageModel with_method(LanguageModel model, const std::string& name, RunConfig config);

// What is known without weights. `path`: a run's folder or one of its checkpoints (config.yaml), or
// a Hugging Face folder (config.json), which is read with the method, prompt and data of `config`
// (a file, or a name in configs/; empty: method standard). For a run, `config` replaces its own.
struct ModelSource {
  std::string path;
  std::string folder;  // of the run; the path itself for a Hugging Face folder
  bool pretrained = false;
  RunConfig config;
};
// Throws ConfigError, CheckpointError.
ModelSource find_model(const std::string& path, const std::string& config,
                       std::vector<std::string> overrides);

// Weights loaded (of a run: the best checkpoint, else the newest), on config.train.device.
struct OpenModel {
  std::shared_ptr<Tokenizer> tokenizer;
  LanguageModel model{nullptr};
  std::string weights;      // the folder that they come from
  double core_seconds = 0;  // of the training
};
OpenModel open_model(const ModelSource& source);

}  // namespace dsrsq
