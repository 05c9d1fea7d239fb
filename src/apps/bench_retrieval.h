// `dsrsq-bench --suite retrieval`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "bench_attention.h"
#include "dsrsq/bench/retrieval_suite.h"

namespace dsrsq {

struct BenchRetrievalOptions {
  bench::RetrievalSuiteOptions suite;
  std::vector<std::string> cases = {"131072:128:512", "1000000:128:512"};
};

void add_retrieval_options(CLI::App& app, BenchRetrievalOptions& o);
// Throws ConfigError.
std::vector<ResultRecord> run_retrieval(const BenchRetrievalOptions& o,
                                        const BenchAttentionOptions& attention, at::Device device);

}  // namespace dsrsq
