#include "bench_trained.h"

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/registry.h"

namespace dsrsq {

void add_trained_options(CLI::App& app, BenchTrainedOptions& o) {
  app.add_option("--model", o.model, "trained, stream: a run, or a Hugging Face folder");
  app.add_option("--text", o.text, "trained, stream: what it reads");
  app.add_option("--sequences", o.suite.sequences, "trained: read; as many feed the codebook")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--layer", o.suite.timed_layer, "trained: whose keys are timed; -1: the middle")
      ->capture_default_str();
}

std::vector<ResultRecord> run_trained(const BenchTrainedOptions& o,
                                      const BenchAttentionOptions& attention,
                                      const std::string& device) {
  if (o.model.empty() || o.text.empty())
    throw ConfigError(
        "--suite trained: expected --model and --text, got only one or none; give both");
  const auto cases = parse_cases(attention);
  auto opened = open_model(find_model(o.model, "", {"train.device=" + device}));
  const auto text = opened.tokenizer->encode(read_file(o.text));
  auto suite = o.suite;
  if (!attention.slots.empty()) suite.slots = attention.slots;
  suite.window = attention.suite.window;
  suite.seed = attention.suite.seed;
  suite.timing = attention.suite.timing;
  std::vector<ResultRecord> records;
  for (const auto& size : cases) {
    suite.tokens = size.tokens;
    suite.clusters = size.clusters;
    const auto found = bench::run_trained_suite(suite, opened.model, text);
    records.insert(records.end(), found.begin(), found.end());
  }
  return records;
}

}  // namespace dsrsq
