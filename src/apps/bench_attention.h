// `dsrsq-bench --suite attention`, and what the other suites' command lines share with it.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "dsrsq/bench/attention_suite.h"

namespace dsrsq {

struct BenchAttentionOptions {
  bench::AttentionSuiteOptions suite;
  std::vector<std::string> cases = {"16384:128", "65536:256", "131072:384"};
  std::vector<int64_t> slots;  // empty: the suite's default
};

void add_attention_options(CLI::App& app, BenchAttentionOptions& o);
// Throws ConfigError.
std::vector<bench::AttentionCase> parse_cases(const BenchAttentionOptions& o);
// Throws ConfigError.
std::vector<ResultRecord> run_attention(const BenchAttentionOptions& o, at::Device device);

}  // namespace dsrsq
