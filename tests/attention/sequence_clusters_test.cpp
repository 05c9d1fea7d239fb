#include "dsrsq/attention/sequence_clusters.h"

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>

#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;
using testing::Tolerance;

constexpr int64_t kKv = 2, kTokens = 40, kWidth = 6, kClusters = 5;

at::Tensor ranks(int64_t tokens = kTokens) {
  return at::arange(tokens).unsqueeze(0).expand({2, tokens});
}
at::Tensor all_valid(int64_t tokens = kTokens) { return at::ones({2, tokens}, at::kBool); }
at::Tensor keys() { return normal("keys", {2, kKv, kTokens, kWidth}) * 2; }

// The assignment is to the nearest centroid and means are those of the raw members, by loops in
// fp64.
TEST(ClusterSequence, MembersAreNearestAndMeansAreTheirs) {
  auto valid = all_valid();
  valid[1].slice(0, 30).fill_(false);
  auto found = cluster_sequence(keys(), valid, ranks(), kClusters, 3, {7, 8});
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < kKv; ++h) {
      auto sum = at::zeros({kClusters, kWidth}, at::kDouble);
      std::vector<double> count(kClusters, 0.0);
      for (int64_t t = 0; t < kTokens; ++t) {
        auto key = keys()[b][h][t].to(at::kDouble);
        auto cosine = at::matmul(found.direction[b][h].to(at::kDouble), key / key.norm());
        auto member = found.member[b][h][t].item<int64_t>();
        if (!valid[b][t].item<bool>()) {
          EXPECT_EQ(member, -1);
          continue;
        }
        ASSERT_EQ(member, cosine.argmax().item<int64_t>()) << b << h << t;
        sum[member] += key;
        count[size_t(member)] += 1;
      }
      for (int64_t c = 0; c < kClusters; ++c) {
        ASSERT_GT(count[size_t(c)], 0);
        EXPECT_NEAR(found.direction[b][h][c].norm().item<double>(), 1, 1e-5);
        EXPECT_TENSOR_NEAR(found.mean[b][h][c], sum[c] / count[size_t(c)], (Tolerance{0, 1e-5}));
      }
    }
}

// The rounds do move the centroids: groups that lie apart are found whatever keys it starts from.
TEST(ClusterSequence, FindsGroupsThatLieApart) {
  auto group = at::arange(kTokens).remainder(4);
  auto far = at::one_hot(group, kWidth).to(at::kFloat).view({1, 1, kTokens, kWidth});
  auto k = far.expand({2, kKv, kTokens, kWidth}) + keys() * 0.05;
  auto found = cluster_sequence(k, all_valid(), ranks(), 10, 3, {7, 8});
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < kKv; ++h)
      for (int64_t t = 0; t < kTokens; ++t)
        for (int64_t j = 0; j < t; ++j)
          if (found.member[b][h][t].item<int64_t>() == found.member[b][h][j].item<int64_t>()) {
            EXPECT_EQ(group[t].item<int64_t>(), group[j].item<int64_t>());
          }
  // On keys of no structure the mean cosine to the own centroid beats that of an arbitrary choice
  // of keys as centroids, by far.
  auto own = cluster_sequence(keys(), all_valid(), ranks(), kClusters, 3, {7, 8});
  auto unit = keys() / keys().norm(2, -1, true);
  auto cosine = [&](const at::Tensor& centroids) {
    return at::matmul(unit, centroids.transpose(-1, -2)).amax(-1).mean().item<double>();
  };
  EXPECT_GT(cosine(own.direction), cosine(unit.narrow(2, 0, kClusters)) + 0.05);
}

TEST(ClusterSequence, DoesNotDependOnPaddingOrBatch) {
  auto alone = cluster_sequence(keys().narrow(0, 1, 1), at::ones({1, kTokens}, at::kBool),
                                ranks().narrow(0, 1, 1), kClusters, 3, {8});
  // The same tokens in a longer row with padding in the middle, beside another sequence.
  auto longer = kTokens + 9;
  auto slots = at::cat({at::arange(20), at::arange(29, longer)});
  auto k = normal("padding", {2, kKv, longer, kWidth});
  k[1].index_copy_(1, slots, keys()[1]);
  auto valid = at::ones({2, longer}, at::kBool);
  valid[1].slice(0, 20, 29).fill_(false);
  auto order = (valid.cumsum(1) - 1).clamp_min(0);
  auto both = cluster_sequence(k, valid, order, kClusters, 3, {5, 8});
  EXPECT_TENSOR_EQUAL(both.member[1].index_select(1, slots), alone.member[0]);
  EXPECT_TENSOR_NEAR(both.direction[1], alone.direction[0], (Tolerance{0, 1e-5}));
  EXPECT_TENSOR_NEAR(both.mean[1], alone.mean[0], (Tolerance{0, 1e-5}));
  // Start keys are drawn by (seed, sample id).
  auto again = [&](int64_t seed, int64_t sample) {
    return cluster_sequence(keys().narrow(0, 1, 1), at::ones({1, kTokens}, at::kBool),
                            ranks().narrow(0, 1, 1), kClusters, seed, {sample})
        .member;
  };
  EXPECT_TENSOR_EQUAL(again(3, 8), alone.member);
  EXPECT_FALSE(at::equal(again(3, 9), alone.member));
  EXPECT_FALSE(at::equal(again(4, 8), alone.member));
}

TEST(ClusterSequence, ShortSequencesHaveFewerClusters) {
  auto valid = at::zeros({2, kTokens}, at::kBool);
  valid[0].slice(0, 4, 7).fill_(true);  // three keys; the other sequence has none
  auto found = cluster_sequence(keys(), valid, ranks(), kClusters, 3, {7, 8});
  auto exists = found.direction.norm(2, -1) > 0;
  EXPECT_TENSOR_EQUAL(exists.sum(-1), at::tensor({3, 3, 0, 0}, at::kLong).view({2, 2}));
  EXPECT_EQ(std::get<0>(at::_unique(found.member[0][0])).numel(), 4);  // -1 and three
  EXPECT_EQ(found.member[1].max().item<int64_t>(), -1);
  auto later = nearest_cluster(keys(), found.direction, all_valid());
  EXPECT_GE(later[0].min().item<int64_t>(), 0);
  EXPECT_TRUE(exists[0].gather(-1, later[0]).all().item<bool>());  // never to one that is not there
  EXPECT_EQ(later[1].max().item<int64_t>(), -1);

  auto few = cluster_sequence(keys().narrow(2, 0, 2), all_valid(2), ranks(2), kClusters, 3, {7, 8});
  EXPECT_EQ(few.direction.size(2), kClusters);
  auto empty =
      cluster_sequence(keys().narrow(2, 0, 0), all_valid(0), ranks(0), kClusters, 3, {7, 8});
  EXPECT_EQ(empty.member.size(2), 0);
  EXPECT_EQ(empty.direction.abs().max().item<double>(), 0);
}

// Keys of length 0 have no direction, but they have a cluster that exists.
TEST(ClusterSequence, ZeroKeysBelongToAClusterThatExists) {
  auto found = cluster_sequence(at::zeros({2, kKv, kTokens, kWidth}), all_valid(), ranks(),
                                kClusters, 3, {7, 8});
  auto exists = found.direction.norm(2, -1) > 0;
  EXPECT_TRUE(exists.gather(-1, found.member).all().item<bool>());
}

TEST(NearestCluster, AgreesWithTheClustersOwnMembersOneByOne) {
  auto found = cluster_sequence(keys(), all_valid(), ranks(), kClusters, 3, {7, 8});
  EXPECT_TENSOR_EQUAL(nearest_cluster(keys(), found.direction, all_valid()), found.member);
  for (int64_t t : {0, 17, 39})
    EXPECT_TENSOR_EQUAL(nearest_cluster(keys().narrow(2, t, 1) * 3, found.direction, all_valid(1)),
                        found.member.narrow(2, t, 1));
}

}  // namespace
}  // namespace dsrsq
