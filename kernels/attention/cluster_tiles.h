// Walks attend items and brings their keys and values, in cluster order, to shared memory ahead of
// their use, across the bounds of items.
#pragma once

#include "kernels/attention/cluster_attention_device.h"

namespace dsrsq::kernels {

// For one warpgroup. (Two that share the keys: 6 % slower, as their warps wait for each other; with
// barriers a stage instead of the block's: slower still.) Block b of g takes items first + b,
// first + b + g, ... before `end`.
template <int kWidth, int kStages>
class ClusterTiles {
 public:
  static constexpr int kThreads = 128;
  static constexpr int kPlanes = kWidth / 64;
  static constexpr int kPlaneBytes = 2 * kTileBytes;  // keys and values of 64 columns
  static constexpr int kStageBytes = kPlanes * kPlaneBytes;
  static constexpr int kPositionBytes = kTileRows * 4;
  struct Shared {
    AttendItem items[4];
    unsigned pairs[2][kTileRows];
    uint64_t full[kStages];
  };
  static constexpr int kDynamicBytes = 1024 + kStages * (kStageBytes + 2 * kPositionBytes);

  __device__ ClusterTiles(char* dynamic, Shared& shared, const ClusterSizes& s,
                          const ClusterIndex& index, const AttendItem* items, const Clustered& keys,
                          bool has_bias, int first, int end)
      : shared_(shared),
        s_(s),
        index_(index),
        items_(items),
        keys_(keys),
        has_bias_(has_bias),
        tiles_(dynamic + ((1024 - (shared_address(dynamic) & 1023)) & 1023)),
        end_(end),
        at_(first + static_cast<int>(blockIdx.x)) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < kStages; ++i) barrier_init(&shared_.full[i], 1);
      barrier_init_fence();
    }
    fetch_item(0);
    fetch_item(1);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
    fetch_pairs(0);
    copy_commit();
    copy_wait<0>();
    __syncthreads();
  }

  __device__ bool has_item() const { return item().num_tiles > 0; }
  __device__ const AttendItem& item() const { return shared_.items[number_ & 3]; }
  // Pair of row r; rows past the end of the item repeat its last.
  __device__ unsigned pair(int r) const { return shared_.pairs[number_ & 1][r]; }

  __device__ void begin_item() {
    fetch_pairs(1);
    fetch_item(2);
    copy_commit();
    produce();
  }
  // Tile by tile: its keys and values, its positions, biases.
  __device__ void wait_tile() const { barrier_wait(&shared_.full[stage_], phase_); }
  __device__ uint64_t keys(int plane) const {
    return tile_descriptor<kPairGroupBytes>(
        shared_address(tiles_ + stage_ * kStageBytes + plane * kPlaneBytes));
  }
  __device__ uint64_t values(int plane) const { return keys(plane) + (1024 >> 4); }
  __device__ const int* positions() const {
    return reinterpret_cast<const int*>(tiles_ + kStages * kStageBytes) + stage_ * kTileRows;
  }
  __device__ const float* biases() const {
    return reinterpret_cast<const float*>(positions()) + kStages * kTileRows;
  }
  __device__ void next_tile() {
    if (++stage_ == kStages) stage_ = 0, phase_ ^= 1;
  }
  // Everything up to `tiles` tiles before the present one has been read by all threads of the
  // block, which have met since.
  __device__ void release(int tiles) {
    consumed_ += tiles;
    produce();
  }
  __device__ void end_item() {
    copy_wait<0>();
    __syncthreads();
    ++number_;
    at_ += gridDim.x;
  }

 private:
  __device__ void fetch_item(int ahead) {
    if (threadIdx.x < 64 || threadIdx.x > 65) return;
    const int part = threadIdx.x - 64, i = at_ + ahead * static_cast<int>(gridDim.x);
    const bool valid = i < end_;
    copy_chunk(shared_address(&shared_.items[(number_ + ahead) & 3]) + 16 * part,
               reinterpret_cast<const char*>(items_ + (valid ? i : 0)) + 16 * part, valid);
  }
  __device__ void fetch_pairs(int ahead) {
    const AttendItem& item = shared_.items[(number_ + ahead) & 3];
    if (threadIdx.x >= kTileRows || item.num_tiles == 0) return;
    const unsigned* list = index_.list + item.head * s_.pairs() + item.begin;
    const int row = min(static_cast<int>(threadIdx.x), item.count - 1);
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4;" ::"r"(
                     shared_address(&shared_.pairs[(number_ + ahead) & 1][threadIdx.x])),
                 "l"(list + row)
                 : "memory");
  }
  // Thread 0 keeps kStages tiles in flight, of the present item and the next.
  __device__ void produce() {
    if (threadIdx.x != 0) return;
    while (produced_ - consumed_ < kStages) {
      const AttendItem& from = shared_.items[source_ & 3];
      if (source_tile_ == from.num_tiles) {
        if (source_ > number_) break;
        ++source_;
        source_tile_ = 0;
        continue;
      }
      load(from, source_tile_++, produced_ % kStages);
      ++produced_;
    }
  }
  __device__ void load(const AttendItem& item, int tile, int stage) {
    const int64_t kv = item.kv;
    uint64_t* barrier = &shared_.full[stage];
    barrier_expect(barrier, kStageBytes + kPositionBytes * (has_bias_ ? 2 : 1));
    char* target = tiles_ + stage * kStageBytes;
    const int64_t row = item.first + tile * kTileRows;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      const int64_t source = ((kv * kPlanes + plane) * s_.rows() + row) * 128;
      bulk_load(target + plane * kPlaneBytes, keys_.pairs + source, kPlaneBytes, barrier);
    }
    char* positions = tiles_ + kStages * kStageBytes + stage * kPositionBytes;
    bulk_load(positions, index_.order + kv * s_.rows() + row, kPositionBytes, barrier);
    if (has_bias_) {
      bulk_load(positions + kStages * kPositionBytes, keys_.bias + kv * s_.rows() + row,
                kPositionBytes, barrier);
    }
  }

  Shared& shared_;
  const ClusterSizes& s_;
  const ClusterIndex& index_;
  const AttendItem* items_;
  const Clustered& keys_;
  bool has_bias_;
  char* tiles_;
  int end_;
  int at_;
  int number_ = 0;  // of the present item
  int stage_ = 0;
  uint32_t phase_ = 0;
  int consumed_ = 0;
  int produced_ = 0;
  int source_ = 0;  // the item that is being loaded, and its next tile
  int source_tile_ = 0;
};

}  // namespace dsrsq::kernels
