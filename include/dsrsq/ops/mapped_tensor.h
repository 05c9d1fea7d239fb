// Tensors of safetensors files that others wrote.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "dsrsq/core/safetensors.h"

namespace dsrsq::ops {

// A view of the mapped file, which is to outlive it, in the file's type; a copy only where another
// writer left it unaligned. Throws CheckpointError that begins with `where` for anything but F32,
// F16 and BF16.
at::Tensor mapped_tensor(const TensorView& tensor, const std::string& where);

}  // namespace dsrsq::ops
