// Who enters a weighted reservoir and who leaves it (design D12, Efraimidis-Spirakis 2006), decided
// on priorities alone: what is not accepted need never be projected.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

namespace dsrsq::ops {

struct ReservoirInputs {
  at::Tensor held;   // [B, H] double: priorities of the entries held, H may be 0
  at::Tensor rank;   // [B, E] int64: ranks of the tokens offered
  at::Tensor valid;  // [B, E] bool; false: priority -infinity (padding)
  std::optional<at::Tensor> log_weight;  // [B, E] double; none: 0
};

// Gumbel noise of (seed, kReservoir, step, sample, rank x layers + layer): the same token draws the
// same number, whatever segment or batch it came with, and another in every layer (D21).
struct ReservoirNoise {
  uint64_t seed, step;
  int64_t layers, layer;
  at::Tensor sample_ids;  // [B] int64
};

struct ReservoirOptions {
  int64_t capacity;  // L
  double decay = 0;  // of the rank in the priority; with 1 and no weight: a ring of the newest L
  std::optional<ReservoirNoise> noise;  // none: the L largest
};

struct ReservoirUpdate {
  at::Tensor source;  // [B, L'] int64, L' = min(L, H + E): where each kept entry comes from, oldest
                      // first. i < H: held entry i; H + j: the j-th accepted one
  at::Tensor priority;  // [B, L'] double
  at::Tensor accepted;  // [B, min(E, L')] int64: offered entries that were accepted, ascending; -1
                        // behind the last
  at::Tensor slot;      // [B, min(E, L')] int64: the place of each among the kept; -1 behind
  at::Tensor count;     // [B] int64: accepted
};

// priority of an offered token = (log_weight + decay rank) + noise, in double, each operation
// rounded by itself. Of the held entries and then the offered ones, the L' of largest priority
// stay; of equal ones the first. All of it, noise included, is made of the same IEEE operations on
// a CPU and on CUDA, so both choose the same entries, bit for bit, from the same inputs.
//
// Not differentiable: no output requires grad. Deterministic; asynchronous on CUDA. Throws
// c10::Error naming the argument, what was expected and what was found.
ReservoirUpdate reservoir_update(const ReservoirInputs& inputs, const ReservoirOptions& options);

}  // namespace dsrsq::ops
