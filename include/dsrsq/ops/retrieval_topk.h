// The best rows of a store by their product with query vectors (design D3, D5): scored in one pass
// over the store and selected without a sort of all scores.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "dsrsq/core/random.h"

namespace dsrsq::ops {

struct RetrievalTopkInputs {
  at::Tensor query;  // [B, Q, r] floating
  at::Tensor rows;   // [B or 1, N, r] floating; with unit rows and queries scores are cosines
  at::Tensor count;  // [B] int64: rows wanted of each sequence; more than `slots`: slots
  std::optional<at::Tensor> query_valid;  // [B, Q] bool; false: the query does not count
  std::optional<at::Tensor> valid;        // [B or 1, N] bool; false: the row is never chosen
};

// Gumbel noise of (seed, purpose, step, sample, position of the row): Plackett-Luce draws (D21).
struct RetrievalNoise {
  uint64_t seed;
  Purpose purpose;
  uint64_t step;
  at::Tensor sample_ids;  // [B] int64
};

struct RetrievalTopkOptions {
  int64_t slots;           // places for the chosen rows, at least 1
  double temperature = 1;  // above 0
  std::optional<RetrievalNoise> noise;
};

struct RetrievalTopk {
  at::Tensor index;  // [B, slots] int64, largest score first; -1: unused, at the end
  at::Tensor score;  // [B, slots] fp32; -infinity where unused
};

// score of a row = max over the sequence's valid queries of q . row, / temperature, + noise, in
// fp32 (the noise is drawn and added in fp64, as ops::noise draws it, and rounded). Chosen are the
// `count` largest, or all there are; of equal scores the lower position, also in the order of the
// result. What has a score of -infinity or none (NaN) is never chosen.
//
// Rows in bf16 are read as they are; other types are widened or narrowed to fp32. Not
// differentiable: no output requires grad. Deterministic; on CUDA asynchronous, with a number of
// launches that depends on sizes alone, so that a CUDA graph can hold it; there Q r <= 49152 and B
// <= 65535. N < 2^31. Throws c10::Error naming the argument, what was expected and what was found.
RetrievalTopk retrieval_topk(const RetrievalTopkInputs& inputs,
                             const RetrievalTopkOptions& options);

}  // namespace dsrsq::ops
