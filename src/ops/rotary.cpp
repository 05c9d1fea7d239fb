#include "dsrsq/ops/rotary.h"

#include <torch/torch.h>

namespace dsrsq::ops {

RotaryTable rotary_table(const at::Tensor& positions, int64_t head_width, double base) {
  TORCH_CHECK(head_width % 2 == 0, "rotary_table: head width ", head_width, " must be even");
  auto options = positions.options().dtype(at::kDouble);
  auto frequencies = at::pow(base, at::arange(0, head_width, 2, options).div(-double(head_width)));
  auto angles = positions.to(at::kDouble).unsqueeze(-1) * frequencies;  // [B, T, d/2]
  return {angles.cos().to(at::kFloat).unsqueeze(1), angles.sin().to(at::kFloat).unsqueeze(1)};
}

at::Tensor rotate(const at::Tensor& x, const RotaryTable& table, bool inverse) {
  auto halves = x.chunk(2, -1);
  // A double input (the oracle tests) keeps its precision; half types are rotated in fp32.
  auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto cosine = table.cosine.to(type);
  auto sine = inverse ? table.sine.to(type).neg() : table.sine.to(type);
  auto first = halves[0] * cosine - halves[1] * sine;
  auto second = halves[1] * cosine + halves[0] * sine;
  return at::cat({first, second}, -1).to(x.scalar_type());
}

}  // namespace dsrsq::ops
