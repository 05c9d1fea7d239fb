#include "support/attention_mass_cases.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "dsrsq/core/error.h"
#include "dsrsq/ops/reference.h"

namespace dsrsq::testing {
namespace {

struct Shape {
  int64_t batch, heads, kv_heads, queries, keys, width;
  at::ScalarType dtype;
  bool padded = false, biased = false;
  int64_t clusters = 0;  // 0: no routes
};

std::optional<at::Tensor> optional_tensor(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

ops::AttentionMassInputs as_inputs(const std::vector<at::Tensor>& in) {
  return {in[0],
          in[1],
          in[2],
          in[3],
          in[4],
          optional_tensor(in[5]),
          optional_tensor(in[6]),
          optional_tensor(in[7])};
}

OpCase make_case(const Shape& s) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(
      static_cast<uint64_t>(s.keys * 131 + s.width * 17 + s.queries));
  const auto fp32 = at::TensorOptions(at::kFloat);
  const auto longs = at::TensorOptions(at::kLong);
  const auto fp = s.dtype == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor q =
      at::randn({s.batch, s.heads, s.queries, s.width}, generator, fp32).to(s.dtype);
  const at::Tensor k =
      at::randn({s.batch, s.kv_heads, s.keys, s.width}, generator, fp32).to(s.dtype);
  const double scale = 1 / std::sqrt(double(s.width));
  at::Tensor bias, assignment, routes;
  if (s.biased) bias = at::randn({s.batch, s.kv_heads, s.keys}, generator, fp32).to(fp);
  // The queries are the last positions; keys need not lie in their order.
  at::Tensor key_at = at::randperm(s.keys, generator, longs).expand({s.batch, s.keys}).contiguous();
  at::Tensor query_at =
      at::arange(s.keys - s.queries, s.keys, longs).expand({s.batch, s.queries}).contiguous();
  if (s.padded) {
    key_at.masked_fill_(at::rand({s.batch, s.keys}, generator, fp32) < .2, -1);
    query_at.masked_fill_(at::rand({s.batch, s.queries}, generator, fp32) < .2, -1);
  }
  ops::AttentionMassOptions options{scale};
  if (s.clusters > 0) {
    options = {scale, s.clusters, 9, 3};
    assignment = at::randint(-1, s.clusters, {s.batch, s.kv_heads, s.keys}, generator,
                             at::TensorOptions(at::kInt));
    const at::Tensor score = at::rand({s.batch, s.heads, s.queries, s.clusters}, generator, fp32);
    routes = std::get<1>(score.topk(2, -1)).to(at::kInt);
    routes = routes.masked_fill(at::rand(routes.sizes(), generator, fp32) < .2, -1);
  }
  // Of all keys: no probability exceeds 1, whatever a query sees.
  at::Tensor logits =
      at::matmul(q.to(at::kDouble),
                 k.to(at::kDouble).repeat_interleave(s.heads / s.kv_heads, 1).transpose(-1, -2)) *
      scale;
  if (bias.defined()) {
    logits = logits + bias.to(at::kDouble).repeat_interleave(s.heads / s.kv_heads, 1).unsqueeze(2);
  }
  at::Tensor lse = logits.logsumexp(-1).to(fp);
  if (s.padded) lse.select(2, 0).fill_(-INFINITY);

  OpCase result;
  result.name =
      concat("attention_mass/B", s.batch, "_H", s.heads, "_Hkv", s.kv_heads, "_Nq", s.queries, "_N",
             s.keys, "_d", s.width, "_m", s.clusters, "_", c10::toString(s.dtype),
             s.padded ? "_padded" : "", s.biased ? "_biased" : "");
  result.inputs = {q, k, lse, query_at, key_at, bias, assignment, routes};
  const auto results = [](const ops::AttentionMass& r) {
    return std::vector<at::Tensor>{r.mass, r.squared};
  };
  result.call = [=](const std::vector<at::Tensor>& in) {
    return results(ops::attention_mass(as_inputs(in), options));
  };
  result.oracle = [=](const std::vector<at::Tensor>& in) {
    return results(ops::reference::attention_mass(as_inputs(in), options));
  };
  result.tolerance = parity_tolerance("attention_mass", s.dtype);
  return result;
}

}  // namespace

std::vector<OpCase> attention_mass_cases() {
  return {
      make_case({1, 1, 1, 1, 1, 8, at::kFloat}),
      make_case({2, 4, 2, 63, 65, 64, at::kBFloat16, true, true}),
      make_case({1, 2, 2, 128, 128, 128, at::kBFloat16}),
      make_case({1, 6, 2, 130, 200, 24, at::kFloat, true, true}),
      make_case({2, 2, 1, 65, 300, 40, at::kHalf, true}),
      make_case({1, 2, 1, 40, 70, 16, at::kDouble, true, true}),
      make_case({2, 4, 2, 90, 150, 64, at::kBFloat16, true, true, 7}),
      make_case({1, 2, 1, 300, 300, 32, at::kFloat, false, false, 1000}),
      make_case({1, 1, 1, 70, 70, 256, at::kFloat, false, true}),
      make_case({2, 2, 1, 0, 5, 8, at::kFloat}),
  };
}

}  // namespace dsrsq::testing
