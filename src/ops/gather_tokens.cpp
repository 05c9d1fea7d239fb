#include "dsrsq/ops/gather_tokens.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>

#include "retrieval_backend.h"
#include "retrieval_checks.h"

namespace dsrsq::ops {
namespace {

using Signature = at::Tensor(const at::Tensor&, const at::Tensor&);

const c10::TypedOperatorHandle<Signature>& op() {
  static const auto handle =
      c10::Dispatcher::singleton().findSchemaOrThrow("dsrsq::gather_tokens", "").typed<Signature>();
  return handle;
}

const GatherTokensBackend& backend_of(const at::Tensor& x) {
  const GatherTokensBackend& backend = gather_tokens_backend(x.device().type());
  TORCH_CHECK(backend.forward != nullptr, "gather_tokens: this build has no implementation for ",
              x.device());
  return backend;
}

class GatherTokensFunction : public torch::autograd::Function<GatherTokensFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& rows,
                            const at::Tensor& index) {
    at::AutoDispatchBelowADInplaceOrView guard;
    context->save_for_backward({index});
    context->saved_data["tokens"] = rows.size(1);
    return backend_of(rows).forward(rows, index);
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const at::Tensor index = context->get_saved_variables()[0];
    at::AutoDispatchBelowADInplaceOrView guard;
    return {
        backend_of(index).backward(gradients[0], index, context->saved_data.at("tokens").toInt()),
        {}};
  }
};

at::Tensor gather_tokens_autograd(const at::Tensor& rows, const at::Tensor& index) {
  return GatherTokensFunction::apply(rows, index);
}

// Below autograd.
at::Tensor gather_tokens_forward(const at::Tensor& rows, const at::Tensor& index) {
  return backend_of(rows).forward(rows, index);
}

// Rows are copied: autocast changes nothing.
template <c10::DispatchKey key>
at::Tensor gather_tokens_autocast(const at::Tensor& rows, const at::Tensor& index) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  return op().call(rows, index);
}

}  // namespace

GatherTokensBackend& gather_tokens_backend(at::DeviceType device) {
  static std::array<GatherTokensBackend, 2> backends{};
  TORCH_CHECK(device == at::kCPU || device == at::kCUDA, "gather_tokens: no implementation for ",
              device);
  return backends[device == at::kCUDA];
}

at::Tensor gather_tokens(const at::Tensor& rows, const at::Tensor& index) {
  check_gather_tokens(rows, index);
  return op().call(rows, index);
}

void check_gather_tokens(const at::Tensor& rows, const at::Tensor& index) {
  TORCH_CHECK(rows.dim() == 3 && rows.is_floating_point(),
              "gather_tokens: rows must be floating [B, N, D], got ", rows.scalar_type(), " ",
              rows.sizes());
  TORCH_CHECK(index.dim() == 2 && index.size(0) == rows.size(0) && index.scalar_type() == at::kLong,
              "gather_tokens: index must be int64 [", rows.size(0), ", n], got ",
              index.scalar_type(), " ", index.sizes());
  TORCH_CHECK(rows.device() == index.device(), "gather_tokens: rows is on ", rows.device(),
              ", index on ", index.device(), "; put them on one device");
}

TORCH_LIBRARY_IMPL(dsrsq, Autograd, m) { m.impl("gather_tokens", gather_tokens_autograd); }
TORCH_LIBRARY_IMPL(dsrsq, AutocastCPU, m) {
  m.impl("gather_tokens", gather_tokens_autocast<c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(dsrsq, AutocastCUDA, m) {
  m.impl("gather_tokens", gather_tokens_autocast<c10::DispatchKey::AutocastCUDA>);
}
TORCH_LIBRARY_IMPL(dsrsq, CPU, m) { m.impl("gather_tokens", gather_tokens_forward); }
TORCH_LIBRARY_IMPL(dsrsq, CUDA, m) { m.impl("gather_tokens", gather_tokens_forward); }

}  // namespace dsrsq::ops
