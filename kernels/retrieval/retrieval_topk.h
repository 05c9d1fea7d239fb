// The best rows of a store by their product with query vectors: scored and selected without a sort
// of all scores (design D3, D5).
#pragma once

#include "kernels/common.h"

namespace dsrsq::kernels {

inline constexpr int64_t kRetrievalMaxQueryFloats = 49152;  // Q r: the queries in shared memory
inline constexpr int64_t kRetrievalMaxSorted = 16384;       // slots that one block sorts

struct RetrievalTopkSizes {
  int64_t batch;        // B, at most 65535
  int64_t queries;      // Q
  int64_t tokens;       // N, below 2^31
  int64_t width;        // r; a row is whole vectors of 16 bytes
  int64_t slots;        // at least 1
  bool rows_by_batch;   // rows have a batch dimension
  bool valid_by_batch;  // so has `valid`
  float scale;          // of the products
};

struct RetrievalNoise {
  uint64_t seed, purpose, step;
  const int64_t* sample_ids;  // [B], or null: no noise
};

// All contiguous, on the device of the stream; rows at multiples of 16 bytes.
struct RetrievalTopkInputs {
  const float* query;       // [B, Q, r]
  const bool* query_valid;  // [B, Q], or null: all
  const void* rows;         // [B or 1, N, r]
  ElementType type;         // of rows
  const bool* valid;        // [B or 1, N], or null: all
  const int64_t* count;     // [B] rows wanted; outside [0, slots] it is taken for the nearer end
  RetrievalNoise noise;
};

int64_t retrieval_topk_workspace_bytes(const RetrievalTopkSizes& sizes);

// Of each sequence the `count` rows of largest score, largest first; of equal scores the lower
// position. score = scale max over its queries of q . row, plus Gumbel noise of the row's position;
// no number and -infinity are never chosen. index [B, slots] (-1: unused), score [B, slots]
// (-infinity there).
//
// With slots > kRetrievalMaxSorted the chosen rows come unsorted in `packed` int64 [B, slots],
// which else may be null: descending order of `packed` is theirs, and launch_retrieval_unpack makes
// index and score of it.
//
// Five kernels and a memset, whatever the data; nothing waits for the device. Deterministic: counts
// are integers, and what is collected in any order is sorted by unique keys. B, Q and N must be at
// least 1.
cudaError_t launch_retrieval_topk(const RetrievalTopkSizes& sizes, const RetrievalTopkInputs& in,
                                  int64_t* index, float* score, int64_t* packed, void* workspace,
                                  cudaStream_t stream);

cudaError_t launch_retrieval_unpack(int64_t elements, const int64_t* packed, int64_t* index,
                                    float* score, cudaStream_t stream);

}  // namespace dsrsq::kernels
