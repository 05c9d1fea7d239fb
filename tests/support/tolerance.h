// The one table of tolerances. Loosening a row needs the failing case in a comment beside it.
#pragma once

#include <ATen/core/ScalarType.h>

#include <string>

namespace dsrsq::testing {

// |actual - expected| <= absolute + relative * |expected|, for every element.
struct Tolerance {
  double relative = 0;
  double absolute = 0;
};

inline constexpr Tolerance kExact{0, 0};

// Of an operator's parity with its fp64 oracle, by the dtype of its inputs. Throws
// std::out_of_range for an operator without a row.
Tolerance parity_tolerance(const std::string& op, at::ScalarType dtype);

// Of analytic against central-difference gradients, both in double.
inline constexpr Tolerance kGradient{1e-5, 1e-7};

}  // namespace dsrsq::testing
