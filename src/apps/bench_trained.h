// `dsrsq-bench --suite trained`: opens the model and reads the text.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "bench_attention.h"
#include "dsrsq/bench/trained_suite.h"

namespace dsrsq {

struct BenchTrainedOptions {
  bench::TrainedSuiteOptions suite;
  std::string model;  // a run's folder, one of its checkpoints or a Hugging Face folder
  std::string text;
};

void add_trained_options(CLI::App& app, BenchTrainedOptions& o);
// Cases, window, seed and timing are those of `attention`. Throws ConfigError, CheckpointError,
// DataError.
std::vector<ResultRecord> run_trained(const BenchTrainedOptions& o,
                                      const BenchAttentionOptions& attention,
                                      const std::string& device);

}  // namespace dsrsq
