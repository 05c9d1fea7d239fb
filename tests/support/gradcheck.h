// Analytic gradients against central differences, in double.
#pragma once

#include <ATen/core/Tensor.h>
#include <gtest/gtest.h>

#include <functional>
#include <vector>

#include "support/tolerance.h"

namespace dsrsq::testing {

using TensorFunction = std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)>;

struct GradcheckOptions {
  double step = 1e-6;
  Tolerance tolerance = kGradient;
  int64_t max_elements = 200;  // per input; more are sampled evenly
};

// Checks d/dx of sum_j <w_j, function(inputs)_j>, w_j fixed pseudo-random weights over the floating
// outputs, for x = inputs[i], i in `differentiable`. Floating inputs must be double (undefined ones
// are passed on). Fails if an output does not require grad, or if an input's gradient is missing: a
// silent loss of gradients is a failure.
::testing::AssertionResult gradcheck(const TensorFunction& function,
                                     const std::vector<at::Tensor>& inputs,
                                     const std::vector<int>& differentiable,
                                     const GradcheckOptions& options = {});

}  // namespace dsrsq::testing
