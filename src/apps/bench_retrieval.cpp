#include "bench_retrieval.h"

namespace dsrsq {

void add_retrieval_options(CLI::App& app, BenchRetrievalOptions& o) {
  app.add_option("--retrieval-cases", o.cases,
                 "retrieval: TOKENS:WIDTH:PICKS,... of a store; also TOKENS:WIDTH:PICKS:TYPE, rows "
                 "of fp32 or bf16")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--held", o.suite.held, "retrieval: entries of the reservoir")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--offered", o.suite.offered, "retrieval: candidates offered to it")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
}

std::vector<ResultRecord> run_retrieval(const BenchRetrievalOptions& o,
                                        const BenchAttentionOptions& attention, at::Device device) {
  auto suite = o.suite;
  for (const auto& text : o.cases) suite.cases.push_back(bench::parse_retrieval_case(text));
  suite.model_width = attention.suite.heads * attention.suite.width;
  suite.seed = attention.suite.seed;
  suite.kernels = attention.suite.kernels;
  suite.timing = attention.suite.timing;
  return bench::run_retrieval_suite(suite, device);
}

}  // namespace dsrsq
