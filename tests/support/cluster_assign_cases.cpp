#include "support/cluster_assign_cases.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "dsrsq/core/error.h"
#include "dsrsq/ops/reference.h"

namespace dsrsq::testing {
namespace {

struct Shape {
  int64_t batch, heads, tokens, width, clusters;
};

std::optional<at::Tensor> optional_tensor(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

std::vector<at::Tensor> as_vector(const ops::ClusterAssignment& r) {
  return {r.assignment, r.raw_sum, r.direction_sum, r.count};
}

OpCase make_case(const Shape& s, at::ScalarType dtype, bool padded) {
  // Every case has its own fixed inputs: what one case draws does not depend on the others.
  auto generator = at::make_generator<at::CPUGeneratorImpl>(
      static_cast<uint64_t>(s.tokens * 131 + s.width * 17 + s.clusters));
  const auto options = at::TensorOptions().dtype(at::kFloat);
  const at::Tensor centroids = at::randn({s.heads, s.clusters, s.width}, generator, options);
  const at::Tensor unit = centroids / centroids.norm(2, -1, true).clamp_min(1e-12);
  // A key is a centroid of its head, stretched and disturbed: no score is nearer to the best than
  // fp32 can tell.
  const at::Tensor home =
      at::randint(s.clusters, {s.batch, s.heads, s.tokens}, generator, options.dtype(at::kLong));
  const at::Tensor head = at::arange(s.heads).view({1, s.heads, 1});
  const at::Tensor noise =
      at::randn({s.batch, s.heads, s.tokens, s.width}, generator, options) * 0.02;
  const at::Tensor length = at::rand({s.batch, s.heads, s.tokens, 1}, generator, options) * 3 + 0.5;
  const at::Tensor keys = (unit.index({head.expand_as(home), home}) + noise) * length;
  const at::Tensor bias = at::randn({s.heads, s.clusters}, generator, options) * 0.01;
  at::Tensor valid;
  if (padded) valid = at::rand({s.batch, s.tokens}, generator, options) > 0.3;

  OpCase result;
  result.name = concat("cluster_assign/B", s.batch, "_H", s.heads, "_T", s.tokens, "_d", s.width,
                       "_m", s.clusters, "_", c10::toString(dtype), padded ? "_padded" : "");
  result.inputs = {keys.to(dtype), unit, bias, valid};
  result.call = [](const std::vector<at::Tensor>& in) {
    return as_vector(ops::cluster_assign(in[0], in[1], in[2], optional_tensor(in[3])));
  };
  result.oracle = [](const std::vector<at::Tensor>& in) {
    return as_vector(ops::reference::cluster_assign(in[0], in[1], in[2], optional_tensor(in[3])));
  };
  result.tolerance = parity_tolerance("cluster_assign", dtype);
  return result;
}

}  // namespace

std::vector<OpCase> cluster_assign_cases() {
  return {
      make_case({1, 1, 1, 8, 1}, at::kFloat, false),
      make_case({2, 3, 50, 16, 5}, at::kFloat, true),
      make_case({2, 2, 129, 64, 32}, at::kFloat, false),
      make_case({1, 2, 300, 64, 32}, at::kBFloat16, true),
      make_case({1, 2, 127, 33, 65}, at::kHalf, false),
      make_case({3, 1, 64, 24, 17}, at::kDouble, true),
      make_case({1, 1, 2100, 128, 200}, at::kBFloat16, false),
      make_case({2, 2, 300, 64, 1000}, at::kBFloat16, true),
      make_case({1, 1, 1500, 128, 1024}, at::kFloat, true),
      make_case({2, 1, 20000, 8, 6}, at::kFloat, true),
      make_case({2, 3, 0, 16, 4}, at::kFloat, false),
  };
}

}  // namespace dsrsq::testing
