// `dsrsq-bench --suite trained`: what attention over clusters loses, beside what it saves. A
// trained model reads a text densely and with the keys that clusters, or blocks of neighbouring
// keys, leave it; then one layer's queries and keys are timed.
#pragma once

#include <cstdint>
#include <vector>

#include "dsrsq/bench/attention_suite.h"
#include "dsrsq/model/transformer.h"

namespace dsrsq::bench {

struct TrainedSuiteOptions {
  int64_t tokens = 8192;                       // N, the model's sinks among them
  int64_t clusters = 128;                      // m; as many blocks
  std::vector<int64_t> slots = {2, 4, 8, 16};  // k
  int64_t window = 128;
  int64_t sequences = 4;         // read; as many before them feed the codebook
  int64_t codebook_rounds = 10;  // passes over those
  int64_t timed_layer = -1;      // -1: the middle one
  int64_t seed = 0;
  TimingOptions timing;
};

// `text`: token ids, at least 2 x sequences x (tokens - sinks) of them. A codebook
// (attention/sqa.h) is fed with keys of the first half by moving averages, as in training, the
// model standing still; the second half is read. Keys and queries of the timed layer are those of
// the first sequence read.
//
// Records, a method and k each: cluster_attention; blocks (moba.h's choice, with the same window
// and sinks); window (neither); dense.
//   loss, loss_gap   nats a token, where every layer attends so; and that minus dense
//   mass_recall      the share of dense attention's probability on the keys chosen, mean over
//                    layers, heads and queries, of a dense pass
//   density          attended pairs, a share of the causal ones, over the same
// and of cluster_attention and moba what measure_attention records. On CUDA in bf16, else in fp32.
// Throws ConfigError where the text is too short or k > m.
std::vector<ResultRecord> run_trained_suite(const TrainedSuiteOptions& options,
                                            LanguageModel& model, const std::vector<int32_t>& text);

}  // namespace dsrsq::bench
