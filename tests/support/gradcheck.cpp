#include "support/gradcheck.h"

#include <torch/torch.h>

#include <algorithm>

namespace dsrsq::testing {
namespace {

// Fixed weights that no symmetry of the outputs cancels.
at::Tensor weighted_sum(const std::vector<at::Tensor>& outputs) {
  at::Tensor sum;
  for (size_t j = 0; j < outputs.size(); ++j) {
    if (!outputs[j].defined() || !outputs[j].is_floating_point()) continue;
    const at::Tensor phase =
        at::arange(outputs[j].numel(), outputs[j].options().dtype(at::kDouble));
    const at::Tensor weight = (phase * 1.7 + 0.3 + static_cast<double>(j)).sin() + 0.1;
    const at::Tensor term = (weight * outputs[j].reshape(-1).to(at::kDouble)).sum();
    sum = sum.defined() ? sum + term : term;
  }
  return sum;
}

}  // namespace

::testing::AssertionResult gradcheck(const TensorFunction& function,
                                     const std::vector<at::Tensor>& inputs,
                                     const std::vector<int>& differentiable,
                                     const GradcheckOptions& options) {
  std::vector<at::Tensor> values;
  for (const at::Tensor& input : inputs) {
    if (input.defined() && input.is_floating_point() && input.scalar_type() != at::kDouble) {
      return ::testing::AssertionFailure() << "gradcheck needs double, got " << input.scalar_type();
    }
    values.push_back(input.defined() ? input.detach().clone() : input);
  }
  for (const int i : differentiable) values[i].requires_grad_(true);
  const at::Tensor loss = weighted_sum(function(values));
  if (!loss.defined() || !loss.requires_grad()) {
    return ::testing::AssertionFailure() << "no floating output requires grad";
  }
  loss.backward();

  for (const int i : differentiable) {
    const at::Tensor analytic = values[i].grad();
    if (!analytic.defined()) {
      return ::testing::AssertionFailure() << "input " << i << " received no gradient";
    }
    torch::NoGradGuard no_grad;
    const at::Tensor flat =
        values[i].detach().view(-1);  // a view: writes reach the function's input
    const int64_t stride = std::max<int64_t>(1, flat.numel() / options.max_elements);
    for (int64_t e = 0; e < flat.numel(); e += stride) {
      const double x = flat[e].item<double>();
      flat[e] = x + options.step;
      const double above = weighted_sum(function(values)).item<double>();
      flat[e] = x - options.step;
      const double below = weighted_sum(function(values)).item<double>();
      flat[e] = x;
      const double numeric = (above - below) / (2 * options.step);
      const double found = analytic.reshape(-1)[e].item<double>();
      const double allowed =
          options.tolerance.absolute + options.tolerance.relative * std::abs(numeric);
      if (!(std::abs(found - numeric) <= allowed)) {
        return ::testing::AssertionFailure()
               << "input " << i << ", element " << e << ": gradient " << found
               << ", central difference " << numeric << " (allowed error " << allowed << ")";
      }
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace dsrsq::testing
