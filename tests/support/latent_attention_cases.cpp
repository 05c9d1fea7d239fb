#include "support/latent_attention_cases.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include <cmath>

#include "dsrsq/core/error.h"
#include "dsrsq/ops/reference.h"

namespace dsrsq::testing {
namespace {

struct Shape {
  int64_t batch, heads, kv_heads, tokens, slots, latent, width;
  at::ScalarType dtype;
  bool rotated = false, aged = false, biased = false;
  double masked = 0;                // share of the slots
  bool wide_latents = false;        // fp32 latents under narrower queries
  std::vector<int> gradients = {};  // inputs
};

std::optional<at::Tensor> optional_tensor(const at::Tensor& tensor) {
  return tensor.defined() ? std::optional<at::Tensor>(tensor) : std::nullopt;
}

ops::LatentAttentionInputs as_inputs(const std::vector<at::Tensor>& in) {
  return {in[0],
          in[1],
          in[2],
          in[3],
          in[4],
          optional_tensor(in[5]),
          optional_tensor(in[6]),
          optional_tensor(in[7]),
          optional_tensor(in[8]),
          optional_tensor(in[9]),
          optional_tensor(in[10])};
}

OpCase make_case(const Shape& s) {
  auto generator = at::make_generator<at::CPUGeneratorImpl>(
      static_cast<uint64_t>(s.slots * 131 + s.latent * 17 + s.tokens * 3 + s.heads));
  const auto fp32 = at::TensorOptions(at::kFloat);
  const auto longs = at::TensorOptions(at::kLong);
  const auto fp = s.dtype == at::kDouble ? at::kDouble : at::kFloat;
  const auto random = [&](at::IntArrayRef sizes) { return at::randn(sizes, generator, fp32); };
  const at::Tensor q = random({s.batch, s.heads, s.tokens, s.width}).to(s.dtype);
  const auto latent_type = s.wide_latents ? at::kFloat : s.dtype;
  at::Tensor z_k = random({s.batch, s.slots, s.latent}).to(latent_type);
  at::Tensor z_v = random({s.batch, s.slots, s.latent}).to(latent_type);
  if (s.slots > 4) {  // the same token twice
    z_k.select(1, 3).copy_(z_k.select(1, 1));
    z_v.select(1, 3).copy_(z_v.select(1, 1));
  }
  // Rows about as long as orthonormal ones, so that logits are of order one.
  const int64_t joint = s.kv_heads * s.width;
  const double length = 1 / std::sqrt(double(std::min(joint, s.latent * s.kv_heads)));
  const at::Tensor p_k = (random({s.latent, joint}) * length).to(fp);
  const at::Tensor p_v = (random({s.latent, joint}) * length).to(fp);
  at::Tensor valid, bias, age_bias, query_order, key_order, positions;
  if (s.masked > 0) valid = at::rand({s.batch, s.slots}, generator, fp32) >= s.masked;
  if (s.biased) bias = random({s.batch, s.slots}).to(fp);
  // Ranks far apart, in any order; some slots are as young as the query, or younger.
  const at::Tensor ranks = at::randint(0, 100000, {s.batch, s.slots}, generator, longs);
  if (s.aged) {
    age_bias = random({s.heads, 17}).to(fp);
    key_order = ranks;
    query_order = at::randint(90000, 400000, {s.batch, s.tokens}, generator, longs);
  }
  ops::LatentAttentionOptions options{1 / std::sqrt(double(s.width))};
  if (s.rotated) {
    positions = ranks;
    for (int64_t i = 0; i < s.width; i += 2)
      options.frequencies.push_back(std::pow(10000., -double(i) / double(s.width)));
    options.rotary_scale = 1.1;
  }

  OpCase result;
  result.name =
      concat("latent_attention/B", s.batch, "_H", s.heads, "_Hkv", s.kv_heads, "_T", s.tokens, "_L",
             s.slots, "_c", s.latent, "_d", s.width, "_", c10::toString(s.dtype),
             s.rotated ? "_rotated" : "", s.aged ? "_aged" : "", s.biased ? "_biased" : "",
             s.masked > 0 ? concat("_masked", s.masked) : "", s.wide_latents ? "_fp32latents" : "");
  result.inputs = {q, z_k, z_v, p_k, p_v, valid, bias, age_bias, query_order, key_order, positions};
  const auto results = [](const ops::LatentAttention& r) {
    return std::vector<at::Tensor>{r.out, r.lse};
  };
  result.call = [=](const std::vector<at::Tensor>& in) {
    return results(ops::latent_attention(as_inputs(in), options));
  };
  result.oracle = [=](const std::vector<at::Tensor>& in) {
    return results(ops::reference::latent_attention(as_inputs(in), options));
  };
  result.tolerance = parity_tolerance("latent_attention", s.dtype);
  result.differentiable = s.gradients;
  return result;
}

}  // namespace

std::vector<OpCase> latent_attention_cases() {
  const auto bf16 = at::kBFloat16, half = at::kHalf;
  const auto fp32 = at::kFloat, fp64 = at::kDouble;
  std::vector<OpCase> cases;
  for (const Shape& shape : std::vector<Shape>{
           // One query: decoding.
           {1, 12, 12, 1, 1024, 64, 64, bf16},
           {1, 12, 12, 1, 1024, 64, 64, bf16, true},
           {2, 12, 4, 1, 1000, 64, 64, bf16, false, true, true, .2},
           {2, 6, 2, 1, 1000, 64, 64, bf16, true, false, true, .2},
           {1, 2, 2, 1, 1, 32, 64, bf16, false, true},
           {3, 4, 4, 1, 300, 128, 64, bf16, true, false, false, .5},
           {3, 4, 4, 1, 300, 128, 64, bf16, false, false, false, .5},
           {1, 9, 3, 1, 130, 32, 64, bf16, true, false, true},
           {1, 9, 3, 1, 4100, 32, 64, bf16, false, true, true},
           {1, 12, 12, 1, 500, 64, 64, bf16, false, true, false, .1, true},
           {1, 12, 12, 1, 500, 64, 64, bf16, true, false, false, .1, true},
           {2, 4, 2, 1, 700, 64, 64, fp32, false, true, true, .2},
           {2, 4, 2, 1, 700, 64, 64, fp32, true, false, true, .2},
           {1, 4, 2, 1, 70, 128, 64, fp32, true},
           {1, 4, 2, 1, 70, 128, 64, half, false, true},
           // A question, a segment.
           {1, 4, 2, 7, 129, 64, 64, bf16, false, true, true, .2},
           {2, 6, 2, 70, 200, 64, 64, bf16, true, false, true, .2},
           {2, 6, 2, 70, 200, 64, 64, bf16, false, true, true, .2},
           {1, 3, 3, 128, 64, 32, 64, bf16, true},
           {1, 3, 3, 65, 190, 32, 64, bf16, false, true},
           {1, 2, 1, 130, 333, 128, 64, bf16, true, false, true, .1},
           {1, 2, 1, 130, 333, 128, 64, bf16, false, true, true, .1},
           {1, 2, 2, 90, 150, 64, 64, bf16, true, false, false, .1, true},
           {1, 4, 2, 33, 100, 64, 64, fp32, false, true, true, .2},
           {1, 4, 2, 33, 100, 32, 64, fp32, true, false, true, .2},
           {1, 2, 1, 20, 90, 64, 64, fp64, true, false, true, .2},
           {1, 2, 1, 20, 90, 64, 64, fp64, false, true, true, .2},
           // All masked, none held, no query.
           {2, 4, 2, 1, 40, 64, 64, bf16, false, true, false, 1.1},
           {2, 4, 2, 80, 40, 64, 64, bf16, true, false, false, 1.1},
           {1, 2, 2, 3, 0, 64, 64, bf16},
           {1, 2, 2, 70, 0, 64, 64, bf16, true},
           {1, 2, 2, 1, 0, 64, 64, fp32, false, true},
           {1, 2, 2, 0, 5, 64, 64, bf16},
       })
    cases.push_back(make_case(shape));

  return cases;
}

std::vector<OpCase> latent_attention_cpu_cases() {
  const std::vector<int> all = {0, 1, 2, 3, 4}, biased = {0, 1, 2, 3, 4, 6},
                         aged = {0, 1, 2, 3, 4, 6, 7};
  std::vector<OpCase> cases;
  for (const Shape& shape : std::vector<Shape>{
           {2, 4, 2, 5, 11, 3, 6, at::kFloat, false, false, false, 0, false, all},
           {2, 4, 2, 5, 11, 3, 6, at::kFloat, true, false, false, .3, false, all},
           {2, 4, 2, 5, 23, 7, 6, at::kFloat, false, true, true, .3, false, aged},
           {2, 4, 1, 3, 23, 7, 6, at::kDouble, true, false, true, .3, false, biased},
           {1, 6, 3, 70, 270, 20, 40, at::kBFloat16, true, true, true, .1, false, {0}},
           {1, 6, 3, 70, 270, 20, 40, at::kHalf, false, true, true, .1, true, {0}},
           {2, 2, 2, 3, 9, 4, 6, at::kFloat, false, true, true, 1.1},
       })
    cases.push_back(make_case(shape));
  return cases;
}

}  // namespace dsrsq::testing
