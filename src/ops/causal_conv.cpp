#include "dsrsq/ops/causal_conv.h"

#include <torch/torch.h>

namespace dsrsq::ops {

namespace {
at::Tensor with_tail(const at::Tensor& x, const at::Tensor& tail, int64_t width) {
  if (tail.defined()) return at::cat({tail.to(x.scalar_type()), x}, 1);
  return at::constant_pad_nd(x, {0, 0, width - 1, 0});
}
}  // namespace

at::Tensor causal_conv(const at::Tensor& x, const at::Tensor& taps, const at::Tensor& tail) {
  TORCH_CHECK(x.dim() == 3 && taps.dim() == 2 && taps.size(0) == x.size(2),
              "causal_conv: expected x [B, T, D] and taps [D, w], got ", x.sizes(), " and ", taps.sizes());
  auto padded = with_tail(x, tail, taps.size(1)).transpose(1, 2);
  auto groups = x.size(2);
  return at::conv1d(padded, taps.unsqueeze(1), /*bias=*/{}, /*stride=*/at::IntArrayRef{1}, /*padding=*/at::IntArrayRef{0},
                    /*dilation=*/at::IntArrayRef{1}, groups).transpose(1, 2);
}

at::Tensor next_conv_tail(const at::Tensor& x, const at::Tensor& tail, int64_t width) {
  auto all = with_tail(x, tail, width);
  return all.narrow(1, all.size(1) - (width - 1), width - 1);
}

}  // namespace dsrsq::ops
