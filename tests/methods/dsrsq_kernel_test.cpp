// Attention over clusters by operator (sqa.kernel: native, aten) against dense attention under a
// mask, and latents by operator (rckv.kernel) against plain tensor operations, on whole models:
// what a query attends is the same, rounding is not.
#include "dsrsq/methods/dsrsq_kernel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <map>

#include "dsrsq/methods/standard.h"
#include "dsrsq/ops/autocast.h"
#include "support/expect_tensor.h"
#include "support/op_case.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using ::testing::HasSubstr;
using testing::normal;
using ::testing::Not;
using testing::read_batch;
using testing::test_devices;
using testing::tiny_batch;
using testing::tiny_dsrsq;
using testing::tiny_dsrsq_model;
using testing::tiny_model;
using testing::Tolerance;

Batch padded_batch() {
  return tiny_batch({{.context = 45, .tail = 9, .sample = 1},
                     {.context = 19, .tail = 4, .questions = 2, .sample = 2},
                     {.context = 45, .tail = 2, .sample = 3}});
}
Batch even_batch() {
  return tiny_batch({{.context = 40, .sample = 1}, {.context = 40, .sample = 2}});
}

// Everything that a training pass leaves behind.
struct Pass {
  at::Tensor hidden;                          // of the tail, 0 where padded
  std::map<std::string, at::Tensor> tensors;  // gradients of parameters, buffers after the step
};

Pass train_once(LanguageModel model, const Batch& batch, const PassOptions& options,
                bool bf16 = false) {
  Pass pass;
  for (auto& parameter : model->parameters()) parameter.mutable_grad().reset();
  auto state = model->method().make_state(batch, options);
  {
    ops::AutocastGuard autocast(model->device(), bf16);
    auto hidden = model->read(batch, state).to(at::kFloat) * batch.tail_valid.unsqueeze(-1);
    auto loss = (hidden * normal("direction", hidden.sizes()).to(hidden.device())).sum();
    for (const auto& [name, term] : state.losses) loss = loss + term.sum;
    loss.backward();
    pass.hidden = hidden.detach();
  }
  model->method().after_step(options.step);
  for (const auto& one : model->named_parameters())
    if (one.value().grad().defined()) pass.tensors["d " + one.key()] = one.value().grad().clone();
  for (const auto& one : model->named_buffers()) pass.tensors[one.key()] = one.value().clone();
  return pass;
}

PassOptions training_options() {
  PassOptions options;
  options.training = true;
  options.step = 2;
  return options;
}

Pass train_with(DsrsqConfig config, const std::string& kernel, const Batch& batch,
                const PassOptions& options) {
  config.sqa.kernel = kernel;
  return train_once(tiny_dsrsq_model(tiny_model(), config), batch, options);
}

void expect_same(const Pass& actual, const Pass& expected) {
  EXPECT_TENSOR_NEAR(actual.hidden, expected.hidden, (Tolerance{1e-5, 2e-5}));
  ASSERT_EQ(actual.tensors.size(), expected.tensors.size());
  for (const auto& [name, tensor] : expected.tensors) {
    SCOPED_TRACE(name);
    // Rounding is relative to the terms of a sum, not to the sum.
    auto scale = tensor.to(at::kDouble).abs().max().item<double>();
    EXPECT_TENSOR_NEAR(actual.tensors.at(name), tensor, (Tolerance{1e-4, 1e-4 * (scale + 1e-3)}));
  }
}

struct Variant {
  std::string name;
  std::function<void(DsrsqConfig&)> config = [](DsrsqConfig&) {};
  std::function<void(PassOptions&)> options = [](PassOptions&) {};
  bool rckv = false, dsr = false;
  bool padded_too = true;
  bool sqa = true;
};

const std::vector<std::string> kOperators = {"native", "aten"};

std::vector<Variant> variants() {
  auto weight = [](const char* weight, const char* position) {
    return [=](DsrsqConfig& c) {
      c.rckv.weight = weight;
      c.rckv.position = position;
    };
  };
  return {
      {"plain"},
      {"group routes", [](DsrsqConfig& c) { c.sqa.route = "group"; }},
      {"fewer clusters by override", {}, [](PassOptions& o) { o.clusters_per_query = 1; }},
      {"all clusters by override", {}, [](PassOptions& o) { o.clusters_per_query = 6; }},
      {"random routes", {}, [](PassOptions& o) { o.probe = Probe::kRandomRouting; }},
      {"checkpointed", {}, [](PassOptions& o) { o.activation_checkpointing = true; }},
      {"dense below a position",
       [](DsrsqConfig& c) { c.sqa.dense_below = 17; },
       {},
       false,
       false,
       false},
      {"dense everywhere",
       [](DsrsqConfig& c) { c.sqa.dense_below = 1000; },
       {},
       false,
       false,
       false},
      {"biased keys", [](DsrsqConfig& c) { c.dsr.reader_gradient = "bias"; }, {}, false, true},
      {"latents by recency", weight("recency", "rope_reconstruct"), {}, true},
      {"latents by gate and age", weight("gate", "age_bias"), {}, true},
      {"latents masked", weight("recency", "rope_reconstruct"),
       [](PassOptions& o) { o.probe = Probe::kLatentsMasked; }, true},
      {"latents by attention", weight("attention_rate", "rope_reconstruct"), {}, true},
      {"everything", weight("gate", "rope_reconstruct"), {}, true, true},
      {"latents without clusters", weight("recency", "age_bias"), {}, true, true, true, false},
      {"latents by attention without clusters",
       weight("attention_rate", "rope_reconstruct"),
       {},
       true,
       false,
       true,
       false},
  };
}

// Forward, gradients of all weights, and the codebook after the step.
TEST(SqaKernel, OperatorsTrainAsMaskedDenseDoes) {
  for (const auto& variant : variants()) {
    for (bool padded : {false, true}) {
      if (padded && !variant.padded_too) continue;
      auto config = tiny_dsrsq(variant.dsr, variant.sqa, variant.rckv);
      if (variant.config) variant.config(config);
      auto options = training_options();
      if (variant.options) variant.options(options);
      auto batch = padded ? padded_batch() : even_batch();
      auto masked = train_with(config, "masked_dense", batch, options);
      for (const auto& kernel : kOperators) {
        SCOPED_TRACE(kernel + ", " + variant.name + (padded ? ", padded" : ""));
        expect_same(train_with(config, kernel, batch, options), masked);
      }
    }
  }
}

// That each is what ran: their outputs differ in the last bits, or the test above compares one path
// with itself.
TEST(SqaKernel, OperatorsAreOtherPaths) {
  auto config = tiny_dsrsq(false, true, false);
  auto hidden = [&](const std::string& kernel, const PassOptions& options) {
    return train_with(config, kernel, padded_batch(), options).hidden;
  };
  auto native = hidden("native", training_options()), aten = hidden("aten", training_options());
  auto masked = hidden("masked_dense", training_options());
  EXPECT_FALSE(at::equal(native, masked));
  EXPECT_FALSE(at::equal(aten, masked));
  EXPECT_FALSE(at::equal(aten, native));
  // Where the probabilities themselves are wanted there is one path.
  PassOptions counting = training_options();
  counting.collect_stats = true;
  for (const auto& kernel : kOperators)
    EXPECT_TENSOR_EQUAL(hidden(kernel, counting), hidden("masked_dense", counting));
}

// aten leaves out no type: in double it is exact where native's own arithmetic would not be.
TEST(SqaKernel, AtenServesDouble) {
  torch::NoGradGuard no_grad;
  for (bool rckv : {false, true}) {
    auto config = tiny_dsrsq(false, true, rckv);
    auto read = [&](const std::string& kernel) {
      config.sqa.kernel = kernel;
      auto model = tiny_dsrsq_model(tiny_model(), config);
      model->to(at::kDouble);
      auto batch = padded_batch();
      return read_batch(model, batch) * batch.tail_valid.unsqueeze(-1);
    };
    EXPECT_TENSOR_NEAR(read("aten"), read("masked_dense"), (Tolerance{0, 1e-9}));
  }
}

// What the reservoir weighs by, without the probabilities, against them; after the buffer has been
// read, with clusters and without.
TEST(SqaKernel, OperatorsCountTheAttentionThatMaskedDenseSees) {
  torch::NoGradGuard no_grad;
  for (bool sqa : {true, false}) {
    for (bool padded : {false, true}) {
      auto config = tiny_dsrsq(true, sqa, true);
      config.dsr.reader_gradient = "bias";
      auto batch = padded ? padded_batch() : even_batch();
      auto read = [&](const std::string& kernel, MethodState& state) {
        config.sqa.kernel = kernel;
        auto model = tiny_dsrsq_model(tiny_model(), config);
        return read_batch(model, batch, {}, &state) * batch.tail_valid.unsqueeze(-1);
      };
      MethodState expected;
      auto hidden = read("masked_dense", expected);
      for (const auto& kernel : kOperators) {
        SCOPED_TRACE(kernel + (sqa ? "" : ", without clusters") + (padded ? ", padded" : ""));
        MethodState actual;
        EXPECT_TENSOR_NEAR(read(kernel, actual), hidden, (Tolerance{1e-5, 2e-5}));
        for (size_t i = 0; i < expected.layers.size(); ++i) {
          const auto &a = actual.layers[i], &e = expected.layers[i];
          ASSERT_FALSE(e.latents.empty());
          EXPECT_TENSOR_EQUAL(a.order, e.order);
          EXPECT_TENSOR_EQUAL(a.latents.order, e.latents.order);
          EXPECT_TENSOR_NEAR(a.latents.priority, e.latents.priority, (Tolerance{0, 1e-4}));
          EXPECT_TENSOR_NEAR(a.mass, e.mass, (Tolerance{1e-5, 1e-5}));
          EXPECT_TENSOR_EQUAL(a.exposure, e.exposure);
          EXPECT_GT((a.mass * a.valid).max().item<double>(), 1);
        }
      }
    }
  }
}

TEST(SqaKernel, AllClustersEqualDense) {
  torch::NoGradGuard no_grad;
  auto config = tiny_dsrsq(false, true, false);
  config.sqa.clusters_per_query = config.sqa.clusters;
  for (const auto& kernel : kOperators) {
    config.sqa.kernel = kernel;
    for (const auto& batch : {even_batch(), padded_batch()}) {
      auto model = tiny_dsrsq_model(tiny_model(), config);
      auto dense = testing::tiny_language_model(
          tiny_model(), std::make_shared<StandardMethod>(StandardConfig{}, tiny_model()));
      auto valid = batch.tail_valid.unsqueeze(-1);
      EXPECT_TENSOR_NEAR(read_batch(model, batch) * valid, read_batch(dense, batch) * valid,
                         (Tolerance{0, 1e-5}));
    }
  }
}

// Tokens one by one after a prefill, some sequences ending before others.
TEST(SqaKernel, OperatorsDecodeAsMaskedDenseDoes) {
  torch::NoGradGuard no_grad;
  for (const std::string weight : {"", "recency", "attention_rate"}) {
    auto config = tiny_dsrsq(false, true, !weight.empty());
    if (!weight.empty()) config.rckv.weight = weight;
    std::map<std::string, std::vector<at::Tensor>> hidden;
    for (const std::string kernel : {"native", "aten", "auto", "masked_dense"}) {
      config.sqa.kernel = kernel;
      auto model = tiny_dsrsq_model(tiny_model(), config);
      auto batch = padded_batch();
      auto state = model->method().make_state(batch, {});
      hidden[kernel].push_back(model->read(batch, state) * batch.tail_valid.unsqueeze(-1));
      for (int64_t i = 0; i < 4; ++i) {
        auto valid = at::ones({3}, at::kBool);
        valid[1] = i < 2;
        auto ids = testing::token_ids(std::string("next ") + char('0' + i), {3});
        hidden[kernel].push_back(model->read_next(ids, valid, state) * valid.view({3, 1, 1}));
      }
    }
    for (const char* kernel : {"native", "aten", "auto"})
      for (size_t i = 0; i < hidden[kernel].size(); ++i)
        EXPECT_TENSOR_NEAR(hidden[kernel][i], hidden["masked_dense"][i], (Tolerance{1e-5, 2e-5}));
  }
}

double error(const at::Tensor& actual, const at::Tensor& expected) {
  auto y = expected.to(at::kDouble);
  return ((actual.to(at::kCPU, at::kDouble) - y).norm() / y.norm().clamp_min(1e-12)).item<double>();
}

// In bf16 none is exact, and a route may flip where two clusters are nearly level: against fp32 on
// the CPU an operator may err at most twice as much as masked_dense on the same device.
TEST(SqaKernel, InBf16OperatorsErrAsMaskedDenseDoes) {
  auto shape = tiny_model();
  shape.width = 128;
  shape.heads = 2;
  shape.key_value_heads = 1;
  shape.initial_deviation = 0.1;
  for (bool rckv : {false, true})
    for (bool padded : {false, true}) {
      auto config = tiny_dsrsq(false, true, rckv);
      config.rckv.weight = "recency";
      auto train = [&](const std::string& kernel, at::Device device, bool bf16) {
        config.sqa.kernel = kernel;
        auto model = tiny_dsrsq_model(shape, config);
        model->to(device);
        return train_once(model, (padded ? padded_batch() : even_batch()).to(device),
                          training_options(), bf16);
      };
      auto exact = train("masked_dense", at::kCPU, false);
      for (const auto device : test_devices()) {
        auto masked = train("masked_dense", device, true);
        for (const auto& kernel : kOperators) {
          SCOPED_TRACE(kernel + " on " + device.str() + (rckv ? ", rckv" : "") +
                       (padded ? ", padded" : ""));
          auto own = train(kernel, device, true);
          EXPECT_LE(error(own.hidden, exact.hidden), 2 * error(masked.hidden, exact.hidden) + 1e-3);
          for (const auto& [name, tensor] : exact.tensors) {
            if (name.rfind("d backbone.", 0) != 0) continue;
            EXPECT_LE(error(own.tensors.at(name), tensor),
                      2 * error(masked.tensors.at(name), tensor) + 5e-3)
                << name;
          }
        }
      }
    }
}

// ---- the latent buffer (rckv.kernel)

std::vector<Variant> latent_variants() {
  std::vector<Variant> chosen;
  for (const auto& variant : variants())
    if (variant.rckv) chosen.push_back(variant);
  auto uniform = [](DsrsqConfig& c) { c.rckv.weight = "uniform"; };
  chosen.push_back({"latents alone", uniform, {}, true, false, true, false});
  chosen.push_back({"truncated",
                    [](DsrsqConfig& c) {
                      c.rckv.weight = "recency";
                      c.rckv.back_propagation = "truncated";
                    },
                    {},
                    true});
  return chosen;
}

Pass train_latents(DsrsqConfig config, const std::string& kernel, const Batch& batch,
                   const PassOptions& options, const std::string& positions = "rope") {
  config.rckv.kernel = kernel;
  auto model = tiny_model();
  model.position_embedding = positions;
  return train_once(tiny_dsrsq_model(model, config), batch, options);
}

TEST(RckvKernel, NativeTrainsAsAtenDoes) {
  for (const auto& variant : latent_variants())
    for (bool padded : {false, true}) {
      SCOPED_TRACE(variant.name + (padded ? ", padded" : ""));
      auto config = tiny_dsrsq(variant.dsr, variant.sqa, true);
      if (variant.config) variant.config(config);
      auto options = training_options();
      if (variant.options) variant.options(options);
      auto batch = padded ? padded_batch() : even_batch();
      auto aten = train_latents(config, "aten", batch, options);
      auto native = train_latents(config, "native", batch, options);
      expect_same(native, aten);
      if (options.probe != Probe::kLatentsMasked) {
        EXPECT_FALSE(at::equal(native.hidden, aten.hidden)) << "one path compared with itself";
      }
      EXPECT_TENSOR_EQUAL(train_latents(config, "auto", batch, options).hidden, native.hidden);
    }
}

// A backbone without positions has nothing to rotate; its keys are absorbed in either mode.
TEST(RckvKernel, NativeTrainsAsAtenDoesWithoutPositions) {
  auto config = tiny_dsrsq(false, true, true);
  config.rckv.weight = "recency";
  for (const char* position : {"rope_reconstruct", "age_bias"}) {
    SCOPED_TRACE(position);
    config.rckv.position = position;
    expect_same(train_latents(config, "native", padded_batch(), training_options(), "none"),
                train_latents(config, "aten", padded_batch(), training_options(), "none"));
  }
}

// Tokens one by one after a prefill, some sequences ending before others.
TEST(RckvKernel, NativeDecodesAsAtenDoes) {
  torch::NoGradGuard no_grad;
  for (const std::string position : {"rope_reconstruct", "age_bias"}) {
    SCOPED_TRACE(position);
    auto config = tiny_dsrsq(false, true, true);
    config.rckv.weight = "recency";
    config.rckv.position = position;
    std::map<std::string, std::vector<at::Tensor>> hidden;
    for (const std::string kernel : {"native", "aten"}) {
      config.rckv.kernel = kernel;
      auto model = tiny_dsrsq_model(tiny_model(), config);
      auto batch = padded_batch();
      auto state = model->method().make_state(batch, {});
      hidden[kernel].push_back(model->read(batch, state) * batch.tail_valid.unsqueeze(-1));
      for (int64_t i = 0; i < 4; ++i) {
        auto valid = at::ones({3}, at::kBool);
        valid[1] = i < 2;
        auto ids = testing::token_ids(std::string("next ") + char('0' + i), {3});
        hidden[kernel].push_back(model->read_next(ids, valid, state) * valid.view({3, 1, 1}));
      }
      ASSERT_FALSE(state.layers[0].latents.empty());
    }
    for (size_t i = 0; i < hidden["native"].size(); ++i)
      EXPECT_TENSOR_NEAR(hidden["native"][i], hidden["aten"][i], (Tolerance{1e-5, 2e-5}));
  }
}

// In bf16 none is exact: against fp32 on the CPU native may err at most twice as much as aten on
// the same device; heads and latents that the CUDA kernels take.
TEST(RckvKernel, InBf16NativeErrsAsAtenDoes) {
  auto shape = tiny_model();
  shape.width = 128;
  shape.heads = 2;
  shape.key_value_heads = 1;
  shape.initial_deviation = 0.1;
  for (const char* position : {"rope_reconstruct", "age_bias"}) {
    auto config = tiny_dsrsq(false, false, true);
    config.rckv.weight = "recency";
    config.rckv.position = position;
    config.rckv.latent_width = 32;
    auto train = [&](const std::string& kernel, at::Device device, bool bf16) {
      config.rckv.kernel = kernel;
      auto model = tiny_dsrsq_model(shape, config);
      model->to(device);
      return train_once(model, padded_batch().to(device), training_options(), bf16);
    };
    auto exact = train("aten", at::kCPU, false);
    for (const auto& device : test_devices()) {
      auto aten = train("aten", device, true), native = train("native", device, true);
      SCOPED_TRACE(position + (" on " + device.str()));
      EXPECT_LE(error(native.hidden, exact.hidden), 2 * error(aten.hidden, exact.hidden));
      for (const auto& [name, tensor] : exact.tensors) {
        SCOPED_TRACE(name);
        EXPECT_LE(error(native.tensors.at(name), tensor),
                  2 * error(aten.tensors.at(name), tensor) + 1e-4);
      }
    }
  }
}

TEST(RckvKernel, TheChoiceNamesItsReason) {
  auto model = tiny_model();  // heads of width 8
  RckvConfig rckv = tiny_dsrsq(false, false, true).rckv;
  auto line = [&](const char* kernel, at::Device device) {
    rckv.kernel = kernel;
    return describe_rckv_kernel(rckv, model, device);
  };
  EXPECT_EQ(line("aten", at::kCUDA), "rckv.kernel: aten -> aten");
  EXPECT_THAT(line("auto", at::kCPU), HasSubstr("-> native on cpu"));
  EXPECT_THAT(line("auto", at::kCUDA), HasSubstr("aten reads the latents (heads of width 8)"));
  model.width = model.heads * 64;
  rckv.latent_width = 40;
  EXPECT_THAT(line("auto", at::kCUDA), HasSubstr("(rckv.latent_width 40)"));
  rckv.latent_width = 64;
  EXPECT_THAT(line("auto", at::kCUDA), HasSubstr("-> native on cuda"));
}

// ---- who serves ----

TEST(SqaKernel, TheChoiceNamesItsReason) {
  auto model = tiny_model();  // heads of width 8
  DsrsqConfig config = tiny_dsrsq(false, true, true);
  auto line = [&](const char* kernel, at::Device device, at::ScalarType type) {
    config.sqa.kernel = kernel;
    return describe_sqa_kernel(config, model, device, type);
  };
  EXPECT_EQ(line("masked_dense", at::kCPU, at::kFloat), "sqa.kernel: masked_dense -> masked_dense");
  EXPECT_THAT(line("auto", at::kCUDA, at::kFloat), HasSubstr("-> masked_dense (fp32 on cuda)"));
  EXPECT_THAT(line("auto", at::kCUDA, at::kBFloat16),
              HasSubstr("-> masked_dense (heads of width 8)"));
  model.width = 4 * 64;
  EXPECT_THAT(line("auto", at::kCUDA, at::kBFloat16), HasSubstr("-> native (bf16 on cuda"));
  EXPECT_THAT(line("aten", at::kCUDA, at::kFloat), HasSubstr("-> aten (fp32 on cuda"));
  EXPECT_THAT(line("native", at::kCUDA, at::kBFloat16), Not(HasSubstr("rckv")));
  config.sqa.clusters_per_query = 17;
  EXPECT_THAT(line("auto", at::kCUDA, at::kBFloat16), HasSubstr("sqa.clusters_per_query above 16"));
  EXPECT_THAT(line("aten", at::kCUDA, at::kBFloat16), HasSubstr("-> aten (bf16 on cuda"));
  EXPECT_THAT(line("native", at::kCPU, at::kFloat), HasSubstr("-> native (fp32 on cpu"));
  config.sqa.centroids = "segment";
  EXPECT_THAT(line("auto", at::kCPU, at::kFloat),
              HasSubstr("masked_dense (sqa.centroids: segment"));
}

}  // namespace
}  // namespace dsrsq
