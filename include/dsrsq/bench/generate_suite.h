// `dsrsq-bench --suite generate`: what it costs to read a context and to answer behind it, apart:
// prefill (choosing and reading, up to the first token) and decoding, over batches and context
// lengths, for one model shape with random weights, read densely and with the parts of DSRSQ.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "dsrsq/eval/efficiency.h"
#include "dsrsq/eval/report.h"
#include "dsrsq/methods/dsrsq.h"

namespace dsrsq::bench {

struct GenerateCase {
  int64_t batch = 1;
  int64_t tokens = 4096;  // of the context, beside sinks and question
};

struct GenerateSuiteOptions {
  std::vector<GenerateCase> cases;
  // dense: the standard transformer; sqa, rckv: that part alone; all: DSR, SQA and RCKV.
  std::vector<std::string> methods = {"dense", "sqa", "rckv", "all"};
  int64_t layers = 12, width = 768, heads = 12, mlp_width = 2048, vocabulary = 50257;
  int64_t clusters = 0;           // m; 0: what sqa.clusters: auto gives for the longest case
  int64_t slots = 8;              // k
  int64_t window = 128;           // of SQA and RCKV
  int64_t latent_width = 128;     // c
  int64_t buffer = 1024;          // L
  int64_t segment = 4096;         // S
  int64_t budget = 2048;          // tokens that DSR chooses, in runs of 16
  int64_t question = 32;          // tokens behind the context
  int64_t answer = 16;            // tokens that are decoded
  int64_t counted_tokens = 4096;  // cases up to here, batch 1, also count what was attended
                                  // (under masks) and what torch's profiler sees
  int64_t minimum_rounds = 3, maximum_rounds = 20;
  bool eager_too = false;  // answers are also decoded operator by operator
  double seconds = 4;      // of a case, all methods, after one round that warms up
  int64_t seed = 0;
};

// "4x16384"; throws ConfigError.
GenerateCase parse_generate_case(const std::string& text);

// Work of a prefill and of the token decoded behind it, of one sequence, when clusters are equally
// full. What is attended otherwise is known beforehand, so for dense and rckv it is exact.
struct GenerateWork {
  SequenceWork prefill, token;
};
GenerateWork expected_work(const TransformerConfig& model, const DsrsqConfig& config,
                           int64_t context, int64_t question);

// Of each case and method: prefill (s, to the first token), prefill_tokens_per_second,
// token_latency (s, of a step of the whole batch), decode_tokens_per_second, on CUDA
// further_token_latency (of the steps behind those that run before a recording is replayed), with
// eager_too token_latency_eager; medians with p10 and p90 over rounds, the methods in turns;
// peak_memory, bytes_held a sequence behind the answer, bytes_shared; prefill_flops, of these
// prefill_flops_attention, and token_flops, analytic for one sequence; of counted cases also
// prefill_flops_counted (from the pairs that were attended) and prefill_flops_profiler (see
// profiled_matmul_flops); prefill_speedup and decode_speedup over dense. Of each batch,
// break_even_prefill and break_even_decode: the first length from which on a method is faster than
// dense at every longer one; not finite where there is none. A method that a case leaves no memory
// for is logged and has no records there. On CUDA in bf16 under autocast, else in fp32. `save`:
// called with what there is after each case. Throws ConfigError.
std::vector<ResultRecord> run_generate_suite(
    const GenerateSuiteOptions& options, c10::Device device,
    const std::function<void(const std::vector<ResultRecord>&)>& save = {});

// The break-even records of a suite's records.
std::vector<ResultRecord> break_even(const std::vector<ResultRecord>& records);

}  // namespace dsrsq::bench
