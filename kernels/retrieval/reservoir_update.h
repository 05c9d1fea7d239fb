// Who stays in a weighted reservoir (design D12): Efraimidis-Spirakis keys and the choice of the
// largest, before anything is projected.
#pragma once

#include "kernels/common.h"

namespace dsrsq::kernels {

struct ReservoirSizes {
  int64_t batch;     // B
  int64_t held;      // H entries in the reservoir
  int64_t offered;   // E
  int64_t kept;      // L' = min(capacity, H + E)
  int64_t accepted;  // min(E, L'): the most that can be taken
};

struct ReservoirNoise {
  uint64_t seed, purpose, step;
  const int64_t* sample_ids;  // [B], or null: no noise
  int64_t layers, layer;      // the number of a token is rank x layers + layer
};

struct ReservoirInputs {
  const double* held;        // [B, H] priorities
  const double* log_weight;  // [B, E], or null: 0
  const int64_t* rank;       // [B, E]
  const bool* valid;         // [B, E]; false: priority -infinity
  double decay;
  ReservoirNoise noise;
};

struct ReservoirOutputs {
  int64_t* source;    // [B, L'] where each kept entry comes from: i < H: held entry i; H + j: the
                      // j-th accepted one
  double* priority;   // [B, L']
  int64_t* accepted;  // [B, min(E, L')] offered entries, ascending; -1 behind the last
  int64_t* slot;      // [B, min(E, L')] the place each takes among the kept; -1 behind
  int64_t* count;     // [B] accepted
};

// Of the held entries and then the offered ones, the L' of largest priority stay, of equal ones the
// first, in their order. priority = log_weight + decay rank (+ Gumbel noise), in fp64, rounded
// after every operation: on a CPU the same operations give the same bits, hence the same choice.
// NaN is the smallest.
//
// A cluster of blocks a sequence; nothing waits for the device. Keys beyond what shared memory holds lie in
// `workspace`.
int64_t reservoir_workspace_bytes(const ReservoirSizes& sizes);
cudaError_t launch_reservoir_update(const ReservoirSizes& sizes, const ReservoirInputs& in,
                                    const ReservoirOutputs& out, void* workspace,
                                    cudaStream_t stream);

}  // namespace dsrsq::kernels
