// What the warpgroups of a block of the small clusters' backward kernel share, and the one of them
// that brings keys and queries.
#pragma once

#include "kernels/attention/cluster_attention_backward.h"
#include "kernels/attention/cluster_attention_device.h"

namespace dsrsq::kernels::small_clusters {

constexpr int kWidth = 64;
constexpr int kGroup = 128;
constexpr int kConsumers = 2;
constexpr int kThreads = (kConsumers + 1) * kGroup;
constexpr int kKeys = kConsumers * kTileRows;  // of a pass
constexpr int kQueries = 128;                  // of a tile
constexpr int kStages = 3;
constexpr int kBlockBytes = 128 * kTileRowBytes;  // 128 rows of 64 columns
constexpr int kConsumerThreads = kConsumers * kGroup;

struct Arguments {
  BackwardArguments b;
  Clustered keys;
  Divisor slots;
  int64_t first_head, end_head;
  __nv_bfloat16* partial;  // [heads, N_q k, d]
  int* next;               // 0: the next cluster that no block has taken
};

// What goes with the queries of a tile. A limit is the newest key that a query sees here; -1: no
// query.
struct alignas(16) Limits {
  int first, middle, last;  // of queries 0, 64 and count - 1
  int count;
};
struct Side {
  Limits limits;
  float2 rows[kQueries];  // as BackwardArguments::rows
  int limit[kQueries];
  unsigned pair[kQueries];
  int head;  // of this launch
};

// 128 keys of a cluster; no keys: the end.
struct Pass {
  int kv;
  int first;   // row in cluster order
  int count;   // of keys
  int number;  // passes of the cluster before this one
  int tiles;   // of queries
};

constexpr unsigned kNoPair = 0xffffffffu;

struct Shared {
  Side side[kStages];
  int position[kKeys];  // kNoKey beyond the keys
  Pass pass;
  int cluster;      // what the producers took
  int row[kGroup];  // which rows they copy
  uint64_t full[kStages], empty[kStages];
  uint64_t keys_full, keys_empty;
  uint64_t scores_full[2];  // gradients of scores, of even and odd tiles
};

// Blocks of 128 rows behind each other, from a multiple of 1024 bytes.
struct Blocks {
  char* base;
  __device__ uint32_t at(int i) const { return shared_address(base) + i * kBlockBytes; }
  __device__ uint32_t keys() const { return at(0); }
  __device__ uint32_t values() const { return at(1); }
  __device__ uint32_t permuted_keys() const { return at(2); }  // columns as in cluster order
  __device__ uint32_t scores(int buffer, int half) const { return at(3 + 2 * buffer + half); }
  __device__ uint32_t queries(int stage) const { return at(7 + 2 * stage); }
  __device__ uint32_t d_out(int stage) const { return at(8 + 2 * stage); }
};
constexpr int kDynamicBytes = 1024 + (7 + 2 * kStages) * kBlockBytes;

struct Ring {
  int stage = 0;
  uint32_t phase = 0;
  __device__ void advance() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
};

class Producer {
 public:
  __device__ Producer(const Arguments& a, Shared& shared, const Blocks& blocks)
      : a_(a), s_(a.b.s), shared_(shared), blocks_(blocks), thread_(threadIdx.x % kGroup) {}

  __device__ void run() {
    const int64_t group = s_.heads / s_.kv_heads, clusters = s_.clusters;
    const int64_t first_kv = kv_head(s_, a_.first_head);
    const int64_t work = (a_.end_head - a_.first_head) / group * clusters;
    for (;;) {
      const int64_t item = take();
      if (item >= work) break;
      const int64_t kv = first_kv + item / clusters;
      const int cluster = static_cast<int>(item % clusters);
      const int count = a_.b.index.key_count[kv * clusters + cluster];
      if (!is_small_cluster(s_, count)) continue;
      const int begin = a_.b.index.key_begin[kv * clusters + cluster];
      for (int number = 0; number * kKeys < count; ++number) {
        run_pass(kv, cluster,
                 {static_cast<int>(kv), begin + number * kKeys, min(kKeys, count - number * kKeys),
                  number, 0});
      }
    }
    barrier_wait(&shared_.keys_empty, keys_phase_ ^ 1);
    if (thread_ == 0) shared_.pass = {0, 0, 0, 0, 0};
    barrier_arrive(&shared_.keys_full);
  }

 private:
  static constexpr int kRowsApart = kGroup / 8, kCopies = 128 / kRowsApart;

  __device__ void meet() const { asm volatile("bar.sync 1, 128;" ::: "memory"); }
  __device__ int64_t take() {
    if (thread_ == 0) shared_.cluster = atomicAdd(a_.next, 1);
    meet();
    const int item = shared_.cluster;
    meet();
    return item;
  }

  // The queries of a head that are in the cluster's list.
  struct List {
    const unsigned* entries;
    int count;
    int first_tile;  // that sees a key of the pass
    __device__ int tiles() const { return (count + kQueries - 1) / kQueries; }
  };
  __device__ List find(int64_t head, int cluster, int oldest) const {
    const int* begin = a_.b.index.list_begin + head * (s_.clusters + 1) + cluster;
    List list{a_.b.index.list + head * s_.pairs() + begin[0], begin[1] - begin[0], 0};
    const int lane = thread_ % 32;
    for (int tile = 0; tile < list.tiles(); tile += 32) {
      const int last = min((tile + lane + 1) * kQueries, list.count) - 1;
      const bool sees = tile + lane < list.tiles() &&
                        key_limit(s_, a_.slots.divide(list.entries[last])) >= oldest;
      const unsigned votes = __ballot_sync(0xffffffffu, sees);
      list.first_tile = votes != 0 ? tile + __ffs(static_cast<int>(votes)) - 1 : list.tiles();
      if (votes != 0) break;
    }
    return list;
  }

  __device__ void run_pass(int64_t kv, int cluster, Pass pass) {
    const int64_t group = s_.heads / s_.kv_heads;
    const int64_t first_head = kv / s_.kv_heads * s_.heads + kv % s_.kv_heads * group;
    const int oldest = a_.b.index.order[kv * s_.rows() + pass.first];
    for (int64_t member = 0; member < group; ++member) {
      const List list = find(first_head + member, cluster, oldest);
      pass.tiles += list.tiles() - list.first_tile;
    }
    bool loaded = false;
    for (int64_t member = 0; member < group; ++member) {
      const List list = find(first_head + member, cluster, oldest);
      unsigned pair = own_pair(list, list.first_tile);
      for (int tile = list.first_tile; tile < list.tiles(); ++tile) {
        const unsigned next = own_pair(list, tile + 1);  // on its way meanwhile
        load_queries(first_head + member, list, tile, pair);
        pair = next;
        if (!loaded) load_keys(pass);  // behind the first queries, which need not wait for them
        loaded = true;
      }
    }
    if (!loaded) load_keys(pass);
    copy_wait<0>();
    signal(nullptr);
  }

  // What was committed before the newest group has landed: says so.
  __device__ void signal(uint64_t* newest) {
    if (pending_ != nullptr) {
      async_proxy_fence();
      barrier_arrive(pending_);
    }
    pending_ = newest;
  }

  // The pair that this thread loads of a tile.
  __device__ unsigned own_pair(const List& list, int tile) const {
    const int own = tile * kQueries + thread_;
    return own < list.count ? __ldg(list.entries + own) : kNoPair;
  }

  __device__ void load_queries(int64_t head, const List& list, int tile, unsigned pair) {
    const bool valid = pair != kNoPair;
    const int query = valid ? a_.slots.divide(pair) : 0;
    barrier_wait(&shared_.empty[ring_.stage], ring_.phase ^ 1);
    Side& side = shared_.side[ring_.stage];
    const float2* row = a_.b.rows + head * s_.queries + query;
    copy_word<8>(&side.rows[thread_], row, valid);
    const int limit = valid ? key_limit(s_, query) : -1;
    const int count = min(kQueries, list.count - tile * kQueries);
    side.limit[thread_] = limit;
    side.pair[thread_] = pair;
    shared_.row[thread_] = valid ? query : -1;
    if (thread_ == 0) {
      side.limits.first = limit;
      side.limits.count = count;
      side.head = static_cast<int>(head - a_.first_head);
    }
    if (thread_ == kTileRows) side.limits.middle = limit;
    if (thread_ == count - 1) side.limits.last = limit;
    meet();
    copy_rows(blocks_.queries(ring_.stage), a_.b.in.q, blocks_.d_out(ring_.stage), a_.b.grad.d_out,
              head * s_.queries);
    copy_commit();
    copy_wait<1>();
    signal(&shared_.full[ring_.stage]);
    ring_.advance();
    meet();  // shared_.row has been read
  }

  __device__ void load_keys(const Pass& pass) {
    const int64_t head_row = pass.kv * s_.rows() + pass.first;
    const bool valid = thread_ < pass.count;
    const int position = valid ? a_.b.index.order[head_row + thread_] : kNoKey;
    barrier_wait(&shared_.keys_empty, keys_phase_ ^ 1);
    keys_phase_ ^= 1;
    shared_.position[thread_] = position;
    shared_.row[thread_] = valid ? position : -1;
    if (thread_ == 0) shared_.pass = pass;
    meet();
    copy_rows(blocks_.keys(), a_.b.in.k, blocks_.values(), a_.b.in.v, pass.kv * s_.keys);
    // In cluster order a group of 8 rows of keys and one of values come in turns.
    const char* permuted =
        reinterpret_cast<const char*>(a_.keys.pairs) + head_row * (2 * kTileRowBytes);
#pragma unroll
    for (int i = 0; i < kCopies; ++i) {
      const int chunk = i * kGroup + thread_, group = chunk / 64, within = chunk % 64 * 16;
      copy_chunk(blocks_.permuted_keys() + group * 1024 + within, permuted + group * 2048 + within,
                 true);
    }
    copy_commit();
    copy_wait<0>();  // the consumers have nothing else to do
    signal(&shared_.keys_full);
    signal(nullptr);
    meet();
  }

  // Rows first + shared_.row[i] of two matrices to rows i of two blocks; zeros where that is
  // negative.
  __device__ void copy_rows(uint32_t block, const void* matrix, uint32_t other_block,
                            const void* other, int64_t first) const {
    const int chunk = thread_ % 8;
    const int64_t start = first * kWidth + 8 * chunk;
    const auto* source = static_cast<const __nv_bfloat16*>(matrix) + start;
    const auto* other_source = static_cast<const __nv_bfloat16*>(other) + start;
    // Row i of a thread lies kRowsApart rows behind the one before: the swizzle is the same.
    static_assert(kRowsApart % 8 == 0);
    const uint32_t place = swizzled(thread_ / 8, chunk);
    constexpr int kBatch = 4;  // rows that are looked up together
#pragma unroll
    for (int first_copy = 0; first_copy < kCopies; first_copy += kBatch) {
      int row[kBatch];
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        row[i] = shared_.row[(first_copy + i) * kRowsApart + thread_ / 8];
      }
#pragma unroll
      for (int i = 0; i < kBatch; ++i) {
        const int64_t offset = static_cast<int64_t>(max(row[i], 0)) * kWidth;
        const uint32_t at = place + (first_copy + i) * kRowsApart * kTileRowBytes;
        copy_chunk(block + at, source + offset, row[i] >= 0);
        copy_chunk(other_block + at, other_source + offset, row[i] >= 0);
      }
    }
  }

  const Arguments& a_;
  const ClusterSizes& s_;
  Shared& shared_;
  const Blocks& blocks_;
  int thread_;
  Ring ring_;
  uint32_t keys_phase_ = 0;
  uint64_t* pending_ = nullptr;
};

}  // namespace dsrsq::kernels::small_clusters
