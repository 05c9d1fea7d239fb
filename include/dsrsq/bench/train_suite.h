// `dsrsq-bench --suite train`: the trainer's own step (forward, loss on all tokens, backward,
// clipping, AdamW, codebook) on random tokens, dense and with SQA, in turns in one process.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <string>
#include <vector>

#include "dsrsq/bench/timing.h"
#include "dsrsq/eval/report.h"

namespace dsrsq::bench {

struct TrainCase {
  int64_t batch = 1;
  int64_t tokens = 1024;   // of a sequence, the model's sinks among them
  int64_t clusters = 128;  // m
};

struct TrainSuiteOptions {
  std::vector<TrainCase> cases;
  int64_t layers = 12, width = 768, heads = 12, mlp_width = 2048, vocabulary = 50257;
  int64_t slots = 8;  // k
  int64_t window = 128;
  int64_t seed = 0;
  bool activation_checkpointing = false;
  bool kernels = false;  // also the time of each kernel
  TimingOptions timing;
};

// "32x1024:128", "1x131072:auto"; throws ConfigError.
TrainCase parse_train_case(const std::string& text);
// "batch 32, n 1024": how a case is named in records, here and by scripts/bench_pytorch.py.
std::string train_case_name(const TrainCase& size);

// Methods dense and sqa (DSR and RCKV off): step (s, the host's waits included), tokens_per_second,
// loss of the last step (nats a token), peak_allocated and peak_reserved of a step, kernel/NAME; of
// sqa also step_speedup over dense. On CUDA in bf16 under autocast, else in fp32.
std::vector<ResultRecord> run_train_suite(const TrainSuiteOptions& options, c10::Device device);

// For each case and method of `own` that `other` has a step of, too: step_speedup over each of the
// other's methods, as records of its own.
std::vector<ResultRecord> step_speedups(const std::vector<ResultRecord>& own,
                                        const std::vector<ResultRecord>& other);

}  // namespace dsrsq::bench
