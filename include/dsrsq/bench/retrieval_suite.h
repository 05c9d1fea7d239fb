// `dsrsq-bench --suite retrieval`: choosing tokens from a store, gathering them, the probability of
// the choice, and entering the reservoir, against torch's operators that do the same, in one
// process.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <vector>

#include "dsrsq/bench/timing.h"
#include "dsrsq/eval/report.h"

namespace dsrsq::bench {

struct RetrievalCase {
  int64_t tokens = 1000000;  // N rows of the store
  int64_t width = 128;       // r
  int64_t picks = 512;       // k
  std::string type = "";     // fp32, bf16 rows; empty: bf16 on CUDA, else fp32
};

// "1000000:128:512", "1000000:128:512:bf16"; throws ConfigError.
RetrievalCase parse_retrieval_case(const std::string& text);

struct RetrievalSuiteOptions {
  std::vector<RetrievalCase> cases;
  int64_t context = 16384, context_picks = 512;  // of the reader's own context
  int64_t model_width = 768;                     // D of its gathered rows
  int64_t held = 1024, offered = 2048;
  int64_t seed = 0;
  bool kernels = false;  // also the time of each kernel
  TimingOptions timing;
};

// A case of a store of random unit rows and one query:
//   copy            time to copy the store, and bandwidth (bytes/s read and written)
//   retrieval_topk  time; time_in_graph, of one of several in a CUDA graph; bound, the store's
//                   bytes at the copy's bandwidth; bound_ratio = time / bound; agreement, the share
//                   of its picks that an fp32 product and topk picks; speedup over matmul_topk;
//                   with `kernels` kernel/NAME
//   matmul_topk     time of torch's product and topk, rows as they are stored
// One case of a choice from a context: gather_tokens against torch's gather, subset_log_prob
// against the composition of torch's operators; forward, forward_backward, their speedups,
// time_in_graph (forward). One of reservoir_update (a held reservoir, offered candidates with
// noise, one sequence) against a topk of priorities whose noise is given. Seconds, medians with p10
// and p90. Throws ConfigError.
std::vector<ResultRecord> run_retrieval_suite(const RetrievalSuiteOptions& options,
                                              c10::Device device);

}  // namespace dsrsq::bench
