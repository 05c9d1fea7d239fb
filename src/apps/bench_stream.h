// `dsrsq-bench --suite stream`: opens the model, the text and the store.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "dsrsq/bench/stream_suite.h"

namespace dsrsq {

struct BenchStreamOptions {
  bench::StreamSuiteOptions suite;
  std::string store;
  std::vector<std::string> settings;  // overrides of the model's config
};

void add_bench_stream_options(CLI::App& app, BenchStreamOptions& o);
// `model`, `text`: those of --suite trained. Throws ConfigError, CheckpointError, DataError.
std::vector<ResultRecord> run_stream_bench(const BenchStreamOptions& o, const std::string& model,
                                           const std::string& text, const std::string& device);

}  // namespace dsrsq
