// `dsrsq-bench --suite latent`: entering the latent buffer and reading it, against torch's
// operators that do the same and against dense attention over the history that the buffer stands
// for, in one process.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <vector>

#include "dsrsq/bench/timing.h"
#include "dsrsq/eval/report.h"

namespace dsrsq::bench {

struct LatentSuiteOptions {
  std::vector<int64_t> lengths = {1024};         // L
  std::vector<int64_t> tokens = {16384, 65536};  // n, of projections
  int64_t latent_width = 64;                     // c
  int64_t layers = 12, heads = 12, kv_heads = 12, width = 64;
  int64_t batch = 1;
  int64_t segment = 512;     // queries of a segment's read
  int64_t history = 131072;  // tokens of dense attention; 0: without it
  int64_t seed = 0;
  bool kernels = false;  // also the time of each kernel of a decoded token
  TimingOptions timing;
};

// Operands are bf16 on CUDA, fp32 on a CPU. A case a number of tokens, for batch 1:
//   copy             time of copying the hidden states; bandwidth, bytes/s read and written
//   latent_project   time from the hidden states by the merged weight into scattered slots;
//                    bandwidth, of hidden states and latents; bandwidth_share of the copy's;
//                    speedup over aten, which projects keys and values by two products
//   latent_project_contiguous  the same, in the order of the tokens
//   latent_project_by_head     from keys and values, by fp32 projections
//   aten_merged      one product by the merged weight, in the order of the tokens
// and one a buffer length:
//   latent_attention  decode_absorbed (with a bias of age), decode_rotated: of one token, a layer,
//                     in a CUDA graph of all layers, whose latents were not in the cache;
//                     segment_*: of a segment, in a graph, too; segment_*_backward: and gradients,
//                     without a graph; on CUDA both also in fp32. Speedups over aten and, of
//                     decoding, over dense
//   latent_attention_fp32_latents  decoding with fp32 latents, as a model's buffer has them
//   aten              the same by the model's composition (rckv.kernel: aten)
//   dense_*           decode: one token's attention over all of the history, a layer, same graph
// Seconds, medians with p10 and p90. Throws ConfigError.
std::vector<ResultRecord> run_latent_suite(const LatentSuiteOptions& options, c10::Device device);

}  // namespace dsrsq::bench
