#include "dsrsq/attention/dense.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <numeric>

#include "support/expect_tensor.h"
#include "support/gradcheck.h"
#include "support/op_case.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;
using testing::Tolerance;

constexpr int64_t kBatch = 2, kHeads = 4, kKvHeads = 2, kTokens = 5, kWidth = 6;
constexpr Tolerance kDouble{1e-12, 1e-12};

struct KeySet {
  at::Tensor k, v;  // [B, H_kv, keys, d] double
  at::Tensor mask;  // [B, H, T, keys] bool
};

KeySet key_set(const std::string& name, int64_t keys, double visible) {
  KeySet set{normal(name + " k", {kBatch, kKvHeads, keys, kWidth}).to(at::kDouble) * 2,
             normal(name + " v", {kBatch, kKvHeads, keys, kWidth}).to(at::kDouble),
             {}};
  // P(|N(0, 1)| < x) is about 0.4 at 0.52 and 1 at 10.
  set.mask = normal(name + " mask", {kBatch, kHeads, kTokens, keys}).abs() < visible;
  return set;
}

at::Tensor queries() { return normal("q", {kBatch, kHeads, kTokens, kWidth}).to(at::kDouble) * 2; }

// Loops in double over every visible key of every set, one softmax. Rows without a key are NaN.
at::Tensor union_softmax(const at::Tensor& q, const std::vector<KeySet>& sets) {
  auto out = at::full({kBatch, kHeads, kTokens, kWidth}, NAN, at::kDouble);
  auto o = out.accessor<double, 4>();
  auto qa = q.accessor<double, 4>();
  for (int64_t b = 0; b < kBatch; ++b)
    for (int64_t h = 0; h < kHeads; ++h)
      for (int64_t t = 0; t < kTokens; ++t) {
        double total = 0;
        std::vector<double> sum(kWidth, 0.0);
        for (const auto& set : sets) {
          auto k = set.k.accessor<double, 4>(), v = set.v.accessor<double, 4>();
          auto mask = set.mask.accessor<bool, 4>();
          auto head = h / (kHeads / kKvHeads);
          for (int64_t j = 0; j < set.k.size(2); ++j) {
            if (!mask[b][h][t][j]) continue;
            double dot = 0;
            for (int64_t i = 0; i < kWidth; ++i) dot += qa[b][h][t][i] * k[b][head][j][i];
            auto weight = std::exp(dot / std::sqrt(double(kWidth)));
            total += weight;
            for (int64_t i = 0; i < kWidth; ++i) sum[size_t(i)] += weight * v[b][head][j][i];
          }
        }
        for (int64_t i = 0; i < kWidth && total > 0; ++i) o[b][h][t][i] = sum[size_t(i)] / total;
      }
  return out;
}

JoinedAttention joined(const at::Tensor& q, const std::vector<KeySet>& sets) {
  std::vector<PartialAttention> parts;
  for (const auto& set : sets) parts.push_back(masked_attention(q, set.k, set.v, set.mask));
  return join_attention(parts);
}

std::vector<KeySet> three_sets() {
  auto sets = std::vector<KeySet>{key_set("first", 7, 10), key_set("second", 4, 0.52),
                                  key_set("third", 9, 0.52)};
  return sets;
}

TEST(MaskedAttention, IsTheSoftmaxOverVisibleKeys) {
  auto set = key_set("one", 9, 0.8);
  set.mask.select(-1, 0).fill_(true);  // no empty row
  auto part = masked_attention(queries(), set.k, set.v, set.mask);
  EXPECT_TENSOR_NEAR(part.out, union_softmax(queries(), {set}), kDouble);
  // Probabilities by the stated formula, so that the reservoir's weights mean what they say.
  auto weights = (part.logits - part.lse.unsqueeze(-1)).exp();
  EXPECT_TENSOR_NEAR(weights.sum(-1), at::ones({kBatch, kHeads, kTokens}, at::kDouble), kDouble);
  EXPECT_EQ(weights.masked_select(set.mask.logical_not()).abs().max().item<double>(), 0);
}

// A bias multiplies each key's weight by its exponential; per key, and per query head and query.
TEST(MaskedAttention, BiasIsAddedToTheLogits) {
  auto set = key_set("one", 9, 0.8);
  set.mask.select(-1, 0).fill_(true);
  for (auto shape : {std::vector<int64_t>{kBatch, 1, 1, 9}, {kBatch, kHeads, kTokens, 9}}) {
    auto bias = normal("bias", shape).to(at::kDouble) * 3;
    auto full = bias.expand({kBatch, kHeads, kTokens, 9});
    auto logits = at::empty({kBatch, kHeads, kTokens, 9}, at::kDouble);
    for (int64_t h = 0; h < kHeads; ++h)
      logits.select(1, h).copy_(
          at::einsum("btd,bjd->btj", {queries().select(1, h), set.k.select(1, h / 2)}) /
          std::sqrt(double(kWidth)));
    auto weight = (logits + full).exp() * set.mask;
    weight = weight / weight.sum(-1, true);
    auto part = masked_attention(queries(), set.k, set.v, set.mask, bias);
    EXPECT_TENSOR_NEAR((part.logits - part.lse.unsqueeze(-1)).exp(), weight, kDouble);
    EXPECT_TENSOR_NEAR(part.out, at::matmul(weight, set.v.repeat_interleave(2, 1)), kDouble);
    auto function = [&](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
      return {masked_attention(queries(), set.k, set.v, set.mask, in[0]).out};
    };
    EXPECT_TRUE(testing::gradcheck(function, {bias}, {0}));
  }
}

TEST(MaskedAttention, InFloatStaysNearTheOracle) {
  auto set = key_set("one", 9, 0.8);
  set.mask.select(-1, 0).fill_(true);
  auto part = masked_attention(queries().to(at::kFloat), set.k.to(at::kFloat), set.v.to(at::kFloat),
                               set.mask);
  EXPECT_EQ(part.lse.scalar_type(), at::kFloat);
  EXPECT_TENSOR_NEAR(part.out, union_softmax(queries(), {set}), (Tolerance{1e-5, 1e-5}));
  // Half inputs: logits, softmax and lse in fp32 (D22).
  auto half = masked_attention(queries().to(at::kBFloat16), set.k.to(at::kBFloat16),
                               set.v.to(at::kBFloat16), set.mask);
  EXPECT_EQ(half.lse.scalar_type(), at::kFloat);
  EXPECT_EQ(half.logits.scalar_type(), at::kFloat);
  EXPECT_EQ(half.out.scalar_type(), at::kBFloat16);
}

TEST(JoinAttention, IsOneSoftmaxOverTheUnion) {
  auto sets = three_sets();
  EXPECT_TENSOR_NEAR(joined(queries(), sets).out, union_softmax(queries(), sets), kDouble);
  // Its lse is that of the union too: joining the join with nothing else changes nothing.
  std::vector<at::Tensor> k, v, mask;
  for (const auto& set : sets) k.push_back(set.k), v.push_back(set.v), mask.push_back(set.mask);
  auto whole = masked_attention(queries(), at::cat(k, 2), at::cat(v, 2), at::cat(mask, 3));
  EXPECT_TENSOR_NEAR(joined(queries(), sets).lse, whole.lse, kDouble);
}

TEST(JoinAttention, GradientsMatchCentralDifferences) {
  auto sets = three_sets();
  auto function = [&](const std::vector<at::Tensor>& in) -> std::vector<at::Tensor> {
    std::vector<KeySet> given{
        {in[1], in[2], sets[0].mask}, {in[3], in[4], sets[1].mask}, {in[5], in[6], sets[2].mask}};
    return {joined(in[0], given).out};
  };
  EXPECT_TRUE(testing::gradcheck(
      function, {queries(), sets[0].k, sets[0].v, sets[1].k, sets[1].v, sets[2].k, sets[2].v},
      {0, 1, 2, 3, 4, 5, 6}));
}

// D13: an empty part, and parts that are empty for some rows only.
TEST(JoinAttention, AnEmptyPartWeighsNothing) {
  for (auto type : {at::kDouble, at::kFloat}) {
    auto full = key_set("full", 7, 10), empty = key_set("empty", 4, -1);
    EXPECT_FALSE(empty.mask.any().item<bool>());
    auto q = queries().to(type).requires_grad_();
    std::vector<at::Tensor> leaves;
    for (auto* x : {&full.k, &full.v, &empty.k, &empty.v})
      leaves.push_back(x->to(type).detach().clone().requires_grad_());
    auto alone = masked_attention(q, leaves[0], leaves[1], full.mask);
    auto out = join_attention({alone, masked_attention(q, leaves[2], leaves[3], empty.mask)}).out;
    EXPECT_TENSOR_EQUAL(out, alone.out);
    auto weights = normal("upstream", out.sizes()).to(type);
    auto gradient = torch::autograd::grad(
        {(out * weights).sum()}, {q, leaves[0], leaves[1], leaves[2], leaves[3]}, {}, true);
    auto expected = torch::autograd::grad({(alone.out * weights).sum()}, {q, leaves[0], leaves[1]});
    for (size_t i = 0; i < 3; ++i)
      EXPECT_TENSOR_NEAR(gradient[i], expected[i], (Tolerance{1e-5, 1e-6}));
    EXPECT_EQ(gradient[3].abs().max().item<double>(), 0);
    EXPECT_EQ(gradient[4].abs().max().item<double>(), 0);
  }
}

TEST(JoinAttention, ARowWithoutAnyKeyIsFinite) {
  auto first = key_set("full", 7, -1), second = key_set("empty", 4, -1);
  auto q = queries().to(at::kFloat).requires_grad_();
  auto k = first.k.to(at::kFloat).requires_grad_();
  auto out = join_attention({masked_attention(q, k, first.v.to(at::kFloat), first.mask),
                             masked_attention(q, second.k.to(at::kFloat), second.v.to(at::kFloat),
                                              second.mask)})
                 .out;
  EXPECT_TRUE(out.isfinite().all().item<bool>());
  for (const auto& gradient : torch::autograd::grad({out.sum()}, {q, k}))
    EXPECT_TRUE(gradient.isfinite().all().item<bool>());
}

TEST(ExpandHeads, QueryHeadReadsItsGroup) {
  auto x = normal("x", {2, 3, 4, 5});
  auto expanded = expand_heads(x, 6);
  ASSERT_EQ(expanded.size(1), 6);
  for (int64_t h = 0; h < 6; ++h) EXPECT_TENSOR_EQUAL(expanded.select(1, h), x.select(1, h / 2));
  EXPECT_TENSOR_EQUAL(expand_heads(x, 3), x);
  auto one = x.narrow(1, 0, 1);
  for (int64_t h = 0; h < 4; ++h)
    EXPECT_TENSOR_EQUAL(expand_heads(one, 4).select(1, h), one.select(1, 0));
}

// A whole chunk, and one query a head; with a mask and without.
TEST(ReadEntries, IsTheSoftmaxOverVisibleKeys) {
  auto set = key_set("entries", 9, 0.8);
  set.mask.select(-1, 0).fill_(true);
  auto all = set;
  all.mask = at::ones_like(set.mask);
  auto wanted = union_softmax(queries(), {set}), of_all = union_softmax(queries(), {all});
  EXPECT_TENSOR_NEAR(read_entries(queries(), set.k, set.v, set.mask), wanted, kDouble);
  for (int64_t t = 0; t < kTokens; ++t) {
    auto one = [&](const at::Tensor& x) { return x.narrow(2, t, 1); };
    EXPECT_TENSOR_NEAR(read_entries(one(queries()), set.k, set.v, one(set.mask)), one(wanted),
                       kDouble);
    EXPECT_TENSOR_NEAR(read_entries(one(queries()), set.k, set.v, {}), one(of_all), kDouble);
  }
}

TEST(CausalAttention, IsTheCausalSoftmax) {
  auto set = key_set("chunk", kTokens, 10);
  auto place = at::arange(kTokens);
  set.mask = (place.unsqueeze(0) <= place.unsqueeze(1))
                 .expand({kBatch, kHeads, kTokens, kTokens})
                 .contiguous();
  EXPECT_TENSOR_NEAR(causal_attention(queries(), set.k, set.v), union_softmax(queries(), {set}),
                     kDouble);
}

// The backend that torch would choose, and the denominators of its softmax.
TEST(CausalAttention, TheLseIsTheSoftmaxs) {
  for (const auto device : testing::test_devices()) {
    for (const auto type : {at::kDouble, at::kFloat, at::kBFloat16}) {
      SCOPED_TRACE(device.str() + " " + c10::toString(type));
      const auto x = [&](const char* name, int64_t heads) {
        return (normal(name, {2, heads, 70, 8}) * 2).to(device, type);
      };
      auto q = x("causal q", 4).requires_grad_(), k = x("causal k", 2), v = x("causal v", 2);
      auto read = causal_attention_with_lse(q, k, v);
      EXPECT_TENSOR_EQUAL(read.out, causal_attention(q, k, v));
      EXPECT_TRUE(read.out.requires_grad());
      if (device.is_cpu()) ASSERT_TRUE(read.lse.defined());
      if (!read.lse.defined()) continue;
      EXPECT_FALSE(read.lse.requires_grad());
      auto mask = at::ones({70, 70}, at::kBool).tril();
      auto exact = masked_attention(q.cpu().to(at::kDouble), k.cpu().to(at::kDouble),
                                    v.cpu().to(at::kDouble), mask);
      auto bound = type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : 2e-2;
      EXPECT_TENSOR_NEAR(read.lse.cpu().to(at::kDouble), exact.lse.detach(), (Tolerance{0, bound}));
    }
  }
}

}  // namespace
}  // namespace dsrsq
