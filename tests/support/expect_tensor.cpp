#include "support/expect_tensor.h"

#include <ATen/ATen.h>

#include <string>

namespace dsrsq::testing {
namespace {

// Flat index -> "[1, 0, 7]".
std::string position(int64_t flat, at::IntArrayRef sizes) {
  std::string text;
  for (int64_t i = static_cast<int64_t>(sizes.size()) - 1; i >= 0; --i) {
    text = std::to_string(flat % sizes[i]) + (text.empty() ? "" : ", ") + text;
    flat /= sizes[i];
  }
  return "[" + text + "]";
}

}  // namespace

::testing::AssertionResult tensors_near(const at::Tensor& actual, const at::Tensor& expected,
                                        Tolerance tolerance) {
  if (!actual.defined() || !expected.defined()) {
    return ::testing::AssertionFailure()
           << (actual.defined() ? "expected" : "actual") << " tensor is undefined";
  }
  if (actual.sizes() != expected.sizes()) {
    return ::testing::AssertionFailure()
           << "shape " << actual.sizes() << ", expected " << expected.sizes();
  }
  if (actual.numel() == 0) return ::testing::AssertionSuccess();
  const at::Tensor a = actual.detach().to(at::kCPU, at::kDouble).reshape(-1);
  const at::Tensor e = expected.detach().to(at::kCPU, at::kDouble).reshape(-1);
  const at::Tensor bound = tolerance.absolute + tolerance.relative * e.abs();
  const at::Tensor error = (a - e).abs();
  // An infinite expectation would allow any error.
  const at::Tensor near = at::logical_and(error <= bound, e.isfinite());
  const at::Tensor bad = at::logical_and(a != e, at::logical_not(near));
  const int64_t num_bad = bad.sum().item<int64_t>();
  if (num_bad == 0) return ::testing::AssertionSuccess();

  // The worst by error over bound; NaN counts as infinitely bad.
  const at::Tensor badness =
      at::where(bad, (error / (bound + 1e-300)).nan_to_num(1e300, 1e300), at::zeros_like(error));
  const int64_t worst = badness.argmax().item<int64_t>();
  return ::testing::AssertionFailure()
         << num_bad << " of " << actual.numel() << " elements differ; worst at "
         << position(worst, actual.sizes()) << ": " << a[worst].item<double>() << ", expected "
         << e[worst].item<double>() << " (error " << error[worst].item<double>() << ", allowed "
         << bound[worst].item<double>() << "), shape " << actual.sizes();
}

::testing::AssertionResult tensors_equal(const at::Tensor& actual, const at::Tensor& expected) {
  if (actual.defined() && expected.defined() && actual.scalar_type() != expected.scalar_type()) {
    return ::testing::AssertionFailure()
           << "dtype " << actual.scalar_type() << ", expected " << expected.scalar_type();
  }
  return tensors_near(actual, expected, kExact);
}

}  // namespace dsrsq::testing
