#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>
#include <vector>

#include "cluster_assign_checks.h"

namespace dsrsq::ops {
namespace {

// Clusters scored at a time: their sums stay in registers, and the inner loop has a constant
// length.
constexpr int64_t kTile = 16;

struct Sizes {
  int64_t batch, heads, tokens, width, clusters;
  int64_t tiles() const { return (clusters + kTile - 1) / kTile; }
};

// [H_kv, m, d] -> [H_kv, tiles, d, kTile], zero beyond m.
std::vector<float> tile_centroids(const Sizes& s, const float* centroids) {
  std::vector<float> tiled(s.heads * s.tiles() * s.width * kTile, 0.f);
  for (int64_t head = 0; head < s.heads; ++head) {
    for (int64_t cluster = 0; cluster < s.clusters; ++cluster) {
      const float* source = centroids + (head * s.clusters + cluster) * s.width;
      float* tile = tiled.data() + (head * s.tiles() + cluster / kTile) * s.width * kTile;
      for (int64_t i = 0; i < s.width; ++i) tile[i * kTile + cluster % kTile] = source[i];
    }
  }
  return tiled;
}

// k / ||k||, or 0; the reciprocal norm comes back.
float normalise(int64_t width, const float* key, float* direction) {
  float square = 0.f;
  for (int64_t i = 0; i < width; ++i) square += key[i] * key[i];
  const float scale = square > 0.f ? 1.f / std::sqrt(square) : 0.f;
  for (int64_t i = 0; i < width; ++i) direction[i] = key[i] * scale;
  return scale;
}

int64_t best_cluster(const Sizes& s, const float* direction, const float* tiled,
                     const float* bias) {
  float best = -std::numeric_limits<float>::infinity();
  int64_t best_index = 0;
  for (int64_t first = 0; first < s.clusters; first += kTile) {
    const float* tile = tiled + first * s.width;
    float score[kTile] = {};
    for (int64_t i = 0; i < s.width; ++i) {
      for (int64_t c = 0; c < kTile; ++c) score[c] += direction[i] * tile[i * kTile + c];
    }
    const int64_t count = std::min(kTile, s.clusters - first);
    for (int64_t c = 0; c < count; ++c) {
      const float candidate = score[c] + bias[first + c];
      if (candidate > best) {  // false for NaN, and for a tie with a lower index
        best = candidate;
        best_index = first + c;
      }
    }
  }
  return best_index;
}

void assign(const Sizes& s, const float* keys, const std::vector<float>& tiled, const float* bias,
            const bool* valid, int64_t* assignment, float* inverse_norm) {
  const int64_t rows = s.batch * s.heads * s.tokens;
  constexpr int64_t kGrain = 256;
  at::parallel_for(0, rows, kGrain, [&](int64_t begin, int64_t end) {
    std::vector<float> direction(s.width);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t t = row % s.tokens;
      const int64_t head = row / s.tokens % s.heads;
      const int64_t b = row / s.tokens / s.heads;
      if (valid != nullptr && !valid[b * s.tokens + t]) {
        assignment[row] = -1;
        continue;
      }
      inverse_norm[row] = normalise(s.width, keys + row * s.width, direction.data());
      assignment[row] =
          best_cluster(s, direction.data(), tiled.data() + head * s.tiles() * s.width * kTile,
                       bias + head * s.clusters);
    }
  });
}

// A head is summed by one thread in token order: the result does not depend on the number of
// threads.
void add_members(const Sizes& s, const float* keys, const int64_t* assignment,
                 const float* inverse_norm, float* raw_sum, float* direction_sum, float* count) {
  at::parallel_for(0, s.heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) {
      for (int64_t b = 0; b < s.batch; ++b) {
        for (int64_t t = 0; t < s.tokens; ++t) {
          const int64_t row = (b * s.heads + head) * s.tokens + t;
          if (assignment[row] < 0) continue;
          const int64_t cluster = head * s.clusters + assignment[row];
          const float* key = keys + row * s.width;
          float* raw = raw_sum + cluster * s.width;
          float* direction = direction_sum + cluster * s.width;
          for (int64_t i = 0; i < s.width; ++i) {
            raw[i] += key[i];
            direction[i] += key[i] * inverse_norm[row];
          }
          count[cluster] += 1.f;
        }
      }
    }
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> cluster_assign_cpu(
    const at::Tensor& keys, const at::Tensor& centroids, const at::Tensor& bias,
    const std::optional<at::Tensor>& valid) {
  check_cluster_assign(keys, centroids, bias, valid);
  const Sizes s{keys.size(0), keys.size(1), keys.size(2), keys.size(3), centroids.size(1)};
  const at::Tensor k = keys.to(at::kFloat).contiguous();
  const at::Tensor c = centroids.contiguous();
  const at::Tensor offsets = bias.contiguous();
  const at::Tensor mask = valid.has_value() ? valid->contiguous() : at::Tensor();
  const auto fp32 = k.options();

  at::Tensor assignment = at::empty({s.batch, s.heads, s.tokens}, fp32.dtype(at::kLong));
  at::Tensor inverse_norm = at::empty({s.batch, s.heads, s.tokens}, fp32);
  at::Tensor raw_sum = at::zeros({s.heads, s.clusters, s.width}, fp32);
  at::Tensor direction_sum = at::zeros({s.heads, s.clusters, s.width}, fp32);
  at::Tensor count = at::zeros({s.heads, s.clusters}, fp32);

  const float* key_data = k.const_data_ptr<float>();
  assign(s, key_data, tile_centroids(s, c.const_data_ptr<float>()), offsets.const_data_ptr<float>(),
         mask.defined() ? mask.const_data_ptr<bool>() : nullptr,
         assignment.mutable_data_ptr<int64_t>(), inverse_norm.mutable_data_ptr<float>());
  add_members(s, key_data, assignment.const_data_ptr<int64_t>(),
              inverse_norm.const_data_ptr<float>(), raw_sum.mutable_data_ptr<float>(),
              direction_sum.mutable_data_ptr<float>(), count.mutable_data_ptr<float>());
  return {assignment, raw_sum, direction_sum, count};
}

}  // namespace

TORCH_LIBRARY_IMPL(dsrsq, CPU, m) { m.impl("cluster_assign", cluster_assign_cpu); }

}  // namespace dsrsq::ops
