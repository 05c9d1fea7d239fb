// One description of an operator at one shape: it drives parity with the oracle on every device,
// the gradient check, and the benchmark.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "support/gradcheck.h"
#include "support/tolerance.h"

namespace dsrsq::testing {

struct OpCase {
  std::string name;                // operator/shape, unique
  std::vector<at::Tensor> inputs;  // on the CPU; undefined stands for an absent optional
  TensorFunction call;             // the typed wrapper
  TensorFunction oracle;           // the fp64 formula; called with the same inputs, on the CPU
  Tolerance tolerance;             // of floating outputs; integer outputs must be equal
  std::vector<int>
      differentiable;  // inputs that receive a gradient; empty: no output may require grad
};

// CPU, and CUDA where this build and this machine have it.
std::vector<at::Device> test_devices();

std::vector<at::Tensor> to_device(const std::vector<at::Tensor>& tensors, at::Device device);

// The three properties of every operator. Each reports through GoogleTest with the case's name.
void expect_parity(const OpCase& op_case);  // on each of test_devices()
void expect_gradients(
    const OpCase& op_case);  // in double on the CPU; or that no output requires grad
void expect_repeatable(const OpCase& op_case);  // two calls, the same bits, on each device

// All three, for each case.
void expect_op_cases(const std::vector<OpCase>& cases);

}  // namespace dsrsq::testing
