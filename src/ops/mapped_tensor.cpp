#include "dsrsq/ops/mapped_tensor.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>

#include <cstring>

#include "dsrsq/core/error.h"

namespace dsrsq::ops {
namespace {

at::ScalarType torch_type(const TensorView& tensor, const std::string& where) {
  switch (tensor.type) {
    case ScalarType::kF32:
      return at::kFloat;
    case ScalarType::kF16:
      return at::kHalf;
    case ScalarType::kBF16:
      return at::kBFloat16;
    default:
      throw CheckpointError(concat(where, ": ", tensor.name, ": expected F32, F16 or BF16, got ",
                                   scalar_name(tensor.type)));
  }
}

}  // namespace

at::Tensor mapped_tensor(const TensorView& tensor, const std::string& where) {
  auto options = at::TensorOptions().dtype(torch_type(tensor, where));
  if (reinterpret_cast<uintptr_t>(tensor.data) % scalar_bytes(tensor.type) == 0)
    return at::from_blob(const_cast<void*>(tensor.data), tensor.shape, options);
  auto copy = at::empty(tensor.shape, options);
  std::memcpy(copy.mutable_data_ptr(), tensor.data, tensor.bytes);
  return copy;
}

}  // namespace dsrsq::ops
