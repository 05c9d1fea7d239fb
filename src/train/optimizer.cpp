#include "dsrsq/train/optimizer.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_foreach_add.h>
#include <ATen/ops/_foreach_mul.h>
#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>

#include <algorithm>
#include <cmath>
#include <numbers>
#include <set>
#include <tuple>
#include <utility>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

constexpr const char* kFirst = "first.";
constexpr const char* kSecond = "second.";
constexpr const char* kStep = "step.";

Error internal_error(const std::string& message) { return Error(ExitCode::kInternal, message); }

// The lists of one fused call. The kernel takes one rate, one decay, one device and one type.
struct UpdateGroup {
  std::vector<at::Tensor> weights, gradients, first, second, steps;
};
using UpdateKey = std::tuple<double, bool, std::string, at::ScalarType>;

bool is_active(const NamedParameter& parameter) {
  return !parameter.frozen && parameter.tensor.grad().defined();
}

std::vector<at::Tensor> active_gradients(const std::vector<NamedParameter>& parameters) {
  std::vector<at::Tensor> gradients;
  for (const NamedParameter& parameter : parameters)
    if (is_active(parameter)) gradients.push_back(parameter.tensor.grad());
  return gradients;
}

// The fused kernels walk raw memory: a gradient laid out in another way than its weight would be
// applied to the wrong elements.
at::Tensor matching_gradient(const at::Tensor& weight) {
  at::Tensor gradient = weight.grad();
  if (gradient.strides() == weight.strides() && gradient.scalar_type() == weight.scalar_type())
    return gradient;
  at::Tensor copy = at::empty_like(weight);
  copy.copy_(gradient);
  return copy;
}

void check_parameter(const NamedParameter& parameter) {
  const at::Tensor& tensor = parameter.tensor;
  if (!tensor.defined())
    throw internal_error(concat("AdamW: parameter ", parameter.name, " is undefined"));
  if (tensor.scalar_type() != at::kFloat && tensor.scalar_type() != at::kDouble)
    throw internal_error(concat("AdamW: parameter ", parameter.name,
                                ": expected fp32 or fp64 weights (autocast casts copies), got ",
                                at::toString(tensor.scalar_type())));
  if (!tensor.is_non_overlapping_and_dense())
    throw internal_error(concat("AdamW: parameter ", parameter.name,
                                " is a strided view; expected a tensor of its own"));
}

// The entry for one parameter, checked; `shape` and `type` are what it must have.
const at::Tensor& state_entry(const std::map<std::string, at::Tensor>& state,
                              const std::string& name, at::IntArrayRef shape, at::ScalarType type) {
  const auto found = state.find(name);
  if (found == state.end())
    throw CheckpointError(concat("optimizer state: ", name,
                                 " is missing, though other entries of this parameter are there"));
  const at::Tensor& tensor = found->second;
  if (!tensor.defined() || tensor.sizes() != shape || tensor.scalar_type() != type)
    throw CheckpointError(concat(
        "optimizer state: ", name, ": expected shape ", shape, " of type ", at::toString(type),
        ", got ",
        tensor.defined() ? concat(tensor.sizes(), " of type ", at::toString(tensor.scalar_type()))
                         : "nothing",
        "; was the run trained with another model.width?"));
  return tensor;
}

// A copy with the memory layout and the device of `weight`.
at::Tensor copy_like(const at::Tensor& weight, const at::Tensor& values) {
  at::Tensor copy = at::empty_like(weight);
  copy.copy_(values);
  return copy;
}

double after_warmup(const OptimizerConfig& config, int64_t step, int64_t total) {
  const double last = static_cast<double>(total - 1);
  const double peak =
      static_cast<double>(std::max<int64_t>(config.warmup_steps - 1, 0));  // its share is 1
  const bool cosine = config.schedule == "cosine";
  const double start =
      cosine ? peak : std::max(peak, config.constant_share * static_cast<double>(total));
  if (static_cast<double>(step) <= start) return 1.0;
  const double progress =
      std::min(1.0, (static_cast<double>(step) - start) / std::max(1.0, last - start));
  const double share =
      cosine ? 0.5 * (1.0 + std::cos(std::numbers::pi * progress)) : 1.0 - progress;
  return config.final_share + (1.0 - config.final_share) * share;
}

}  // namespace

void OptimizerConfig::visit_fields(ConfigVisitor& v) {
  v.field("learning_rate", learning_rate, "Peak learning rate, reached at the end of the warm-up.",
          more_than(0));
  v.field("warmup_steps", warmup_steps,
          "Steps of linear warm-up, from 1/warmup_steps of the rate; 0: none.", at_least(0));
  v.field(
      "schedule", schedule,
      "After the warm-up. cosine: half a cosine to final_share. constant_linear: constant until "
      "constant_share of all steps, then linear to final_share.",
      one_of({"cosine", "constant_linear"}));
  v.field("constant_share", constant_share,
          "constant_linear: share of all steps before the rate falls.", between(0, 1));
  v.field("final_share", final_share, "Share of the learning rate at the last step.",
          between(0, 1));
  v.field("beta1", beta1, "AdamW: decay of the mean of gradients.", between(0, 0.999999));
  v.field("beta2", beta2, "AdamW: decay of the mean of squared gradients.", between(0, 0.999999));
  v.field("epsilon", epsilon, "AdamW: added to the root of the second moment.", more_than(0));
  v.field("weight_decay", weight_decay, "Decoupled weight decay of weight matrices.", at_least(0));
  v.field("clip", clip, "Largest global L2 norm of the gradient; 0: no clipping.", at_least(0));
}

double learning_rate_share(const OptimizerConfig& config, int64_t step, int64_t total) {
  if (step < 0 || total < 1)
    throw internal_error(concat("learning_rate_share: step ", step, " of ", total, " steps"));
  if (config.schedule != "cosine" && config.schedule != "constant_linear")
    throw ConfigError(
        concat("schedule: expected cosine or constant_linear, got ", config.schedule));
  if (step < config.warmup_steps)
    return static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps);
  return after_warmup(config, step, total);
}

AdamW::AdamW(const OptimizerConfig& config, std::vector<NamedParameter> parameters)
    : config_(config),
      parameters_(std::move(parameters)),
      first_(parameters_.size()),
      second_(parameters_.size()),
      steps_(parameters_.size()) {
  std::set<std::string> names;
  std::set<const void*> tensors;  // a tied weight listed under two names would be updated twice
  for (const NamedParameter& parameter : parameters_) {
    check_parameter(parameter);
    if (!names.insert(parameter.name).second)
      throw internal_error(concat("AdamW: two parameters are named ", parameter.name));
    if (!tensors.insert(parameter.tensor.unsafeGetTensorImpl()).second)
      throw internal_error(
          concat("AdamW: parameter ", parameter.name, " is listed twice under different names"));
  }
}

at::Tensor AdamW::gradient_norm() const {
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> gradients = active_gradients(parameters_);
  const at::Device device = !gradients.empty()    ? gradients.front().device()
                            : parameters_.empty() ? at::Device(at::kCPU)
                                                  : parameters_.front().tensor.device();
  if (gradients.empty()) return at::zeros({}, at::TensorOptions(at::kFloat).device(device));
  std::vector<at::Tensor> norms = at::_foreach_norm(gradients);
  for (at::Tensor& norm : norms) norm = norm.to(device, at::kFloat);
  return at::linalg_vector_norm(at::stack(norms));
}

void AdamW::clip_gradients(const at::Tensor& norm) {
  if (config_.clip <= 0) return;
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> gradients = active_gradients(parameters_);
  if (gradients.empty()) return;
  // Stays on the device: no wait for the value. The constant keeps rounding from ending above the
  // limit. A norm that is not finite makes gradients that are not finite, so that divergence is not
  // hidden.
  const at::Tensor factor = norm.add(1e-6).reciprocal_().mul_(config_.clip).clamp_max_(1.0);
  at::_foreach_mul_(gradients, factor);
}

void AdamW::step(double share) {
  const at::NoGradGuard no_grad;
  std::map<UpdateKey, UpdateGroup>
      groups;  // ordered: the same calls in the same order on every run
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const NamedParameter& parameter = parameters_[i];
    if (!is_active(parameter)) continue;
    const at::Tensor& weight = parameter.tensor;
    if (!first_[i].defined()) {
      first_[i] = at::zeros_like(weight);
      second_[i] = at::zeros_like(weight);
      steps_[i] = at::zeros({}, at::TensorOptions(at::kFloat).device(weight.device()));
    }
    UpdateGroup& group =
        groups[{parameter.rate, parameter.decay, weight.device().str(), weight.scalar_type()}];
    group.weights.push_back(weight);
    group.gradients.push_back(matching_gradient(weight));
    group.first.push_back(first_[i]);
    group.second.push_back(second_[i]);
    group.steps.push_back(steps_[i]);
  }
  for (auto& [key, group] : groups) {
    at::_foreach_add_(group.steps,
                      1);  // the fused kernel expects the number of this update, counted from 1
    const double rate = config_.learning_rate * share * std::get<0>(key);
    const double decay = std::get<1>(key) ? config_.weight_decay : 0.0;
    at::_fused_adamw_(group.weights, group.gradients, group.first, group.second,
                      /*max_exp_avg_sqs=*/{}, group.steps, rate, config_.beta1, config_.beta2,
                      decay, config_.epsilon, /*amsgrad=*/false, /*maximize=*/false);
  }
}

void AdamW::zero_gradients() {
  // Dropped, not filled with zeros: a parameter that takes no part in the next step must be skipped
  // by it.
  for (NamedParameter& parameter : parameters_) parameter.tensor.mutable_grad().reset();
}

std::map<std::string, at::Tensor> AdamW::state() const {
  std::map<std::string, at::Tensor> state;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    if (!first_[i].defined()) continue;
    state[kFirst + parameters_[i].name] = first_[i];
    state[kSecond + parameters_[i].name] = second_[i];
    state[kStep + parameters_[i].name] = steps_[i];
  }
  return state;
}

void AdamW::load_state(const std::map<std::string, at::Tensor>& state) {
  const at::NoGradGuard no_grad;
  const size_t count = parameters_.size();
  std::vector<at::Tensor> first(count), second(count), steps(count);
  std::set<std::string> used;
  for (size_t i = 0; i < count; ++i) {
    const at::Tensor& weight = parameters_[i].tensor;
    const std::string names[] = {kFirst + parameters_[i].name, kSecond + parameters_[i].name,
                                 kStep + parameters_[i].name};
    if (std::none_of(std::begin(names), std::end(names),
                     [&](const std::string& name) { return state.count(name) > 0; }))
      continue;  // never updated when it was saved
    first[i] =
        copy_like(weight, state_entry(state, names[0], weight.sizes(), weight.scalar_type()));
    second[i] =
        copy_like(weight, state_entry(state, names[1], weight.sizes(), weight.scalar_type()));
    steps[i] = state_entry(state, names[2], {}, at::kFloat)
                   .to(weight.device(), /*non_blocking=*/false, /*copy=*/true);
    used.insert(std::begin(names), std::end(names));
  }
  for (const auto& [name, tensor] : state)
    if (!used.count(name))
      throw CheckpointError(
          concat("optimizer state: ", name,
                 " belongs to no parameter of this model; was the run trained with a "
                 "part that is switched off now?"));
  first_ = std::move(first);
  second_ = std::move(second);
  steps_ = std::move(steps);
}

int64_t AdamW::bytes() const {
  int64_t bytes = 0;
  for (const auto* list : {&first_, &second_, &steps_})
    for (const at::Tensor& tensor : *list)
      if (tensor.defined()) bytes += static_cast<int64_t>(tensor.nbytes());
  return bytes;
}

}  // namespace dsrsq
