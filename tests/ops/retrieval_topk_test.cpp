#include "dsrsq/ops/retrieval_topk.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>
#include <string>

#include "dsrsq/ops/noise.h"
#include "dsrsq/ops/reference.h"
#include "support/expect_tensor.h"
#include "support/retrieval_cases.h"

namespace dsrsq {
namespace {

using ops::retrieval_topk;
using ops::RetrievalTopkInputs;
using ops::RetrievalTopkOptions;
using testing::test_devices;
using testing::Tolerance;

constexpr float kNever = -std::numeric_limits<float>::infinity();

TEST(RetrievalTopk, MatchesOracleIsRepeatableAndHasNoGradient) {
  testing::expect_op_cases(testing::retrieval_topk_cases());
}

RetrievalTopkInputs one_store(const at::Tensor& rows, const at::Tensor& query, int64_t count) {
  RetrievalTopkInputs in;
  in.rows = rows.unsqueeze(0);
  in.query = query.view({1, 1, -1});
  in.count = at::full({1}, count, rows.options().dtype(at::kLong));
  return in;
}

RetrievalTopkInputs moved(const RetrievalTopkInputs& in, at::Device device) {
  const auto there = [&](const std::optional<at::Tensor>& x) {
    return x.has_value() ? std::optional<at::Tensor>(x->to(device)) : std::nullopt;
  };
  return {in.query.to(device), in.rows.to(device), in.count.to(device), there(in.query_valid),
          there(in.valid)};
}

// By hand: products with (1, 2) are 5, 1, 5, -2, 0; two are equal.
TEST(RetrievalTopk, WorkedExample) {
  const at::Tensor rows =
      torch::tensor({{1.f, 2.f}, {1.f, 0.f}, {5.f, 0.f}, {0.f, -1.f}, {0.f, 0.f}});
  for (const at::Device device : test_devices()) {
    auto in = moved(one_store(rows, torch::tensor({1.f, 2.f}), 4), device);
    auto r = retrieval_topk(in, {6, 2.0, {}});
    EXPECT_TENSOR_EQUAL(r.index.cpu(), at::tensor({0, 2, 1, 4, -1, -1}, at::kLong).view({1, 6}));
    EXPECT_TENSOR_NEAR(r.score, torch::tensor({2.5f, 2.5f, .5f, 0.f, kNever, kNever}).view({1, 6}),
                       testing::kExact);
    in.valid = torch::tensor({0, 1, 1, 1, 1}, at::kInt).to(at::kBool).view({1, 5}).to(device);
    r = retrieval_topk(in, {2, 1.0, {}});
    EXPECT_TENSOR_EQUAL(r.index.cpu(), at::tensor({2, 1}, at::kLong).view({1, 2}));
    // The better of two queries; the second is (-1, 0).
    in.query = at::cat({in.query, torch::tensor({-3.f, -9.f}).view({1, 1, 2}).to(device)}, 1);
    r = retrieval_topk(in, {2, 1.0, {}});
    EXPECT_TENSOR_EQUAL(r.index.cpu(), at::tensor({3, 2}, at::kLong).view({1, 2}));
    in.query_valid = torch::tensor({1, 0}, at::kInt).to(at::kBool).view({1, 2}).to(device);
    r = retrieval_topk(in, {2, 1.0, {}});
    EXPECT_TENSOR_EQUAL(r.index.cpu(), at::tensor({2, 1}, at::kLong).view({1, 2}));
    in.query_valid->fill_(false);
    EXPECT_TENSOR_EQUAL(retrieval_topk(in, {2, 1.0, {}}).index.cpu(),
                        at::full({1, 2}, -1, at::kLong));
  }
}

// Rows that are all alike: the first ones, whatever the number of blocks that found them.
TEST(RetrievalTopk, OfEqualScoresTheLowerPosition) {
  for (const at::Device device : test_devices())
    for (const int64_t count : {1, 513, 69999}) {
      const auto in = moved(one_store(at::ones({70000, 4}), at::ones({4}), count), device);
      const auto r = retrieval_topk(in, {count, 1.0, {}});
      EXPECT_TENSOR_EQUAL(r.index.cpu(), at::arange(count).unsqueeze(0));
      EXPECT_TRUE((r.score == 4).all().item<bool>());
    }
}

TEST(RetrievalTopk, MorePlacesThanRowsTakeThemAll) {
  const at::Tensor rows = at::randn({1000, 8});
  for (const at::Device device : test_devices()) {
    const auto r =
        retrieval_topk(moved(one_store(rows, at::ones({8}), 5000), device), {1200, 1, {}});
    const at::Tensor index = r.index[0].slice(0, 0, 1000).cpu();
    EXPECT_TENSOR_EQUAL(std::get<0>(index.sort()), at::arange(1000));
    EXPECT_TRUE((r.index[0].slice(0, 1000) == -1).all().item<bool>());
    EXPECT_TENSOR_NEAR(r.score[0].slice(0, 0, 1000), rows.sum(1).index_select(0, index),
                       (Tolerance{1e-5, 1e-5}));
    EXPECT_TRUE((r.score[0].slice(0, 1, 1000) <= r.score[0].slice(0, 0, 999)).all().item<bool>());
  }
}

// More than one block of a GPU sorts.
TEST(RetrievalTopk, ManyPlaces) {
  const at::Tensor rows = at::randint(-40, 41, {2, 40000, 4}, at::kFloat);
  RetrievalTopkInputs in;
  in.rows = rows;
  in.query = at::ones({2, 1, 4});
  in.count = at::tensor({20000, 17}, at::kLong);
  const auto expected = ops::reference::retrieval_topk(in, {20001, 1, {}});
  for (const at::Device device : test_devices()) {
    const auto r = retrieval_topk(moved(in, device), {20001, 1, {}});
    EXPECT_TENSOR_EQUAL(r.index.cpu(), expected.index);
    EXPECT_TENSOR_NEAR(r.score, expected.score, testing::kExact);
  }
}

TEST(RetrievalTopk, WhatIsNoNumberIsNeverChosen) {
  at::Tensor rows = at::ones({300, 4});
  rows[5][0] = NAN, rows[299][3] = NAN, rows[7][1] = kNever, rows[8][2] = -kNever;
  for (const at::Device device : test_devices()) {
    const auto r = retrieval_topk(moved(one_store(rows, at::ones({4}), 300), device), {300, 1, {}});
    EXPECT_EQ(r.index[0][0].item<int64_t>(), 8);  // infinity is a number to be chosen
    EXPECT_EQ((r.index >= 0).sum().item<int64_t>(), 297);
    for (const int64_t never : {5, 7, 299})
      EXPECT_FALSE((r.index == never).any().item<bool>()) << never;
  }
}

// D21: the numbers of RandomStream, by position and sample, in every batch.
TEST(RetrievalTopk, NoiseIsThatOfTheStream) {
  const at::Tensor rows = at::randn({2, 900, 8}), query = at::randn({2, 1, 8});
  const std::vector<int64_t> samples{41, 7};
  const at::Tensor noise =
      ops::noise(ops::Noise::kGumbel, 5, Purpose::kPolicy, 9, samples, 900, at::kCPU);
  const at::Tensor phi = at::matmul(query, rows.transpose(1, 2)).squeeze(1).to(at::kDouble) / .7;
  RetrievalTopkInputs in{query, rows, at::full({2}, 900, at::kLong), {}, {}};
  for (const at::Device device : test_devices()) {
    const auto draw = [&](const RetrievalTopkInputs& given, const std::vector<int64_t>& ids,
                          uint64_t step) {
      const ops::RetrievalNoise drawn{5, Purpose::kPolicy, step,
                                      at::tensor(ids, at::kLong).to(device)};
      return retrieval_topk(moved(given, device), {900, .7, drawn});
    };
    const auto r = draw(in, samples, 9);
    EXPECT_TENSOR_NEAR(r.score, (phi + noise).gather(1, r.index.cpu()), (Tolerance{1e-5, 1e-5}));
    const auto alone =
        draw({query.slice(0, 1), rows.slice(0, 1), in.count.slice(0, 1), {}, {}}, {7}, 9);
    EXPECT_TENSOR_EQUAL(alone.index[0], r.index[1]);
    EXPECT_FALSE(at::equal(draw(in, samples, 10).index, r.index));
    EXPECT_FALSE(at::equal(draw(in, {41, 8}, 9).index[1], r.index[1]));
  }
}

TEST(RetrievalTopk, TenRunsAreTheSameBits) {
  RetrievalTopkInputs in;
  in.rows = at::randn({2, 50003, 24}).to(at::kBFloat16);
  in.query = at::randn({2, 2, 24});
  in.count = at::tensor({512, 100}, at::kLong);
  for (const at::Device device : test_devices()) {
    const auto there = moved(in, device);
    const auto first = retrieval_topk(there, {512, .1, {}});
    for (int run = 1; run < 10; ++run) {
      const auto again = retrieval_topk(there, {512, .1, {}});
      EXPECT_TENSOR_EQUAL(again.index, first.index);
      EXPECT_TENSOR_EQUAL(again.score, first.score);
    }
  }
}

TEST(RetrievalTopk, RowsMayBePartOfAStore) {
  const at::Tensor store = at::randn({1, 500, 13}).to(at::kBFloat16);
  for (const at::Device device : test_devices()) {
    auto in = moved(one_store(store[0], at::ones({13}), 50), device);
    in.rows = in.rows.slice(1, 3).slice(2, 1, 12);  // at odd addresses
    in.query = in.query.slice(2, 1, 12);
    const auto expected = ops::reference::retrieval_topk(moved(in, at::kCPU), {50, 1, {}});
    EXPECT_TENSOR_EQUAL(retrieval_topk(in, {50, 1, {}}).index.cpu(), expected.index);
  }
}

TEST(RetrievalTopk, AutocastLeavesScoresInFp32) {
  const at::Tensor rows = at::randn({200, 16});
  for (const at::Device device : test_devices()) {
    const auto in = moved(one_store(rows, at::randn({16}), 20), device);
    const auto plain = retrieval_topk(in, {20, 1, {}});
    at::autocast::set_autocast_enabled(device.type(), true);
    const auto r = retrieval_topk(in, {20, 1, {}});
    at::autocast::set_autocast_enabled(device.type(), false);
    at::autocast::clear_cache();
    EXPECT_TENSOR_EQUAL(r.score, plain.score);
  }
}

TEST(RetrievalTopk, WrongArgumentsAreNamed) {
  const auto in = one_store(at::randn({6, 4}), at::randn({4}), 2);
  const auto expect_error = [](const RetrievalTopkInputs& wrong, const std::string& part,
                               const RetrievalTopkOptions& options = {2, 1, {}}) {
    try {
      retrieval_topk(wrong, options);
      ADD_FAILURE() << "no error where one about " << part << " was expected";
    } catch (const c10::Error& e) {
      EXPECT_NE(std::string(e.what_without_backtrace()).find(part), std::string::npos) << e.what();
    }
  };
  auto w = in;
  w.query = in.query[0];
  expect_error(w, "query must be floating [B, Q, r]");
  w = in, w.rows = in.rows.slice(2, 1);
  expect_error(w, "rows must be floating");
  w = in, w.rows = in.rows.to(at::kInt);
  expect_error(w, "rows must be floating");
  w = in, w.count = in.count.to(at::kInt);
  expect_error(w, "count must be");
  w = in, w.query_valid = at::ones({1, 2}, at::kBool);
  expect_error(w, "query_valid must be");
  w = in, w.valid = at::ones({1, 7}, at::kBool);
  expect_error(w, "valid must be");
  expect_error(in, "slots >= 1", {0, 1, {}});
  expect_error(in, "temperature > 0", {2, 0, {}});
  expect_error(in, "sample_ids must be",
               {2, 1, ops::RetrievalNoise{0, Purpose::kPolicy, 0, at::zeros({2}, at::kLong)}});
  w = in, w.rows = at::empty(in.rows.sizes(), at::TensorOptions(at::kMeta));
  expect_error(w, "put them on one device");
  for (const at::Device device : test_devices()) {
    if (!device.is_cuda()) continue;
    const auto wide = one_store(at::zeros({2, 50000}), at::zeros({50000}), 1);
    expect_error(moved(wide, device), "at most 49152");
  }
}

}  // namespace
}  // namespace dsrsq
