// The harness of the operators' tests can fail: what it is there to catch, it catches.
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>

#include "support/expect_tensor.h"
#include "support/gradcheck.h"
#include "support/op_case.h"

namespace dsrsq {
namespace {

using testing::gradcheck;
using testing::tensors_equal;
using testing::tensors_near;
using testing::Tolerance;
using Tensors = std::vector<at::Tensor>;

at::Tensor input() { return torch::linspace(-1, 1, 12, at::kDouble).view({3, 4}); }

TEST(ExpectTensor, SaysWhereAndHowFar) {
  const at::Tensor expected = torch::zeros({2, 3});
  at::Tensor actual = expected.clone();
  actual[1][2] = 0.5f;
  EXPECT_TRUE(tensors_near(actual, expected, {0, 0.5}));
  const auto result = tensors_near(actual, expected, {0, 0.1});
  EXPECT_FALSE(result);
  EXPECT_NE(std::string(result.message()).find("worst at [1, 2]: 0.5"), std::string::npos)
      << result.message();
}

TEST(ExpectTensor, RejectsShapesDtypesAndNaN) {
  const at::Tensor ones = torch::ones({2, 2});
  EXPECT_FALSE(tensors_near(ones, torch::ones({4}), {1, 1}));
  EXPECT_FALSE(tensors_equal(ones, torch::ones({2, 2}, at::kDouble)));
  const at::Tensor nan = torch::full({2, 2}, std::numeric_limits<float>::quiet_NaN());
  EXPECT_FALSE(tensors_near(nan, ones, {1, 1}));
  EXPECT_FALSE(tensors_near(ones, nan, {1, 1}));
  const at::Tensor infinity = torch::full({2, 2}, std::numeric_limits<float>::infinity());
  EXPECT_TRUE(tensors_equal(infinity, infinity));
  EXPECT_FALSE(tensors_near(ones, infinity, {1, 1}));
  EXPECT_FALSE(tensors_near(ones, at::Tensor(), {1, 1}));
}

TEST(Gradcheck, AcceptsARightGradient) {
  const auto function = [](const Tensors& in) -> Tensors { return {in[0].sin() * in[1], in[0]}; };
  EXPECT_TRUE(gradcheck(function, {input(), input() + 3}, {0, 1}));
}

TEST(Gradcheck, RejectsAWrongGradient) {
  // The value is 2x, the gradient that of x.
  const auto function = [](const Tensors& in) -> Tensors { return {in[0] + in[0].detach()}; };
  EXPECT_FALSE(gradcheck(function, {input()}, {0}));
}

TEST(Gradcheck, RejectsALostGradient) {
  const auto detached = [](const Tensors& in) -> Tensors { return {in[0].detach() * 2}; };
  EXPECT_FALSE(gradcheck(detached, {input()}, {0}));
  const auto half = [](const Tensors& in) -> Tensors { return {in[0] * in[1].detach()}; };
  EXPECT_FALSE(gradcheck(half, {input(), input()}, {0, 1}));
}

// How many failures the statement reports, without failing this test.
template <typename Statement>
int num_failures(Statement statement) {
  ::testing::TestPartResultArray failures;
  {
    ::testing::ScopedFakeTestPartResultReporter reporter(&failures);
    statement();
  }
  return failures.size();
}

TEST(OpCase, ReportsAnOperatorThatIsWrong) {
  testing::OpCase op_case{"wrong", {input()}, {}, {}, {0, 1e-9}, {}};
  op_case.oracle = [](const Tensors& in) -> Tensors { return {in[0]}; };
  op_case.call = [](const Tensors& in) -> Tensors { return {in[0].detach() + 1e-6}; };
  const int devices = static_cast<int>(testing::test_devices().size());
  EXPECT_EQ(num_failures([&] { testing::expect_parity(op_case); }), devices);
  EXPECT_EQ(num_failures([&] { testing::expect_gradients(op_case); }), 0);
  EXPECT_EQ(num_failures([&] { testing::expect_repeatable(op_case); }), 0);

  op_case.call = [](const Tensors& in) -> Tensors { return {in[0] * 1}; };
  EXPECT_EQ(num_failures([&] { testing::expect_parity(op_case); }), 0);
  EXPECT_EQ(num_failures([&] { testing::expect_gradients(op_case); }),
            1);  // it lets a gradient through

  op_case.call = [](const Tensors& in) -> Tensors { return {torch::rand_like(in[0])}; };
  EXPECT_EQ(num_failures([&] { testing::expect_repeatable(op_case); }), devices);
}

}  // namespace
}  // namespace dsrsq
