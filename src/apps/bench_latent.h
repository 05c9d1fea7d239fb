// `dsrsq-bench --suite latent`.
#pragma once

#include <CLI/CLI.hpp>
#include <vector>

#include "bench_attention.h"
#include "dsrsq/bench/latent_suite.h"

namespace dsrsq {

struct BenchLatentOptions {
  bench::LatentSuiteOptions suite;
};

void add_latent_options(CLI::App& app, BenchLatentOptions& o);
// Throws ConfigError.
std::vector<ResultRecord> run_latent(const BenchLatentOptions& o,
                                     const BenchAttentionOptions& attention, at::Device device);

}  // namespace dsrsq
