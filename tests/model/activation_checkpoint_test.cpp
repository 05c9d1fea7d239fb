#include "dsrsq/model/activation_checkpoint.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/methods/dsrsq.h"
#include "dsrsq/model/transformer.h"
#include "dsrsq/objective/task_loss.h"
#include "dsrsq/ops/autocast.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::parts_name;
using testing::tiny_batch;
using testing::tiny_dsrsq;
using testing::tiny_model;

at::Tensor weight() {
  return testing::normal("weight", {4, 4}).to(at::kDouble).set_requires_grad(true);
}

TEST(RunCheckpointed, GivesTheGradientsOfInputsAndOfCapturedWeights) {
  auto plain_w = weight(), w = weight();
  auto x = testing::normal("x", {3, 4}).to(at::kDouble);
  auto plain_x = x.clone().set_requires_grad(true), own_x = x.clone().set_requires_grad(true);
  auto constant = testing::normal("constant", {3, 4}).to(at::kDouble);
  auto function = [&](const at::Tensor& in, const at::Tensor& by) {
    auto inner = at::tanh(at::matmul(in * constant, by));
    return std::vector<at::Tensor>{inner, at::Tensor(), inner.square().sum()};
  };
  int64_t runs = 0, again_runs = 0;
  auto expected = function(plain_x, plain_w);
  auto outputs = run_checkpointed(
      [&](const std::vector<at::Tensor>& inputs, bool again) {
        EXPECT_FALSE(inputs[1].defined());
        EXPECT_FALSE(inputs[2].requires_grad());
        ++runs;
        again_runs += again;
        EXPECT_EQ(at::GradMode::is_enabled(), again);
        return function(inputs[0], w);
      },
      {own_x, at::Tensor(), constant});
  EXPECT_EQ(runs, 1);
  EXPECT_TENSOR_EQUAL(outputs[0], expected[0]);
  EXPECT_FALSE(outputs[1].defined());
  for (auto* of : {&expected, &outputs}) ((*of)[0].sum() * 3 + (*of)[2]).backward();
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(again_runs, 1);
  EXPECT_TENSOR_EQUAL(own_x.grad(), plain_x.grad());
  EXPECT_TENSOR_EQUAL(w.grad(), plain_w.grad());
  EXPECT_FALSE(constant.grad().defined());
}

// Weights alone may need a gradient, and an output may go unused.
TEST(RunCheckpointed, InputsWithoutGradient) {
  auto w = weight();
  auto x = testing::normal("x", {3, 4}).to(at::kDouble);
  auto outputs = run_checkpointed(
      [&](const std::vector<at::Tensor>& inputs, bool) {
        return std::vector<at::Tensor>{at::matmul(inputs[0], w), inputs[0] + w.sum()};
      },
      {x});
  outputs[0].sum().backward();
  EXPECT_TENSOR_EQUAL(w.grad(), x.sum(0).unsqueeze(1).expand({4, 4}));
}

TEST(RunCheckpointed, TheSecondRunHasTheAutocastOfTheFirst) {
  auto w = testing::normal("weight", {4, 4}).set_requires_grad(true);
  auto x = testing::normal("x", {3, 4});
  std::vector<at::ScalarType> seen;
  at::Tensor out;
  {
    ops::AutocastGuard autocast(at::kCPU, true);
    out = run_checkpointed(
        [&](const std::vector<at::Tensor>& inputs, bool) {
          auto y = at::matmul(inputs[0], w);
          seen.push_back(y.scalar_type());
          return std::vector<at::Tensor>{y};
        },
        {x})[0];
  }
  out.to(at::kFloat).sum().backward();
  EXPECT_EQ(seen, (std::vector<at::ScalarType>{at::kBFloat16, at::kBFloat16}));
  EXPECT_TRUE(w.grad().defined());
}

struct Parts {
  bool sqa, rckv;
  std::string centroids = "codebook";
};

class CheckpointedReader : public ::testing::TestWithParam<Parts> {};

struct Pass {
  std::map<std::string, at::Tensor> gradients, tensors;
  double loss = 0;
  at::Tensor read_mass;
};

// One training pass with every side effect that a block has: a convolution's tail, loss terms,
// codebook sums, recorded attention, a bias with gradient.
Pass train_once(bool checkpointing) {
  const auto& parts = CheckpointedReader::GetParam();
  auto config = tiny_dsrsq(true, parts.sqa, parts.rckv);
  config.dsr.reader_gradient = "bias";
  config.sqa.centroids = parts.centroids;
  auto model = testing::tiny_dsrsq_model(tiny_model(), config);
  auto batch =
      tiny_batch({{.context = 40, .sample = 7}, {.context = 23, .questions = 2, .sample = 4}});
  PassOptions options;
  options.training = true;
  options.step = 3;
  options.retrieval.target = "attention";
  options.activation_checkpointing = checkpointing;
  auto state = model->method().make_state(batch, options);
  auto hidden = model->read(batch, state);
  auto loss = task_loss(model->backbone(), hidden, batch).sum;
  for (const auto& [name, term] : model->method().losses(batch, state)) loss = loss + term.sum;
  loss.backward();
  model->method().after_step(3);
  Pass pass;
  pass.loss = loss.item<double>();
  pass.read_mass = state.read_mass;
  for (const auto& item : model->named_parameters())
    if (item.value().grad().defined()) pass.gradients[item.key()] = item.value().grad();
  for (const auto& item : model->named_buffers()) pass.tensors[item.key()] = item.value();
  return pass;
}

TEST_P(CheckpointedReader, TrainsAsThePlainOne) {
  auto plain = train_once(false), checkpointed = train_once(true);
  EXPECT_EQ(checkpointed.loss, plain.loss);
  EXPECT_TENSOR_EQUAL(checkpointed.read_mass, plain.read_mass);
  ASSERT_EQ(checkpointed.gradients.size(), plain.gradients.size());
  EXPECT_GT(plain.gradients.size(), 20u);
  // The same sums in another order, where a weight serves several blocks.
  for (const auto& [name, gradient] : plain.gradients)
    EXPECT_TENSOR_NEAR(checkpointed.gradients.at(name), gradient, (testing::Tolerance{1e-5, 1e-6}))
        << name;
  for (const auto& [name, tensor] : plain.tensors)
    EXPECT_TENSOR_EQUAL(checkpointed.tensors.at(name), tensor) << name;
}

INSTANTIATE_TEST_SUITE_P(Parts, CheckpointedReader,
                         ::testing::Values(Parts{false, false}, Parts{true, false},
                                           Parts{false, true}, Parts{true, true},
                                           Parts{true, true, "segment"}),
                         [](const ::testing::TestParamInfo<Parts>& info) {
                           auto name = parts_name(true, info.param.sqa, info.param.rckv);
                           for (char& c : name)
                             if (c == '+') c = '_';
                           return name + "_" + info.param.centroids;
                         });

}  // namespace
}  // namespace dsrsq
