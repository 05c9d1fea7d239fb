#include "dsrsq/attention/sqa.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "dsrsq/core/error.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;
using testing::Tolerance;

const AttentionShape kShape{/*layers=*/2, /*query_heads=*/4, /*key_value_heads=*/2,
                            /*head_width=*/6};

SqaConfig config() {
  SqaConfig sqa;
  sqa.clusters = 5;
  sqa.clusters_per_query = 2;
  return sqa;
}

at::Tensor keys(const std::string& name, int64_t tokens = 40) {
  return normal(name, {2, 2, tokens, 6});
}
at::Tensor all_valid(int64_t tokens = 40) { return at::ones({2, tokens}, at::kBool); }

Sqa started_sqa(const SqaConfig& settings = config()) {
  Sqa sqa(settings, kShape, 3);
  for (int64_t layer = 0; layer < kShape.layers; ++layer) {
    sqa->start_from(layer, keys("start"), all_valid(), 1);
    sqa->assign(layer, keys("start"), all_valid(), true);
  }
  sqa->after_step(1);
  return sqa;
}

std::map<std::string, at::Tensor> snapshot(const Sqa& sqa) {
  std::map<std::string, at::Tensor> copies;
  for (const auto& buffer : sqa->named_buffers()) copies[buffer.key()] = buffer.value().clone();
  return copies;
}

void expect_same(const Sqa& sqa, const std::map<std::string, at::Tensor>& before) {
  ASSERT_EQ(sqa->named_buffers().size(), before.size());
  for (const auto& buffer : sqa->named_buffers())
    EXPECT_TENSOR_EQUAL(buffer.value(), before.at(buffer.key()));
}

TEST(SqaConfig, AutoIsAboutTheRootOfTheLongestText) {
  const std::vector<std::pair<int64_t, int64_t>> sizes = {
      {1, 32},         {1024, 32},       {1025, 64},      {16 << 10, 128},
      {64 << 10, 256}, {128 << 10, 384}, {1 << 20, 1024}, {int64_t{1} << 30, 1024}};
  for (const auto& [length, clusters] : sizes) EXPECT_EQ(auto_clusters(length), clusters) << length;
  auto sqa = config();
  EXPECT_EQ(sqa.cluster_count(), 5);
  sqa.max_length = 16 << 10;  // read only where it is asked for
  EXPECT_EQ(sqa.cluster_count(), 5);
  sqa.clusters = 0;
  EXPECT_EQ(sqa.cluster_count(), 128);
  sqa.max_length = 0;
  EXPECT_THROW(sqa.cluster_count(), ConfigError);
}

// Resolved once: the codebook is of that size whatever the length of what is read.
TEST(Sqa, AutoSizesTheCodebookOnce) {
  auto settings = config();
  settings.clusters = 0;
  settings.max_length = 2000;  // 64
  auto sqa = started_sqa(settings);
  EXPECT_EQ(sqa->config().clusters, 64);
  EXPECT_EQ(sqa->directions(0).sizes(), (std::vector<int64_t>{2, 64, 6}));
  EXPECT_EQ(sqa->means(1).sizes(), (std::vector<int64_t>{2, 64, 6}));
  EXPECT_EQ(sqa->bias(1).sizes(), (std::vector<int64_t>{2, 64}));
  EXPECT_TENSOR_NEAR(sqa->directions(1).norm(2, -1), at::ones({2, 64}), (Tolerance{0, 1e-5}));
  auto routes = sqa->route(0, normal("auto q", {2, 4, 9, 6}), 64);
  EXPECT_EQ(sqa->routed_mask(routes).sizes(), (std::vector<int64_t>{2, 4, 9, 64}));
  EXPECT_TRUE(sqa->routed_mask(routes).all().item<bool>());
}

TEST(SparseMask, MatchesATripleLoop) {
  constexpr int64_t kBatch = 2, kHeads = 4, kKv = 2, kQueries = 6, kKeys = 14, kClusters = 5,
                    kSinks = 2, kWindow = 3;
  auto query_order =
      at::tensor({8, 9, 10, 11, 12, 13, 3, 4, 5, 6, 7, 7}, at::kLong).view({kBatch, kQueries});
  auto key_order = at::stack({at::arange(kKeys), at::arange(kKeys).clamp_max(8)});
  auto key_valid = at::stack({at::ones({kKeys}, at::kBool), at::arange(kKeys) <= 8});
  key_valid[0][5] = false;  // padding may stand inside
  auto routed = normal("routed", {kBatch, kHeads, kQueries, kClusters}) > 0.3;
  auto cluster = testing::token_ids("cluster", {kBatch, kKv, kKeys}).remainder(kClusters);
  cluster.masked_fill_(key_valid.logical_not().unsqueeze(1), -1);
  for (int64_t dense_below : {0, 6}) {
    auto mask = sparse_mask(query_order, key_order, key_valid, routed, cluster, kWindow, kSinks,
                            dense_below);
    ASSERT_EQ(mask.sizes(), (std::vector<int64_t>{kBatch, kHeads, kQueries, kKeys}));
    int64_t by_cluster = 0;
    for (int64_t b = 0; b < kBatch; ++b)
      for (int64_t h = 0; h < kHeads; ++h)
        for (int64_t t = 0; t < kQueries; ++t)
          for (int64_t j = 0; j < kKeys; ++j) {
            auto i = query_order[b][t].item<int64_t>(), rank = key_order[b][j].item<int64_t>();
            auto member = cluster[b][h / 2][j].item<int64_t>();
            bool near = i - rank < kWindow || rank < kSinks || i < dense_below;
            bool in_cluster = member >= 0 && routed[b][h][t][member].item<bool>();
            bool expected = key_valid[b][j].item<bool>() && rank <= i && (near || in_cluster);
            by_cluster += expected && !near;
            ASSERT_EQ(mask[b][h][t][j].item<bool>(), expected)
                << b << " " << h << " " << t << " " << j;
          }
    EXPECT_GT(by_cluster, 10);
  }
}

// A key without a cluster (its segment is open) is seen by every query at or after it.
TEST(SparseMask, KeysWithoutAClusterAreSeen) {
  auto order = at::arange(8).unsqueeze(0);
  auto cluster = at::tensor({0, 1, -1, 0, 1, -1, 0, -1}, at::kLong).view({1, 1, 8});
  auto routed = at::zeros({1, 2, 8, 2}, at::kBool);
  auto valid = at::ones({1, 8}, at::kBool);
  valid[0][5] = false;
  auto mask = sparse_mask(order, order, valid, routed, cluster, 1, 0, 0);
  for (int64_t t = 0; t < 8; ++t)
    for (int64_t j = 0; j < 8; ++j) {
      bool expected = (j == t && j != 5) || (j <= t && (j == 2 || j == 7));
      EXPECT_EQ(mask[0][0][t][j].item<bool>(), expected) << t << " " << j;
      EXPECT_EQ(mask[0][1][t][j].item<bool>(), expected) << t << " " << j;
    }
}

// k = m: what routing gives is everything causal, whatever the clusters.
TEST(SparseMask, AllClustersGiveTheCausalMask) {
  auto all = config();
  all.clusters_per_query = all.clusters;
  auto sqa = started_sqa(all);
  auto k = keys("k", 12), q = normal("q", {2, 4, 12, 6});
  auto order = at::arange(12).unsqueeze(0).expand({2, 12});
  auto mask = sparse_mask(order, order, all_valid(12), sqa->routed_mask(sqa->route(0, q)),
                          sqa->assign(0, k, all_valid(12), false), 1, 0, 0);
  auto causal = (at::arange(12).unsqueeze(0) <= at::arange(12).unsqueeze(1)).expand_as(mask);
  EXPECT_TENSOR_EQUAL(mask, causal);
}

TEST(Sqa, SameSeedAndDataGiveTheSameClusters) {
  auto first = started_sqa(), second = started_sqa();
  expect_same(second, snapshot(first));
  auto k = keys("k"), q = normal("q", {2, 4, 40, 6});
  EXPECT_TENSOR_EQUAL(first->assign(1, k, all_valid(), false),
                      second->assign(1, k, all_valid(), false));
  EXPECT_TENSOR_EQUAL(first->route(1, q), second->route(1, q));
  EXPECT_TENSOR_EQUAL(first->route(1, q), first->route(1, q));
  auto used = std::get<0>(at::_unique(first->assign(1, k, all_valid(), false)));
  EXPECT_GT(used.numel(), 3);
}

// A key's cluster depends on the key alone: causal, and decoding agrees with prefill.
TEST(Sqa, AKeysClusterDoesNotDependOnOthers) {
  auto sqa = started_sqa();
  auto k = keys("k");
  auto whole = sqa->assign(0, k, all_valid(), false);
  for (int64_t t : {0, 7, 39})
    EXPECT_TENSOR_EQUAL(sqa->assign(0, k.narrow(2, t, 1), all_valid(1), false),
                        whole.narrow(2, t, 1));
}

TEST(Sqa, CodebookChangesOnlyAfterTheStep) {
  auto sqa = started_sqa();
  auto before = snapshot(sqa);
  sqa->assign(0, keys("new") * 3, all_valid(), true);
  expect_same(sqa, before);
  sqa->after_step(2);
  EXPECT_FALSE(at::equal(sqa->named_buffers()["raw_sum"], before.at("raw_sum")));
  before = snapshot(sqa);
  sqa->after_step(3);  // nothing came in between
  expect_same(sqa, before);
  sqa->assign(0, keys("evaluated"), all_valid(), false);
  sqa->after_step(4);
  expect_same(sqa, before);
}

TEST(Sqa, MovingAveragesFollowTheFormula) {
  auto settings = config();
  settings.decay = 0.9;
  settings.balance_step = 0;
  settings.reseed_below = 0;
  auto sqa = started_sqa(settings);
  auto before = snapshot(sqa);
  std::vector<at::Tensor> all_keys, all_members;
  for (const char* name :
       {"micro-batch 1", "micro-batch 2"}) {  // both count: accumulation over micro-batches
    auto valid = all_valid();
    valid.slice(1, 30).fill_(false);
    all_keys.push_back(keys(name));
    all_members.push_back(sqa->assign(1, keys(name), valid, true));
    EXPECT_EQ(all_members.back().slice(2, 30).max().item<int64_t>(), -1);
  }
  sqa->after_step(2);
  for (int64_t head = 0; head < 2; ++head)
    for (int64_t cluster = 0; cluster < settings.clusters; ++cluster) {
      auto raw = at::zeros({6}, at::kDouble), direction = at::zeros({6}, at::kDouble);
      double count = 0;
      for (size_t i = 0; i < all_keys.size(); ++i)
        for (int64_t b = 0; b < 2; ++b)
          for (int64_t t = 0; t < 30; ++t) {
            if (all_members[i][b][head][t].item<int64_t>() != cluster) continue;
            auto key = all_keys[i][b][head][t].to(at::kDouble);
            raw += key;
            direction += key / key.norm();
            count += 1;
          }
      auto expect = [&](const char* name, const at::Tensor& sum) {
        auto old = before.at(name)[1][head][cluster].to(at::kDouble);
        EXPECT_TENSOR_NEAR(sqa->named_buffers()[name][1][head][cluster], 0.9 * old + 0.1 * sum,
                           (Tolerance{1e-5, 1e-5}));
      };
      expect("raw_sum", raw);
      expect("direction_sum", direction);
      expect("count", at::full({}, count, at::kDouble));
    }
}

TEST(Sqa, UnfedCodebookIsAnError) {
  Sqa sqa(config(), kShape, 3);
  EXPECT_FALSE(sqa->started());
  EXPECT_THROW(sqa->assign(0, keys("k"), all_valid(), false), ConfigError);
  EXPECT_THROW(sqa->assign(0, keys("k"), all_valid(), true), ConfigError);
  sqa->start_from(0, keys("k"), all_valid(), 1);
  EXPECT_FALSE(sqa->started());  // layer 1 was not
  sqa->start_from(1, keys("k"), all_valid(), 1);
  EXPECT_TRUE(sqa->started());
  auto before = snapshot(sqa);
  sqa->start_from(1, keys("other"), all_valid(), 2);  // a started codebook stays
  expect_same(sqa, before);
  EXPECT_TRUE(sqa->parameters().empty());
}

// Three of four keys point one way.
at::Tensor skewed_keys(const std::string& name) {
  auto k = keys(name, 80);
  k.narrow(2, 0, 60).mul_(0.3).add_(at::tensor({2.f, 0.f, 0.f, 0.f, 0.f, 0.f}));
  return k;
}

double largest_share(SqaConfig settings) {
  Sqa sqa(settings, kShape, 3);
  for (int64_t layer = 0; layer < 2; ++layer)
    sqa->start_from(layer, skewed_keys("skewed 0"), all_valid(80), 0);
  for (int64_t step = 1; step <= 60; ++step) {
    for (int64_t layer = 0; layer < 2; ++layer)
      sqa->assign(layer, skewed_keys("skewed " + std::to_string(step % 4)), all_valid(80), true);
    sqa->after_step(step);
  }
  auto load = sqa->load(0);
  return (load.amax(-1) / load.sum(-1)).max().item<double>();
}

TEST(Sqa, BalanceBiasSpreadsTheLoad) {
  auto settings = config();
  settings.reseed_below = 0;
  settings.balance_step = 0;
  auto without = largest_share(settings);
  settings.balance_step = 0.02;
  auto with = largest_share(settings);
  EXPECT_GT(without, 0.3);
  EXPECT_LT(with, 0.75 * without) << "without " << without;
}

// All keys move to two directions: clusters of the others die, and are revived with members of
// their own.
at::Tensor two_directions(int64_t step) {
  auto k = 0.3 * keys("narrow " + std::to_string(step));
  k.narrow(2, 0, 20).add_(at::tensor({3.f, 0.f, 0.f, 0.f, 0.f, 0.f}));
  k.narrow(2, 20, 20).add_(at::tensor({0.f, 3.f, 0.f, 0.f, 0.f, 0.f}));
  return k;
}

int64_t clusters_in_use(double reseed_below, bool* any_dead) {
  auto settings = config();
  settings.balance_step = 0;
  settings.reseed_below = reseed_below;
  settings.decay = 0.5;
  auto sqa = started_sqa(settings);
  for (int64_t step = 2; step < 40; ++step) {
    for (int64_t layer = 0; layer < 2; ++layer)
      sqa->assign(layer, two_directions(step), all_valid(), true);
    sqa->after_step(step);
  }
  auto load = sqa->load(0);
  *any_dead = (load < load.mean(-1, true) * 0.1).any().item<bool>();
  return std::get<0>(
             at::_unique(sqa->assign(0, two_directions(99), all_valid(), false).select(1, 0)))
      .numel();
}

TEST(Sqa, DeadClustersAreRevived) {
  bool dead = false;
  auto without = clusters_in_use(0, &dead);
  EXPECT_TRUE(dead);
  EXPECT_LT(without, 5);
  EXPECT_EQ(clusters_in_use(0.1, &dead), 5);
  EXPECT_FALSE(dead);
}

TEST(Sqa, RoutingIsByTheMeanOfTheRawKeys) {
  SqaConfig settings = config();
  settings.clusters = 2;
  settings.clusters_per_query = 1;
  Sqa sqa(settings, AttentionShape{1, 2, 1, 2}, 3);
  // Four short keys along x and four long ones at .8 of x: a query along x attends the long ones.
  auto k = at::cat({at::tensor({.1f, 0.f}).expand({4, 2}), at::tensor({8.f, 6.f}).expand({4, 2})})
               .view({1, 1, 8, 2});
  sqa->start_from(0, k, at::ones({1, 8}, at::kBool), 1);
  auto member = sqa->assign(0, k, at::ones({1, 8}, at::kBool), false);
  auto of_short = member[0][0][0].item<int64_t>(), of_long = member[0][0][7].item<int64_t>();
  ASSERT_NE(of_short, of_long);
  auto routed = sqa->routed_mask(
      sqa->route(0, at::tensor({1.f, 0.f}).view({1, 1, 1, 2}).expand({1, 2, 1, 2})));
  for (int64_t head = 0; head < 2; ++head) {
    EXPECT_TRUE(routed[0][head][0][of_long].item<bool>());
    EXPECT_FALSE(routed[0][head][0][of_short].item<bool>());
  }
}

TEST(Sqa, RoutesEachQueryHeadByItsKeyValueHead) {
  auto sqa = started_sqa();
  auto buffers = snapshot(sqa);
  auto q = normal("q", {2, 4, 9, 6});
  for (int64_t override : {0, 3}) {
    auto k = override > 0 ? override : 2;
    auto routes = sqa->route(1, q, override), routed = sqa->routed_mask(routes);
    EXPECT_EQ(routes.size(3), k);
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t h = 0; h < 4; ++h)
        for (int64_t t = 0; t < 9; ++t) {
          std::vector<std::pair<double, int64_t>> scores;
          for (int64_t c = 0; c < 5; ++c) {
            auto mean = buffers.at("raw_sum")[1][h / 2][c].to(at::kDouble) /
                        buffers.at("count")[1][h / 2][c].to(at::kDouble);
            scores.emplace_back(-(mean * q[b][h][t].to(at::kDouble)).sum().item<double>(), c);
          }
          std::sort(scores.begin(), scores.end());
          for (int64_t c = 0; c < 5; ++c)
            EXPECT_EQ(routed[b][h][t][scores[size_t(c)].second].item<bool>(), c < k);
        }
  }
}

TEST(Sqa, AGroupRoutesByTheMeanOfItsQueries) {
  auto settings = config();
  settings.route = "group";
  auto sqa = started_sqa(settings);
  auto buffers = snapshot(sqa);
  auto q = normal("q", {2, 4, 9, 6});
  auto routed = sqa->routed_mask(sqa->route(1, q));
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t group = 0; group < 2; ++group)
      for (int64_t t = 0; t < 9; ++t) {
        auto query = (q[b][2 * group][t] + q[b][2 * group + 1][t]).to(at::kDouble) / 2;
        std::vector<std::pair<double, int64_t>> scores;
        for (int64_t c = 0; c < 5; ++c)
          scores.emplace_back(
              -(buffers.at("raw_sum")[1][group][c].to(at::kDouble) * query).sum().item<double>() /
                  buffers.at("count")[1][group][c].item<double>(),
              c);
        std::sort(scores.begin(), scores.end());
        for (int64_t c = 0; c < 5; ++c)
          for (int64_t h : {2 * group, 2 * group + 1})
            EXPECT_EQ(routed[b][h][t][scores[size_t(c)].second].item<bool>(), c < 2);
      }
  EXPECT_FALSE(at::equal(routed, sqa->routed_mask(started_sqa()->route(1, q))));
  auto order = at::arange(9).unsqueeze(0).expand({2, 9});
  auto random = sqa->route_randomly(order, at::tensor({4, 9}, at::kLong), 0);
  EXPECT_TENSOR_EQUAL(random.select(1, 0), random.select(1, 1));
  EXPECT_FALSE(at::equal(random.select(1, 1), random.select(1, 2)));
}

// Centroids of a sequence's own: only available clusters, as many as each sequence may choose.
TEST(Sqa, RoutesOverASequencesOwnClusters) {
  auto settings = config();
  settings.centroids = "segment";
  Sqa sqa(settings, kShape, 3);
  EXPECT_TRUE(sqa->buffers().empty());  // no codebook
  EXPECT_TRUE(sqa->parameters().empty());
  EXPECT_TRUE(sqa->started());
  EXPECT_EQ(sqa->bytes(), 0);
  sqa->after_step(1);
  auto q = normal("q", {2, 4, 9, 6}), mean = normal("mean", {2, 2, 10, 6});
  auto available = normal("available", {2, 2, 10}) > -0.5;
  auto limit = at::tensor({2, 4}, at::kLong);
  auto routed = sqa->route_sequence(q, mean, available, limit, 4);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < 4; ++h)
      for (int64_t t = 0; t < 9; ++t) {
        std::vector<std::pair<double, int64_t>> scores;
        for (int64_t c = 0; c < 10; ++c)
          if (available[b][h / 2][c].item<bool>())
            scores.emplace_back(-(q[b][h][t] * mean[b][h / 2][c]).sum().item<double>(), c);
        std::sort(scores.begin(), scores.end());
        ASSERT_GT(scores.size(), 4u);
        std::set<int64_t> expected, actual;
        for (int64_t i = 0; i < (b == 0 ? 2 : 4); ++i) expected.insert(scores[size_t(i)].second);
        for (int64_t c = 0; c < 10; ++c)
          if (routed[b][h][t][c].item<bool>()) actual.insert(c);
        EXPECT_EQ(actual, expected);
      }
  // Fewer available than asked for: all of them and nothing else.
  auto all = sqa->route_sequence(q, mean, available, at::tensor({10, 10}, at::kLong), 10);
  EXPECT_TENSOR_EQUAL(all, available.repeat_interleave(2, 1).unsqueeze(2).expand_as(all));
}

// The probe draws by place among the available clusters: columns that other sequences of the batch
// bring do not matter.
TEST(Sqa, RandomRoutingOverOwnClustersIgnoresOtherColumns) {
  auto settings = config();
  settings.centroids = "segment";
  Sqa sqa(settings, kShape, 3);
  auto order = at::arange(9).unsqueeze(0), sample = at::tensor({4}, at::kLong),
       limit = at::tensor({3}, at::kLong);
  auto narrow =
      sqa->route_sequence_randomly(order, sample, 0, at::ones({1, 2, 6}, at::kBool), limit, 3);
  auto available = at::zeros({1, 2, 11}, at::kBool);
  auto columns = at::tensor({1, 2, 4, 7, 8, 10}, at::kLong);
  available.index_fill_(2, columns, true);
  auto wide = sqa->route_sequence_randomly(order, sample, 0, available, limit, 3);
  EXPECT_TENSOR_EQUAL(wide.index_select(-1, columns), narrow);
  EXPECT_TRUE((wide.sum(-1) == 3).all().item<bool>());
  EXPECT_FALSE(at::equal(narrow.select(2, 0), narrow.select(2, 1)));
}

TEST(Sqa, RandomRoutingDependsOnSamplePositionLayerAndHead) {
  auto sqa = started_sqa();
  auto positions = at::arange(30).unsqueeze(0).expand({2, 30});
  auto samples = at::tensor({4, 9}, at::kLong);
  auto routed = sqa->routed_mask(sqa->route_randomly(positions, samples, 0));
  EXPECT_TRUE((routed.sum(-1) == 2).all().item<bool>());
  // The same row whatever stands beside it, and whatever chunk it comes in.
  auto alone = sqa->routed_mask(
      sqa->route_randomly(positions.narrow(0, 1, 1).narrow(1, 11, 1), samples.narrow(0, 1, 1), 0));
  EXPECT_TENSOR_EQUAL(alone[0].select(1, 0), routed[1].select(1, 11));
  EXPECT_FALSE(at::equal(routed[0], routed[1]));
  EXPECT_FALSE(at::equal(routed, sqa->routed_mask(sqa->route_randomly(positions, samples, 1))));
  EXPECT_FALSE(at::equal(routed.select(1, 0), routed.select(1, 1)));
  auto share = routed.to(at::kDouble)
                   .mean({0, 1, 2});  // 240 rows, 2 of 5: three standard deviations are .095
  EXPECT_TENSOR_NEAR(share, at::full({5}, 0.4, at::kDouble), (Tolerance{0, 0.095}));
}

}  // namespace
}  // namespace dsrsq
