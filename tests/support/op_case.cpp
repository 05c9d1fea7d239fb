#include "support/op_case.h"

#include <torch/torch.h>

#include "support/expect_tensor.h"

namespace dsrsq::testing {

std::vector<at::Device> test_devices() {
  std::vector<at::Device> devices = {at::Device(at::kCPU)};
#ifdef DSRSQ_WITH_CUDA
  if (torch::cuda::is_available()) devices.emplace_back(at::kCUDA, 0);
#endif
  return devices;
}

std::vector<at::Tensor> to_device(const std::vector<at::Tensor>& tensors, at::Device device) {
  std::vector<at::Tensor> moved;
  for (const at::Tensor& tensor : tensors) {
    moved.push_back(tensor.defined() ? tensor.to(device) : tensor);
  }
  return moved;
}

void expect_parity(const OpCase& op_case) {
  const std::vector<at::Tensor> expected = op_case.oracle(op_case.inputs);
  for (const at::Device device : test_devices()) {
    SCOPED_TRACE(op_case.name + " on " + device.str());
    const std::vector<at::Tensor> actual = op_case.call(to_device(op_case.inputs, device));
    ASSERT_EQ(actual.size(), expected.size());
    for (size_t i = 0; i < actual.size(); ++i) {
      SCOPED_TRACE("output " + std::to_string(i));
      EXPECT_EQ(actual[i].device(), device);
      if (actual[i].is_floating_point()) {
        EXPECT_TENSOR_NEAR(actual[i], expected[i], op_case.tolerance);
      } else {
        EXPECT_TENSOR_EQUAL(actual[i], expected[i]);
      }
    }
  }
}

void expect_gradients(const OpCase& op_case) {
  SCOPED_TRACE(op_case.name);
  std::vector<at::Tensor> inputs;
  if (!op_case.differentiable.empty()) {
    for (const at::Tensor& input : op_case.inputs) {
      const bool floating = input.defined() && input.is_floating_point();
      inputs.push_back(floating ? input.to(at::kDouble) : input);
    }
    EXPECT_TRUE(gradcheck(op_case.call, inputs, op_case.differentiable));
    return;
  }
  for (const at::Tensor& input : op_case.inputs) {
    const bool floating = input.defined() && input.is_floating_point();
    inputs.push_back(floating ? input.detach().clone().requires_grad_(true) : input);
  }
  for (const at::Tensor& output : op_case.call(inputs)) EXPECT_FALSE(output.requires_grad());
}

void expect_repeatable(const OpCase& op_case) {
  for (const at::Device device : test_devices()) {
    SCOPED_TRACE(op_case.name + " on " + device.str());
    const std::vector<at::Tensor> inputs = to_device(op_case.inputs, device);
    const std::vector<at::Tensor> first = op_case.call(inputs);
    const std::vector<at::Tensor> second = op_case.call(inputs);
    ASSERT_EQ(first.size(), second.size());
    for (size_t i = 0; i < first.size(); ++i) EXPECT_TENSOR_EQUAL(second[i], first[i]);
  }
}

void expect_op_cases(const std::vector<OpCase>& cases) {
  for (const OpCase& op_case : cases) {
    expect_parity(op_case);
    expect_gradients(op_case);
    expect_repeatable(op_case);
  }
}

}  // namespace dsrsq::testing
