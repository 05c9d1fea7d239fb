// `dsrsq-bench --suite train`.
#pragma once

#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "bench_attention.h"
#include "dsrsq/bench/train_suite.h"

namespace dsrsq {

struct BenchTrainOptions {
  bench::TrainSuiteOptions suite;
  std::vector<std::string> cases = {"32x1024:128", "4x8192:128", "1x32768:192", "1x131072:384"};
  std::string pytorch;  // results of scripts/bench_pytorch.py; empty: none
};

void add_train_options(CLI::App& app, BenchTrainOptions& o);

using SaveRecords = std::function<void(const std::vector<ResultRecord>&)>;
// Heads, window and timing are those of `attention`. Saves after each case: one that runs out of
// time or memory takes no other with it. Throws ConfigError and DataError.
std::vector<ResultRecord> run_train(const BenchTrainOptions& o,
                                    const BenchAttentionOptions& attention, at::Device device,
                                    const SaveRecords& save);

}  // namespace dsrsq
