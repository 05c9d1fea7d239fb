// bf16 autocast for a scope (D22). Operators that must stay in fp32 convert explicitly, since CPU
// and CUDA autocast differ.
#pragma once

#include <ATen/core/Tensor.h>

namespace dsrsq::ops {

class AutocastGuard {
 public:
  AutocastGuard(at::Device device, bool enabled);
  ~AutocastGuard();
  AutocastGuard(const AutocastGuard&) = delete;
  AutocastGuard& operator=(const AutocastGuard&) = delete;

 private:
  at::DeviceType type_;
  bool enabled_;
  bool before_ = false;
};

// Switches autocast off for a scope: what D22 wants in fp32 whatever the precision of the run
// (autocast would turn a matmul of fp32 inputs into bf16).
class Fp32Guard {
 public:
  explicit Fp32Guard(at::Device device);
  ~Fp32Guard();
  Fp32Guard(const Fp32Guard&) = delete;
  Fp32Guard& operator=(const Fp32Guard&) = delete;

 private:
  at::DeviceType type_;
  bool before_;
};

}  // namespace dsrsq::ops
