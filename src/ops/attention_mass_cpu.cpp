// One parallel region: a thread takes 64 keys and walks the queries that may see them.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "attention_mass_checks.h"
#include "target_clones.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;

constexpr int64_t kKeys = 64;  // at a time: the inner loops have a constant length

// Scores of a query with kKeys keys, [d][kKeys].
DSRSQ_TARGET_CLONES void score_keys(int64_t width, const float* q, const float* keys,
                                    float* score) {
  float sum[kKeys] = {};
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = 0; j < kKeys; ++j) sum[j] += q[i] * keys[i * kKeys + j];
  }
  std::copy(sum, sum + kKeys, score);
}
void score_keys(int64_t width, const double* q, const double* keys, double* score) {
  std::fill(score, score + kKeys, 0.);
  for (int64_t i = 0; i < width; ++i) {
    for (int64_t j = 0; j < kKeys; ++j) score[j] += q[i] * keys[i * kKeys + j];
  }
}

template <typename T>
struct Arguments {
  int64_t batch, heads, kv_heads, queries, keys, width, slots;
  T scale;
  AttentionMassOptions options;
  const T* q;
  const T* k;
  const T* lse;
  const int64_t* query_position;
  const int64_t* key_position;
  const T* key_bias;      // or null
  const int* assignment;  // or null
  const int* routes;      // or null
  T* mass;
  T* squared;
};

template <typename T>
class KeyBlock {
 public:
  // `keys`: [d][kKeys] to work in.
  KeyBlock(const Arguments<T>& a, T* keys, int64_t kv, int64_t first)
      : a_(a), keys_(keys), kv_(kv), first_(first), count_(std::min(kKeys, a.keys - first)) {
    for (int64_t j = 0; j < count_; ++j) {
      const T* row = a.k + (kv * a.keys + first + j) * a.width;
      for (int64_t i = 0; i < a.width; ++i) keys[i * kKeys + j] = row[i];
      const int64_t at = a.key_position[kv / a.kv_heads * a.keys + first + j];
      position_[j] = at < 0 ? std::numeric_limits<int64_t>::max() : at;
      oldest_ = std::min(oldest_, position_[j]);
    }
  }

  void run() {
    const int64_t group = a_.heads / a_.kv_heads, b = kv_ / a_.kv_heads;
    for (int64_t member = 0; member < group; ++member) {
      const int64_t head = b * a_.heads + kv_ % a_.kv_heads * group + member;
      for (int64_t i = 0; i < a_.queries; ++i) {
        const int64_t at = a_.query_position[b * a_.queries + i];
        if (at >= 0 && at >= oldest_) add_query(head * a_.queries + i, at);
      }
    }
    for (int64_t j = 0; j < count_; ++j) {
      a_.mass[kv_ * a_.keys + first_ + j] = static_cast<T>(mass_[j]);
      a_.squared[kv_ * a_.keys + first_ + j] = static_cast<T>(squared_[j]);
    }
  }

 private:
  bool sees(int64_t row, int64_t query_at, int64_t j) const {
    if (position_[j] > query_at) return false;
    if (a_.routes == nullptr || position_[j] < a_.options.sinks ||
        query_at - position_[j] < a_.options.window) {
      return true;
    }
    const int cluster = a_.assignment[kv_ * a_.keys + first_ + j];
    const int* route = a_.routes + row * a_.slots;
    return cluster >= 0 && std::find(route, route + a_.slots, cluster) != route + a_.slots;
  }

  void add_query(int64_t row, int64_t at) {
    const T lse = a_.lse[row];
    if (lse == -std::numeric_limits<T>::infinity()) return;
    T score[kKeys];
    score_keys(a_.width, a_.q + row * a_.width, keys_, score);
    const T* bias = a_.key_bias == nullptr ? nullptr : a_.key_bias + kv_ * a_.keys + first_;
    for (int64_t j = 0; j < count_; ++j) {
      if (!sees(row, at, j)) continue;
      const T p = std::exp(score[j] * a_.scale + (bias == nullptr ? T(0) : bias[j]) - lse);
      mass_[j] += p;
      squared_[j] += double(p) * p;
    }
  }

  const Arguments<T>& a_;
  const T* keys_;
  int64_t kv_, first_, count_;
  int64_t oldest_ = std::numeric_limits<int64_t>::max();
  int64_t position_[kKeys];
  double mass_[kKeys] = {}, squared_[kKeys] = {};
};

template <typename T>
void sum_columns(const Arguments<T>& a) {
  const int64_t blocks = (a.keys + kKeys - 1) / kKeys;
  at::parallel_for(0, a.batch * a.kv_heads * blocks, 1, [&](int64_t begin, int64_t end) {
    std::vector<T> keys(a.width * kKeys);
    for (int64_t i = begin; i < end; ++i) {
      KeyBlock<T>(a, keys.data(), i / blocks, i % blocks * kKeys).run();
    }
  });
}

template <typename T>
std::tuple<at::Tensor, at::Tensor> run(at::ScalarType type, const AttentionMassInputs& in,
                                       const AttentionMassOptions& options) {
  const auto wide = [&](const at::Tensor& x) { return x.to(type).contiguous(); };
  const at::Tensor q = wide(in.q), k = wide(in.k), lse = wide(in.lse);
  const at::Tensor query_position = in.query_position.contiguous();
  const at::Tensor key_position = in.key_position.contiguous();
  const bool routed = in.routes.has_value();
  const at::Tensor bias = in.key_bias.has_value() ? wide(*in.key_bias) : at::Tensor();
  const at::Tensor assignment = routed ? in.assignment->contiguous() : at::Tensor();
  const at::Tensor routes = routed ? in.routes->contiguous() : at::Tensor();
  at::Tensor mass = at::empty(k.sizes().slice(0, 3), k.options());
  at::Tensor squared = at::empty_like(mass);
  sum_columns<T>({q.size(0), q.size(1), k.size(1), q.size(2), k.size(2), q.size(3),
                  routed ? routes.size(3) : 0, static_cast<T>(options.scale), options,
                  q.const_data_ptr<T>(), k.const_data_ptr<T>(), lse.const_data_ptr<T>(),
                  query_position.const_data_ptr<int64_t>(), key_position.const_data_ptr<int64_t>(),
                  bias.defined() ? bias.const_data_ptr<T>() : nullptr,
                  routed ? assignment.const_data_ptr<int>() : nullptr,
                  routed ? routes.const_data_ptr<int>() : nullptr, mass.mutable_data_ptr<T>(),
                  squared.mutable_data_ptr<T>()});
  return {mass, squared};
}

std::tuple<at::Tensor, at::Tensor> attention_mass_cpu(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& lse,
    const at::Tensor& query_position, const at::Tensor& key_position, const MaybeTensor& key_bias,
    const MaybeTensor& assignment, const MaybeTensor& routes, double scale, int64_t clusters,
    int64_t window, int64_t sinks) {
  const AttentionMassInputs in{q,        k,          lse,   query_position, key_position,
                               key_bias, assignment, routes};
  const AttentionMassOptions options{scale, clusters, window, sinks};
  check_attention_mass(in, options);
  return q.scalar_type() == at::kDouble ? run<double>(at::kDouble, in, options)
                                        : run<float>(at::kFloat, in, options);
}

}  // namespace

TORCH_LIBRARY_IMPL(dsrsq, CPU, m) { m.impl("attention_mass", attention_mass_cpu); }

}  // namespace dsrsq::ops
