#include "dsrsq/ops/linear_cross_entropy.h"

#include <ATen/autocast_mode.h>
#include <torch/torch.h>

#include <algorithm>

#include "dense_backend.h"
#include "dsrsq/ops/autocast.h"

namespace dsrsq::ops {

DenseBackend& cuda_dense_backend() {
  static DenseBackend backend;
  return backend;
}

namespace {

constexpr int64_t kLogits = int64_t{1} << 29;
constexpr int64_t kColumns = 64;  // the matrix units want rows of whole 128 bytes

// What a chunk of logits [n, columns] costs; with `gradient` they become the loss's gradient.
at::Tensor chunk_loss(at::Tensor& logits, const at::Tensor& targets, int64_t vocabulary,
                      bool gradient) {
  const auto& fused = cuda_dense_backend().cross_entropy;
  if (logits.is_cuda() && logits.scalar_type() == at::kBFloat16 && fused != nullptr)
    return fused(logits, targets, vocabulary, gradient).sum();
  auto type = logits.scalar_type();
  auto wide = type == at::kDouble ? logits : logits.to(at::kFloat);
  auto lse = at::logsumexp(wide, {-1}, /*keepdim=*/true);
  auto target = targets.unsqueeze(1);
  auto loss = (lse - wide.gather(1, target)).sum();
  if (gradient) {
    auto softmax = (wide - lse).exp_();
    softmax.scatter_add_(1, target, at::full({1}, -1, wide.options()).expand(target.sizes()));
    logits = softmax.to(type);
  }
  return loss;
}

class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& hidden,
                            const at::Tensor& weight, const at::Tensor& targets, bool gradient,
                            int64_t rows_at_once, at::ScalarType type) {
    at::AutoDispatchBelowADInplaceOrView below;
    const Fp32Guard no_autocast(hidden.device());  // the types are chosen here
    auto vocabulary = weight.size(0), rows = hidden.size(0);
    auto x = hidden.to(type), w = weight.to(type);
    bool fused = x.is_cuda() && type == at::kBFloat16;
    if (auto beyond = vocabulary % kColumns; fused && beyond > 0)
      w = at::constant_pad_nd(w, {0, 0, 0, kColumns - beyond});
    auto wide = type == at::kDouble ? at::kDouble : at::kFloat;
    auto loss = at::zeros({}, x.options().dtype(wide));
    at::Tensor d_hidden, d_weight;
    if (gradient) {
      d_hidden = at::empty_like(x);
      d_weight = at::zeros(w.sizes(), w.options().dtype(wide));
    }
    for (int64_t first = 0; first < rows; first += rows_at_once) {
      auto count = std::min(rows_at_once, rows - first);
      auto part = x.narrow(0, first, count);
      auto logits = at::mm(part, w.t());
      loss += chunk_loss(logits, targets.narrow(0, first, count), vocabulary, gradient);
      if (!gradient) continue;
      d_hidden.narrow(0, first, count).copy_(at::mm(logits, w));
      d_weight += fused ? at::mm(logits.t(), part, wide) : at::mm(logits.t(), part);
    }
    if (gradient)
      context->save_for_backward({d_hidden.to(hidden.scalar_type()),
                                  d_weight.narrow(0, 0, vocabulary).to(weight.scalar_type())});
    return loss;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto saved = context->get_saved_variables();
    return {saved[0] * gradients[0], saved[1] * gradients[0], {}, {}, {}, {}};
  }
};

}  // namespace

at::Tensor linear_cross_entropy(const at::Tensor& hidden, const at::Tensor& weight,
                                const at::Tensor& targets, int64_t rows_at_once) {
  TORCH_CHECK(hidden.dim() == 2 && weight.dim() == 2 && hidden.size(1) == weight.size(1) &&
                  targets.dim() == 1 && targets.size(0) == hidden.size(0) &&
                  targets.scalar_type() == at::kLong,
              "linear_cross_entropy: expected hidden [n, D], weight [V, D] and targets int64 [n], "
              "got ",
              hidden.sizes(), ", ", weight.sizes(), " and ", targets.scalar_type(), " ",
              targets.sizes());
  if (hidden.size(0) == 0)
    return hidden.to(hidden.scalar_type() == at::kDouble ? at::kDouble : at::kFloat).sum();
  auto autocast = at::autocast::is_autocast_enabled(hidden.device().type());
  auto type = autocast ? at::kBFloat16 : hidden.scalar_type();
  auto rows = rows_at_once > 0 ? rows_at_once
                               : std::max<int64_t>(128, kLogits / weight.size(0) / 128 * 128);
  bool gradient = at::GradMode::is_enabled() && (hidden.requires_grad() || weight.requires_grad());
  return LinearCrossEntropy::apply(hidden, weight, targets, gradient, rows, type);
}

}  // namespace dsrsq::ops
