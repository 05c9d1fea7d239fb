#include "dsrsq/ops/cluster_assign.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <limits>

#include "dsrsq/ops/reference.h"
#include "support/cluster_assign_cases.h"
#include "support/expect_tensor.h"

namespace dsrsq {
namespace {

using ops::cluster_assign;
using ops::ClusterAssignment;
using testing::kExact;
using testing::test_devices;

at::Tensor floats(std::vector<float> values, at::IntArrayRef shape, at::Device device) {
  return torch::tensor(values).view(shape).to(device);
}

TEST(ClusterAssign, MatchesOracleIsRepeatableAndHasNoGradient) {
  testing::expect_op_cases(testing::cluster_assign_cases());
}

// By hand, so that the oracle itself is held to something.
TEST(ClusterAssign, WorkedExample) {
  for (const at::Device device : test_devices()) {
    const at::Tensor keys = floats({3, 0, 0, 2, 0, -5, 4, 3}, {1, 1, 4, 2}, device);
    const at::Tensor centroids = floats({1, 0, 0, 1}, {1, 2, 2}, device);
    const at::Tensor bias = floats({0, 0}, {1, 2}, device);
    for (const ClusterAssignment& r : {cluster_assign(keys, centroids, bias),
                                       ops::reference::cluster_assign(keys, centroids, bias)}) {
      // (0, -5) scores 0 and -1; (4, 3) scores .8 and .6.
      EXPECT_TENSOR_NEAR(r.assignment, floats({0, 1, 0, 0}, {1, 1, 4}, device), kExact);
      EXPECT_TENSOR_NEAR(r.raw_sum, floats({7, -2, 0, 2}, {1, 2, 2}, device), kExact);
      EXPECT_TENSOR_NEAR(r.direction_sum, floats({1.8f, -.4f, 0, 1}, {1, 2, 2}, device),
                         (testing::Tolerance{0, 1e-6}));
      EXPECT_TENSOR_NEAR(r.count, floats({3, 1}, {1, 2}, device), kExact);
    }
  }
}

TEST(ClusterAssign, BiasMovesTheBorder) {
  for (const at::Device device : test_devices()) {
    const at::Tensor keys = floats({4, 3}, {1, 1, 1, 2}, device);
    const at::Tensor centroids = floats({1, 0, 0, 1}, {1, 2, 2}, device);
    const auto r = cluster_assign(keys, centroids, floats({0, .3f}, {1, 2}, device));
    EXPECT_EQ(r.assignment.item<int64_t>(), 1);  // .8 against .6 + .3
  }
}

TEST(ClusterAssign, TiesGoToTheLowestCluster) {
  for (const at::Device device : test_devices()) {
    // The same centroid 150 times spans several tiles of either implementation.
    const at::Tensor keys = torch::randn({1, 1, 40, 12}).to(device);
    const at::Tensor one = torch::nn::functional::normalize(torch::randn({1, 1, 12}));
    const at::Tensor centroids = one.expand({1, 150, 12}).contiguous().to(device);
    at::Tensor bias = torch::zeros({1, 150}, at::TensorOptions(device));
    bias[0].slice(0, 0, 3).fill_(-1);
    const auto r = cluster_assign(keys, centroids, bias);
    EXPECT_TENSOR_EQUAL(r.assignment, torch::full({1, 1, 40}, 3, at::kLong).to(device));
  }
}

TEST(ClusterAssign, ZeroKeyCountsButHasNoDirection) {
  for (const at::Device device : test_devices()) {
    const at::Tensor keys = torch::zeros({1, 1, 2, 4}, at::TensorOptions(device));
    const at::Tensor centroids = torch::eye(4, at::TensorOptions(device)).unsqueeze(0);
    const at::Tensor bias = floats({0, .5f, .5f, 0}, {1, 4}, device);
    const auto r = cluster_assign(keys, centroids, bias);
    EXPECT_TENSOR_NEAR(r.assignment, floats({1, 1}, {1, 1, 2}, device), kExact);
    EXPECT_TENSOR_NEAR(r.count, floats({0, 2, 0, 0}, {1, 4}, device), kExact);
    EXPECT_EQ(r.direction_sum.abs().sum().item<float>(), 0.f);
  }
}

TEST(ClusterAssign, ScoresThatAreNotNumbersLose) {
  for (const at::Device device : test_devices()) {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    const float inf = std::numeric_limits<float>::infinity();
    const at::Tensor keys = floats({1, 1}, {1, 1, 1, 2}, device);
    const at::Tensor centroids = floats({nan, 0, 0, 1, 1, 0}, {1, 3, 2}, device);
    const auto r = cluster_assign(keys, centroids, floats({0, -inf, -3}, {1, 3}, device));
    EXPECT_EQ(r.assignment.item<int64_t>(), 2);
    const auto none = cluster_assign(keys, centroids, floats({0, -inf, -inf}, {1, 3}, device));
    EXPECT_EQ(none.assignment.item<int64_t>(), 0);
  }
}

TEST(ClusterAssign, InvalidTokensChangeNothing) {
  for (const at::Device device : test_devices()) {
    const at::Tensor keys = torch::randn({2, 2, 30, 8}).to(device);
    const at::Tensor centroids =
        torch::nn::functional::normalize(torch::randn({2, 5, 8}),
                                         torch::nn::functional::NormalizeFuncOptions().dim(-1))
            .to(device);
    const at::Tensor bias = torch::zeros({2, 5}, at::TensorOptions(device));
    at::Tensor valid = torch::ones({2, 30}, at::TensorOptions(device).dtype(at::kBool));
    valid.slice(1, 20).fill_(false);
    at::Tensor poisoned = keys.clone();
    poisoned.slice(2, 20).fill_(std::numeric_limits<float>::quiet_NaN());
    const auto padded = cluster_assign(poisoned, centroids, bias, valid);
    const auto shorter = cluster_assign(keys.slice(2, 0, 20), centroids, bias);
    EXPECT_TENSOR_EQUAL(padded.assignment.slice(2, 0, 20), shorter.assignment);
    EXPECT_TRUE(padded.assignment.slice(2, 20).eq(-1).all().item<bool>());
    EXPECT_TENSOR_NEAR(padded.raw_sum, shorter.raw_sum, (testing::Tolerance{1e-5, 1e-5}));
    EXPECT_TENSOR_EQUAL(padded.count, shorter.count);
  }
}

// What decoding relies on: alone, a key gets the cluster that it gets among others.
TEST(ClusterAssign, AssignmentDependsOnTheKeyAlone) {
  for (const at::Device device : test_devices()) {
    const at::Tensor keys = torch::randn({2, 2, 140, 16}).to(device);
    const at::Tensor centroids = torch::randn({2, 70, 16}).to(device);
    const at::Tensor bias = torch::zeros({2, 70}, at::TensorOptions(device));
    const at::Tensor together = cluster_assign(keys, centroids, bias).assignment;
    for (const int64_t t : {0, 1, 77, 139}) {
      const auto alone = cluster_assign(keys.slice(2, t, t + 1), centroids, bias);
      EXPECT_TENSOR_EQUAL(alone.assignment, together.slice(2, t, t + 1));
    }
  }
}

TEST(ClusterAssign, NonContiguousInputs) {
  for (const at::Device device : test_devices()) {
    const at::Tensor keys = torch::randn({2, 60, 3, 8}).to(device).transpose(1, 2);
    const at::Tensor centroids = torch::randn({3, 8, 6}).to(device).transpose(1, 2);
    const at::Tensor bias = torch::randn({6, 3}).to(device).t();
    const auto strided = cluster_assign(keys, centroids, bias);
    const auto packed =
        cluster_assign(keys.contiguous(), centroids.contiguous(), bias.contiguous());
    EXPECT_TENSOR_EQUAL(strided.assignment, packed.assignment);
    EXPECT_TENSOR_EQUAL(strided.raw_sum, packed.raw_sum);
  }
}

TEST(ClusterAssign, SumsDoNotDependOnTheNumberOfThreads) {
  const testing::OpCase op_case = testing::cluster_assign_cases()[2];
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto one = op_case.call(op_case.inputs);
  at::set_num_threads(2);
  const auto two = op_case.call(op_case.inputs);
  at::set_num_threads(threads);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TENSOR_EQUAL(two[i], one[i]);
}

// Under autocast, low-precision centroids are widened, and the result stays fp32.
TEST(ClusterAssign, AutocastRunsInFp32) {
  for (const at::Device device : test_devices()) {
    const at::Tensor keys = torch::randn({1, 1, 20, 8}).to(device);
    const at::Tensor centroids = torch::randn({1, 4, 8}).to(device, at::kBFloat16);
    const at::Tensor bias = torch::zeros({1, 4}).to(device, at::kBFloat16);
    EXPECT_THROW(cluster_assign(keys, centroids, bias), c10::Error);
    at::autocast::set_autocast_enabled(device.type(), true);
    const auto r = cluster_assign(keys, centroids, bias);
    at::autocast::set_autocast_enabled(device.type(), false);
    at::autocast::clear_cache();
    EXPECT_EQ(r.raw_sum.scalar_type(), at::kFloat);
    const auto wide = cluster_assign(keys, centroids.to(at::kFloat), bias.to(at::kFloat));
    EXPECT_TENSOR_EQUAL(r.assignment, wide.assignment);
    EXPECT_TENSOR_EQUAL(r.raw_sum, wide.raw_sum);
  }
}

void expect_error(const at::Tensor& keys, const at::Tensor& centroids, const at::Tensor& bias,
                  const std::optional<at::Tensor>& valid, const std::string& expected) {
  try {
    cluster_assign(keys, centroids, bias, valid);
    ADD_FAILURE() << "no error; expected one that says: " << expected;
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << error.what();
  }
}

TEST(ClusterAssign, WrongArgumentsAreNamed) {
  for (const at::Device device : test_devices()) {
    const auto options = at::TensorOptions(device);
    const at::Tensor keys = torch::zeros({2, 3, 5, 8}, options);
    const at::Tensor centroids = torch::zeros({3, 4, 8}, options);
    const at::Tensor bias = torch::zeros({3, 4}, options);
    expect_error(keys[0], centroids, bias, std::nullopt, "keys must be floating [B, H_kv, T, d]");
    expect_error(keys, torch::zeros({2, 4, 8}, options), bias, std::nullopt,
                 "centroids must be fp32 [3, m >= 1, 8]");
    expect_error(keys, centroids, torch::zeros({3, 5}, options), std::nullopt,
                 "bias must be fp32 [3, 4]");
    expect_error(keys, centroids, bias, torch::zeros({2, 5}, options), "valid must be bool [2, 5]");
    expect_error(keys, centroids, bias, torch::zeros({2, 4}, options.dtype(at::kBool)),
                 "valid must be bool [2, 5]");
  }
}

}  // namespace
}  // namespace dsrsq
