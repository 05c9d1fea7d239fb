#include "dsrsq/ops/latent_project.h"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <tuple>

#include "dsrsq/ops/autocast.h"
#include "latent_project_backend.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;
using Result = std::tuple<at::Tensor, at::Tensor>;
using Signature = Result(const at::Tensor&, const MaybeTensor&, const at::Tensor&,
                         const MaybeTensor&);
using IntoSignature = void(const at::Tensor&, const MaybeTensor&, const at::Tensor&,
                           const MaybeTensor&, const at::Tensor&, at::Tensor&, at::Tensor&);

template <typename Form>
const c10::TypedOperatorHandle<Form>& op(const char* name) {
  static const auto handle = c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Form>();
  return handle;
}
const c10::TypedOperatorHandle<Signature>& project_op() {
  return op<Signature>("dsrsq::latent_project");
}
const c10::TypedOperatorHandle<IntoSignature>& into_op() {
  return op<IntoSignature>("dsrsq::latent_project_into");
}

// [B, H_kv, T, d] or [B, T, inner] -> [B, T, inner] of the type that is computed in.
at::Tensor joint_rows(const at::Tensor& x, at::ScalarType type) {
  const at::Tensor rows = x.dim() == 4 ? x.transpose(1, 2).flatten(2) : x;
  return rows.to(type);
}
at::Tensor as_source(const at::Tensor& rows, const at::Tensor& source) {
  if (source.dim() == 3) return rows.to(source.scalar_type());
  return rows.view({source.size(0), source.size(2), source.size(1), source.size(3)})
      .transpose(1, 2)
      .to(source.scalar_type());
}
at::ScalarType compute_type(const at::Tensor& source) {
  return source.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

void project_into(const LatentProjectInputs& in, const at::Tensor& slots, at::Tensor& keys,
                  at::Tensor& values) {
  const ProjectInto backend = latent_project_backend(in.source.device().type());
  TORCH_CHECK(backend != nullptr, "latent_project: this build has no implementation for ",
              in.source.device());
  if (keys.numel() > 0 && in.source.numel() > 0) backend(in, slots, keys, values);
}

// Below autograd.
Result latent_project_forward(const at::Tensor& source, const MaybeTensor& value_source,
                              const at::Tensor& weight, const MaybeTensor& bias) {
  const LatentProjectInputs in{source, value_source, weight, bias};
  const LatentProjectShape s = check_latent_project(in);
  at::Tensor keys =
      at::empty({s.batch, s.tokens, s.width}, source.options().dtype(compute_type(source)));
  at::Tensor values = at::empty_like(keys);
  project_into(in, {}, keys, values);
  return {keys, values};
}

void latent_project_into_forward(const at::Tensor& source, const MaybeTensor& value_source,
                                 const at::Tensor& weight, const MaybeTensor& bias,
                                 const at::Tensor& slots, at::Tensor& keys, at::Tensor& values) {
  const LatentProjectInputs in{source, value_source, weight, bias};
  const LatentProjectShape s = check_latent_project(in);
  const auto type = keys.scalar_type();
  const bool double_in = source.scalar_type() == at::kDouble;
  TORCH_CHECK(keys.dim() == 3 && keys.size(0) == s.batch && keys.size(2) == s.width &&
                  keys.is_contiguous() &&
                  (double_in ? type == at::kDouble : type == at::kFloat || type == at::kBFloat16),
              "latent_project_into: keys must be contiguous ",
              double_in ? "double" : "fp32 or bf16", " [", s.batch, ", L, ", s.width, "], got ",
              type, " ", keys.sizes());
  TORCH_CHECK(
      values.sizes() == keys.sizes() && values.scalar_type() == type && values.is_contiguous(),
      "latent_project_into: values must be like keys, ", type, " ", keys.sizes(), ", got ",
      values.scalar_type(), " ", values.sizes());
  TORCH_CHECK(
      slots.scalar_type() == at::kLong && slots.sizes() == at::IntArrayRef({s.batch, s.tokens}),
      "latent_project_into: slots must be int64 [", s.batch, ", ", s.tokens, "], got ",
      slots.scalar_type(), " ", slots.sizes());
  project_into(in, slots, keys, values);
}

class LatentProjectFunction : public torch::autograd::Function<LatentProjectFunction> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context,
                                                const at::Tensor& source,
                                                const MaybeTensor& value_source,
                                                const at::Tensor& weight, const MaybeTensor& bias) {
    at::AutoDispatchBelowADInplaceOrView guard;
    const auto [keys, values] = project_op().call(source, value_source, weight, bias);
    context->save_for_backward(
        {source, value_source.value_or(at::Tensor()), weight, bias.value_or(at::Tensor())});
    return {keys, values};
  }

  // Of keys and values alike: d_rows = d_z W, d_W = d_z^T rows.
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &source = saved[0], &value_source = saved[1], &weight = saved[2];
    at::AutoDispatchBelowADInplaceOrView guard;
    const Fp32Guard fp32(source.device());
    const auto type = compute_type(source);
    const int64_t width = weight.size(0) / 2;
    const at::Tensor w = weight.to(type);
    std::vector<at::Tensor> d_rows, d_weight, d_bias;
    for (int side = 0; side < 2; ++side) {
      const at::Tensor d = gradients[size_t(side)].to(type);
      const at::Tensor& x = side == 1 && value_source.defined() ? value_source : source;
      const at::Tensor rows = joint_rows(x, type).flatten(0, 1);
      d_rows.push_back(at::matmul(d, w.narrow(0, side * width, width)));
      d_weight.push_back(at::matmul(d.flatten(0, 1).t(), rows));
      d_bias.push_back(d.flatten(0, 1).sum(0));
    }
    at::Tensor d_source, d_value_source;
    if (value_source.defined()) {
      d_source = as_source(d_rows[0], source);
      d_value_source = as_source(d_rows[1], value_source);
    } else {
      d_source = as_source(d_rows[0] + d_rows[1], source);
    }
    return {d_source, d_value_source, at::cat(d_weight).to(weight.scalar_type()),
            saved[3].defined() ? at::cat(d_bias) : at::Tensor()};
  }
};

Result latent_project_autograd(const at::Tensor& source, const MaybeTensor& value_source,
                               const at::Tensor& weight, const MaybeTensor& bias) {
  const auto result = LatentProjectFunction::apply(source, value_source, weight, bias);
  return {result[0], result[1]};
}

void latent_project_into_autograd(const at::Tensor& source, const MaybeTensor& value_source,
                                  const at::Tensor& weight, const MaybeTensor& bias,
                                  const at::Tensor& slots, at::Tensor& keys, at::Tensor& values) {
  const auto wants = [](const at::Tensor& x) { return x.requires_grad(); };
  TORCH_CHECK(
      !at::GradMode::is_enabled() ||
          !(wants(source) || (value_source.has_value() && wants(*value_source)) || wants(weight) ||
            (bias.has_value() && wants(*bias)) || wants(keys) || wants(values)),
      "latent_project_into: writes without gradient, but one of its arguments requires it; "
      "use latent_project, or no_grad");
  {
    at::AutoDispatchBelowADInplaceOrView guard;
    into_op().call(source, value_source, weight, bias, slots, keys, values);
  }
  keys.unsafeGetTensorImpl()->bump_version();
  values.unsafeGetTensorImpl()->bump_version();
}

// Sources as they come (a block's projections return bf16 under autocast), and weights too: fp32
// ones are projections, which stay so (D22).
template <c10::DispatchKey key>
Result latent_project_autocast(const at::Tensor& source, const MaybeTensor& value_source,
                               const at::Tensor& weight, const MaybeTensor& bias) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  return project_op().call(source, value_source, weight, bias);
}
template <c10::DispatchKey key>
void latent_project_into_autocast(const at::Tensor& source, const MaybeTensor& value_source,
                                  const at::Tensor& weight, const MaybeTensor& bias,
                                  const at::Tensor& slots, at::Tensor& keys, at::Tensor& values) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  into_op().call(source, value_source, weight, bias, slots, keys, values);
}

// Before the dispatcher, which says nothing of use about a mix.
void check_devices(const LatentProjectInputs& in) {
  const auto check = [&](const char* name, const MaybeTensor& x) {
    TORCH_CHECK(!x.has_value() || x->device() == in.source.device(),
                "latent_project: source is on ", in.source.device(), ", ", name, " on ",
                x->device(), "; put them on one device");
  };
  check("value_source", in.value_source);
  check("weight", in.weight);
  check("bias", in.bias);
}

}  // namespace

ProjectInto& latent_project_backend(at::DeviceType device) {
  static std::array<ProjectInto, 2> backends{};
  TORCH_CHECK(device == at::kCPU || device == at::kCUDA, "latent_project: no implementation for ",
              device);
  return backends[device == at::kCUDA];
}

Latents latent_project(const LatentProjectInputs& in) {
  check_devices(in);
  auto [keys, values] = project_op().call(in.source, in.value_source, in.weight, in.bias);
  return {keys, values};
}

void latent_project_into(const LatentProjectInputs& in, const at::Tensor& slots, at::Tensor& keys,
                         at::Tensor& values) {
  check_devices(in);
  for (const auto* x :
       {&slots, static_cast<const at::Tensor*>(&keys), static_cast<const at::Tensor*>(&values)})
    TORCH_CHECK(x->device() == in.source.device(), "latent_project_into: source is on ",
                in.source.device(), ", slots or buffers on ", x->device(),
                "; put them on one device");
  into_op().call(in.source, in.value_source, in.weight, in.bias, slots, keys, values);
}

LatentProjectShape check_latent_project(const LatentProjectInputs& in) {
  const at::Tensor &x = in.source, &w = in.weight;
  TORCH_CHECK((x.dim() == 3 || x.dim() == 4) && x.is_floating_point(),
              "latent_project: source must be floating [B, H_kv, T, d] or [B, T, inner], got ",
              x.scalar_type(), " ", x.sizes());
  const bool by_head = x.dim() == 4;
  const int64_t inner = by_head ? x.size(1) * x.size(3) : x.size(2);
  TORCH_CHECK(!in.value_source.has_value() || (in.value_source->sizes() == x.sizes() &&
                                               in.value_source->scalar_type() == x.scalar_type()),
              "latent_project: value_source must be like source, ", x.scalar_type(), " ", x.sizes(),
              ", got ", in.value_source.has_value() ? in.value_source->scalar_type() : at::kFloat,
              " ", in.value_source.has_value() ? in.value_source->sizes() : x.sizes());
  const auto fp = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  TORCH_CHECK(w.dim() == 2 && w.size(0) >= 2 && w.size(0) % 2 == 0 && w.size(1) == inner &&
                  (w.scalar_type() == fp || w.scalar_type() == x.scalar_type()),
              "latent_project: weight must be ", fp, " or ", x.scalar_type(), " [2c, ", inner,
              "], got ", w.scalar_type(), " ", w.sizes());
  TORCH_CHECK(!in.bias.has_value() ||
                  (in.bias->scalar_type() == fp && in.bias->sizes() == w.sizes().slice(0, 1)),
              "latent_project: bias must be ", fp, " [", w.size(0), "], got ",
              in.bias.has_value() ? in.bias->scalar_type() : fp, " ",
              in.bias.has_value() ? in.bias->sizes() : w.sizes());
  return {x.size(0), by_head ? x.size(2) : x.size(1), inner, w.size(0) / 2};
}

void latent_project_plain(const LatentProjectInputs& in, const at::Tensor& slots, at::Tensor& keys,
                          at::Tensor& values) {
  const Fp32Guard fp32(in.source.device());
  const auto type = compute_type(in.source);
  const int64_t width = in.weight.size(0) / 2;
  const at::Tensor w = in.weight.to(type);
  for (int side = 0; side < 2; ++side) {
    const at::Tensor& source =
        side == 1 && in.value_source.has_value() ? *in.value_source : in.source;
    at::Tensor z = at::matmul(joint_rows(source, type), w.narrow(0, side * width, width).t());
    if (in.bias.has_value()) z = z + in.bias->narrow(0, side * width, width);
    at::Tensor& buffer = side == 0 ? keys : values;
    if (!slots.defined()) {
      buffer.copy_(z);
      continue;
    }
    // One more row takes what has no slot.
    const int64_t length = buffer.size(1), rows = buffer.size(0) * length;
    const at::Tensor first = at::arange(0, rows, length, slots.options()).unsqueeze(1);
    const at::Tensor target =
        at::where((slots >= 0).logical_and(slots < length), first + slots, rows);
    const at::Tensor flat = buffer.view({rows, width});
    const at::Tensor grown = at::cat({flat, flat.narrow(0, 0, 1)});
    grown.index_copy_(0, target.flatten(), z.flatten(0, 1).to(buffer.scalar_type()));
    flat.copy_(grown.narrow(0, 0, rows));
  }
}

TORCH_LIBRARY_IMPL(dsrsq, CPU, m) {
  m.impl("latent_project", latent_project_forward);
  m.impl("latent_project_into", latent_project_into_forward);
}
TORCH_LIBRARY_IMPL(dsrsq, CUDA, m) {
  m.impl("latent_project", latent_project_forward);
  m.impl("latent_project_into", latent_project_into_forward);
}
TORCH_LIBRARY_IMPL(dsrsq, Autograd, m) {
  m.impl("latent_project", latent_project_autograd);
  m.impl("latent_project_into", latent_project_into_autograd);
}
TORCH_LIBRARY_IMPL(dsrsq, AutocastCPU, m) {
  m.impl("latent_project", latent_project_autocast<c10::DispatchKey::AutocastCPU>);
  m.impl("latent_project_into", latent_project_into_autocast<c10::DispatchKey::AutocastCPU>);
}
TORCH_LIBRARY_IMPL(dsrsq, AutocastCUDA, m) {
  m.impl("latent_project", latent_project_autocast<c10::DispatchKey::AutocastCUDA>);
  m.impl("latent_project_into", latent_project_into_autocast<c10::DispatchKey::AutocastCUDA>);
}

}  // namespace dsrsq::ops
