#include "dsrsq/methods/dsrsq.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <functional>
#include <set>

#include "dsrsq/core/error.h"
#include "dsrsq/methods/standard.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::parts_name;
using testing::read_batch;
using testing::tiny_batch;
using testing::tiny_dsrsq;
using testing::tiny_dsrsq_model;
using testing::tiny_model;
using testing::Tolerance;

Batch padded_batch() {
  return tiny_batch(
      {{.context = 45, .sample = 1}, {.context = 19, .tail = 4, .questions = 2, .sample = 2}});
}

void expect_same_hidden(const at::Tensor& actual, const at::Tensor& expected, const Batch& batch,
                        double tolerance) {
  auto valid = batch.tail_valid.unsqueeze(-1);
  EXPECT_TENSOR_NEAR(actual * valid, expected * valid, (Tolerance{0, tolerance}));
}

// As in training, where it reads whole sequences as DSRSQ does, not the context and then the tail:
// the same bits, those of padding among them.
at::Tensor standard_hidden(const Batch& batch) {
  at::AutoGradMode with_gradients(true);
  auto model = testing::tiny_language_model(
      tiny_model(), std::make_shared<StandardMethod>(StandardConfig{}, tiny_model()));
  return read_batch(model, batch).detach();
}

TEST(Dsrsq, WithoutPartsIsTheStandardTransformer) {
  torch::NoGradGuard no_grad;
  auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(false, false, false));
  EXPECT_TENSOR_EQUAL(read_batch(model, padded_batch()), standard_hidden(padded_batch()));
}

// k = m: the key regression test of SQA.
TEST(Dsrsq, AllClustersEqualDense) {
  torch::NoGradGuard no_grad;
  auto config = tiny_dsrsq(false, true, false);
  config.sqa.clusters_per_query = config.sqa.clusters;
  auto model = tiny_dsrsq_model(tiny_model(), config);
  expect_same_hidden(read_batch(model, padded_batch()), standard_hidden(padded_batch()),
                     padded_batch(), 1e-5);
  // With k < m it is not dense, so that the equality says something; the probe reads the same
  // weights densely.
  auto sparse = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(false, true, false));
  auto hidden = read_batch(sparse, padded_batch());
  EXPECT_GT((hidden - standard_hidden(padded_batch())).abs().max().item<double>(), 1e-2);
  PassOptions dense;
  dense.probe = Probe::kDenseRead;
  expect_same_hidden(read_batch(sparse, padded_batch(), dense), standard_hidden(padded_batch()),
                     padded_batch(), 1e-5);
}

// Held-out questions are read between training steps: the codebook must not learn from them.
TEST(Dsrsq, AnEvaluationLeavesTheCodebookAlone) {
  torch::NoGradGuard no_grad;
  PassOptions training;
  training.training = true;
  training.step = 2;
  auto codebook_after = [&](bool evaluates) {
    auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(false, true, false));
    read_batch(model, padded_batch(), training);
    if (evaluates) read_batch(model, tiny_batch({{.context = 50, .sample = 9}}));
    model->method().after_step(2);
    std::vector<at::Tensor> buffers;
    for (const auto& buffer : model->buffers()) buffers.push_back(buffer.clone());
    return buffers;
  };
  auto alone = codebook_after(false), beside = codebook_after(true);
  ASSERT_FALSE(alone.empty());
  for (size_t i = 0; i < alone.size(); ++i) EXPECT_TENSOR_EQUAL(beside[i], alone[i]);
}

// c = full width and L >= everything that leaves: the buffer loses nothing. Keys are projected,
// rebuilt and rotated again in fp32 (about 20 roundings of 6e-8 relative to logits of size 10),
// hence 1e-4; with little in the buffer it reads 1e-5.
TEST(Dsrsq, FullWidthBufferEqualsDense) {
  torch::NoGradGuard no_grad;
  for (bool sqa : {false, true})
    for (const char* noise : {"gumbel", "none"}) {
      auto config = tiny_dsrsq(false, sqa, true);
      config.sqa.clusters_per_query = config.sqa.clusters;
      config.rckv.latent_width = 16;
      config.rckv.buffer_length = 64;
      config.rckv.noise = noise;
      auto model = tiny_dsrsq_model(tiny_model(), config);
      MethodState state;
      auto hidden = read_batch(model, padded_batch(), {}, &state);
      expect_same_hidden(hidden, standard_hidden(padded_batch()), padded_batch(), 1e-4);
      EXPECT_EQ(state.layers[0].latents.valid[0].sum().item<int64_t>(),
                45 - 4);  // all but the window; sinks stay exact
      EXPECT_EQ(state.layers[0].latents.valid[1].sum().item<int64_t>(), 19 - 4);
      PassOptions masked;
      masked.probe = Probe::kLatentsMasked;
      EXPECT_GT((read_batch(model, padded_batch(), masked) - hidden).abs().max().item<double>(),
                1e-2);
    }
}

// n = N: a budget that covers the context reads all of it.
TEST(Dsrsq, ABudgetOverTheContextReadsEverything) {
  torch::NoGradGuard no_grad;
  for (const char* source : {"stream", "selected"}) {
    auto config = tiny_dsrsq(true, true, true);
    config.rckv.source = source;
    auto model = tiny_dsrsq_model(tiny_model(), config);
    auto batch = padded_batch();
    PassOptions options;
    options.budget = 45;
    MethodState state;
    auto hidden = read_batch(model, batch, options, &state);
    EXPECT_TENSOR_EQUAL(state.selected.mask.sum(1), batch.context_valid.sum(1));
    auto everything = model->method().make_state(batch, {});
    model->choose_tokens(batch, everything);
    EXPECT_LT(everything.selected.mask.sum().item<int64_t>(), 64);  // its own budget does not
    everything.selected = select_all(batch.context_valid, config.rckv.segment);
    expect_same_hidden(hidden, model->read_selected(batch, everything), batch, 1e-5);
  }
}

TEST(Dsrsq, AnOptionThatSwitchesAPartOffEqualsItsAbsence) {
  torch::NoGradGuard no_grad;
  auto full = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(false, true, true));
  PassOptions off;
  off.sqa = off.rckv = false;
  EXPECT_TENSOR_EQUAL(read_batch(full, padded_batch(), off), standard_hidden(padded_batch()));
}

// A key lies in one set (D13): what a layer holds of a sequence, exact and latent, has no rank
// twice; sinks and window stay.
TEST(Dsrsq, NoTokenIsHeldTwice) {
  torch::NoGradGuard no_grad;
  auto config = tiny_dsrsq(false, true, true);
  config.rckv.buffer_length = 64;
  auto model = tiny_dsrsq_model(tiny_model(), config);
  MethodState state;
  auto batch = padded_batch();
  read_batch(model, batch, {}, &state);
  for (const auto& layer : state.layers)
    for (int64_t b = 0; b < 2; ++b) {
      std::multiset<int64_t> ranks;
      for (const auto& [order, valid] : {std::pair{layer.order[b], layer.valid[b]},
                                         {layer.latents.order[b], layer.latents.valid[b]}}) {
        auto list = order.masked_select(valid).contiguous();
        ranks.insert(list.data_ptr<int64_t>(), list.data_ptr<int64_t>() + list.numel());
      }
      std::multiset<int64_t> all;  // L is large: nothing is lost either
      auto length = 2 + batch.context_valid[b].sum().item<int64_t>() +
                    batch.tail_valid[b].sum().item<int64_t>();
      for (int64_t i = 0; i < length; ++i) all.insert(i);
      EXPECT_EQ(ranks, all);
    }
}

// The attention rate of an entry: squared attention over the queries that could see it (D12), here
// by hand for one layer.
TEST(Dsrsq, MassAndExposureCountTheWindowsQueries) {
  torch::NoGradGuard no_grad;
  auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(false, false, true));
  MethodState state;
  read_batch(model, tiny_batch({{.context = 4, .tail = 5, .sample = 1}}), {}, &state);
  auto& layer =
      state.layers[0];  // 2 sinks + 4 context in one segment, 5 of the tail: nothing has left
  ASSERT_EQ(layer.entries(), 11);
  for (int64_t j = 0; j < 11; ++j)
    EXPECT_EQ(layer.exposure[0][j].item<double>(), double(4 * (11 - j))) << j;
  EXPECT_GT(layer.mass.min().item<double>(), 0);
  EXPECT_TRUE((layer.mass <= layer.exposure).all().item<bool>());
}

std::map<std::string, at::Tensor> tensors(LanguageModel& model) {
  std::map<std::string, at::Tensor> all;
  for (const auto& one : model->named_parameters()) all[one.key()] = one.value();
  for (const auto& one : model->named_buffers()) all[one.key()] = one.value();
  return all;
}

// D23: a part that is off has no parameters and no buffers, and what is shared starts from the same
// bits.
TEST(Dsrsq, AblationsRemoveExactlyTheirPart) {
  auto make = [](const DsrsqConfig& config) {
    return testing::tiny_language_model(tiny_model(),
                                        std::make_shared<DsrsqMethod>(config, tiny_model(), 3));
  };
  auto full_model = make(tiny_dsrsq(true, true, true));
  auto full = tensors(full_model);
  for (int64_t bits = 0; bits < 8; ++bits) {
    bool on[] = {(bits & 1) != 0, (bits & 2) != 0, (bits & 4) != 0};
    auto model = make(tiny_dsrsq(on[0], on[1], on[2]));
    auto present = tensors(model);
    for (const auto& [name, tensor] : full) {
      bool removed = false;
      const char* prefixes[] = {"method.dsr.", "method.sqa.", "method.rckv."};
      for (int i = 0; i < 3; ++i) removed |= !on[i] && name.rfind(prefixes[i], 0) == 0;
      ASSERT_EQ(present.count(name), removed ? 0u : 1u)
          << name << " of " << parts_name(on[0], on[1], on[2]);
      if (!removed) {
        EXPECT_TENSOR_EQUAL(present.at(name), tensor);
      }
    }
    for (const auto& [name, tensor] : present) EXPECT_EQ(full.count(name), 1u) << name;
  }
  for (const char* prefix :
       {"method.dsr.", "method.sqa.", "method.rckv."}) {  // each part does have something
    auto begin = full.lower_bound(prefix);
    EXPECT_TRUE(begin != full.end() && begin->first.rfind(prefix, 0) == 0) << prefix;
  }
}

TEST(Dsrsq, SeedsGiveDifferentWeights) {
  auto first = testing::tiny_language_model(
      tiny_model(), std::make_shared<DsrsqMethod>(tiny_dsrsq(true, true, true), tiny_model(), 3),
      3);
  auto second = testing::tiny_language_model(
      tiny_model(), std::make_shared<DsrsqMethod>(tiny_dsrsq(true, true, true), tiny_model(), 4),
      4);
  auto of_second = tensors(second);
  for (const char* name :
       {"backbone.embedding", "method.dsr.context_projection", "method.rckv.key_projection_1"})
    EXPECT_FALSE(at::equal(tensors(first).at(name), of_second.at(name))) << name;
}

// Layer state of one sequence after `context` tokens.
int64_t held_bytes(const DsrsqConfig& config, int64_t context) {
  torch::NoGradGuard no_grad;
  auto shape = tiny_model();
  auto model = tiny_dsrsq_model(shape, config);
  MethodState state;
  read_batch(model, tiny_batch({{.context = context, .sample = 1}}), {}, &state);
  int64_t total = 0;
  for (const auto& layer : state.layers) total += layer.bytes();
  return total;
}

// Traps 9: memory is flat from 10K to 100K tokens with the buffer, and grows without it.
TEST(Dsrsq, StateBytesAreConstantWithTheBuffer) {
  for (bool sqa : {false, true}) {
    auto config = tiny_dsrsq(false, sqa, true);
    config.rckv.segment = 100;
    EXPECT_EQ(held_bytes(config, 100000), held_bytes(config, 10000)) << sqa;
    config = tiny_dsrsq(false, sqa, false);
    auto once = held_bytes(config, 200), ten_times = held_bytes(config, 2000);
    EXPECT_GT(ten_times, 9 * once) << sqa;
  }
}

TEST(Dsrsq, LossesAndTheirCountsAgree) {
  auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(true, true, true));
  PassOptions training;
  training.training = true;
  auto batch = padded_batch();
  MethodState state;
  read_batch(model, batch, training, &state);
  auto terms = model->method().losses(batch, state);
  auto counts = model->method().loss_counts(batch, training);
  ASSERT_EQ(terms.size(), 2u);
  ASSERT_EQ(counts.size(), 2u);
  for (const auto& [name, term] : terms) {
    EXPECT_EQ(term.count, counts.at(name)) << name;
    EXPECT_TRUE(term.sum.requires_grad()) << name;
    EXPECT_TRUE(term.sum.isfinite().item<bool>()) << name;
  }
  EXPECT_EQ(counts.at("retrieval"), 3);    // questions
  EXPECT_EQ(counts.at("compression"), 2);  // layers
}

TEST(Dsrsq, ForcedEvidenceIsSelected) {
  torch::NoGradGuard no_grad;
  auto config = tiny_dsrsq(true, false, false);
  config.rckv.source = "selected";
  auto model = tiny_dsrsq_model(tiny_model(), config);
  auto batch = padded_batch();
  auto covered = [&](bool force) {
    PassOptions options;
    options.training = true;
    options.force_evidence = force;
    options.budget = 8;
    auto state = model->method().make_state(batch, options);
    model->choose_tokens(batch, state);
    auto chosen =
        at::zeros_like(batch.context_valid).scatter_(1, state.selected.index, state.selected.mask);
    return batch.evidence.any(1).logical_and(chosen.logical_not()).sum().item<int64_t>() == 0;
  };
  EXPECT_TRUE(covered(true));
  EXPECT_FALSE(covered(false));
}

TEST(Dsrsq, CrossFieldErrorsNameTheKey) {
  auto error_of = [](const std::function<void(DsrsqConfig&)>& change) -> std::string {
    auto config = tiny_dsrsq(true, true, true);
    change(config);
    try {
      config.validate(tiny_model(), {});
    } catch (const ConfigError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(error_of([](DsrsqConfig&) {}), "");
  EXPECT_NE(
      error_of([](DsrsqConfig& c) { c.sqa.clusters_per_query = 7; }).find("sqa.clusters_per_query"),
      std::string::npos);
  EXPECT_NE(error_of([](DsrsqConfig& c) { c.rckv.latent_width = 16; }).find("rckv.latent_width"),
            std::string::npos);
  EXPECT_NE(error_of([](DsrsqConfig& c) { c.dsr.conv_width = 1; }).find("dsr.conv_width"),
            std::string::npos);
}

}  // namespace
}  // namespace dsrsq
