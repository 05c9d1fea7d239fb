// `dsrsq-bench --suite generate|decode`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "bench_attention.h"
#include "bench_train.h"
#include "dsrsq/bench/generate_suite.h"

namespace dsrsq {

struct BenchGenerateOptions {
  bench::GenerateSuiteOptions suite;
  std::vector<std::string> cases = {"1x4096", "1x16384", "1x65536", "1x131072",
                                    "4x4096", "4x16384", "16x4096", "16x16384"};
};

void add_generate_options(CLI::App& app, BenchGenerateOptions& o);

// `decode`: answers are decoded recorded and operator by operator. Heads, window and timing are
// those of `attention`, layers and vocabulary those of `train`. Saves after each case. Throws
// ConfigError.
std::vector<ResultRecord> run_generate(const BenchGenerateOptions& o,
                                       const BenchAttentionOptions& attention,
                                       const bench::TrainSuiteOptions& train, bool decode,
                                       at::Device device, const SaveRecords& save);

}  // namespace dsrsq
