#include "dsrsq/ops/rotary.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <numbers>
#include <string>
#include <utility>

#include "dense_backend.h"
#include "dsrsq/ops/rotary_frequencies.h"

namespace dsrsq::ops {

namespace {

// Llama 3.1: smooth between what is divided and what stays.
void scale_llama3(std::vector<double>& frequency, const RotaryScaling& s) {
  for (auto& f : frequency) {
    auto turns = double(s.original_positions) * f / (2 * std::numbers::pi);
    auto smooth =
        (turns - s.low_frequency_factor) / (s.high_frequency_factor - s.low_frequency_factor);
    smooth = std::clamp(smooth, 0.0, 1.0);
    f = (1 - smooth) * f / s.factor + smooth * f;
  }
}

void scale_yarn(std::vector<double>& frequency, double base, const RotaryScaling& s) {
  auto width = 2 * double(frequency.size());
  // The pair that makes `turns` turns over the original length.
  auto pair = [&](double turns) {
    return width * std::log(double(s.original_positions) / (turns * 2 * std::numbers::pi)) /
           (2 * std::log(base));
  };
  auto low = std::max(std::floor(pair(s.beta_fast)), 0.0);
  auto high = std::min(std::ceil(pair(s.beta_slow)), width - 1);
  if (high == low) high += 0.001;
  for (size_t i = 0; i < frequency.size(); ++i) {
    auto ramp = std::clamp((double(i) - low) / (high - low), 0.0, 1.0);
    frequency[i] = frequency[i] / s.factor * ramp + frequency[i] * (1 - ramp);
  }
}

}  // namespace

RotaryFrequencies rotary_frequencies(int64_t head_width, double base,
                                     const RotaryScaling& scaling) {
  TORCH_CHECK(head_width % 2 == 0, "rotary_table: head width ", head_width, " must be even");
  RotaryFrequencies result;
  auto& frequency = result.radians;
  for (int64_t i = 0; i < head_width; i += 2)
    frequency.push_back(std::pow(base, -double(i) / double(head_width)));
  if (scaling.kind == "linear")
    for (auto& f : frequency) f /= scaling.factor;
  if (scaling.kind == "llama3") scale_llama3(frequency, scaling);
  if (scaling.kind == "yarn") {
    scale_yarn(frequency, base, scaling);
    result.scale = scaling.attention_factor > 0 ? scaling.attention_factor
                                                : 0.1 * std::log(scaling.factor) + 1;
  }
  return result;
}

namespace {
// [d/2] fp64 on the device, kept: a copy to a GPU waits for it, and none may be part of a recorded
// step.
at::Tensor on_device(const std::vector<double>& frequency, at::Device device) {
  static std::mutex mutex;
  static std::map<std::pair<std::string, std::vector<double>>, at::Tensor> kept;
  const std::lock_guard lock(mutex);
  auto& tensor = kept[{device.str(), frequency}];
  if (!tensor.defined()) tensor = at::tensor(frequency, at::kDouble).to(device);
  return tensor;
}
}  // namespace

RotaryTable rotary_table(const at::Tensor& positions, int64_t head_width, double base,
                         const RotaryScaling& scaling) {
  auto [frequency, scale] = rotary_frequencies(head_width, base, scaling);
  auto angles = positions.to(at::kDouble).unsqueeze(-1) *
                on_device(frequency, positions.device());  // [B, T, d/2]
  return {(angles.cos() * scale).to(at::kFloat).unsqueeze(1),
          (angles.sin() * scale).to(at::kFloat).unsqueeze(1), scale};
}

namespace {
// The fused kernel: one pass over x instead of a dozen. Its gradient turns the other way.
class FusedRotation : public torch::autograd::Function<FusedRotation> {
 public:
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            const at::Tensor& cosine, const at::Tensor& sine) {
    at::AutoDispatchBelowADInplaceOrView below;
    context->save_for_backward({cosine, sine});
    return cuda_dense_backend().rotate(x, cosine, sine, 1);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    auto saved = context->get_saved_variables();
    return {cuda_dense_backend().rotate(gradients[0], saved[0], saved[1], -1), {}, {}};
  }
};
}  // namespace

at::Tensor rotate(const at::Tensor& x, const RotaryTable& table, bool inverse) {
  // A double input (the oracle tests) keeps its precision; half types are rotated in fp32.
  auto type = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  auto cosine = table.cosine.to(type);
  auto sine = inverse ? table.sine.to(type).neg() : table.sine.to(type);
  if (inverse && table.scale != 1) {
    auto undo = 1 / (table.scale * table.scale);
    cosine = cosine * undo;
    sine = sine * undo;
  }
  if (x.is_cuda() && x.scalar_type() == at::kBFloat16 && x.size(-1) % 16 == 0 &&
      cuda_dense_backend().rotate != nullptr)
    return FusedRotation::apply(x, cosine, sine);
  auto halves = x.chunk(2, -1);
  auto first = halves[0] * cosine - halves[1] * sine;
  auto second = halves[1] * cosine + halves[0] * sine;
  return at::cat({first, second}, -1).to(x.scalar_type());
}

}  // namespace dsrsq::ops
