// Tensors by name: a module's, and those of a safetensors file. Declared in checkpoint.h.
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <torch/nn/module.h>

#include <cstring>
#include <utility>

#include "dsrsq/core/error.h"
#include "dsrsq/core/safetensors.h"
#include "dsrsq/train/checkpoint.h"

namespace dsrsq {
namespace {

constexpr std::pair<ScalarType, at::ScalarType> kTypes[] = {
    {ScalarType::kF64, at::kDouble}, {ScalarType::kF32, at::kFloat},
    {ScalarType::kF16, at::kHalf},   {ScalarType::kBF16, at::kBFloat16},
    {ScalarType::kI64, at::kLong},   {ScalarType::kI32, at::kInt},
    {ScalarType::kI16, at::kShort},  {ScalarType::kI8, at::kChar},
    {ScalarType::kU8, at::kByte},    {ScalarType::kBool, at::kBool},
};

ScalarType stored_type(const std::string& where, at::ScalarType type) {
  for (const auto& [stored, torch_type] : kTypes)
    if (torch_type == type) return stored;
  throw Error(ExitCode::kInternal,
              concat(where, ": tensors of type ", at::toString(type), " cannot be stored"));
}

at::ScalarType torch_type(const std::string& where, ScalarType type) {
  for (const auto& [stored, torch_type] : kTypes)
    if (stored == type) return torch_type;
  throw CheckpointError(concat(where, ": unknown type"));
}

std::string describe(const at::Tensor& tensor) {
  return concat(tensor.sizes(), " ", at::toString(tensor.scalar_type()));
}

// Throws CheckpointError naming the first tensor that does not fit.
void check_fit(const NamedTensors& own, const NamedTensors& saved, const std::string& where) {
  constexpr const char* kHint =
      "; was the run trained with another model.width or part switched off?";
  for (const auto& [name, tensor] : own) {
    const auto found = saved.find(name);
    if (found == saved.end())
      throw CheckpointError(concat(where, ": expected the tensor ", name, ", found none", kHint));
    const at::Tensor& other = found->second;
    if (other.sizes() != tensor.sizes() || other.scalar_type() != tensor.scalar_type())
      throw CheckpointError(concat(where, ": ", name, ": expected ", describe(tensor), ", got ",
                                   describe(other), kHint));
  }
  for (const auto& [name, tensor] : saved)
    if (!own.count(name))
      throw CheckpointError(
          concat(where, ": the tensor ", name, " belongs to no part of this model", kHint));
}

}  // namespace

NamedTensors module_tensors(const torch::nn::Module& module) {
  NamedTensors tensors;
  for (const auto& item : module.named_parameters())
    if (item.value().defined()) tensors.emplace(item.key(), item.value());
  for (const auto& item : module.named_buffers())
    if (item.value().defined()) tensors.emplace(item.key(), item.value());
  return tensors;
}

void load_module_tensors(torch::nn::Module& module, const NamedTensors& tensors,
                         const std::string& where) {
  const NamedTensors own = module_tensors(module);
  check_fit(own, tensors, where);  // all of them before the first is overwritten
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : own) tensor.copy_(tensors.at(name));
}

void write_tensors(const std::string& path, const NamedTensors& tensors,
                   const std::map<std::string, std::string>& metadata) {
  std::vector<at::Tensor> contiguous;  // keeps the memory that the views borrow
  std::vector<TensorView> views;
  contiguous.reserve(tensors.size());
  for (const auto& [name, tensor] : tensors) {
    const std::string where = concat(path, ": ", name);
    if (!tensor.defined())
      throw Error(ExitCode::kInternal, concat(where, ": the tensor is undefined"));
    const ScalarType type = stored_type(where, tensor.scalar_type());
    contiguous.push_back(tensor.detach().cpu().contiguous());
    const at::Tensor& data = contiguous.back();
    views.push_back({name, type, data.sizes().vec(), data.const_data_ptr(), data.nbytes()});
  }
  write_safetensors(path, views, metadata);
}

NamedTensors read_tensors(const std::string& path) {
  const SafetensorsFile file(path);
  NamedTensors tensors;
  for (const TensorView& view : file.tensors()) {
    at::Tensor tensor = at::empty(view.shape, torch_type(concat(path, ": ", view.name), view.type));
    if (view.bytes > 0) std::memcpy(tensor.mutable_data_ptr(), view.data, view.bytes);
    tensors.emplace(view.name, std::move(tensor));
  }
  return tensors;
}

}  // namespace dsrsq
