#include "dsrsq/bench/attention_suite.h"

#include <torch/torch.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>

#include "dsrsq/attention/sqa.h"
#include "dsrsq/bench/case_records.h"
#include "dsrsq/bench/moba.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/ops/cluster_assign.h"
#include "dsrsq/ops/cluster_attention.h"
#include "dsrsq/ops/cluster_route.h"

namespace dsrsq::bench {
namespace {

constexpr int64_t kProfiledRuns = 5;

// One way to attend, forward alone and with its gradients.
struct Method {
  std::string name;
  std::function<void()> forward, forward_backward;
};

double scale_of(const AttentionSuiteOptions& o) { return 1 / std::sqrt(double(o.width)); }

// Key-value heads as many as query heads, which the dense backends want.
at::Tensor by_query_head(const AttentionSuiteOptions& o, const at::Tensor& x) {
  return o.heads == o.kv_heads ? x : x.repeat_interleave(o.heads / o.kv_heads, 1);
}

Method dense_cudnn(const AttentionSuiteOptions& o, const AttentionData& d) {
  const at::Tensor k = by_query_head(o, d.k), v = by_query_head(o, d.v);
  const auto attend = [=](bool with_lse) {
    return at::_scaled_dot_product_cudnn_attention(d.q, k, v, std::nullopt, with_lse, 0.0,
                                                   /*is_causal=*/true, false, scale_of(o));
  };
  return {"dense_cudnn", [=] { attend(false); },
          [=] {
            const auto [out, lse, cum_q, cum_k, max_q, max_k, seed, offset, mask] = attend(true);
            at::_scaled_dot_product_cudnn_attention_backward_symint(
                d.d_out, d.q, k, v, out, lse, seed, offset, at::Tensor(), cum_q, cum_k, max_q,
                max_k, 0.0, true, scale_of(o));
          }};
}

Method dense_flash(const AttentionSuiteOptions& o, const AttentionData& d) {
  const at::Tensor k = by_query_head(o, d.k), v = by_query_head(o, d.v);
  const auto attend = [=] {
    return at::_scaled_dot_product_flash_attention(d.q, k, v, 0.0, /*is_causal=*/true, false,
                                                   scale_of(o));
  };
  return {"dense_flash", [=] { attend(); },
          [=] {
            const auto [out, lse, cum_q, cum_k, max_q, max_k, seed, offset, mask] = attend();
            at::_scaled_dot_product_flash_attention_backward_symint(
                d.d_out, d.q, k, v, out, lse, cum_q, cum_k, max_q, max_k, 0.0, true, seed, offset,
                scale_of(o));
          }};
}

Method dense_cpu(const AttentionSuiteOptions& o, const AttentionData& d) {
  const at::Tensor k = by_query_head(o, d.k), v = by_query_head(o, d.v);
  const auto attend = [=] {
    return at::_scaled_dot_product_flash_attention_for_cpu(d.q, k, v, 0.0, /*is_causal=*/true, {},
                                                           scale_of(o));
  };
  return {"dense", [=] { attend(); },
          [=] {
            const auto [out, lse] = attend();
            at::_scaled_dot_product_flash_attention_for_cpu_backward(d.d_out, d.q, k, v, out, lse,
                                                                     0.0, true, {}, scale_of(o));
          }};
}

// All that attention over clusters does before it attends.
KeyChoice choose_clusters(const AttentionSuiteOptions& o, const AttentionData& d) {
  const auto found = ops::cluster_assign(d.assign_k, d.directions, d.bias);
  return {found.assignment.to(at::kInt),
          ops::cluster_route(d.route_q, d.means.unsqueeze(0), o.slots)};
}

// What computes its attention from q, k and v by differentiable operators.
template <typename Attend>
Method differentiable(const std::string& name, const AttentionData& d, const Attend& attend) {
  return {name,
          [=] {
            at::NoGradGuard no_grad;
            attend(d.q, d.k, d.v);
          },
          [=] {
            at::AutoGradMode with_grad(true);
            std::vector<at::Tensor> leaves;
            for (const auto* x : {&d.q, &d.k, &d.v})
              leaves.push_back(x->detach().requires_grad_(true));
            const at::Tensor out = attend(leaves[0], leaves[1], leaves[2]);
            torch::autograd::grad({out}, leaves, {d.d_out});
          }};
}

Method cluster_attention(const AttentionSuiteOptions& o, const AttentionCase& size,
                         const AttentionData& d, bool plain) {
  const ops::ClusterAttentionOptions options{size.clusters, o.window, o.sinks, scale_of(o), plain};
  return differentiable(plain ? "cluster_attention_aten" : "cluster_attention", d,
                        [=](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
                          const KeyChoice choice = choose_clusters(o, d);
                          return ops::cluster_attention(q, k, v, choice.assignment, choice.routes,
                                                        std::nullopt, options)
                              .out;
                        });
}

Method moba(const AttentionSuiteOptions& o, const AttentionCase& size, const AttentionData& d) {
  return differentiable("moba", d,
                        [=](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
                          return moba_attention(q, by_query_head(o, k), by_query_head(o, v),
                                                size.clusters, o.slots, scale_of(o));
                        });
}

// torch's variable-length flash attention counts elements in 32 bits; beyond them it reads outside
// its arguments.
bool moba_fits(const AttentionSuiteOptions& o, const AttentionCase& size) {
  const auto rows = o.batch * o.heads * size.tokens * o.slots;
  return rows * o.width <= std::numeric_limits<int32_t>::max();
}

bool is_dense(const Method& method) { return method.name.starts_with("dense"); }

// Times one pass of all methods; what is not dense is compared with the fastest that is.
void compare(const std::vector<Method>& methods, const std::string& metric,
             std::function<void()> Method::*pass, at::Device device, const TimingOptions& options,
             CaseRecords& records) {
  std::vector<Contestant> contestants;
  for (const auto& method : methods) contestants.push_back({method.name, method.*pass});
  const auto timings = time_interleaved(contestants, device, options);
  std::optional<size_t> fastest;
  for (size_t i = 0; i < methods.size(); ++i) {
    auto& record = records.add(methods[i].name, metric, timings[i].median, "s");
    record.p10 = timings[i].p10;
    record.p90 = timings[i].p90;
    if (is_dense(methods[i]) && (!fastest || timings[i].median < timings[*fastest].median))
      fastest = i;
  }
  if (!fastest) return;
  for (size_t i = 0; i < methods.size(); ++i) {
    if (is_dense(methods[i])) continue;
    const double ratio = timings[*fastest].median / timings[i].median;
    records.add(methods[i].name, metric + "_speedup", ratio, "x").baseline = methods[*fastest].name;
    log_info(metric, ": ", methods[i].name, " ", timings[i].median * 1e3, " ms, ",
             methods[*fastest].name, " ", timings[*fastest].median * 1e3, " ms: ", ratio, " x");
  }
}

void check(const AttentionSuiteOptions& o, at::Device device) {
  if (o.kv_heads < 1 || o.heads % o.kv_heads != 0)
    throw ConfigError(concat("--kv-heads: expected a divisor of --heads ", o.heads, ", got ",
                             o.kv_heads, "; change one of them"));
  for (const auto& size : o.cases)
    if (size.clusters < o.slots)
      throw ConfigError(concat("--cases ", size.tokens, ":", size.clusters,
                               ": expected at least --slots ", o.slots,
                               " clusters; change one of them"));
  for (const auto& size : o.cases)
    if (size.type != "" && size.type != "bf16" && (size.type != "fp32" || device.is_cuda()))
      throw ConfigError(concat("--cases ", size.tokens, ":", size.clusters, ":", size.type,
                               ": expected ", device.is_cuda() ? "bf16" : "fp32 or bf16", " on ",
                               device.str(), "; change it"));
}

// Of the whole text; 0: not a positive number.
int64_t parse_positive(const std::string& text) {
  int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end ? std::max<int64_t>(value, 0) : 0;
}

}  // namespace

int64_t parse_clusters(const std::string& text, int64_t tokens) {
  return text == "auto" ? auto_clusters(tokens) : parse_positive(text);
}

AttentionCase parse_attention_case(const std::string& text) {
  const size_t colon = std::min(text.find(':'), text.size());
  const std::string rest = text.substr(std::min(colon + 1, text.size()));
  const size_t type = std::min(rest.find(':'), rest.size());
  AttentionCase size;
  size.tokens = parse_positive(text.substr(0, colon));
  size.clusters = parse_clusters(rest.substr(0, type), size.tokens);
  if (type < rest.size()) size.type = rest.substr(type + 1);
  if (size.tokens > 0 && size.clusters > 0) return size;
  throw ConfigError(concat("--cases: expected TOKENS:CLUSTERS, as 16384:128 or 16384:auto, got ",
                           quote(text), "; change it"));
}

std::vector<ResultRecord> measure_attention(const AttentionSuiteOptions& o,
                                            const AttentionCase& size, const std::string& name,
                                            const AttentionData& data) {
  const at::Device device = data.q.device();
  CaseRecords records(concat(name, ", n ", size.tokens, ", m ", size.clusters,
                             size.type.empty() ? "" : ", " + size.type),
                      {{"batch", double(o.batch)},
                       {"heads", double(o.heads)},
                       {"kv_heads", double(o.kv_heads)},
                       {"tokens", double(size.tokens)},
                       {"width", double(o.width)},
                       {"clusters", double(size.clusters)},
                       {"slots", double(o.slots)},
                       {"window", double(o.window)},
                       {"sinks", double(o.sinks)}});
  const KeyChoice choice = choose_clusters(o, data);
  const ClusterLoad load =
      cluster_load(choice.assignment, choice.routes, size.clusters, o.window, o.sinks);
  log_info(name, ", n ", size.tokens, ", m ", size.clusters, ", k ", o.slots, ": density ",
           load.density, ", largest cluster ", load.balance, " of the mean");
  std::vector<Method> methods = {cluster_attention(o, size, data, false)};
  records.add(methods[0].name, "density", load.density, "share");
  records.add(methods[0].name, "balance", load.balance, "x");
  if (o.aten) methods.push_back(cluster_attention(o, size, data, true));
  const bool blocks_too = device.is_cuda() && o.moba;
  if (blocks_too && !moba_fits(o, size))
    log_info("without moba: its ", size.tokens, " x ", o.slots,
             " rows a head are more than torch's variable-length attention can index");
  if (blocks_too && moba_fits(o, size)) {
    methods.push_back(moba(o, size, data));
    const KeyChoice blocks = choose_blocks(data.q, data.k, size.clusters, o.slots);
    const double density =
        cluster_load(blocks.assignment, blocks.routes, size.clusters, 0, 0).density;
    records.add("moba", "density", density, "share");
  }
  if (size.tokens <= o.dense_up_to) {
    if (device.is_cuda()) {
      methods.push_back(dense_cudnn(o, data));
      methods.push_back(dense_flash(o, data));
    } else {
      methods.push_back(dense_cpu(o, data));
    }
  }
  compare(methods, "forward", &Method::forward, device, o.timing, records);
  compare(methods, "forward_backward", &Method::forward_backward, device, o.timing, records);
  for (const auto& method : methods) {
    const PeakBytes peak = peak_bytes(method.forward_backward, device);
    if (peak.allocated < 0) continue;
    records.add(method.name, "peak_allocated", peak.allocated, "bytes");
    records.add(method.name, "peak_reserved", peak.reserved, "bytes");
  }
  if (o.kernels) {
    for (const auto& time : kernel_times(methods[0].forward_backward, device, kProfiledRuns)) {
      records.add(methods[0].name, "kernel/" + time.name, time.seconds, "s");
      log_debug("  ", time.name, " x ", time.calls, ": ", time.seconds * 1e6, " us");
    }
  }
  return records.all;
}

std::vector<ResultRecord> run_attention_suite(const AttentionSuiteOptions& options,
                                              at::Device device) {
  check(options, device);
  std::vector<ResultRecord> records;
  for (const auto& routing : options.routings) {
    for (const auto& size : options.cases) {
      const auto data = make_attention_data(options, size, routing, device);
      const auto found = measure_attention(options, size, routing, data);
      records.insert(records.end(), found.begin(), found.end());
    }
  }
  return records;
}

}  // namespace dsrsq::bench
