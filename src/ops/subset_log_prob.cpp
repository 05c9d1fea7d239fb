#include "dsrsq/ops/subset_log_prob.h"

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

using Signature = at::Tensor(const at::Tensor&, const at::Tensor&, const at::Tensor&);

const c10::TypedOperatorHandle<Signature>& op() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("dsrsq::subset_log_prob", "")
                                 .typed<Signature>();
  return handle;
}

const SubsetLogProbBackend& backend_of(const at::Tensor& x) {
  const SubsetLogProbBackend& backend = subset_log_prob_backend(x.device().type());
  TORCH_CHECK(backend.forward != nullptr, "subset_log_prob: this build has no implementation for ",
              x.device());
  return backend;
}

class SubsetLogProbFunction : public torch::autograd::Function<SubsetLogProbFunction> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& score,
                            const at::Tensor& candidate, const at::Tensor& mask) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const SubsetPicksKept kept = backend_of(score).forward(score, candidate, mask);
    context->save_for_backward({score, candidate, mask, kept.lse});
    return kept.log_prob;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    at::AutoDispatchBelowADInplaceOrView guard;
    return {backend_of(saved[0]).backward(saved[0], saved[1], saved[2], saved[3], gradients[0]),
            {},
            {}};
  }
};

at::Tensor subset_log_prob_autograd(const at::Tensor& score, const at::Tensor& candidate,
                                    const at::Tensor& mask) {
  return SubsetLogProbFunction::apply(score, candidate, mask);
}

// Below autograd, where what the forward pass would keep is dropped.
at::Tensor subset_log_prob_forward(const at::Tensor& score, const at::Tensor& candidate,
                                   const at::Tensor& mask) {
  return backend_of(score).forward(score, candidate, mask).log_prob;
}

template <c10::DispatchKey key, c10::DeviceType device>
at::Tensor subset_log_prob_autocast(const at::Tensor& score, const at::Tensor& candidate,
                                    const at::Tensor& mask) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  return op().call(at::autocast::cached_cast(at::kFloat, score, device), candidate, mask);
}

}  // namespace

SubsetLogProbBackend& subset_log_prob_backend(at::DeviceType device) {
  static std::array<SubsetLogProbBackend, 2> backends{};
  TORCH_CHECK(device == at::kCPU || device == at::kCUDA, "subset_log_prob: no implementation for ",
              device);
  return backends[device == at::kCUDA];
}

at::Tensor subset_log_prob(const at::Tensor& score, const at::Tensor& candidate,
                           const at::Tensor& mask) {
  check_subset_log_prob(score, candidate, mask);
  return op().call(score, candidate, mask);
}

void check_subset_log_prob(const at::Tensor& score, const at::Tensor& candidate,
                           const at::Tensor& mask) {
  // Of other floating types autocast makes fp32.
  const bool autocast = at::autocast::is_autocast_enabled(score.device().type());
  TORCH_CHECK(score.dim() == 2 &&
                  (score.scalar_type() == at::kFloat || score.scalar_type() == at::kDouble ||
                   (autocast && score.is_floating_point())),
              "subset_log_prob: score must be fp32 or double [R, M], got ", score.scalar_type(),
              " ", score.sizes());
  TORCH_CHECK(candidate.dim() == 2 && candidate.size(0) == score.size(0) &&
                  candidate.scalar_type() == at::kLong,
              "subset_log_prob: candidate must be int64 [", score.size(0), ", k], got ",
              candidate.scalar_type(), " ", candidate.sizes());
  TORCH_CHECK(mask.sizes() == candidate.sizes() && mask.scalar_type() == at::kBool,
              "subset_log_prob: mask must be bool ", candidate.sizes(), ", got ",
              mask.scalar_type(), " ", mask.sizes());
  TORCH_CHECK(candidate.device() == score.device() && mask.device() == score.device(),
              "subset_log_prob: score is on ", score.device(), ", candidate on ",
              candidate.device(), ", mask on ", mask.device(), "; put them on one device");
}

TORCH_LIBRARY_IMPL(dsrsq, Autograd, m) { m.impl("subset_log_prob", subset_log_prob_autograd); }
TORCH_LIBRARY_IMPL(dsrsq, AutocastCPU, m) {
  m.impl("subset_log_prob", subset_log_prob_autocast<c10::DispatchKey::AutocastCPU, at::kCPU>);
}
TORCH_LIBRARY_IMPL(dsrsq, AutocastCUDA, m) {
  m.impl("subset_log_prob", subset_log_prob_autocast<c10::DispatchKey::AutocastCUDA, at::kCUDA>);
}
TORCH_LIBRARY_IMPL(dsrsq, CPU, m) { m.impl("subset_log_prob", subset_log_prob_forward); }
TORCH_LIBRARY_IMPL(dsrsq, CUDA, m) { m.impl("subset_log_prob", subset_log_prob_forward); }

}  // namespace dsrsq::ops
