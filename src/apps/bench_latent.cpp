#include "bench_latent.h"

namespace dsrsq {

void add_latent_options(CLI::App& app, BenchLatentOptions& o) {
  auto& s = o.suite;
  app.add_option("--buffer-lengths", s.lengths, "latent: entries of the buffer, L,...")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--projected-tokens", s.tokens, "latent: tokens that enter it, N,...")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--projected-width", s.latent_width, "latent: c")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--read-layers", s.layers, "latent: layers of a decoded token")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--history", s.history, "latent: tokens of dense attention; 0: without it")
      ->check(CLI::NonNegativeNumber)
      ->capture_default_str();
}

std::vector<ResultRecord> run_latent(const BenchLatentOptions& o,
                                     const BenchAttentionOptions& attention, at::Device device) {
  auto suite = o.suite;
  const auto& shared = attention.suite;
  suite.batch = shared.batch;
  suite.heads = shared.heads;
  suite.kv_heads = shared.kv_heads;
  suite.width = shared.width;
  suite.seed = shared.seed;
  suite.kernels = shared.kernels;
  suite.timing = shared.timing;
  return bench::run_latent_suite(suite, device);
}

}  // namespace dsrsq
