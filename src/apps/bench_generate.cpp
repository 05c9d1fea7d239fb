#include "bench_generate.h"

namespace dsrsq {
void add_generate_options(CLI::App& app, BenchGenerateOptions& o) {
  auto& g = o.suite;
  app.add_option("--generate-cases", o.cases, "generate: BATCHxTOKENS,... of contexts")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--generate-methods", g.methods, "generate: dense, sqa, rckv, all")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--clusters", g.clusters,
                 "generate: of every layer; 0: auto for the longest context");
  app.add_option("--budget", g.budget, "generate: tokens that the retriever chooses")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--generate-latent-width", g.latent_width, "generate: of a compressed key")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--buffer", g.buffer, "generate: latents that a layer keeps")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--segment", g.segment, "generate: tokens that are read before some leave")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--answer", g.answer, "generate: tokens of an answer")->capture_default_str();
  app.add_option("--count-up-to", g.counted_tokens,
                 "generate: contexts of this length, batch 1, also count FLOP from what was "
                 "attended and by torch's profiler")
      ->capture_default_str();
}

std::vector<ResultRecord> run_generate(const BenchGenerateOptions& o,
                                       const BenchAttentionOptions& attention,
                                       const bench::TrainSuiteOptions& train, bool decode,
                                       at::Device device, const SaveRecords& save) {
  const auto& a = attention.suite;
  auto suite = o.suite;
  suite.eager_too = decode;
  for (const auto& text : o.cases) suite.cases.push_back(bench::parse_generate_case(text));
  suite.layers = train.layers;
  suite.vocabulary = train.vocabulary;
  suite.heads = a.heads;
  suite.width = a.heads * a.width;
  suite.mlp_width = suite.width * 8 / 3;
  suite.slots = attention.slots.empty() ? a.slots : attention.slots.front();
  suite.window = a.window;
  suite.seed = a.seed;
  suite.seconds = a.timing.seconds;
  return bench::run_generate_suite(suite, device, save);
}

}  // namespace dsrsq
