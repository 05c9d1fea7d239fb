#include "dsrsq/ops/latent_attention.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <tuple>

#include "latent_attention_backend.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;
using Numbers = at::ArrayRef<double>;
using Result = std::tuple<at::Tensor, at::Tensor>;
using Signature = Result(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                         const at::Tensor&, const MaybeTensor&, const MaybeTensor&,
                         const MaybeTensor&, const MaybeTensor&, const MaybeTensor&,
                         const MaybeTensor&, double, Numbers, double);

const c10::TypedOperatorHandle<Signature>& op() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("dsrsq::latent_attention", "")
                                 .typed<Signature>();
  return handle;
}

Result call(const LatentAttentionInputs& in, const LatentAttentionOptions& options) {
  return op().call(in.q, in.key_latents, in.value_latents, in.key_projection, in.value_projection,
                   in.valid, in.key_bias, in.age_bias, in.query_order, in.key_order, in.positions,
                   options.scale, options.frequencies, options.rotary_scale);
}

class LatentAttentionFunction : public torch::autograd::Function<LatentAttentionFunction> {
 public:
  static torch::autograd::variable_list forward(
      torch::autograd::AutogradContext* context, const at::Tensor& q, const at::Tensor& key_latents,
      const at::Tensor& value_latents, const at::Tensor& key_projection,
      const at::Tensor& value_projection, const MaybeTensor& valid, const MaybeTensor& key_bias,
      const MaybeTensor& age_bias, const MaybeTensor& query_order, const MaybeTensor& key_order,
      const MaybeTensor& positions, double scale, std::vector<double> frequencies,
      double rotary_scale) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto [out, lse] = call({q, key_latents, value_latents, key_projection, value_projection,
                                  valid, key_bias, age_bias, query_order, key_order, positions},
                                 {scale, frequencies, rotary_scale});
    const auto kept = [](const MaybeTensor& x) { return x.value_or(at::Tensor()); };
    context->save_for_backward({q, key_latents, value_latents, key_projection, value_projection,
                                kept(valid), kept(key_bias), kept(age_bias), kept(query_order),
                                kept(key_order), kept(positions), lse});
    context->saved_data["scale"] = scale;
    context->saved_data["frequencies"] = frequencies;
    context->saved_data["rotary_scale"] = rotary_scale;
    context->set_materialize_grads(false);
    return {out, lse};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto& data = context->saved_data;
    const auto given = [&](size_t i) {
      return saved[i].defined() ? MaybeTensor(saved[i]) : std::nullopt;
    };
    const LatentAttentionOptions options{data.at("scale").toDouble(),
                                         data.at("frequencies").toDoubleVector(),
                                         data.at("rotary_scale").toDouble()};
    at::AutoDispatchBelowADInplaceOrView guard;
    const LatentAttentionGradients g =
        latent_attention_backward({saved[0], saved[1], saved[2], saved[3], saved[4], given(5),
                                   given(6), given(7), given(8), given(9), given(10)},
                                  options, saved[11], gradients[0], gradients[1]);
    return {g.q,
            g.key_latents,
            g.value_latents,
            g.key_projection,
            g.value_projection,
            {},
            g.key_bias,
            g.age_bias,
            {},
            {},
            {},
            {},
            {},
            {}};
  }
};

Result latent_attention_autograd(const at::Tensor& q, const at::Tensor& key_latents,
                                 const at::Tensor& value_latents, const at::Tensor& key_projection,
                                 const at::Tensor& value_projection, const MaybeTensor& valid,
                                 const MaybeTensor& key_bias, const MaybeTensor& age_bias,
                                 const MaybeTensor& query_order, const MaybeTensor& key_order,
                                 const MaybeTensor& positions, double scale, Numbers frequencies,
                                 double rotary_scale) {
  const auto result = LatentAttentionFunction::apply(
      q, key_latents, value_latents, key_projection, value_projection, valid, key_bias, age_bias,
      query_order, key_order, positions, scale, frequencies.vec(), rotary_scale);
  return {result[0], result[1]};
}

// Queries in bf16, as attention over exact keys has them; latents in bf16 or as they are, fp32;
// the rest in fp32 (D22).
template <c10::DispatchKey key, c10::DeviceType device>
Result latent_attention_autocast(const at::Tensor& q, const at::Tensor& key_latents,
                                 const at::Tensor& value_latents, const at::Tensor& key_projection,
                                 const at::Tensor& value_projection, const MaybeTensor& valid,
                                 const MaybeTensor& key_bias, const MaybeTensor& age_bias,
                                 const MaybeTensor& query_order, const MaybeTensor& key_order,
                                 const MaybeTensor& positions, double scale, Numbers frequencies,
                                 double rotary_scale) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  const auto cast = [](at::ScalarType type, const at::Tensor& x) {
    return at::autocast::cached_cast(type, x, device);
  };
  const auto bias = [&](const MaybeTensor& x) {
    return x.has_value() ? MaybeTensor(cast(at::kFloat, *x)) : std::nullopt;
  };
  const bool narrow =
      key_latents.scalar_type() == at::kBFloat16 && value_latents.scalar_type() == at::kBFloat16;
  const auto type = narrow ? at::kBFloat16 : at::kFloat;
  return op().call(cast(at::kBFloat16, q), cast(type, key_latents), cast(type, value_latents),
                   cast(at::kFloat, key_projection), cast(at::kFloat, value_projection), valid,
                   bias(key_bias), bias(age_bias), query_order, key_order, positions, scale,
                   frequencies, rotary_scale);
}

// Before the dispatcher, which says nothing of use about a mix.
void check_devices(const LatentAttentionInputs& in) {
  const auto check = [&](const char* name, const MaybeTensor& x) {
    TORCH_CHECK(!x.has_value() || x->device() == in.q.device(), "latent_attention: q is on ",
                in.q.device(), ", ", name, " on ", x->device(), "; put them on one device");
  };
  check("key_latents", in.key_latents);
  check("value_latents", in.value_latents);
  check("key_projection", in.key_projection);
  check("value_projection", in.value_projection);
  check("valid", in.valid);
  check("key_bias", in.key_bias);
  check("age_bias", in.age_bias);
  check("query_order", in.query_order);
  check("key_order", in.key_order);
  check("positions", in.positions);
}

}  // namespace

LatentAttention latent_attention(const LatentAttentionInputs& in,
                                 const LatentAttentionOptions& options) {
  check_devices(in);
  auto [out, lse] = call(in, options);
  return {out, lse};
}

void check_latent_attention(const LatentAttentionInputs& in,
                            const LatentAttentionOptions& options) {
  const at::Tensor& q = in.q;
  TORCH_CHECK(q.dim() == 4 && q.is_floating_point(),
              "latent_attention: q must be floating [B, H, T, d], got ", q.scalar_type(), " ",
              q.sizes());
  const at::Tensor& z = in.key_latents;
  TORCH_CHECK(z.dim() == 3 && z.size(0) == q.size(0) && z.size(2) >= 1 &&
                  (z.scalar_type() == q.scalar_type() ||
                   (z.scalar_type() == at::kFloat && q.scalar_type() != at::kDouble)),
              "latent_attention: key_latents must be ", q.scalar_type(), " or fp32 [", q.size(0),
              ", L, c], got ", z.scalar_type(), " ", z.sizes());
  const auto expect = [](const char* name, const at::Tensor& x, at::ScalarType type,
                         at::IntArrayRef sizes) {
    TORCH_CHECK(x.scalar_type() == type && x.sizes() == sizes, "latent_attention: ", name,
                " must be ", type, " ", sizes, ", got ", x.scalar_type(), " ", x.sizes());
  };
  expect("value_latents", in.value_latents, z.scalar_type(), z.sizes());
  const auto fp = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor& p = in.key_projection;
  const int64_t kv_heads = p.dim() == 2 && q.size(3) > 0 ? p.size(1) / q.size(3) : 0;
  TORCH_CHECK(p.scalar_type() == fp && p.dim() == 2 && p.size(0) == z.size(2) && kv_heads >= 1 &&
                  kv_heads * q.size(3) == p.size(1) && q.size(1) % kv_heads == 0,
              "latent_attention: key_projection must be ", fp, " [", z.size(2),
              ", H_kv d], H_kv a divisor of ", q.size(1), " and d = ", q.size(3), ", got ",
              p.scalar_type(), " ", p.sizes());
  expect("value_projection", in.value_projection, fp, p.sizes());
  TORCH_CHECK(options.scale > 0, "latent_attention: expected scale > 0, got ", options.scale);
  const auto by_slot = z.sizes().slice(0, 2);
  if (in.valid.has_value()) expect("valid", *in.valid, at::kBool, by_slot);
  if (in.key_bias.has_value()) expect("key_bias", *in.key_bias, fp, by_slot);
  TORCH_CHECK(in.age_bias.has_value() == in.query_order.has_value() &&
                  in.age_bias.has_value() == in.key_order.has_value(),
              "latent_attention: expected age_bias, query_order and key_order together, got some");
  if (in.age_bias.has_value()) {
    const int64_t buckets = in.age_bias->dim() == 2 ? in.age_bias->size(1) : 0;
    TORCH_CHECK(buckets >= 1 && buckets <= 62, "latent_attention: age_bias must be ", fp, " [",
                q.size(1), ", 1 <= A <= 62], got ", in.age_bias->scalar_type(), " ",
                in.age_bias->sizes());
    expect("age_bias", *in.age_bias, fp, {q.size(1), buckets});
    expect("query_order", *in.query_order, at::kLong, {q.size(0), q.size(2)});
    expect("key_order", *in.key_order, at::kLong, by_slot);
  }
  TORCH_CHECK(in.positions.has_value() == !options.frequencies.empty(),
              "latent_attention: expected positions where there are frequencies, and only there");
  if (!in.positions.has_value()) return;
  TORCH_CHECK(int64_t(options.frequencies.size()) * 2 == q.size(3),
              "latent_attention: expected d / 2 frequencies for d = ", q.size(3), ", got ",
              options.frequencies.size());
  expect("positions", *in.positions, at::kLong, by_slot);
}

TORCH_LIBRARY_IMPL(dsrsq, Autograd, m) { m.impl("latent_attention", latent_attention_autograd); }
TORCH_LIBRARY_IMPL(dsrsq, AutocastCPU, m) {
  m.impl("latent_attention", latent_attention_autocast<c10::DispatchKey::AutocastCPU, at::kCPU>);
}
TORCH_LIBRARY_IMPL(dsrsq, AutocastCUDA, m) {
  m.impl("latent_attention", latent_attention_autocast<c10::DispatchKey::AutocastCUDA, at::kCUDA>);
}

}  // namespace dsrsq::ops
