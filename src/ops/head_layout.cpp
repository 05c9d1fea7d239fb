#include "dsrsq/ops/head_layout.h"

#include <torch/torch.h>

#include "dense_backend.h"

namespace dsrsq::ops {

namespace {

at::Tensor empty_as(const at::Tensor& x, bool by_token) {
  auto b = x.size(0), h = x.size(1), t = x.size(2), d = x.size(3);
  return by_token ? at::empty({b, t, h, d}, x.options()).transpose(1, 2)
                  : at::empty({b, h, t, d}, x.options());
}

at::Tensor copied(const at::Tensor& x, bool by_token) {
  auto out = empty_as(x, by_token);
  const auto& fused = cuda_dense_backend().copy_rows;
  if (x.is_cuda() && fused != nullptr && fused(x, out, by_token)) return out;
  return out.copy_(x);
}

bool lies_by_token(const at::Tensor& x) { return x.transpose(1, 2).is_contiguous(); }

class Layout : public torch::autograd::Function<Layout> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            bool by_token) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->saved_data["by_token"] = lies_by_token(x);
    return copied(x, by_token);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    bool by_token = context->saved_data.at("by_token").toBool();
    const auto& gradient = gradients[0];
    bool lies = by_token ? lies_by_token(gradient) : gradient.is_contiguous();
    return {lies ? gradient : copied(gradient, by_token), {}};
  }
};

}  // namespace

at::Tensor laid_out_by_head(const at::Tensor& x) {
  return x.is_contiguous() ? x : Layout::apply(x, false);
}

at::Tensor laid_out_by_token(const at::Tensor& x) {
  return lies_by_token(x) ? x : Layout::apply(x, true);
}

}  // namespace dsrsq::ops
