#pragma once

#include <vector>

#include "support/op_case.h"

namespace dsrsq::testing {

// Absorbed and rotated keys, with and without biases and masked slots, grouped heads, one query and
// many, numbers of slots around the edges of tiles, an empty buffer, duplicated latents, in every
// dtype; d and c that the kernels take.
std::vector<OpCase> latent_attention_cases();

// Widths that no kernel takes, for the CPU; small enough for gradients, whose inputs they name.
std::vector<OpCase> latent_attention_cpu_cases();

}  // namespace dsrsq::testing
