// Every switch of attention and cache in a whole model: dense where nothing is left out, decoding
// equal to prefill, no dependence on the batch, no look at what comes later, gradients everywhere.
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <ostream>

#include "dsrsq/methods/dsrsq.h"
#include "dsrsq/methods/standard.h"
#include "dsrsq/ops/autocast.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::read_batch;
using testing::tiny_batch;
using testing::tiny_dsrsq;
using testing::tiny_dsrsq_model;
using testing::tiny_model;
using testing::Tolerance;

struct Variant {
  const char* name;
  bool sqa, rckv;
  void (*change)(DsrsqConfig&);
};

void PrintTo(const Variant& variant, std::ostream* out) { *out << variant.name; }

void segment(DsrsqConfig& c) { c.sqa.centroids = "segment"; }
void kmeans(DsrsqConfig& c) { c.sqa.centroids = "kmeans"; }
void group(DsrsqConfig& c) { c.sqa.route = "group"; }
void segment_group(DsrsqConfig& c) { segment(c), group(c); }
void kmeans_group(DsrsqConfig& c) { kmeans(c), group(c); }
void age_bias(DsrsqConfig& c) { c.rckv.position = "age_bias"; }
void gate(DsrsqConfig& c) { c.rckv.weight = "gate"; }
void recency(DsrsqConfig& c) { c.rckv.weight = "recency"; }
void decay(DsrsqConfig& c) { c.rckv.decay = 0.1, c.rckv.noise = "none"; }
void many(DsrsqConfig& c) { segment(c), group(c), age_bias(c), gate(c); }

const Variant kVariants[] = {
    {"group", true, false, group},
    {"segment", true, false, segment},
    {"segment_rckv", true, true, segment},
    {"segment_group", true, false, segment_group},
    {"kmeans", true, false, kmeans},
    {"kmeans_rckv", true, true, kmeans},
    {"kmeans_group", true, false, kmeans_group},
    {"age_bias", false, true, age_bias},
    {"gate", true, true, gate},
    {"recency", true, true, recency},
    {"decay", false, true, decay},
    {"many", true, true, many},
};

const std::vector<testing::TinySequence> kSequences{
    {.context = 45, .tail = 6, .sample = 1},
    {.context = 19, .question = 3, .tail = 9, .questions = 2, .sample = 2},
    {.context = 1, .question = 2, .tail = 4, .sample = 3}};

class Switches : public ::testing::TestWithParam<Variant> {
 protected:
  DsrsqConfig config(bool dsr = false) const {
    auto made = tiny_dsrsq(dsr, GetParam().sqa, GetParam().rckv);
    GetParam().change(made);
    return made;
  }
  LanguageModel make(bool dsr = false) const { return tiny_dsrsq_model(tiny_model(), config(dsr)); }
  bool looks_ahead() const { return config().sqa.centroids == "kmeans"; }
};

// A gate and a bias of age are no part of dense attention.
class Lossless : public Switches {};
std::vector<Variant> lossless_variants() {
  std::vector<Variant> list;
  for (const auto& variant : kVariants) {
    DsrsqConfig config;
    variant.change(config);
    if (config.rckv.weight != "gate" && config.rckv.position != "age_bias") list.push_back(variant);
  }
  return list;
}

at::Tensor standard_hidden(const Batch& batch) {
  auto model = testing::tiny_language_model(
      tiny_model(), std::make_shared<StandardMethod>(StandardConfig{}, tiny_model()));
  return read_batch(model, batch);
}

// k = m, c = full width, L large: dense attention.
TEST_P(Lossless, NothingLeftOutIsDense) {
  torch::NoGradGuard no_grad;
  auto lossless = config();
  lossless.sqa.clusters_per_query = lossless.sqa.clusters;
  lossless.rckv.latent_width = 16;
  lossless.rckv.buffer_length = 64;
  auto model = tiny_dsrsq_model(tiny_model(), lossless);
  auto batch = tiny_batch(kSequences);
  auto valid = batch.tail_valid.unsqueeze(-1);
  // Rebuilt keys: see Dsrsq.FullWidthBufferEqualsDense.
  auto tolerance = lossless.rckv.enabled ? 1e-4 : 1e-5;
  EXPECT_TENSOR_NEAR(read_batch(model, batch) * valid, standard_hidden(batch) * valid,
                     (Tolerance{0, tolerance}));
  auto sparse = make();
  EXPECT_GT((read_batch(sparse, batch) - standard_hidden(batch)).abs().max().item<double>(), 1e-2);
}

TEST_P(Switches, ASequenceDoesNotDependOnItsBatch) {
  torch::NoGradGuard no_grad;
  auto model = make(true);
  for (auto probe : {Probe::kNone, Probe::kRandomRouting}) {
    PassOptions options;
    options.probe = probe;
    auto together = read_batch(model, tiny_batch(kSequences), options);
    for (size_t b = 0; b < kSequences.size(); ++b)
      EXPECT_TENSOR_NEAR(together[int64_t(b)].narrow(0, 0, kSequences[b].tail),
                         read_batch(model, tiny_batch({kSequences[b]}), options)[0],
                         (Tolerance{0, 1e-5}))
          << "sequence " << b << ", random routing " << (probe == Probe::kRandomRouting);
  }
}

TEST_P(Switches, DecodingEqualsPrefill) {
  torch::NoGradGuard no_grad;
  auto model = make(true);
  auto batch = tiny_batch(kSequences);
  auto whole = read_batch(model, batch);
  auto start = batch;
  start.tail = batch.tail.narrow(1, 0, 2);
  start.tail_valid = batch.tail_valid.narrow(1, 0, 2);
  start.labels = batch.labels.narrow(1, 0, 2);
  MethodState state;
  std::vector<at::Tensor> hidden{read_batch(model, start, {}, &state)};
  for (int64_t t = 2; t < 9; ++t)
    hidden.push_back(
        model->read_next(batch.tail.select(1, t), batch.tail_valid.select(1, t), state));
  auto valid = batch.tail_valid.unsqueeze(-1);
  EXPECT_TENSOR_NEAR(at::cat(hidden, 1) * valid, whole * valid, (Tolerance{0, 1e-5}));
}

ReaderInput four_segments(LanguageModel& model, const at::Tensor& ids) {
  ReaderInput input;
  input.inputs = model->backbone()->embed(ids);
  input.valid = at::ones(ids.sizes(), at::kBool);
  input.positions = input.order = at::arange(ids.size(1)).unsqueeze(0);
  input.segments = {10, 8, 8, 6};
  return input;
}

// A later token changes nothing before it, except where clusters know the whole prefix: the test
// would see a leak, and kmeans is why its config is restricted.
TEST_P(Switches, LaterTokensDoNotReachEarlierOnes) {
  torch::NoGradGuard no_grad;
  auto model = make();
  auto ids = testing::token_ids("causal", {1, 32});
  auto read = [&](const at::Tensor& tokens) {
    auto state = model->method().make_state(tiny_batch({{.context = 1, .sample = 1}}), {});
    return model->backbone()->forward(four_segments(model, tokens), model->method(), state);
  };
  auto before = read(ids);
  double leak = 0;
  for (int64_t changed : {9, 13, 20, 25, 27}) {
    auto other = ids.clone();
    other[0][changed] += other[0][changed].item<int64_t>() < 50 ? 7 : -7;
    auto after = read(other);
    auto difference = (after - before).abs().amax(-1)[0];
    EXPECT_GT(difference[changed].item<double>(), 1e-3);
    auto earlier = difference.narrow(0, 0, changed).max().item<double>();
    if (looks_ahead() && changed < 26) leak = std::max(leak, earlier);
    if (!looks_ahead() || changed >= 26) {
      EXPECT_LT(earlier, 3e-6) << changed;
    }
  }
  if (looks_ahead()) {
    EXPECT_GT(leak, 1e-2);
  }
}

TEST_P(Switches, TrainsEveryParameterThatItHas) {
  auto model = make(true);
  PassOptions training;
  training.training = true;
  training.step = 2;
  auto batch = tiny_batch(kSequences);
  MethodState state;
  auto hidden = read_batch(model, batch, training, &state);
  auto loss = model->backbone()->logits(hidden).log_softmax(-1).square().mean();
  for (const auto& [name, term] : model->method().losses(batch, state))
    loss = loss + term.sum / term.count;
  loss.backward();
  for (const auto& one : model->named_parameters()) {
    ASSERT_TRUE(one.value().grad().defined()) << one.key();
    EXPECT_TRUE(one.value().grad().isfinite().all().item<bool>()) << one.key();
    EXPECT_GT(one.value().grad().norm().item<double>(), 0) << one.key();
  }
  model->method().after_step(2);
  EXPECT_FALSE(model->method().scalars().empty());
  torch::NoGradGuard no_grad;
  EXPECT_TRUE(read_batch(model, batch).isfinite().all().item<bool>());
}

// D22: in a bf16 run biases, gates, clusters and masses stay what they are, and everything trains.
TEST_P(Switches, TrainsInBf16) {
  auto model = make();
  ops::AutocastGuard bf16(at::kCPU, true);
  auto input = four_segments(model, testing::token_ids("causal", {1, 32}));
  input.key_bias = testing::normal("bias", {1, 32}).requires_grad_();
  input.record_rows = at::full({1, 32}, -1, at::kLong);
  input.record_rows[0][30] = 0;
  auto state = model->method().make_state(tiny_batch({{.context = 1, .sample = 1}}), {});
  auto hidden = model->backbone()->forward(input, model->method(), state);
  hidden.to(at::kFloat).square().mean().backward();
  for (const auto& one : model->named_parameters())
    if (one.value().grad().defined()) {
      EXPECT_TRUE(one.value().grad().isfinite().all().item<bool>()) << one.key();
    }
  EXPECT_TRUE(input.key_bias.grad().isfinite().all().item<bool>());
  EXPECT_GT(input.key_bias.grad().norm().item<double>(), 0);
  for (const auto& layer : state.layers) {
    EXPECT_EQ(layer.bias.scalar_type(), at::kFloat);
    if (layer.cluster_mean.defined()) {
      EXPECT_EQ(layer.cluster_mean.scalar_type(), at::kFloat);
    }
    if (!layer.latents.empty()) {
      EXPECT_EQ(layer.latents.keys.scalar_type(), at::kFloat);
      EXPECT_EQ(layer.latents.bias.scalar_type(), at::kFloat);
    }
  }
  EXPECT_NEAR(state.read_mass.sum().item<double>(), 4 * 2, 1e-4);
}

// A sequence's own clusters need no codebook: nothing is registered, fed, started or counted as
// shared.
TEST_P(Switches, OwnClustersHaveNoCodebook) {
  auto made = config();
  DsrsqMethod method(made, tiny_model(), 3);
  bool own = made.sqa.enabled && made.sqa.centroids != "codebook";
  EXPECT_EQ(method.buffers().empty(), own || !made.sqa.enabled);
  EXPECT_EQ(method.shared_bytes() == 0, own || !made.sqa.enabled);
  PassOptions before, now;
  before.sqa = before.rckv = now.rckv = false;
  EXPECT_EQ(method.calibration_sequences(before, now) == 0, own || !made.sqa.enabled);
}

// What a sequence keeps (D24) is counted, clusters too, and does not grow with the buffer on.
TEST_P(Switches, StateIsCountedAndBounded) {
  torch::NoGradGuard no_grad;
  auto model = make();
  auto bytes = [&](int64_t context) {
    MethodState state;
    read_batch(model, tiny_batch({{.context = context, .sample = 1}}), {}, &state);
    auto total = model->method().state_bytes(state);
    int64_t clusters = 0;
    for (const auto& layer : state.layers)
      for (const auto& x : {layer.cluster_direction, layer.cluster_mean})
        if (x.defined()) clusters += x.numel() * x.element_size();
    EXPECT_EQ(clusters > 0, config().sqa.enabled && config().sqa.centroids != "codebook");
    EXPECT_LT(clusters, total);
    return total;
  };
  if (GetParam().rckv) {
    EXPECT_EQ(bytes(1600), bytes(160));
  } else
    EXPECT_GT(bytes(300), 5 * bytes(30));
}

// Each flagged query's attention adds up to 1 a head and layer, whatever is sparse or compressed.
TEST_P(Switches, RecordedRowsHaveAMassOfOneAHeadAndLayer) {
  torch::NoGradGuard no_grad;
  auto model = make();
  auto ids = testing::token_ids("causal", {1, 32});
  auto input = four_segments(model, ids);
  input.record_rows = at::full({1, 32}, -1, at::kLong);
  for (int64_t t : {4, 20, 28, 31}) input.record_rows[0][t] = 0;
  auto state = model->method().make_state(tiny_batch({{.context = 1, .sample = 1}}), {});
  model->backbone()->forward(input, model->method(), state);
  ASSERT_TRUE(state.read_mass.defined());
  EXPECT_EQ(state.read_mass.size(2), 32);
  EXPECT_NEAR(state.read_mass.sum().item<double>(), 4 * 4 * 2, 1e-3);
}

INSTANTIATE_TEST_SUITE_P(Variants, Lossless, ::testing::ValuesIn(lossless_variants()),
                         [](const auto& info) { return std::string(info.param.name); });
INSTANTIATE_TEST_SUITE_P(Variants, Switches, ::testing::ValuesIn(kVariants),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace dsrsq
