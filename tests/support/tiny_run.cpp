#include "support/tiny_run.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <stdexcept>

#include "dsrsq/core/files.h"
#include "dsrsq/data/synthetic.h"

namespace dsrsq::testing {

TemporaryFolder::TemporaryFolder() {
  std::string pattern = ::testing::TempDir() + "/dsrsq-XXXXXX";
  if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
  path_ = pattern;
}

TemporaryFolder::~TemporaryFolder() {
  std::error_code ignored;  // a leftover in the temporary folder fails no test
  std::filesystem::remove_all(path_, ignored);
}

void write_store(const std::string& path, const Tokenizer& tokenizer,
                 const std::vector<DocumentExample>& documents,
                 const std::vector<uint8_t>& splits) {
  StoreWriter::Options options;
  options.source = "a test";
  options.command = "a test";
  options.splits = {"train", "validation", "test"};
  StoreWriter writer(path, tokenizer, options);
  for (size_t i = 0; i < documents.size(); ++i) writer.add(documents[i], splits.at(i));
  writer.finish();
}

namespace {
SyntheticConfig tiny_synthetic() {
  SyntheticConfig config;
  config.context_tokens = 64;
  config.facts = 4;
  config.names = 12;
  config.attributes = 8;
  config.values = 24;
  config.filler_words = 16;
  return config;
}
std::string tiny_tokenizer_json() {
  return build_word_tokenizer(synthetic_words(tiny_synthetic()), synthetic_pieces());
}
}  // namespace

TinyFacts::TinyFacts() : tokenizer_(Tokenizer::from_json(tiny_tokenizer_json(), "tiny tokenizer")) {
  write_file_atomic(tokenizer_path(), tiny_tokenizer_json());
  std::vector<DocumentExample> documents;
  std::vector<uint8_t> splits;
  const std::vector<std::pair<std::string, int64_t>> parts{
      {"train", 24}, {"validation", 4}, {"test", 8}};
  for (size_t split = 0; split < parts.size(); ++split) {
    for (int64_t i = 0; i < parts[split].second; ++i) {
      documents.push_back(synthetic_document(tiny_synthetic(), parts[split].first, i));
      splits.push_back(static_cast<uint8_t>(split));
    }
  }
  write_store(store_path(), tokenizer_, documents, splits);
}

StageConfig tiny_stage(const std::string& name, int64_t steps, bool sqa, bool rckv) {
  StageConfig stage;
  stage.name = name;
  stage.steps = steps;
  stage.sqa = sqa;
  stage.rckv = rckv;
  return stage;
}

RunConfig tiny_config(const TinyFacts& facts) {
  RunConfig config;
  config.data.tokenizer = facts.tokenizer_path();
  config.data.train = facts.store_path();
  config.data.questions_per_sequence = 2;
  config.prompt.question = " ask {question} ?";
  config.model.layers = 2;
  config.model.width = 32;
  config.model.heads = 4;
  config.model.key_value_heads = 2;
  config.model.mlp_width = 48;
  config.model.sinks = 2;
  config.dsrsq.dsr.width = 16;
  config.dsrsq.dsr.budget = 32;
  config.dsrsq.dsr.alpha = 0;
  config.dsrsq.dsr.complexity = "none";
  config.dsrsq.sqa.clusters = 8;
  config.dsrsq.sqa.clusters_per_query = 2;
  config.dsrsq.sqa.window = 4;
  config.dsrsq.rckv.latent_width = 8;
  config.dsrsq.rckv.buffer_length = 6;  // of the 8 tokens that leave
  config.dsrsq.rckv.window = 8;
  config.dsrsq.rckv.segment = 16;
  config.dsrsq.rckv.calibration_sequences = 8;
  config.loss.ramp_steps = 4;
  config.optimizer.learning_rate = 1e-2;
  config.optimizer.warmup_steps = 2;
  config.train.threads = 1;
  config.train.batch_size = 4;
  config.train.log_every = 1;
  config.train.evaluate_every = 0;
  config.train.checkpoint_every = 1000;
  config.train.keep_checkpoints = 10;
  config.stages = {tiny_stage("joint", 6, true, true)};
  return config;
}

}  // namespace dsrsq::testing
