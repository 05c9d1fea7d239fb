// dsr.kernel: choosing without scores reads what choosing by scores reads, and only where nothing
// asks for the scores.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <string>

#include "dsrsq/methods/dsrsq.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::read_batch;
using testing::tiny_batch;
using testing::tiny_dsrsq;
using testing::tiny_dsrsq_model;
using testing::tiny_model;

Batch padded_batch() {
  return tiny_batch(
      {{.context = 45, .sample = 1}, {.context = 19, .tail = 4, .questions = 2, .sample = 2}});
}

struct Read {
  at::Tensor hidden;
  MethodState state;
};

Read read_with(DsrsqConfig config, const std::string& kernel, const PassOptions& options) {
  config.dsr.kernel = kernel;
  auto model = tiny_dsrsq_model(tiny_model(), config);
  Read read;
  read.hidden = read_batch(model, padded_batch(), options, &read.state);
  return read;
}

TEST(DsrsqSelection, KernelsChooseTheSameTokens) {
  torch::NoGradGuard no_grad;
  for (const char* complexity : {"none", "length", "entropy"})
    for (bool per_segment : {false, true})
      for (int64_t budget : {0, 9, 100}) {
        SCOPED_TRACE(std::string(complexity) + std::to_string(per_segment) + " " +
                     std::to_string(budget));
        auto config = tiny_dsrsq(true, false, false);
        config.dsr.complexity = complexity;
        PassOptions options;
        options.budget = budget;
        options.select_per_segment = per_segment;
        auto native = read_with(config, "native", options),
             aten = read_with(config, "aten", options);
        EXPECT_TENSOR_EQUAL(native.state.selected.index, aten.state.selected.index);
        EXPECT_TENSOR_EQUAL(native.state.selected.mask, aten.state.selected.mask);
        EXPECT_EQ(native.state.selected.lengths, aten.state.selected.lengths);
        EXPECT_TENSOR_EQUAL(native.hidden, aten.hidden);
        bool needs_scores = budget == 0 && std::string(complexity) == "entropy";
        EXPECT_EQ(native.state.scores.defined(), needs_scores);
        EXPECT_TRUE(aten.state.scores.defined());
        EXPECT_EQ(native.state.memory, nullptr);  // nothing of it stays
      }
}

TEST(DsrsqSelection, WhatAsksForScoresGetsThem) {
  torch::NoGradGuard no_grad;
  auto plain = tiny_dsrsq(true, false, false);
  plain.dsr.complexity = "none";
  auto has_scores = [](const DsrsqConfig& config, const PassOptions& options) {
    return read_with(config, "auto", options).state.scores.defined();
  };
  PassOptions evaluation, observed, training;
  observed.observe = true;
  training.training = true;
  EXPECT_FALSE(has_scores(plain, evaluation));
  EXPECT_TRUE(has_scores(plain, observed));
  EXPECT_TRUE(has_scores(plain, training));
  auto runs = plain, biased = plain, learned = plain;
  runs.dsr.span = 2;
  biased.dsr.reader_gradient = "bias";
  learned.dsr.complexity = "learned";
  for (const auto& config : {runs, biased, learned}) EXPECT_TRUE(has_scores(config, evaluation));
}

}  // namespace
}  // namespace dsrsq
