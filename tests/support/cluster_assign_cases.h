#pragma once

#include <vector>

#include "support/op_case.h"

namespace dsrsq::testing {

// Shapes around the edges of the tiles (16 on the CPU; 128 keys, 64 centroids, 384 a launch, 2048
// tokens and 32768 tokens a slice on CUDA), with and without padding, in every dtype.
std::vector<OpCase> cluster_assign_cases();

}  // namespace dsrsq::testing
