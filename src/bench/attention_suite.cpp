#include "dsrsq/bench/attention_suite.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>

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

// Assigned keys and routed queries: all that attention over clusters does before it attends.
struct Routed {
  at::Tensor assignment, routes;
};
Routed route(const AttentionSuiteOptions& o, const AttentionData& d) {
  const auto found = ops::cluster_assign(d.k, d.centroids, d.bias);
  return {found.assignment.to(at::kInt),
          ops::cluster_route(d.q, d.centroids.unsqueeze(0), o.slots)};
}

Method cluster_attention(const AttentionSuiteOptions& o, const AttentionCase& size,
                         const AttentionData& d) {
  const ops::ClusterAttentionOptions options{size.clusters, o.window, o.sinks, scale_of(o)};
  const auto attend = [=](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    const Routed routed = route(o, d);
    return ops::cluster_attention(q, k, v, routed.assignment, routed.routes, std::nullopt, options)
        .out;
  };
  return {"cluster_attention",
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

class CaseRecords {
 public:
  CaseRecords(std::string name, std::map<std::string, double> shape)
      : name_(std::move(name)), shape_(std::move(shape)) {}
  ResultRecord& add(const std::string& method, const std::string& metric, double value,
                    const std::string& unit) {
    ResultRecord record;
    record.case_name = name_;
    record.method = method;
    record.shape = shape_;
    record.metric = metric;
    record.value = value;
    record.unit = unit;
    records.push_back(record);
    return records.back();
  }
  std::vector<ResultRecord> records;

 private:
  std::string name_;
  std::map<std::string, double> shape_;
};

// Times one pass of all methods. The first method is what is measured, the others are baselines.
void compare(const std::vector<Method>& methods, const std::string& metric,
             std::function<void()> Method::*pass, at::Device device, const TimingOptions& options,
             CaseRecords& records) {
  std::vector<Contestant> contestants;
  for (const auto& method : methods) contestants.push_back({method.name, method.*pass});
  const auto timings = time_interleaved(contestants, device, options);
  size_t fastest = 0;
  for (size_t i = 0; i < methods.size(); ++i) {
    auto& record = records.add(methods[i].name, metric, timings[i].median, "s");
    record.p10 = timings[i].p10;
    record.p90 = timings[i].p90;
    if (i > 0 && (fastest == 0 || timings[i].median < timings[fastest].median)) fastest = i;
  }
  if (fastest == 0) return;
  const double ratio = timings[fastest].median / timings[0].median;
  records.add(methods[0].name, metric + "_speedup", ratio, "x").baseline = methods[fastest].name;
  log_info(metric, ": ", timings[0].median * 1e3, " ms, ", methods[fastest].name, " ",
           timings[fastest].median * 1e3, " ms: ", ratio, " x");
}

void run_case(const AttentionSuiteOptions& o, const AttentionCase& size, const std::string& routing,
              at::Device device, std::vector<ResultRecord>& all) {
  const AttentionData data = make_attention_data(o, size, routing, device);
  CaseRecords records(concat(routing, ", n ", size.tokens, ", m ", size.clusters,
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
  const Routed routed = route(o, data);
  const ClusterLoad load =
      cluster_load(routed.assignment, routed.routes, size.clusters, o.window, o.sinks);
  log_info(routing, ", n ", size.tokens, ", m ", size.clusters, ": density ", load.density,
           ", largest cluster ", load.balance, " of the mean");
  std::vector<Method> methods = {cluster_attention(o, size, data)};
  records.add(methods[0].name, "density", load.density, "share");
  records.add(methods[0].name, "balance", load.balance, "x");
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
  all.insert(all.end(), records.records.begin(), records.records.end());
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

}  // namespace

std::vector<ResultRecord> run_attention_suite(const AttentionSuiteOptions& options,
                                              at::Device device) {
  check(options, device);
  std::vector<ResultRecord> records;
  for (const auto& routing : options.routings)
    for (const auto& size : options.cases) run_case(options, size, routing, device, records);
  return records;
}

}  // namespace dsrsq::bench
