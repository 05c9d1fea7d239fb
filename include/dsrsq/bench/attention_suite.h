// `dsrsq-bench --suite attention`: attention over clusters, the whole of it (assign, route, index,
// attend), against torch's dense backends, each forced, in one process.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dsrsq/bench/timing.h"
#include "dsrsq/eval/report.h"

namespace dsrsq::bench {

struct AttentionCase {
  int64_t tokens = 16384;  // N
  int64_t clusters = 128;  // m
  std::string type = "";   // fp32, bf16; empty: bf16 on CUDA, else fp32
};

// "16384:128", "16384:auto", "8192:32:bf16"; throws ConfigError.
AttentionCase parse_attention_case(const std::string& text);
// m of a case: a number, or `auto`, which is what sqa.clusters: auto gives for so many tokens. 0:
// neither.
int64_t parse_clusters(const std::string& text, int64_t tokens);

struct AttentionSuiteOptions {
  std::vector<AttentionCase> cases;
  std::vector<std::string> routings = {"balanced"};  // balanced, skewed
  int64_t batch = 1, heads = 12, kv_heads = 12, width = 64;
  int64_t slots = 8;  // k
  int64_t window = 128, sinks = 4;
  int64_t seed = 0;
  bool kernels = false;           // also the time of each kernel
  bool aten = false;              // also attention over clusters by plain tensor operations
  bool moba = true;               // on a GPU: also blocks of neighbouring keys (moba.h)
  int64_t dense_up_to = 1 << 30;  // longer cases run without dense attention
  TimingOptions timing;
};

// Random vectors around m centres a head. balanced: keys are drawn from all centres alike, queries
// from none. skewed: a centre's share of keys falls as 1 / rank, and queries lean to large
// clusters.
struct AttentionData {
  at::Tensor q, k, v, d_out;  // [B, H, N, d], [B, H_kv, N, d], ...; of the case's type
  at::Tensor route_q;         // as q: what is routed (q before RoPE)
  at::Tensor assign_k;        // as k: what is assigned
  at::Tensor directions;      // [H_kv, m, d] fp32: what keys are compared with
  at::Tensor means;           // [H_kv, m, d] fp32: what queries are compared with
  at::Tensor bias;            // [H_kv, m] fp32
};
AttentionData make_attention_data(const AttentionSuiteOptions& options, const AttentionCase& size,
                                  const std::string& routing, at::Device device);

struct ClusterLoad {
  double density = 0;  // attended pairs of query and key, a share of the causal ones
  double balance = 0;  // keys of the largest cluster / mean
};
// assignment int [B, H_kv, N], routes int32 [B, H, N, k].
ClusterLoad cluster_load(const at::Tensor& assignment, const at::Tensor& routes, int64_t clusters,
                         int64_t window, int64_t sinks);

// One case over given vectors. Methods cluster_attention, cluster_attention_aten and moba (blocks
// of N / m keys) where asked for, dense_cudnn and dense_flash (on a CPU: dense); metrics forward,
// forward_backward (s), their speedup over the faster dense backend (x), peak memory, density,
// balance, and with `kernels` one metric kernel/NAME a kernel. `name` begins the records' case.
std::vector<ResultRecord> measure_attention(const AttentionSuiteOptions& options,
                                            const AttentionCase& size, const std::string& name,
                                            const AttentionData& data);

// All cases and routings over random vectors. Throws ConfigError.
std::vector<ResultRecord> run_attention_suite(const AttentionSuiteOptions& options,
                                              at::Device device);

}  // namespace dsrsq::bench
