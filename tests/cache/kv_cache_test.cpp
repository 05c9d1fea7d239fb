#include "dsrsq/cache/kv_cache.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include "dsrsq/core/error.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;

void append(LayerState& layer, const std::string& name, int64_t tokens, bool with_cluster,
            bool keep_mass) {
  auto first = layer.entries();
  auto order = (at::arange(tokens) + first).unsqueeze(0).expand({2, tokens});
  auto cluster = with_cluster ? testing::token_ids(name, {2, 3, tokens}) : at::Tensor();
  layer.append(normal(name + " k", {2, 3, tokens, 4}), normal(name + " v", {2, 3, tokens, 4}),
               order + 100, order, at::ones({2, tokens}, at::kBool), cluster, keep_mass);
}

TEST(GatherEntries, PicksAlongItsDimension) {
  auto x = normal("x", {2, 3, 5, 4});
  auto index = at::tensor({4, 0, 2, 2, 3, 1}, at::kLong).view({2, 3});
  auto picked = gather_entries(x, index, 2);
  ASSERT_EQ(picked.sizes(), (std::vector<int64_t>{2, 3, 3, 4}));
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t i = 0; i < 3; ++i)
      EXPECT_TENSOR_EQUAL(picked[b].select(1, i), x[b].select(1, index[b][i].item<int64_t>()));
  auto flat = gather_entries(x.select(1, 0), index, 1);
  EXPECT_TENSOR_EQUAL(flat, picked.select(1, 0));
}

TEST(LayerState, AppendsAndKeeps) {
  LayerState layer;
  EXPECT_EQ(layer.entries(), 0);
  EXPECT_EQ(layer.bytes(), 0);
  append(layer, "first", 3, true, true);
  layer.mass += 2;
  append(layer, "second", 2, true, true);
  EXPECT_EQ(layer.entries(), 5);
  EXPECT_TENSOR_EQUAL(
      layer.keys, at::cat({normal("first k", {2, 3, 3, 4}), normal("second k", {2, 3, 2, 4})}, 2));
  EXPECT_TENSOR_EQUAL(layer.mass[0],
                      at::tensor({2.f, 2.f, 2.f, 0.f, 0.f}));  // new entries start at 0

  auto before = layer;
  auto index = at::tensor({0, 4, 1, 3}, at::kLong).view({2, 2});
  layer.keep(index);
  EXPECT_EQ(layer.entries(), 2);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t i = 0; i < 2; ++i) {
      auto from = index[b][i].item<int64_t>();
      EXPECT_TENSOR_EQUAL(layer.keys[b].select(1, i), before.keys[b].select(1, from));
      EXPECT_TENSOR_EQUAL(layer.values[b].select(1, i), before.values[b].select(1, from));
      EXPECT_TENSOR_EQUAL(layer.cluster[b].select(1, i), before.cluster[b].select(1, from));
      EXPECT_EQ(layer.positions[b][i].item<int64_t>(), 100 + from);
      EXPECT_EQ(layer.order[b][i].item<int64_t>(), from);
      EXPECT_EQ(layer.mass[b][i].item<float>(), from < 3 ? 2 : 0);
    }
}

// A bias goes where its entry goes; entries without one beside some with one have 0.
TEST(LayerState, BiasFollowsItsEntry) {
  LayerState layer;
  append(layer, "bare", 2, false, false);
  EXPECT_FALSE(layer.bias.defined());
  auto before = layer.bytes();
  auto order = (at::arange(3) + 2).unsqueeze(0).expand({2, 3});
  auto bias = normal("bias", {2, 3}).requires_grad_();
  layer.append(normal("k", {2, 3, 3, 4}), normal("v", {2, 3, 3, 4}), order, order,
               at::ones({2, 3}, at::kBool), {}, false, bias);
  append(layer, "after", 1, false, false);
  EXPECT_TENSOR_EQUAL(layer.bias.detach(),
                      at::cat({at::zeros({2, 2}), bias.detach(), at::zeros({2, 1})}, 1));
  EXPECT_EQ(layer.bytes(), 3 * before + 2 * 6 * 4);  // six entries, each with its bias
  layer.keep(at::tensor({3, 0, 5, 4}, at::kLong).view({2, 2}));
  EXPECT_EQ(layer.bias[0][0].item<float>(), bias[0][1].item<float>());
  EXPECT_EQ(layer.bias[0][1].item<float>(), 0);
  EXPECT_EQ(layer.bias[1][1].item<float>(), bias[1][2].item<float>());
  layer.bias.sum().backward();
  EXPECT_TENSOR_EQUAL(bias.grad(), at::tensor({0.f, 1.f, 0.f, 0.f, 0.f, 1.f}).view({2, 3}));
  layer.detach();
  EXPECT_FALSE(layer.bias.requires_grad());
}

// Two copies of a state go on from the same entries; neither sees what the other appends.
TEST(LayerState, CopiesGoOnApart) {
  at::NoGradGuard no_grad;
  LayerState one;
  append(one, "prompt", 3, false, false);
  append(one, "token", 1, false, false);
  auto other = one;
  auto before = one.keys.clone();
  append(one, "left", 1, false, false);
  append(other, "right", 1, false, false);
  append(one, "left again", 2, false, false);
  auto key = [](const char* name, int64_t tokens) {
    return normal(concat(name, " k"), {2, 3, tokens, 4});
  };
  EXPECT_TENSOR_EQUAL(one.keys, at::cat({before, key("left", 1), key("left again", 2)}, 2));
  EXPECT_TENSOR_EQUAL(other.keys, at::cat({before, key("right", 1)}, 2));
}

// A step costs its own entries: the prompt is copied once, not again with every token. And what was
// kept of fewer entries does not go on in their room.
TEST(LayerState, AppendsInPlaceWithoutGradients) {
  at::NoGradGuard no_grad;
  LayerState layer;
  append(layer, "prompt", 3, false, false);
  append(layer, "first", 1, false, false);
  auto* begin = layer.keys.data_ptr();
  std::vector<at::Tensor> values{layer.values.clone()};
  for (int64_t step = 0; step < 60; ++step) {
    append(layer, concat("step ", step), 1, false, false);
    values.push_back(normal(concat("step ", step, " v"), {2, 3, 1, 4}));
  }
  EXPECT_EQ(layer.keys.data_ptr(), begin);
  EXPECT_TENSOR_EQUAL(layer.values, at::cat(values, 2));
  auto whole = layer;
  auto all = layer.values.clone();
  layer.values = layer.values.narrow(2, 0, 10);
  layer.keys = layer.keys.narrow(2, 0, 10);
  append(layer, "branch", 1, false, false);
  EXPECT_TENSOR_EQUAL(whole.values, all);
  EXPECT_EQ(layer.entries(), 11);
}

// D24: everything that is held is counted, and nothing that is not.
TEST(LayerState, CountsEveryByte) {
  LayerState layer;
  append(layer, "bare", 3, false, false);
  EXPECT_FALSE(layer.cluster.defined());
  EXPECT_FALSE(layer.mass.defined());
  int64_t entry =
      2 * (2 * 3 * 4 * 4 + 8 + 8 + 1);  // keys and values; position, order, valid; two sequences
  EXPECT_EQ(layer.bytes(), 3 * entry);
  LayerState full;
  append(full, "full", 3, true, true);
  EXPECT_EQ(full.bytes(), 3 * (entry + 2 * (3 * 8 + 4 + 4)));
  full.latents = {at::zeros({2, 5, 6}),
                  at::zeros({2, 5, 6}),
                  at::zeros({2, 5}, at::kLong),
                  at::zeros({2, 5}, at::kLong),
                  at::zeros({2, 5}, at::kDouble),
                  at::zeros({2, 5}, at::kBool),
                  {}};
  EXPECT_EQ(full.latents.bytes(), 2 * 5 * (2 * 6 * 4 + 8 + 8 + 8 + 1));
  EXPECT_EQ(full.bytes(), 3 * (entry + 2 * (3 * 8 + 4 + 4)) + full.latents.bytes());
  auto so_far = full.bytes();
  full.latents.bias = at::zeros({2, 5});
  full.cluster_direction = full.cluster_mean = at::zeros({2, 3, 7, 4});
  EXPECT_EQ(full.bytes(), so_far + 2 * 5 * 4 + 2 * (2 * 3 * 7 * 4 * 4));
}

TEST(LayerState, DetachCutsTheGraph) {
  LayerState layer;
  append(layer, "graph", 3, false, false);
  auto leaf = at::ones({1}).requires_grad_();
  layer.keys = layer.keys * leaf;
  layer.latents.values = at::ones({2, 1, 6}) * leaf;
  layer.detach();
  EXPECT_FALSE(layer.keys.requires_grad());
  EXPECT_FALSE(layer.latents.values.requires_grad());
}

TEST(HeadEntries, AppendsToItsHeadsOnly) {
  torch::NoGradGuard no_grad;  // as decoding does
  for (bool grouped : {true, false}) {
    HeadEntries group;
    auto heads = grouped ? at::tensor({0, 2}, at::kLong) : at::Tensor();
    auto own = grouped ? 2 : 3;
    group.heads = heads;
    group.keys = normal("old k", {2, own, 4, 4});
    group.values = normal("old v", {2, own, 4, 4});
    group.order = at::arange(4, at::kInt).expand({2, own, 4}).contiguous();
    auto old = group;
    auto order = at::tensor({7, 8, 5, 6}, at::kLong).view({2, 2});
    auto new_keys = normal("new k", {2, 3, 2, 4}), new_values = normal("new v", {2, 3, 2, 4});
    group.append(new_keys, new_values, order, {});
    EXPECT_FALSE(group.valid.defined());  // nothing is padding
    auto picked = [&](const at::Tensor& x) { return grouped ? x.index_select(1, heads) : x; };
    EXPECT_TENSOR_EQUAL(group.keys, at::cat({old.keys, picked(new_keys)}, 2));
    EXPECT_TENSOR_EQUAL(group.values, at::cat({old.values, picked(new_values)}, 2));
    for (int64_t h = 0; h < own; ++h) {
      EXPECT_TENSOR_EQUAL(group.order[0][h], at::tensor({0, 1, 2, 3, 7, 8}, at::kInt));
      EXPECT_TENSOR_EQUAL(group.order[1][h], at::tensor({0, 1, 2, 3, 5, 6}, at::kInt));
    }
    group.bias = at::ones({2, own, 6});
    auto copy = group;  // both go on from here
    auto valid = torch::tensor({true, false}).view({2, 1});
    group.append(new_keys.narrow(2, 0, 1), new_values.narrow(2, 0, 1), order.narrow(1, 0, 1),
                 valid);
    copy.append(new_keys.narrow(2, 1, 1), new_values.narrow(2, 1, 1), order.narrow(1, 1, 1), {});
    EXPECT_TENSOR_EQUAL(group.keys.select(2, 6), picked(new_keys).select(2, 0));
    EXPECT_TENSOR_EQUAL(copy.keys.select(2, 6), picked(new_keys).select(2, 1));
    EXPECT_TRUE(group.valid.narrow(2, 0, 6).all().item<bool>());
    EXPECT_TRUE(group.valid[0].select(1, 6).all().item<bool>());
    EXPECT_FALSE(group.valid[1].select(1, 6).any().item<bool>());
    EXPECT_TENSOR_EQUAL(group.bias.select(2, 6), at::zeros({2, own}));  // one token stands for one
  }
}

TEST(HeadEntries, BytesAreThoseOfItsTensors) {
  LayerState layer;
  HeadEntries group;
  group.heads = at::zeros({2}, at::kLong);
  group.keys = at::zeros({1, 2, 5, 4}, at::kHalf);
  group.values = at::zeros({1, 2, 5, 4}, at::kHalf);
  group.order = at::zeros({1, 2, 5}, at::kInt);
  EXPECT_EQ(group.bytes(), 2 * 8 + 2 * (2 * 5 * 4 * 2) + 2 * 5 * 4);
  layer.head_groups = {group, group};
  EXPECT_EQ(layer.bytes(), 2 * group.bytes());
}

}  // namespace
}  // namespace dsrsq
