// How DSRSQ's layers attend: biases of keys, recorded rows, a sequence's own clusters, and the
// switches of the latent buffer. One layer at a time against fp64, then whole models.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "dsrsq/core/error.h"
#include "dsrsq/methods/dsrsq.h"
#include "dsrsq/methods/standard.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::normal;
using testing::read_batch;
using testing::tiny_batch;
using testing::tiny_dsrsq;
using testing::tiny_dsrsq_model;
using testing::tiny_model;
using testing::Tolerance;

constexpr int64_t kHeads = 4, kKv = 2, kWidth = 8, kSinks = 2;

// ---- one layer against fp64 ----

// Thirty slots of two sequences, read in two chunks: {10, 8, 8} and {4}. The second sequence has
// padding, in the middle too: its second segment is empty.
struct Scene {
  at::Tensor q = normal("scene q", {2, kHeads, 30, kWidth}) * 2;
  at::Tensor k = normal("scene k", {2, kKv, 30, kWidth}) * 2;
  at::Tensor v = normal("scene v", {2, kKv, 30, kWidth});
  at::Tensor valid = at::ones({2, 30}, at::kBool);
  at::Tensor bias = at::zeros({2, 30});
  at::Tensor rows = at::full({2, 30}, -1, at::kLong);  // the question that each is recorded for
  at::Tensor order;
  bool with_bias = false;
  Scene() {
    valid[1].slice(0, 7, 18).fill_(false);
    valid[1][28] = false;
    order = (valid.cumsum(1) - 1).clamp_min(0);
  }
  ops::RotaryTable rope() const { return ops::rotary_table(order, kWidth, tiny_model().rope_base); }
};

struct Run {
  at::Tensor out;  // [B, H, 30, d]
  MethodState state;
};

Run run(Method& method, const Scene& scene, const PassOptions& options = {}, int64_t layer = 0) {
  Run result;
  result.state = method.make_state(tiny_batch({{.sample = 5}, {.sample = 6}}), options);
  std::vector<at::Tensor> outs;
  int64_t begin = 0;
  for (const auto& segments : {std::vector<int64_t>{10, 8, 8}, {4}}) {
    auto length = begin == 0 ? 26 : 4;
    auto part = [&](const at::Tensor& x, int64_t dim) { return x.narrow(dim, begin, length); };
    AttentionInput input;
    input.q = part(scene.q, 2);
    input.k = part(scene.k, 2);
    input.v = part(scene.v, 2);
    input.valid = part(scene.valid, 1);
    input.padded = true;
    input.positions = input.order = part(scene.order, 1);
    input.rope = ops::rotary_table(input.order, kWidth, tiny_model().rope_base);
    if (scene.with_bias && begin == 0)
      input.key_bias = part(scene.bias, 1);  // later keys have none
    if ((scene.rows >= 0).any().item<bool>()) {
      input.record_rows = part(scene.rows, 1);
      input.record_questions = 3;
    }
    input.segments = segments;
    input.layer = layer;
    outs.push_back(method.attend(input, result.state));
    begin += length;
  }
  result.out = at::cat(outs, 2);
  return result;
}

// -inf where a key is not visible, else the logit, [B, H, 30, 30] fp64.
at::Tensor causal_logits(const Scene& s, const at::Tensor& bias) {
  auto q = ops::rotate(s.q.to(at::kDouble), s.rope());
  auto k = ops::rotate(s.k.to(at::kDouble), s.rope()).repeat_interleave(kHeads / kKv, 1);
  auto logits = at::einsum("bhtd,bhjd->bhtj", {q, k}) / std::sqrt(double(kWidth)) +
                bias.to(at::kDouble).view({2, 1, 1, 30});
  auto visible =
      (s.order.view({2, 1, 30}) <= s.order.view({2, 30, 1})).logical_and(s.valid.view({2, 1, 30}));
  return logits.masked_fill(visible.logical_not().unsqueeze(1), -INFINITY);
}

at::Tensor mixed(const Scene& s, const at::Tensor& logits) {
  return at::matmul(at::softmax(logits, -1),
                    s.v.to(at::kDouble).repeat_interleave(kHeads / kKv, 1));
}

void expect_rows_near(const Scene& s, const at::Tensor& actual, const at::Tensor& expected,
                      double tolerance, int64_t begin = 0) {
  auto valid = s.valid.view({2, 1, 30, 1});
  auto part = [&](const at::Tensor& x) {
    return x.masked_fill(valid.logical_not(), 0).slice(2, begin);
  };
  EXPECT_TENSOR_NEAR(part(actual), part(expected), (Tolerance{tolerance, tolerance}));
}

// A buffer that loses nothing and, where on, clusters that leave nothing out.
DsrsqConfig lossless(bool sqa, bool rckv) {
  auto config = tiny_dsrsq(false, sqa, rckv);
  config.sqa.centroids = "segment";
  config.sqa.clusters_per_query = config.sqa.clusters;
  config.rckv.latent_width = kKv * kWidth;
  config.rckv.buffer_length = 64;
  return config;
}

std::vector<std::shared_ptr<Method>> dense_methods() {
  std::vector<std::shared_ptr<Method>> list{
      std::make_shared<StandardMethod>(StandardConfig{}, tiny_model())};
  for (int64_t bits = 0; bits < 4; ++bits)
    list.push_back(
        std::make_shared<DsrsqMethod>(lossless((bits & 1) != 0, (bits & 2) != 0), tiny_model(), 3));
  return list;
}

// One softmax over exact and latent keys with their biases, and its gradient into the biases, also
// of keys that have become latents meanwhile.
TEST(KeyBias, IsAddedWhereverTheKeyIsRead) {
  for (const auto& method : dense_methods()) {
    Scene scene;
    scene.with_bias = true;
    scene.bias.narrow(1, 0, 26).copy_(normal("bias", {2, 26}) * 2);
    auto expected_bias = scene.bias.to(at::kDouble).requires_grad_();
    auto expected = mixed(scene, causal_logits(scene, expected_bias));
    scene.bias = scene.bias.detach().requires_grad_();
    auto actual = run(*method, scene);
    expect_rows_near(scene, actual.out, expected, 1e-4);
    auto upstream = normal("upstream", {2, kHeads, 30, kWidth}) * scene.valid.view({2, 1, 30, 1});
    (actual.out * upstream).sum().backward();
    (expected * upstream.to(at::kDouble)).sum().backward();
    auto real = scene.valid.narrow(1, 0, 26);
    EXPECT_TENSOR_NEAR(scene.bias.grad().narrow(1, 0, 26) * real,
                       expected_bias.grad().narrow(1, 0, 26) * real, (Tolerance{1e-3, 1e-3}));
    // The bias matters, and most keys of the first chunk did become latents where there is a
    // buffer.
    torch::NoGradGuard no_grad;
    Scene plain;
    EXPECT_GT((run(*method, plain).out - actual.out).abs().max().item<double>(), 0.5);
    const auto& latents = actual.state.layers[0].latents;
    if (!latents.empty()) {
      EXPECT_EQ(latents.valid[0].sum().item<int64_t>(), 10 + 8 - kSinks - 4);
    }
  }
}

TEST(RecordRows, AreTheFullSoftmaxByRankAndQuestion) {
  torch::NoGradGuard no_grad;
  Scene scene;
  scene.with_bias = true;
  scene.bias.narrow(1, 0, 26).copy_(normal("bias", {2, 26}));
  for (int64_t t : {3, 12, 19, 20}) scene.rows.select(1, t).fill_(0);
  for (int64_t t : {24, 27, 28}) scene.rows.select(1, t).fill_(2);
  scene.rows[1][20] = -1;
  auto probability = at::softmax(causal_logits(scene, scene.bias), -1).nan_to_num(0);
  auto expected = at::zeros({2, 3, 30}, at::kDouble);
  for (int64_t q = 0; q < 3; ++q) {
    auto asks = (scene.rows == q).logical_and(scene.valid).view({2, 1, 30, 1});
    expected.select(1, q).scatter_add_(1, scene.order,
                                       (probability * asks).sum({1, 2}) * scene.valid);
  }
  // Of the second sequence 12 and 28 are padding, which asks nothing.
  auto rows = at::tensor({4, 0, 3, 2, 0, 2}, at::kDouble).view({2, 3}) * kHeads;
  for (const auto& method : dense_methods()) {
    auto actual = run(*method, scene);
    ASSERT_TRUE(actual.state.read_mass.defined());
    EXPECT_TENSOR_NEAR(actual.state.read_mass, expected, (Tolerance{1e-4, 1e-4}));
    EXPECT_TENSOR_NEAR(actual.state.read_mass.sum(2), rows, (Tolerance{1e-5, 0}));
    // Recording changes nothing but rounding, where an operator serves what is not recorded.
    Scene unrecorded = scene;
    unrecorded.rows = at::full_like(scene.rows, -1);
    auto plain = run(*method, unrecorded);
    EXPECT_FALSE(plain.state.read_mass.defined());
    expect_rows_near(scene, plain.out, actual.out.to(at::kDouble), 1e-5);
  }
}

// ---- a sequence's own clusters ----

// The k best of the clusters that a query may choose from, by fp64 means of their raw members; as
// [B, H, 30, 30]: key j belongs to one of them. `blocks(b, t)` gives the range of clusters open to
// a query and how many of them it chooses.
struct Choice {
  int64_t begin, end, count;
};
at::Tensor in_chosen_clusters(const Scene& s, const at::Tensor& cluster, const at::Tensor& founding,
                              const std::function<Choice(int64_t, int64_t)>& choice) {
  auto chosen = at::zeros({2, kHeads, 30, 30}, at::kBool);
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < kHeads; ++h)
      for (int64_t t = 0; t < 30; ++t) {
        auto [begin, end, count] = choice(b, t);
        std::vector<std::pair<double, int64_t>> scores;
        for (int64_t c = begin; c < end; ++c) {
          auto member = (cluster[b][h / 2] == c).logical_and(founding[b]);
          if (!member.any().item<bool>()) continue;
          auto mean = s.k[b][h / 2].to(at::kDouble).index({member}).mean(0);
          scores.emplace_back(-(mean * s.q[b][h][t].to(at::kDouble)).sum().item<double>(), c);
        }
        std::sort(scores.begin(), scores.end());
        for (int64_t i = 0; i < std::min<int64_t>(count, int64_t(scores.size())); ++i)
          chosen[b][h][t].logical_or_(cluster[b][h / 2] == scores[size_t(i)].second);
      }
  return chosen;
}

// Attends what is in the chosen clusters or of no cluster, the window and the sinks.
void expect_sparse(const Scene& scene, const Run& actual, const at::Tensor& cluster,
                   const at::Tensor& chosen) {
  auto key = scene.order.view({2, 1, 1, 30}), query = scene.order.view({2, 1, 30, 1});
  auto seen = chosen.logical_or(query - key < 3).logical_or(key < kSinks);
  for (int64_t h = 0; h < kHeads; ++h)
    seen.select(1, h).logical_or_((cluster.select(1, h / 2) < 0).unsqueeze(1));
  auto logits = causal_logits(scene, scene.bias);
  auto hidden = at::isfinite(logits).logical_and(seen.logical_not());
  EXPECT_GT(hidden.sum().item<int64_t>(), 400);  // it is sparse
  expect_rows_near(scene, actual.out, mixed(scene, logits.masked_fill(hidden, -INFINITY)), 1e-5);
}

// segment: clusters of the segments closed before the query's, k of m for each; the open segment,
// over both chunks, is attended fully.
TEST(SegmentClusters, AttendTheBestClustersOfClosedSegments) {
  torch::NoGradGuard no_grad;
  auto config = tiny_dsrsq(false, true, false);
  config.sqa.centroids = "segment";
  config.sqa.clusters = 4;
  config.sqa.clusters_per_query = 1;
  DsrsqMethod method(config, tiny_model(), 3);
  Scene scene;
  auto actual = run(method, scene);
  const auto& cluster = actual.state.layers[0].cluster;
  ASSERT_EQ(cluster.sizes(), (std::vector<int64_t>{2, kKv, 30}));
  auto member = cluster.select(1, 0);
  EXPECT_EQ(member.slice(1, 0, kSinks).max().item<int64_t>(), -1);
  EXPECT_EQ(member.slice(1, 18).max().item<int64_t>(), -1);
  EXPECT_TRUE((member[0].slice(0, kSinks, 10).floor_divide(4) == 0).all().item<bool>());
  EXPECT_TRUE((member[0].slice(0, 10, 18).floor_divide(4) == 1).all().item<bool>());
  EXPECT_EQ(member[1].slice(0, 7, 18).max().item<int64_t>(), -1);
  auto chosen = in_chosen_clusters(scene, cluster, scene.valid, [](int64_t b, int64_t t) {
    auto closed = t < 10 ? 0 : t < 18 ? 1 : 2;
    return Choice{0, 4 * closed, b == 0 ? closed : std::min(closed, 1)};  // the empty one has none
  });
  // Its own segment was open when the query came.
  for (auto [begin, end] : {std::pair{0, 10}, {10, 18}, {18, 30}})
    chosen.slice(2, begin, end).slice(3, begin, end).fill_(true);
  expect_sparse(scene, actual, cluster, chosen);
}

// kmeans: clusters of the whole prefix, those before the first chunk's last segment; later keys are
// assigned to them and do not move them.
TEST(PrefixClusters, AttendTheBestClustersOfThePrefix) {
  torch::NoGradGuard no_grad;
  auto config = tiny_dsrsq(false, true, false);
  config.sqa.centroids = "kmeans";
  config.sqa.clusters = 5;
  config.sqa.clusters_per_query = 2;
  DsrsqMethod method(config, tiny_model(), 3);
  Scene scene;
  auto actual = run(method, scene);
  const auto& layer = actual.state.layers[0];
  auto founding = scene.valid.logical_and(scene.order >= kSinks);
  founding.slice(1, 18).fill_(false);
  EXPECT_TRUE((layer.cluster < 0)
                  .select(1, 0)
                  .eq(scene.valid.logical_not().logical_or(scene.order < kSinks))
                  .all()
                  .item<bool>());
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t h = 0; h < kKv; ++h)
      for (int64_t t = 18; t < 30; ++t) {
        if (!scene.valid[b][t].item<bool>()) continue;
        auto cosine = at::matmul(layer.cluster_direction[b][h].to(at::kDouble),
                                 scene.k[b][h][t].to(at::kDouble));
        EXPECT_EQ(layer.cluster[b][h][t].item<int64_t>(), cosine.argmax().item<int64_t>());
      }
  auto chosen = in_chosen_clusters(scene, layer.cluster, founding, [](int64_t, int64_t) {
    return Choice{0, 5, 2};
  });
  expect_sparse(scene, actual, layer.cluster, chosen);
}

// With the buffer only clusters of keys that are still exact are kept and chosen from.
TEST(SegmentClusters, FollowWhatStaysExact) {
  torch::NoGradGuard no_grad;
  auto config = tiny_dsrsq(false, true, true);
  config.sqa.centroids = "segment";
  config.sqa.clusters = 3;
  for (int64_t window : {0, 4, 9}) {
    config.rckv.window = window;
    DsrsqMethod method(config, tiny_model(), 3);
    Scene scene;
    scene.valid.fill_(true);
    scene.order = at::arange(30).unsqueeze(0).expand({2, 30}).contiguous();
    auto actual = run(method, scene);
    const auto& layer = actual.state.layers[0];
    auto blocks = layer.cluster_mean.size(2) / 3;
    EXPECT_EQ(blocks, window == 0 ? 0 : window == 4 ? 1 : 2);
    auto held = layer.cluster[0].select(0, 0).slice(0, kSinks, kSinks + window);
    EXPECT_LT(layer.cluster.max().item<int64_t>(), std::max<int64_t>(1, 3 * blocks));
    if (window > 0) {  // a cluster for each that closed
      EXPECT_GE(held.min().item<int64_t>(), 0);
    }
  }
}

// ---- the latent buffer's switches against fp64 ----

// The last segment's rows: exact keys as ever, latents with q before RoPE where positions are a
// bias of age, and the biases of gate and age.
void expect_latent_read(bool age_bias, bool gate) {
  auto config = lossless(false, true);
  if (age_bias) config.rckv.position = "age_bias";
  if (gate) config.rckv.weight = "gate";
  DsrsqMethod method(config, tiny_model(), 3);
  auto parameters = method.named_parameters();
  {
    at::NoGradGuard no_grad;
    for (const char* name : {"rckv.age_bias_1", "rckv.gate_weight_1"})
      if (auto* p = parameters.find(name)) p->copy_(normal(name, p->sizes()));
  }
  Scene scene;
  auto actual = run(method, scene, {}, 1);
  auto logits = causal_logits(scene, scene.bias);
  auto latent = at::zeros({2, 30}, at::kBool);
  const auto& latents = actual.state.layers[1].latents;
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t j = 0; j < 30; ++j)
      latent[b][j] = scene.valid[b][j].logical_and(
          (latents.order[b] == scene.order[b][j]).logical_and(latents.valid[b]).any());
  EXPECT_GT(latent.sum().item<int64_t>(), 10);
  auto read = logits;
  if (age_bias) {
    read = at::einsum("bhtd,bhjd->bhtj",
                      {scene.q.to(at::kDouble), scene.k.to(at::kDouble).repeat_interleave(2, 1)}) /
           std::sqrt(double(kWidth));
    auto table = parameters["rckv.age_bias_1"].detach().to(at::kDouble);
    for (int64_t b = 0; b < 2; ++b)
      for (int64_t t = 18; t < 30; ++t)
        for (int64_t j = 0; j < 18; ++j) {
          auto age = (scene.order[b][t] - scene.order[b][j]).item<int64_t>();
          if (age < 1) continue;
          read[b].select(1, t).select(1, j) += table.select(1, int64_t(std::log2(double(age))));
        }
  }
  if (gate) {
    auto z = [&](const at::Tensor& x, const char* name) {
      auto joint = x.transpose(1, 2).reshape({2, 30, kKv * kWidth}).to(at::kDouble);
      return at::matmul(joint, parameters[name].detach().to(at::kDouble).t());
    };
    auto w = parameters["rckv.gate_weight_1"].detach().to(at::kDouble);
    auto logit =
        at::matmul(
            at::cat({z(scene.k, "rckv.key_projection_1"), z(scene.v, "rckv.value_projection_1")},
                    -1),
            w) +
        parameters["rckv.gate_bias_1"].detach().to(at::kDouble);
    read = read - (1 + (-logit).exp()).log().view({2, 1, 1, 30});
  }
  auto all = at::where(latent.view({2, 1, 1, 30}), read, logits);
  expect_rows_near(scene, actual.out, mixed(scene, all), 1e-4, 18);
  EXPECT_GT((mixed(scene, all) - mixed(scene, logits)).slice(2, 18)[0].abs().max().item<double>(),
            0.1);
  actual.out.slice(2, 18).square().sum().backward();
  for (const auto& name : {"rckv.age_bias_1", "rckv.gate_weight_1", "rckv.gate_bias_1"})
    if (auto* p = parameters.find(name)) {
      EXPECT_GT(p->grad().norm().item<double>(), 1e-3) << name;
    }
}

TEST(LatentRead, AgeBiasEqualsTheExplicitSoftmax) { expect_latent_read(true, false); }
TEST(LatentRead, GateEqualsTheExplicitSoftmax) { expect_latent_read(false, true); }
TEST(LatentRead, GateAndAgeBiasTogether) { expect_latent_read(true, true); }

// Without RoPE the absorbed read is the rebuilt read while the bias is 0 (D13).
TEST(LatentRead, AbsorbedEqualsRebuilt) {
  torch::NoGradGuard no_grad;
  auto model = tiny_model();
  model.position_embedding = "none";
  auto config = tiny_dsrsq(false, true, true);
  auto batch = tiny_batch({{.context = 45, .sample = 1}, {.context = 19, .tail = 4, .sample = 2}});
  auto rebuilt = tiny_dsrsq_model(model, config);
  config.rckv.position = "age_bias";
  auto absorbed = tiny_dsrsq_model(model, config);
  PassOptions options;
  options.collect_stats = true;
  MethodState of_rebuilt, of_absorbed;
  auto valid = batch.tail_valid.unsqueeze(-1);
  EXPECT_TENSOR_NEAR(read_batch(absorbed, batch, options, &of_absorbed) * valid,
                     read_batch(rebuilt, batch, options, &of_rebuilt) * valid,
                     (Tolerance{0, 1e-4}));
  EXPECT_GT(of_rebuilt.stats.rebuilt_latents.item<int64_t>(), 0);
  EXPECT_EQ(of_absorbed.stats.rebuilt_latents.item<int64_t>(), 0);
  EXPECT_EQ(of_absorbed.stats.latent_pairs.item<int64_t>(),
            of_rebuilt.stats.latent_pairs.item<int64_t>());
  PassOptions masked;
  masked.probe = Probe::kLatentsMasked;
  EXPECT_GT((read_batch(absorbed, batch, masked) - read_batch(absorbed, batch))
                .abs()
                .max()
                .item<double>(),
            1e-2);
}

TEST(LatentRead, RecencyHoldsTheNewestThatLeft) {
  torch::NoGradGuard no_grad;
  auto config = tiny_dsrsq(false, false, true);
  config.rckv.weight = "recency";
  auto model = tiny_dsrsq_model(tiny_model(), config);
  MethodState state;
  read_batch(model, tiny_batch({{.context = 45, .sample = 1}, {.context = 19, .sample = 2}}), {},
             &state);
  for (const auto& layer : state.layers) {
    EXPECT_FALSE(layer.mass.defined());  // nothing needs attention rates
    for (int64_t b = 0; b < 2; ++b) {
      auto last = kSinks + (b == 0 ? 45 : 19) - 4;  // the window of 4 stays exact
      EXPECT_TENSOR_EQUAL(layer.latents.order[b], at::arange(last - 5, last));
    }
  }
}

TEST(DsrsqConfig, PrioritiesThatAreAllTheSameAreAnError) {
  auto config = tiny_dsrsq(true, true, true);
  config.rckv.weight = "uniform";
  config.rckv.noise = "none";
  try {
    config.validate(tiny_model(), {});
    FAIL() << "no error";
  } catch (const ConfigError& error) {
    EXPECT_NE(std::string(error.what()).find("rckv.noise"), std::string::npos) << error.what();
  }
  config.rckv.decay = 0.1;  // by age, then
  EXPECT_NO_THROW(config.validate(tiny_model(), {}));
  for (const char* position : {"none", "learned", "rope"}) {
    auto model = tiny_model();
    model.position_embedding = position;
    config.rckv.position = "age_bias";
    EXPECT_NO_THROW(config.validate(model, {}));
  }
}

}  // namespace
}  // namespace dsrsq
