#include "dsrsq/ops/cluster_attention.h"

#include <ATen/autocast_mode.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/logaddexp.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <array>
#include <tuple>

#include "cluster_attention_backend.h"
#include "cluster_attention_checks.h"
#include "cluster_attention_plain.h"

namespace dsrsq::ops {
namespace {

using MaybeTensor = std::optional<at::Tensor>;
using Result = std::tuple<at::Tensor, at::Tensor>;
using Signature = Result(const at::Tensor&, const at::Tensor&, const at::Tensor&, const at::Tensor&,
                         const at::Tensor&, const MaybeTensor&, int64_t, int64_t, int64_t, double,
                         const MaybeTensor&, const MaybeTensor&, bool);

const c10::TypedOperatorHandle<Signature>& op() {
  static const auto handle = c10::Dispatcher::singleton()
                                 .findSchemaOrThrow("dsrsq::cluster_attention", "")
                                 .typed<Signature>();
  return handle;
}

const ClusterAttentionBackend& backend_of(const at::Tensor& q, bool plain) {
  static const ClusterAttentionBackend plain_backend{cluster_attention_forward_plain,
                                                     cluster_attention_backward_plain};
  if (plain) return plain_backend;
  const ClusterAttentionBackend& backend = cluster_attention_backend(q.device().type());
  TORCH_CHECK(backend.forward != nullptr,
              "cluster_attention: this build has no implementation for ", q.device());
  return backend;
}

// One part's share of a softmax over two, [B, H, N_q, 1]; 0 where neither part has a key.
at::Tensor share_of(const at::Tensor& part_lse, const at::Tensor& lse) {
  return (part_lse - lse).exp().nan_to_num(0).unsqueeze(-1);
}

// The softmax over these clusters' keys and the other part's, which are different keys.
void join(ClusterAttentionKept& kept, const at::Tensor& other_out, const at::Tensor& other_lse) {
  const at::Tensor lse = at::logaddexp(kept.lse, other_lse.to(kept.lse.scalar_type()));
  const at::Tensor out = kept.out * share_of(kept.lse, lse) + other_out * share_of(other_lse, lse);
  kept.out = out.to(kept.out.scalar_type());
  kept.lse = lse;
}

class ClusterAttentionFunction : public torch::autograd::Function<ClusterAttentionFunction> {
 public:
  static torch::autograd::variable_list forward(
      torch::autograd::AutogradContext* context, const at::Tensor& q, const at::Tensor& k,
      const at::Tensor& v, const at::Tensor& assignment, const at::Tensor& routes,
      const MaybeTensor& key_bias, int64_t clusters, int64_t window, int64_t sinks, double scale,
      const MaybeTensor& other_out, const MaybeTensor& other_lse, bool plain) {
    at::AutoDispatchBelowADInplaceOrView guard;
    ClusterAttentionKept kept = backend_of(q, plain).forward(
        {q, k, v, assignment, routes, key_bias, {clusters, window, sinks, scale, plain}});
    if (other_out.has_value()) join(kept, *other_out, *other_lse);
    context->save_for_backward({q, k, v, assignment, routes, key_bias.value_or(at::Tensor()),
                                kept.out, kept.lse, kept.index, other_out.value_or(at::Tensor()),
                                other_lse.value_or(at::Tensor())});
    context->saved_data["clusters"] = clusters;
    context->saved_data["window"] = window;
    context->saved_data["sinks"] = sinks;
    context->saved_data["scale"] = scale;
    context->saved_data["plain"] = plain;
    context->mark_non_differentiable({kept.lse});
    return {kept.out, kept.lse};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto& data = context->saved_data;
    const MaybeTensor key_bias = saved[5].defined() ? MaybeTensor(saved[5]) : std::nullopt;
    const ClusterAttentionOptions options{data.at("clusters").toInt(), data.at("window").toInt(),
                                          data.at("sinks").toInt(), data.at("scale").toDouble(),
                                          data.at("plain").toBool()};
    at::AutoDispatchBelowADInplaceOrView guard;
    // With the joined output and log-sum-exp a probability is one of the whole softmax, and these
    // are its gradients, whoever the other keys belong to (D13).
    const ClusterAttentionGradients g =
        backend_of(saved[0], options.plain)
            .backward({saved[0], saved[1], saved[2], saved[3], saved[4], key_bias, options},
                      {saved[6], saved[7], saved[8]}, gradients[0]);
    at::Tensor d_other_out, d_other_lse;
    if (const auto& other_out = saved[9], &other_lse = saved[10]; other_out.defined()) {
      const at::Tensor share = share_of(other_lse, saved[7]);
      const at::Tensor part = gradients[0] * share;
      d_other_out = part.to(other_out.scalar_type());
      d_other_lse = (part * (other_out - saved[6])).sum(-1).to(other_lse.scalar_type());
    }
    return {g.dq, g.dk, g.dv, {}, {}, g.d_key_bias, {}, {}, {}, {}, d_other_out, d_other_lse, {}};
  }
};

Result cluster_attention_autograd(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const at::Tensor& assignment, const at::Tensor& routes,
                                  const MaybeTensor& key_bias, int64_t clusters, int64_t window,
                                  int64_t sinks, double scale, const MaybeTensor& other_out,
                                  const MaybeTensor& other_lse, bool plain) {
  const auto result =
      ClusterAttentionFunction::apply(q, k, v, assignment, routes, key_bias, clusters, window,
                                      sinks, scale, other_out, other_lse, plain);
  return {result[0], result[1]};
}

// Below autograd, where what the forward pass would keep is dropped.
Result cluster_attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                 const at::Tensor& assignment, const at::Tensor& routes,
                                 const MaybeTensor& key_bias, int64_t clusters, int64_t window,
                                 int64_t sinks, double scale, const MaybeTensor& other_out,
                                 const MaybeTensor& other_lse, bool plain) {
  ClusterAttentionKept kept = backend_of(q, plain).forward(
      {q, k, v, assignment, routes, key_bias, {clusters, window, sinks, scale, plain}});
  if (other_out.has_value()) join(kept, *other_out, *other_lse);
  return {kept.out, kept.lse};
}

// The kernels multiply in bf16 whatever autocast's own type is.
template <c10::DispatchKey key, c10::DeviceType device>
Result cluster_attention_autocast(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                  const at::Tensor& assignment, const at::Tensor& routes,
                                  const MaybeTensor& key_bias, int64_t clusters, int64_t window,
                                  int64_t sinks, double scale, const MaybeTensor& other_out,
                                  const MaybeTensor& other_lse, bool plain) {
  const c10::impl::ExcludeDispatchKeyGuard guard(key);
  const auto cast = [](at::ScalarType type, const at::Tensor& x) {
    return at::autocast::cached_cast(type, x, device);
  };
  const MaybeTensor bias =
      key_bias.has_value() ? MaybeTensor(cast(at::kFloat, *key_bias)) : std::nullopt;
  return op().call(cast(at::kBFloat16, q), cast(at::kBFloat16, k), cast(at::kBFloat16, v),
                   assignment, routes, bias, clusters, window, sinks, scale, other_out, other_lse,
                   plain);
}

}  // namespace

ClusterAttentionBackend& cluster_attention_backend(at::DeviceType device) {
  static std::array<ClusterAttentionBackend, 2> backends{};
  TORCH_CHECK(device == at::kCPU || device == at::kCUDA,
              "cluster_attention: no implementation for ", device);
  return backends[device == at::kCUDA];
}

ClusterAttention cluster_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const at::Tensor& assignment, const at::Tensor& routes,
                                   const std::optional<at::Tensor>& key_bias,
                                   const ClusterAttentionOptions& options,
                                   const std::optional<ClusterAttention>& other) {
  check_cluster_attention(q, k, v, assignment, routes, key_bias, options.clusters, options.window,
                          options.sinks);
  TORCH_CHECK(!other.has_value() ||
                  (other->out.sizes() == q.sizes() && other->lse.sizes() == q.sizes().slice(0, 3) &&
                   other->out.device() == q.device() && other->lse.device() == q.device()),
              "cluster_attention: other must be out ", q.sizes(), " and lse ",
              q.sizes().slice(0, 3), " on ", q.device(), ", got ",
              other.has_value() ? other->out.sizes() : q.sizes(), " and ",
              other.has_value() ? other->lse.sizes() : q.sizes());
  auto [out, lse] = op().call(
      q, k, v, assignment, routes, key_bias, options.clusters, options.window, options.sinks,
      options.scale, other.has_value() ? MaybeTensor(other->out) : std::nullopt,
      other.has_value() ? MaybeTensor(other->lse) : std::nullopt, options.plain);
  return {out, lse};
}

void check_cluster_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const at::Tensor& assignment, const at::Tensor& routes,
                             const std::optional<at::Tensor>& key_bias, int64_t clusters,
                             int64_t window, int64_t sinks) {
  TORCH_CHECK(q.dim() == 4 && q.is_floating_point(),
              "cluster_attention: q must be floating [B, H, N_q, d], got ", q.scalar_type(), " ",
              q.sizes());
  TORCH_CHECK(
      k.dim() == 4 && k.size(0) == q.size(0) && k.size(1) >= 1 && q.size(1) % k.size(1) == 0 &&
          k.size(2) >= q.size(2) && k.size(3) == q.size(3) && k.scalar_type() == q.scalar_type(),
      "cluster_attention: k must be ", q.scalar_type(), " [", q.size(0), ", H_kv that divides ",
      q.size(1), ", N >= ", q.size(2), ", ", q.size(3), "], got ", k.scalar_type(), " ", k.sizes());
  TORCH_CHECK(v.sizes() == k.sizes() && v.scalar_type() == k.scalar_type(),
              "cluster_attention: v must be like k, ", k.scalar_type(), " ", k.sizes(), ", got ",
              v.scalar_type(), " ", v.sizes());
  TORCH_CHECK(clusters >= 1 && window >= 0 && sinks >= 0,
              "cluster_attention: expected clusters >= 1, window >= 0 and sinks >= 0, got ",
              clusters, ", ", window, " and ", sinks);
  TORCH_CHECK(assignment.scalar_type() == at::kInt && assignment.sizes() == k.sizes().slice(0, 3),
              "cluster_attention: assignment must be int32 ", k.sizes().slice(0, 3), ", got ",
              assignment.scalar_type(), " ", assignment.sizes());
  TORCH_CHECK(routes.scalar_type() == at::kInt && routes.dim() == 4 &&
                  routes.sizes().slice(0, 3) == q.sizes().slice(0, 3) && routes.size(3) >= 1 &&
                  routes.size(3) <= clusters,
              "cluster_attention: routes must be int32 [", q.size(0), ", ", q.size(1), ", ",
              q.size(2), ", 1 <= k <= m = ", clusters, "], got ", routes.scalar_type(), " ",
              routes.sizes());
  // Gradients are checked in double, on the CPU.
  const auto bias_type = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  TORCH_CHECK(!key_bias.has_value() || (key_bias->scalar_type() == bias_type &&
                                        key_bias->sizes() == k.sizes().slice(0, 3)),
              "cluster_attention: key_bias must be ", bias_type, " ", k.sizes().slice(0, 3),
              ", got ", key_bias.has_value() ? key_bias->scalar_type() : at::kFloat, " ",
              key_bias.has_value() ? key_bias->sizes() : k.sizes());
  const auto device = q.device();
  TORCH_CHECK(k.device() == device && v.device() == device && assignment.device() == device &&
                  routes.device() == device &&
                  (!key_bias.has_value() || key_bias->device() == device),
              "cluster_attention: q is on ", device, ", k on ", k.device(), ", v on ", v.device(),
              ", assignment on ", assignment.device(), ", routes on ", routes.device(),
              key_bias.has_value() ? ", key_bias on " + key_bias->device().str() : "",
              "; put them on one device");
}

TORCH_LIBRARY_IMPL(dsrsq, Autograd, m) { m.impl("cluster_attention", cluster_attention_autograd); }
TORCH_LIBRARY_IMPL(dsrsq, AutocastCPU, m) {
  m.impl("cluster_attention", cluster_attention_autocast<c10::DispatchKey::AutocastCPU, at::kCPU>);
}
TORCH_LIBRARY_IMPL(dsrsq, AutocastCUDA, m) {
  m.impl("cluster_attention",
         cluster_attention_autocast<c10::DispatchKey::AutocastCUDA, at::kCUDA>);
}
TORCH_LIBRARY_IMPL(dsrsq, CPU, m) { m.impl("cluster_attention", cluster_attention_forward); }
TORCH_LIBRARY_IMPL(dsrsq, CUDA, m) { m.impl("cluster_attention", cluster_attention_forward); }

}  // namespace dsrsq::ops
