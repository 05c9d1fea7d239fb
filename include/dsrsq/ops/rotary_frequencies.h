// What a rotary table is made of: an angle a position for each pair of a head's elements.
#pragma once

#include <cstdint>
#include <vector>

#include "dsrsq/ops/rotary_scaling.h"

namespace dsrsq::ops {

struct RotaryFrequencies {
  std::vector<double> radians;  // [d/2], a position
  double scale = 1;             // of cosines and sines (yarn)
};
RotaryFrequencies rotary_frequencies(int64_t head_width, double base,
                                     const RotaryScaling& scaling = {});

}  // namespace dsrsq::ops
