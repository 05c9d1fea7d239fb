// Gathers queries and the gradients of their outputs, 64 at a time, into shared memory ahead of
// their use.
#pragma once

#include "kernels/attention/cluster_attention_backward.h"
#include "kernels/attention/cluster_attention_device.h"

namespace dsrsq::kernels {

// Shared memory of a block of kGroups warpgroups that holds 64 keys a warpgroup, and the ring.
template <int kWidth, int kGroups>
struct KeyShared {
  static constexpr int kThreads = 128 * kGroups;
  static constexpr int kPlanes = kWidth / 64;
  static constexpr int kKeyBytes = kPlanes * kGroups * kTileBytes;  // of the keys, or their values
  static constexpr int kMatrixBytes = kPlanes * kTileBytes;
  static constexpr int kStageBytes = 2 * kMatrixBytes;
  // Tiles that are loaded ahead. The warps may be a tile apart, and leave their last products
  // running (of width 128 there are no registers to), over a tile that is not theirs where two
  // warpgroups take turns: a stage is written again when the slowest is done with it.
  static constexpr int kAhead = kWidth == 64 && kGroups == 2 ? 3 : 2;
  static constexpr int kStages = kAhead + (kWidth == 64 ? 2 + kGroups : 2);
  struct Rows {
    float lse[kTileRows];    // log2
    float delta[kTileRows];  // sum over columns of out d_out
    int limit[kTileRows];    // the newest key that the query may see here
  };
  static constexpr int kBytes =
      1024 + 2 * kKeyBytes + kStages * (kStageBytes + static_cast<int>(sizeof(Rows)));
};

// The queries that a block walks: list entries, or all from `first` on.
struct QuerySource {
  const unsigned* list;  // at the first entry; null: successive queries
  int first;
  int count;
  // What names a query until it is needed: the value of a load in flight.
  __device__ unsigned entry(int i) const {
    return list != nullptr ? __ldg(list + i) : static_cast<unsigned>(first + i);
  }
  __device__ int query_of(unsigned entry, const Divisor& slots) const {
    return list != nullptr ? slots.divide(entry) : static_cast<int>(entry);
  }
  __device__ int tiles() const { return (count + kTileRows - 1) / kTileRows; }
};

template <int kWidth, int kGroups>
class QueryRing {
 public:
  using Shared = KeyShared<kWidth, kGroups>;
  using Rows = typename Shared::Rows;
  static constexpr int kThreads = Shared::kThreads;
  static constexpr int kStages = Shared::kStages, kAhead = Shared::kAhead;
  static constexpr int kRowsApart = kThreads / 8, kCopies = kTileRows / kRowsApart;
  static constexpr unsigned kNoEntry = 0xffffffffu;
  __device__ QueryRing(const BackwardArguments& b, const Divisor& slots, int limit_offset,
                       char* tiles, Rows* rows, uint64_t* full)
      : b_(b),
        slots_(slots),
        limit_offset_(limit_offset),
        tiles_(tiles),
        rows_(rows),
        full_(full) {}

  // All threads have met since the last tile of the source before.
  __device__ void start(int64_t head, const QuerySource& source) {
    const int64_t column = 8 * (threadIdx.x % 8);
    q_ = static_cast<const __nv_bfloat16*>(b_.in.q) + head * b_.s.queries * kWidth + column;
    d_out_ =
        static_cast<const __nv_bfloat16*>(b_.grad.d_out) + head * b_.s.queries * kWidth + column;
    side_ = b_.rows + head * b_.s.queries;
    source_ = source;
    // Signalled tiles of the sources before decide where the ring stands.
    load_stage_ = stage_;
#pragma unroll 1
    for (int tile = 0; tile < kAhead; ++tile) {
      find(tile);
      load(tile);
    }
    find(kAhead);
    arrive<kAhead - 1>(stage_);
  }
  // Tile i is in shared memory for this warpgroup; the loads kAhead tiles ahead are on their way.
  __device__ void wait(int i) {
    arrive<kAhead - 2>(next(stage_));
    barrier_wait(&full_[stage_], phase_);
    load(i + kAhead);
    find(i + kAhead + 1);
  }
  __device__ void advance() {
    stage_ = next(stage_);
    if (stage_ == 0) phase_ ^= 1;
  }
  // The tile after the last of the source was signalled as well.
  __device__ void finish() {
    copy_wait<0>();
    __syncthreads();
    advance();
  }
  __device__ uint32_t q() const { return shared_address(tiles_) + stage_ * Shared::kStageBytes; }
  __device__ uint32_t d_out() const { return q() + Shared::kMatrixBytes; }
  __device__ const Rows& rows() const { return rows_[stage_]; }

 private:
  __device__ static int next(int stage) { return stage + 1 == kStages ? 0 : stage + 1; }
  // This thread's part of the oldest tile that was not signalled has landed.
  template <int kPending>
  __device__ void arrive(int stage) {
    copy_wait<kPending>();
    async_proxy_fence();
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(&full_[stage]))
                 : "memory");
  }
  // Eight threads a row, kCopies rows a thread.
  __device__ void find(int tile) {
    const int i = tile * kTileRows + threadIdx.x / 8;
#pragma unroll
    for (int copy = 0; copy < kCopies; ++copy) {
      const int at = i + copy * kRowsApart;
      entry_[copy] = at < source_.count ? source_.entry(at) : kNoEntry;
    }
  }
  __device__ void load(int tile) {
    if (tile * kTileRows < source_.count) {
      const int chunk = threadIdx.x % 8;
      const uint32_t target = shared_address(tiles_) + load_stage_ * Shared::kStageBytes +
                              swizzled(threadIdx.x / 8, chunk);
      Rows& side = rows_[load_stage_];
#pragma unroll
      for (int copy = 0; copy < kCopies; ++copy) {
        const bool valid = entry_[copy] != kNoEntry;
        const int query = valid ? source_.query_of(entry_[copy], slots_) : 0;
        const __nv_bfloat16* q = q_ + int64_t{query} * kWidth;
        const __nv_bfloat16* d = d_out_ + int64_t{query} * kWidth;
#pragma unroll
        for (int plane = 0; plane < Shared::kPlanes; ++plane) {
          const uint32_t place = target + plane * kTileBytes + copy * kRowsApart * kTileRowBytes;
          copy_chunk(place, q + 64 * plane, valid);
          copy_chunk(place + Shared::kMatrixBytes, d + 64 * plane, valid);
        }
        if (chunk == 0) {
          const int r = copy * kRowsApart + threadIdx.x / 8;
          copy_word<4>(&side.lse[r], &side_[query].x, valid);
          copy_word<4>(&side.delta[r], &side_[query].y, valid);
          side.limit[r] = valid ? query + limit_offset_ : -1;
        }
      }
    }
    load_stage_ = next(load_stage_);
    copy_commit();
  }

  const BackwardArguments& b_;
  const Divisor& slots_;
  int limit_offset_;
  char* tiles_;
  Rows* rows_;
  uint64_t* full_;
  int stage_ = 0;
  uint32_t phase_ = 0;
  int load_stage_ = 0;
  const __nv_bfloat16* q_;
  const __nv_bfloat16* d_out_;
  const float2* side_;
  QuerySource source_;
  unsigned entry_[kCopies];
};

}  // namespace dsrsq::kernels
