#pragma once

#include <vector>

#include "support/op_case.h"

namespace dsrsq::testing {

// Keys and values by head and hidden states with merged weights, heads that the kernel streams and
// odd ones, rows around the edges of tiles, biases, fp32 and bf16 weights, in every dtype.
std::vector<OpCase> latent_project_cases();

}  // namespace dsrsq::testing
