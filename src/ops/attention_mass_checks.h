// What both implementations of attention_mass demand of their arguments.
#pragma once

#include "dsrsq/ops/attention_mass.h"

namespace dsrsq::ops {

// Throws c10::Error naming the argument, what was expected and what was found.
void check_attention_mass(const AttentionMassInputs& in, const AttentionMassOptions& options);

}  // namespace dsrsq::ops
