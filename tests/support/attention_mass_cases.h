#pragma once

#include <vector>

#include "support/op_case.h"

namespace dsrsq::testing {

// Shapes around the edges of the tiles (64 queries by 64 keys), widths that fill no step of the
// matrix units, grouped heads, padding, biases and routes, in every dtype.
std::vector<OpCase> attention_mass_cases();

}  // namespace dsrsq::testing
