#include "cluster_order_cpu.h"

#include <c10/util/BFloat16.h>
#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace dsrsq::ops {
namespace {

constexpr int64_t kBlock = 1024;  // queries: their rows, sums and lists stay in the L2 cache
constexpr double kLog2E = 1.4426950408889634;

using Four = float __attribute__((vector_size(16)));
using UnalignedFour = float __attribute__((vector_size(16), aligned(4), may_alias));
Four load(const float* p) { return *reinterpret_cast<const UnalignedFour*>(p); }
void store(float* p, Four x) { *reinterpret_cast<UnalignedFour*>(p) = x; }

int64_t up(int64_t x) { return panels(x) * kPanel; }

}  // namespace

void Rows::read(int64_t row, float* to) const {
  if (bf16) {
    const auto* from = static_cast<const c10::BFloat16*>(data) + row * width;
    for (int64_t i = 0; i < width; ++i) to[i] = static_cast<float>(from[i]);
  } else {
    std::copy_n(static_cast<const float*>(data) + row * width, width, to);
  }
  std::fill(to + width, to + padded, 0.f);
}

void write_row(const float* from, void* data, bool bf16, int64_t row, int64_t width) {
  if (bf16) {
    auto* to = static_cast<c10::BFloat16*>(data) + row * width;
    for (int64_t i = 0; i < width; ++i) to[i] = c10::BFloat16(from[i]);
  } else {
    std::copy_n(from, width, static_cast<float*>(data) + row * width);
  }
}

void Rows::prefetch(int64_t row) const {
  const int64_t bytes = width * (bf16 ? 2 : 4);
  const char* from = static_cast<const char*>(data) + row * bytes;
  for (int64_t i = 0; i < bytes; i += 64) __builtin_prefetch(from + i);
}

const float* Rows::read_block(int64_t first, int64_t count, float* buffer) const {
  if (const float* place = in_place(first)) return place;
  for (int64_t i = 0; i < count; ++i) read(first + i, buffer + i * padded);
  return buffer;
}

void transpose_panel(const float* const* rows, int64_t padded, float* panel) {
  int64_t i = 0;
  for (; i + 4 <= padded; i += 4) {
    for (int64_t r = 0; r < kPanel; r += 4) {
      const Four a = load(rows[r] + i), b = load(rows[r + 1] + i);
      const Four c = load(rows[r + 2] + i), d = load(rows[r + 3] + i);
      const Four ab_low = __builtin_shufflevector(a, b, 0, 4, 1, 5);
      const Four cd_low = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const Four ab_high = __builtin_shufflevector(a, b, 2, 6, 3, 7);
      const Four cd_high = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      float* to = panel + i * kPanel + r;
      store(to, __builtin_shufflevector(ab_low, cd_low, 0, 1, 4, 5));
      store(to + kPanel, __builtin_shufflevector(ab_low, cd_low, 2, 3, 6, 7));
      store(to + 2 * kPanel, __builtin_shufflevector(ab_high, cd_high, 0, 1, 4, 5));
      store(to + 3 * kPanel, __builtin_shufflevector(ab_high, cd_high, 2, 3, 6, 7));
    }
  }
  for (; i < padded; ++i)
    for (int64_t r = 0; r < kPanel; ++r) panel[i * kPanel + r] = rows[r][i];
}

void transpose_panels(const float* rows, int64_t count, int64_t padded, float* panels) {
  for (int64_t first = 0; first < count; first += kPanel) {
    const float* row[kPanel];
    for (int64_t i = 0; i < kPanel; ++i) row[i] = rows + std::min(first + i, count - 1) * padded;
    transpose_panel(row, padded, panels + first * padded);
  }
}

ClusterCpuSizes::ClusterCpuSizes(const ClusterAttentionArguments& a)
    : batch(a.q.size(0)),
      heads(a.q.size(1)),
      kv_heads(a.k.size(1)),
      queries(a.q.size(2)),
      keys(a.k.size(2)),
      width(a.q.size(3)),
      clusters(a.options.clusters),
      slots(a.routes.size(3)),
      window(std::min(a.options.window, keys)),
      sinks(std::min(a.options.sinks, keys)),
      padded(up(width)),
      group(heads / kv_heads),
      offset(keys - queries),
      places(up(keys + (clusters + 1) * (kPanel - 1))),
      scale(float(a.options.scale * kLog2E)),
      block(kBlock) {}

ClusterOrder::ClusterOrder(const ClusterCpuSizes& s)
    : clusters(s.clusters),
      places(s.places),
      keys(s.keys),
      sinks(s.sinks),
      first(s.kv() * (s.clusters + 2)),
      count(s.kv() * (s.clusters + 1)),
      position(s.kv() * s.places),
      place(s.kv() * s.keys) {}

void ClusterOrder::sort(int64_t kv, const int32_t* assignment) {
  int32_t* counts = count.data() + kv * (clusters + 1);
  int32_t* starts = first.data() + kv * (clusters + 2);
  int32_t* positions = position.data() + kv * places;
  int32_t* places_of = place.data() + kv * keys;
  const auto bucket = [&](int64_t j) {
    return j < sinks || assignment[j] < 0 ? clusters : int64_t(assignment[j]);
  };
  std::fill_n(counts, clusters + 1, 0);
  for (int64_t j = 0; j < keys; ++j) {
    TORCH_CHECK(assignment[j] < clusters,
                "cluster_attention: assignment must be below m = ", clusters, ", got ",
                assignment[j]);
    ++counts[bucket(j)];
  }
  starts[0] = 0;
  for (int64_t c = 0; c <= clusters; ++c) starts[c + 1] = starts[c] + int32_t(up(counts[c]));
  std::fill_n(positions, places, -1);
  std::fill_n(counts, clusters + 1, 0);
  for (int64_t j = 0; j < keys; ++j) {
    const int64_t c = bucket(j);
    places_of[j] = starts[c] + counts[c]++;
    positions[places_of[j]] = int32_t(j);
  }
}

void pack_keys(const KeySource& source, int64_t count, const int32_t* positions,
               const KeyArrays<float>& to, Scratch& scratch) {
  const int64_t padded = source.k.padded;
  float* spare = scratch.take<float>(kPanel * padded);
  const auto pack = [&](const Rows& from, int64_t first, float* copies, float* panels) {
    if (copies == nullptr && panels == nullptr) return;
    const float* rows[kPanel];
    for (int64_t i = 0; i < kPanel; ++i) {
      if (const int64_t next = first + kPanel + i; next < count && positions[next] >= 0)
        from.prefetch(source.first_row + positions[next]);
      const int32_t j = positions[first + i];
      float* copy = copies != nullptr ? copies + (first + i) * padded : spare + i * padded;
      rows[i] = j < 0 ? nullptr : from.in_place(source.first_row + j);
      if (rows[i] != nullptr && copies == nullptr) continue;
      rows[i] = copy;
      if (j < 0) {
        std::fill_n(copy, padded, 0.f);
      } else {
        from.read(source.first_row + j, copy);
      }
    }
    if (panels != nullptr) transpose_panel(rows, padded, panels + first * padded);
  };
  for (int64_t first = 0; first < count; first += kPanel) {
    pack(source.k, first, to.k_rows, to.k_panels);
    pack(source.v, first, to.v_rows, to.v_panels);
    for (int64_t i = first; i < first + kPanel; ++i) {
      const int32_t j = positions[i];
      const bool hidden = j < 0 || source.assignment[j] < 0;
      to.bias[i] = hidden                   ? -std::numeric_limits<float>::infinity()
                   : source.bias == nullptr ? 0.f
                                            : float(source.bias[j] * kLog2E);
    }
  }
}

BlockRoutes::BlockRoutes(const int32_t* routes, int64_t queries, int64_t slots, int64_t clusters,
                         Scratch& scratch)
    : first(scratch.take<int32_t>(clusters + 1)),
      count(scratch.take<int32_t>(clusters)),
      rows(scratch.take<int32_t>(queries * slots)) {
  std::fill_n(first, clusters + 1, 0);
  std::fill_n(count, clusters, 0);
  for (int64_t i = 0; i < queries * slots; ++i) {
    TORCH_CHECK(routes[i] < clusters, "cluster_attention: routes must be below m = ", clusters,
                ", got ", routes[i]);
    if (routes[i] >= 0) ++first[routes[i] + 1];
  }
  for (int64_t c = 0; c < clusters; ++c) first[c + 1] += first[c];
  for (int64_t i = 0; i < queries * slots; ++i) {
    const int32_t c = routes[i];
    if (c < 0) continue;
    int32_t* list = rows + first[c];
    const auto row = int32_t(i / slots);
    if (count[c] == 0 || list[count[c] - 1] != row) list[count[c]++] = row;
  }
}

}  // namespace dsrsq::ops
