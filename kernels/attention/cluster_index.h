// The index that attention over clusters works by: keys in the order of their clusters, the queries
// of each cluster, and the tiles of work that follow from both.
#pragma once

#include "kernels/common.h"

namespace dsrsq::kernels {

inline constexpr int64_t kClusterIndexMaxClusters = 1024;  // m
inline constexpr int64_t kClusterIndexMaxSlots = 16;       // clusters of a query
inline constexpr int64_t kClusterIndexMaxSinks = 128;
inline constexpr int kQueryTile = 64;     // list entries of an attend item
inline constexpr int kKeyItemKeys = 128;  // keys of a key item
// Small clusters have at most this many keys and width 64; they have a backward kernel of their
// own.
inline constexpr int kSmallCluster = 640;
// Stands in `order` where no key is; greater than every position.
inline constexpr int kNoKey = 0x7f7f7f7f;

struct ClusterSizes {
  int64_t batch;     // B
  int64_t heads;     // H, a multiple of kv_heads
  int64_t kv_heads;  // H_kv
  int64_t queries;   // N_q; query i stands at position first_query + i
  int64_t keys;      // N; key j stands at position j
  int64_t width;     // d, 64 or 128
  int64_t clusters;  // m
  int64_t slots;     // clusters of a query, k
  int64_t first_query;
  int64_t window;  // newest keys that a query sees, its own among them; 0: none
  int64_t sinks;   // first keys that every query sees
  float scale;     // of q . k

  // Rows of a head in cluster order: a cluster starts at a multiple of 8 rows, and a tile of 128
  // rows may be read from any row of a cluster.
  __host__ __device__ int64_t rows() const { return (keys + 7 * clusters + 63) / 64 * 64 + 128; }
  __host__ __device__ int64_t pairs() const { return queries * slots; }
  // Upper bounds of the numbers of items of a head.
  __host__ __device__ int64_t max_items() const { return pairs() / kQueryTile + clusters; }
  __host__ __device__ int64_t max_key_items() const { return keys / kKeyItemKeys + clusters; }
};

// A tile of `count` list entries or of rows in cluster order, from `begin`.
struct alignas(16) ClusterItem {
  int begin;
  int count;
  int cluster;
  int large;  // of a list: place among the head's items of large clusters, or -1
};

// A tile of a cluster's queries and the keys that they see.
struct alignas(16) AttendItem {
  int head;   // counted through the batch
  int begin;  // list entries [begin, begin + count)
  int count;
  int first;      // row of the cluster's first key
  int keys;       // of the cluster
  int num_tiles;  // of 64 keys, up to the last that a query of the item sees
  int oldest;     // every query of the item sees the cluster's keys up to this position
  int kv;         // the key-value head of `head`
};

__host__ __device__ inline bool is_small_cluster(const ClusterSizes& s, int keys) {
  return s.width == 64 && keys <= kSmallCluster;
}

struct ClusterIndex {
  int* order;           // [B, H_kv, rows] position of the key in each row, ascending in a cluster
  int* key_begin;       // [B, H_kv, m] first row of a cluster
  int* key_count;       // [B, H_kv, m]
  int* first_position;  // [B, H_kv, m] of its first key; kNoKey if empty
  unsigned* list;       // [B, H, N_q k] pairs (query * k + slot), ascending in a cluster
  int* list_begin;      // [B, H, m + 1]
  ClusterItem* items;   // [B, H, max_items]
  int* num_items;       // [B, H]
  AttendItem* attend;   // those of all heads, one head after the other
  int* attend_begin;    // [B H + 1]
  AttendItem* large;    // those of large clusters alone
  int* large_begin;     // [B H + 1]
  int* num_large;       // [B, H]
  ClusterItem* key_items;  // [B, H_kv, max_key_items]
  int* num_key_items;      // [B, H_kv]
  int64_t bytes;
};

// The index within one buffer of `bytes` (256-byte alignment); base may be null, to learn `bytes`.
ClusterIndex cluster_index_layout(const ClusterSizes& sizes, void* base);
int64_t cluster_index_workspace_bytes(const ClusterSizes& sizes);

// assignment int32 [B, H_kv, N] (-1: the key belongs to no cluster), routes int32 [B, H, N_q, k]
// (distinct clusters; -1: unused). A pair is left out when none of the cluster's keys lies before
// the query's window; sinks belong to no cluster. Stable, no synchronisation, same bits every run.
cudaError_t launch_cluster_index(const ClusterSizes& sizes, const int* assignment,
                                 const int* routes, const ClusterIndex& index, void* workspace,
                                 cudaStream_t stream);

// Bytes of keys and values in cluster order, together.
int64_t clustered_bytes(const ClusterSizes& sizes);
// k, v bf16 [B, H_kv, N, d] -> [B, H_kv, d / 64, rows / 8, {k, v}, 8, 64] in cluster order, as the
// attention kernels' tiles: swizzled, and with pairs of columns transposed 4 x 4 within each 32, so
// that one 16-byte load of a query row fills the registers of its matrix operand. Rows without a
// key are 0. With key_bias (fp32 [B, H_kv, N]) also its rows, in units of log2.
cudaError_t launch_cluster_permute(const ClusterSizes& sizes, const ClusterIndex& index,
                                   const void* k, const void* v, const float* key_bias,
                                   void* clustered, cudaStream_t stream);

}  // namespace dsrsq::kernels
