#include "support/latent_project_cases.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "dsrsq/core/error.h"
#include "dsrsq/ops/reference.h"

namespace dsrsq::testing {
namespace {

struct Shape {
  int64_t batch, heads, tokens, width, latent;  // heads 0: hidden states of `width`
  at::ScalarType dtype;
  bool biased = false, narrow_weight = false;
  bool by_token = false;  // heads of a token side by side, as a block's projection leaves them
  bool two_sources = true;
};

std::optional<at::Tensor> optional_tensor(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

ops::LatentProjectInputs as_inputs(const std::vector<at::Tensor>& in, bool by_token) {
  const auto source = [&](const at::Tensor& x) {
    return by_token && x.defined() ? x.transpose(1, 2) : x;
  };
  return {source(in[0]), optional_tensor(source(in[1])), in[2], optional_tensor(in[3])};
}

OpCase make_case(const Shape& s) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(
      static_cast<uint64_t>(s.tokens * 131 + s.latent * 17 + s.width));
  const auto fp32 = at::TensorOptions(at::kFloat);
  const auto fp = s.dtype == at::kDouble ? at::kDouble : at::kFloat;
  const int64_t inner = std::max<int64_t>(s.heads, 1) * s.width;
  const auto source = [&]() -> at::Tensor {
    if (s.heads == 0) return at::randn({s.batch, s.tokens, s.width}, generator, fp32).to(s.dtype);
    if (s.by_token)
      return at::randn({s.batch, s.tokens, s.heads, s.width}, generator, fp32).to(s.dtype);
    return at::randn({s.batch, s.heads, s.tokens, s.width}, generator, fp32).to(s.dtype);
  };
  const at::Tensor keys = source(), values = s.two_sources ? source() : at::Tensor();
  const at::Tensor weight =
      (at::randn({2 * s.latent, inner}, generator, fp32) / std::sqrt(double(inner)))
          .to(s.narrow_weight ? s.dtype : fp);
  at::Tensor bias;
  if (s.biased) bias = at::randn({2 * s.latent}, generator, fp32).to(fp);

  OpCase result;
  result.name = concat("latent_project/B", s.batch, "_H", s.heads, "_T", s.tokens, "_d", s.width,
                       "_c", s.latent, "_", c10::toString(s.dtype), s.biased ? "_biased" : "",
                       s.narrow_weight ? "_narrow" : "", s.by_token ? "_bytoken" : "",
                       s.two_sources ? "" : "_merged");
  result.inputs = {keys, values, weight, bias};
  const auto results = [](const ops::Latents& r) {
    return std::vector<at::Tensor>{r.keys, r.values};
  };
  result.call = [=](const std::vector<at::Tensor>& in) {
    return results(ops::latent_project(as_inputs(in, s.by_token)));
  };
  result.oracle = [=](const std::vector<at::Tensor>& in) {
    return results(ops::reference::latent_project(as_inputs(in, s.by_token)));
  };
  result.tolerance = parity_tolerance("latent_project", s.dtype);
  result.differentiable = {0, 2};
  if (s.two_sources) result.differentiable.push_back(1);
  if (s.biased) result.differentiable.push_back(3);
  return result;
}

}  // namespace

std::vector<OpCase> latent_project_cases() {
  const auto bf16 = at::kBFloat16;
  return {
      make_case({1, 12, 130, 64, 64, bf16}),
      make_case({2, 3, 65, 64, 32, bf16, true, false, true}),
      make_case({1, 4, 63, 64, 128, bf16, false, true}),
      make_case({3, 2, 50, 128, 64, bf16}),
      make_case({1, 0, 300, 192, 64, bf16, true, true, false, false}),
      make_case({2, 0, 129, 128, 128, bf16, false, false, false, false}),
      make_case({1, 0, 1, 64, 32, bf16, false, true, false, false}),
      make_case({1, 0, 70, 64, 48, bf16, true, true, false, true}),
      make_case({2, 3, 11, 6, 5, bf16}),
      make_case({2, 3, 61, 20, 7, at::kFloat, true}),
      make_case({2, 3, 61, 20, 16, at::kHalf, false, true, true}),
      make_case({2, 2, 5, 6, 3, at::kDouble, true}),
      make_case({2, 0, 5, 12, 3, at::kDouble, true, false, false, false}),
  };
}

}  // namespace dsrsq::testing
