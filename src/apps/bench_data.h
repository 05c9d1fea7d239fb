// `dsrsq-bench --suite data`.
#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "dsrsq/bench/data_suite.h"

namespace dsrsq {

struct BenchDataOptions {
  std::string input, format, tokenizer;
  std::string python;  // results of scripts/bench_tokenizers.py; empty: none
};

void add_data_options(CLI::App& app, BenchDataOptions& o);
// Throws ConfigError and DataError.
std::vector<ResultRecord> run_data(const BenchDataOptions& o, const bench::TimingOptions& timing);

}  // namespace dsrsq
