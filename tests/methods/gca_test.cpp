#include "dsrsq/methods/gca.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "dsrsq/core/error.h"
#include "dsrsq/methods/standard.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using testing::read_batch;
using testing::tiny_batch;
using testing::Tolerance;

constexpr double kNever = -std::numeric_limits<double>::infinity();

at::Tensor ids(const std::vector<int64_t>& values, at::IntArrayRef shape) {
  return at::tensor(values, at::kLong).view(shape);
}

// Chunks of 3. Sequence 0 has two open tokens and five new ones (the third is padding), with an
// answer that begins at column 3; sequence 1 has no open token and ends nowhere but at 3.
TEST(Gca, LaysOutChunksByHand) {
  auto valid =
      torch::tensor({true, true, false, true, true, true, true, true, true, true}).view({2, 5});
  auto layout = lay_out_chunks(valid, {2, 0}, {{3}, {}}, 3);
  EXPECT_EQ(layout.closed, 2);
  // Columns 0, 1 are open tokens. Sequence 0: [open 0, open 1, t0], [t1], still open t3, t4.
  EXPECT_TENSOR_EQUAL(layout.members, ids({0, 1, 2, 3, 0, 0, 2, 3, 4, 0, 0, 0}, {2, 2, 3}));
  EXPECT_TENSOR_EQUAL(layout.member_valid, torch::tensor({true, true, true, true, false, false,
                                                          true, true, true, false, false, false})
                                               .view({2, 2, 3}));
  EXPECT_TENSOR_EQUAL(layout.last, ids({0, 1, 2, 0}, {2, 2}));
  // Rows: what stands behind the r-th chunk that closed. Two slots of a row would do for sequence
  // 0, three for sequence 1.
  EXPECT_TENSOR_EQUAL(layout.tokens,
                      ids({0, 0, 0, 1, 0, 0, 3, 4, 0, 0, 1, 2, 3, 4, 0, 0, 0, 0}, {2, 3, 3}));
  EXPECT_TENSOR_EQUAL(layout.place, ids({0, 3, 0, 6, 7, 0, 1, 2, 3, 4}, {2, 5}));
  EXPECT_TENSOR_EQUAL(layout.last_row, ids({2, 1}, {2}));
  EXPECT_TENSOR_EQUAL(layout.still_open, ids({5, 6, 5, 6}, {2, 2}));
  EXPECT_EQ(layout.open_tokens, (std::vector<int64_t>{2, 2}));
}

// Noise chooses; the softmax of the clean scores weighs: e^(ln 3) : e^0 is 3/4 : 1/4.
TEST(Gca, ChoosesWithNoiseAndWeighsWithout) {
  auto score = at::tensor({std::log(3.0), 5.0, 0.0, kNever}, at::kDouble).view({1, 1, 4});
  score.set_requires_grad(true);
  auto plain = choose_chunks(score, {}, 2);
  EXPECT_TENSOR_EQUAL(plain.index, ids({1, 0}, {1, 1, 2}));
  auto noise = at::tensor({9.0, 0.0, 9.0, 9.0}, at::kDouble).view({1, 1, 4});
  auto drawn = choose_chunks(score, noise, 2);
  EXPECT_TENSOR_EQUAL(drawn.index, ids({0, 2}, {1, 1, 2}));
  EXPECT_TENSOR_NEAR(drawn.weight.view({2}), at::tensor({.75, .25}, at::kDouble),
                     (Tolerance{0, 1e-12}));
  // d weight_0 / d score = weight_0 (1 - weight_0) for its own, -weight_0 weight_2 for the other.
  drawn.weight.select(2, 0).sum().backward();
  EXPECT_TENSOR_NEAR(score.grad().view({4}), at::tensor({.1875, 0., -.1875, 0.}, at::kDouble),
                     (Tolerance{0, 1e-12}));
  // One candidate, none: what is missing weighs nothing.
  auto few =
      choose_chunks(at::tensor({2.0, kNever, kNever, kNever}, at::kDouble).view({1, 2, 2}), {}, 2);
  EXPECT_TENSOR_EQUAL(few.weight, at::tensor({1., 0., 0., 0.}, at::kDouble).view({1, 2, 2}));
  EXPECT_TENSOR_EQUAL(few.index, at::zeros({1, 2, 2}, at::kLong));
}

// One query of 1 in two heads that share a key-value head, two chunks of two keys, head width 1.
TEST(Gca, AttendsEachChunkOnItsOwnByHand) {
  const double ln2 = std::log(2.0), ln3 = std::log(3.0);
  auto q = at::tensor({1., 0.}, at::kDouble).view({1, 1, 2, 1, 1});
  auto keys = at::tensor({ln2, ln3, ln3, 7.}, at::kDouble).view({1, 1, 2, 1, 2, 1});
  auto values = at::tensor({6., 12., 8., 99.}, at::kDouble).view({1, 1, 2, 1, 2, 1});
  auto valid = torch::tensor({true, true, true, false}).view({1, 1, 2, 2});
  auto weight = at::tensor({.75, .25}, at::kDouble).view({1, 1, 2});
  // Head 0, a null slot of weight 1: (2 x 6 + 3 x 12) / 6 = 8 and 3 x 8 / 4 = 6.
  // Head 1: (6 + 12) / 3 = 6 and 8 / 2 = 4.
  auto out = grouped_cross_attention(q, keys, values, valid, weight, 1);
  EXPECT_TENSOR_NEAR(out.view({2}), at::tensor({7.5, 5.5}, at::kDouble), (Tolerance{0, 1e-12}));
  // Without one: 48 / 5 and 8; 9 and 8. With two: 48 / 7 and 24 / 5; 18 / 4 and 8 / 3.
  out = grouped_cross_attention(q, keys, values, valid, weight, 0);
  EXPECT_TENSOR_NEAR(out.view({2}), at::tensor({9.2, 8.75}, at::kDouble), (Tolerance{0, 1e-12}));
  out = grouped_cross_attention(q, keys, values, valid, weight, 2);
  EXPECT_TENSOR_NEAR(out.view({2}),
                     at::tensor({.75 * 48 / 7 + .25 * 4.8, .75 * 4.5 + .25 * 8 / 3}, at::kDouble),
                     (Tolerance{0, 1e-12}));
  // Chunks that were not chosen give nothing, whatever stands there.
  out = grouped_cross_attention(q, keys, values, at::zeros_like(valid), at::zeros_like(weight), 0);
  EXPECT_TENSOR_EQUAL(out, at::zeros_like(out));
}

GcaConfig tiny_gca() {
  GcaConfig config;
  config.chunk = 4;
  config.chunks_per_query = 2;
  config.window = 8;
  config.lower_layers = 1;
  config.encoder_layers = 1;
  config.output_start = "normal";
  return config;
}

TransformerConfig deep_model() {
  auto model = testing::tiny_model();
  model.layers = 5;
  return model;
}

LanguageModel gca_model(const GcaConfig& config, const TransformerConfig& model) {
  return testing::tiny_language_model(model, std::make_shared<GcaMethod>(config, model, 3));
}

GcaLayersImpl& layers_of(LanguageModel& model) {
  return *std::dynamic_pointer_cast<GcaLayersImpl>(model->method().children().at(0));
}

// What the sublayer adds in each layer, token by token and chunk by chunk, from the definition:
// no layout, no store, no padding. residuals[l] [T, D] of one sequence.
struct ByDefinition {
  const GcaConfig& config;
  const TransformerConfig& model;
  GcaLayersImpl& layers;
  std::vector<std::pair<int64_t, int64_t>> chunks;  // [begin, end)

  at::Tensor chunk_attention(const at::Tensor& q, const at::Tensor& keys,
                             const at::Tensor& values) const {
    auto head = model.head_width();
    auto out = at::zeros_like(q);  // [H, d]
    for (int64_t h = 0; h < model.heads; ++h) {
      auto own = h / (model.heads / model.key_value_heads);
      auto weights = at::matmul(keys[own], q[h]).div(std::sqrt(double(head))).exp();
      out[h] = at::matmul(weights, values[own]) / (weights.sum() + double(config.null_slots));
    }
    return out;
  }

  at::Tensor layer(int64_t upper, const at::Tensor& lower, const at::Tensor& group_input,
                   const at::Tensor& residual) const {
    auto width = residual.size(1);
    auto of_group = (model.layers - config.lower_layers) / config.groups;
    std::vector<GcaLayersImpl::Chunks> encoded;
    for (auto [begin, end] : chunks) {  // a short one is filled up with whatever
      auto missing = config.chunk - (end - begin);
      auto hidden = at::constant_pad_nd(lower.slice(0, begin, end), {0, 0, 0, missing}, 7);
      auto valid = at::arange(config.chunk, at::kLong) < end - begin;
      auto one = layers.encode(hidden.view({1, 1, config.chunk, width}), valid.view({1, 1, -1}));
      one.keys = one.keys.narrow(3, 0, end - begin);
      one.values = one.values.narrow(3, 0, end - begin);
      encoded.push_back(one);
    }
    auto out = at::zeros_like(residual);
    for (int64_t t = 0; t < residual.size(0); ++t) {
      int64_t last = -1;  // the newest chunk that ended before t
      while (last + 1 < int64_t(chunks.size()) && chunks[size_t(last + 1)].second <= t) ++last;
      if (last < 1) continue;  // it has nothing to retrieve
      auto query = layers.landmark_query(
          upper / of_group, group_input[chunks[size_t(last)].second - 1].view({1, 1, width}));
      std::vector<std::pair<double, int64_t>> ranked;
      for (int64_t j = 0; j < last; ++j)
        ranked.emplace_back(
            (query * encoded[size_t(j)].landmarks).sum().item<double>() / std::sqrt(double(width)),
            j);
      std::sort(ranked.rbegin(), ranked.rend());
      ranked.resize(std::min(ranked.size(), size_t(config.chunks_per_query)));
      auto q = layers.queries(upper, residual[t].view({1, 1, width}))
                   .view({model.heads, model.head_width()});
      double total = 0;
      for (auto [score, j] : ranked) total += std::exp(score);
      auto sum = at::zeros({model.heads, model.head_width()}, residual.options());
      for (auto [score, j] : ranked)
        sum += std::exp(score) / total *
               chunk_attention(q, encoded[size_t(j)].keys[0][0], encoded[size_t(j)].values[0][0]);
      out[t] = layers.output(upper, sum.view({1, 1, -1}))[0][0];
    }
    return out;
  }
};

// A padded batch through all upper layers, in one call and then token by token, against the
// definition in double.
TEST(Gca, IsItsDefinition) {
  torch::NoGradGuard no_grad;
  for (int64_t groups : {1, 2}) {
    auto config = tiny_gca();
    config.groups = groups;
    config.null_slots = 2 - groups;
    auto model_config = deep_model();
    auto model = gca_model(config, model_config);
    model->to(at::kDouble);
    // Tail columns: 5 prompt tokens, padding in front of them in sequence 1; then 6 decoded ones.
    auto batch = tiny_batch(
        {{.context = 16, .tail = 5, .sample = 1}, {.context = 9, .tail = 5, .sample = 2}});
    batch.labels.fill_(-100);  // a prompt: its last token begins a chunk
    auto state = model->method().make_state(batch, {});
    const int64_t sinks = 2, prompt = sinks + 16 + 5, decoded = 6, width = 32;
    std::vector<at::Tensor> input;  // a layer: [2, prompt + decoded, D]
    for (int64_t l = 0; l < model_config.layers; ++l)
      input.push_back(
          testing::normal(concat("in ", l), {2, prompt + decoded, width}).to(at::kDouble));
    auto valid = at::ones({2, prompt + decoded}, at::kBool);
    valid[1].slice(0, sinks + 9, sinks + 16).fill_(false);
    std::vector<std::vector<at::Tensor>> pieces(input.size());
    auto call = [&](int64_t begin, int64_t end) {
      AttentionInput part;
      part.valid = valid.slice(1, begin, end);
      part.padded = !part.valid.all().item<bool>();
      for (int64_t l = 0; l < model_config.layers; ++l) {
        part.layer = l;
        part.residual = input[size_t(l)].slice(1, begin, end);
        auto residual = part.residual * 0.5;  // behind attention it is another one
        auto added = model->method().extra_sublayer(part, residual, state);
        pieces[size_t(l)].push_back(added.defined() ? added : at::zeros_like(residual));
      }
      model->method().end_segment(state);
    };
    call(0, prompt);
    for (int64_t t = 0; t < decoded; ++t) call(prompt + t, prompt + t + 1);

    for (int64_t b = 0; b < 2; ++b) {
      auto own = valid[b].nonzero().squeeze(1);
      auto tokens = own.size(0), question = tokens - decoded - 1;
      ByDefinition reference{config, model_config, layers_of(model), {}};
      for (int64_t begin = 0; begin < tokens;) {
        auto end = begin + config.chunk;
        if (begin < question) end = std::min(end, question);
        if (end <= tokens) reference.chunks.emplace_back(begin, end);
        begin = end;
      }
      auto row = [&](const at::Tensor& x) { return x[b].index_select(0, own); };
      for (int64_t l = config.lower_layers; l < model_config.layers; ++l) {
        auto upper = l - config.lower_layers, of_group = 4 / groups;
        auto first = input[size_t(config.lower_layers + upper / of_group * of_group)];
        auto expected = reference.layer(upper, row(input[size_t(config.lower_layers)]), row(first),
                                        row(input[size_t(l)]) * 0.5);
        auto actual = row(at::cat(pieces[size_t(l)], 1));
        EXPECT_TENSOR_NEAR(actual, expected, (Tolerance{0, 1e-10})) << "layer " << l;
        EXPECT_GT(expected.abs().max().item<double>(), 1e-3);
      }
    }
  }
}

// Whatever token changes, nothing before it does; and what the change reaches, it reaches by
// retrieval: layers see 8 tokens back and the sinks, so that beyond 5 x 8 tokens nothing else
// leads.
TEST(Gca, IsStrictlyCausalAndReachesBeyondTheWindow) {
  torch::NoGradGuard no_grad;
  auto config = tiny_gca();
  config.chunks_per_query = 32;  // all earlier chunks
  auto model = gca_model(config, deep_model());
  model->to(at::kDouble);
  PassOptions options;
  options.keep_context_hidden = true;
  auto read = [&](const Batch& batch) {
    MethodState state;
    auto tail = read_batch(model, batch, options, &state);
    return at::cat({state.context_hidden, tail}, 1)[0];
  };
  auto batch = tiny_batch({{.context = 70, .tail = 6, .sample = 1}});
  auto before = read(batch);
  for (int64_t t : {0, 1, 2, 13, 41, 42, 69}) {
    auto changed = batch;
    changed.context = batch.context.clone();
    changed.context[0][t] = 2 + (batch.context[0][t].item<int64_t>() + 5) % 50;
    auto moved = (read(changed) - before).abs().amax(1);
    EXPECT_EQ(moved.slice(0, 0, t).sum().item<double>(), 0) << "token " << t;
    EXPECT_GT(moved[t].item<double>(), 0);
    if (t < 20) {
      EXPECT_GT(moved.slice(0, 70).min().item<double>(), 1e-9) << "token " << t;
    }
  }
  // Without retrieval the last tokens do not see the first ones.
  auto windows = gca_model(tiny_gca(), deep_model());
  windows->to(at::kDouble);
  for (auto& item : windows->method().named_parameters())
    if (item.key().find("_output") != std::string::npos &&
        item.key().find("gca.layer_") != std::string::npos)
      item.value().zero_();
  auto apart = batch;
  apart.context = batch.context.clone();
  apart.context[0][2] = 2 + (batch.context[0][2].item<int64_t>() + 5) % 50;
  EXPECT_TENSOR_EQUAL(read_batch(windows, apart), read_batch(windows, batch));
}

// The last token of chunk c decides what chunk c + 1 reads, and nothing of chunk c itself.
TEST(Gca, TheResultServesTheNextChunk) {
  torch::NoGradGuard no_grad;
  auto config = tiny_gca();
  auto model = gca_model(config, testing::tiny_model());
  auto batch = tiny_batch({{.context = 30, .sample = 1}});
  auto state = model->method().make_state(batch, {});
  AttentionInput input;
  input.layer = 1;
  input.residual = testing::normal("x", {1, 38, 32});
  input.valid = at::ones({1, 38}, at::kBool);
  auto shared = testing::normal("y", {1, 38, 32});
  auto before = model->method().extra_sublayer(input, shared, state);
  auto again = model->method().make_state(batch, {});
  input.residual = input.residual.clone();
  input.residual[0][19] *= -1;  // the last token of chunk 4: tokens 16 to 19
  auto after = model->method().extra_sublayer(input, shared, again);
  auto moved = (after - before)[0].abs().amax(1);
  EXPECT_EQ(moved.slice(0, 0, 20).sum().item<double>(), 0);
  EXPECT_GT(moved.slice(0, 20, 24).min().item<double>(), 0);
}

// A checkpoint of a dense model reads as before.
TEST(Gca, ItsStartAddsNothing) {
  torch::NoGradGuard no_grad;
  auto config = tiny_gca();
  config.window = 0;
  config.output_start = "zero";
  auto shape = testing::tiny_model();
  auto dense = testing::tiny_language_model(
      shape, std::make_shared<StandardMethod>(StandardConfig{}, shape));
  auto batch = tiny_batch({{.context = 40, .sample = 1}, {.context = 11, .sample = 2}});
  auto valid = batch.tail_valid.unsqueeze(-1);
  auto expected = read_batch(dense, batch) * valid;
  auto added = gca_model(config, shape);
  // gca reads its window by another backend: fp32 rounding of three layers.
  EXPECT_TENSOR_NEAR(read_batch(added, batch) * valid, expected, (Tolerance{0, 1e-5}));
  config.output_start = "normal";
  auto other = gca_model(config, shape);
  auto moved = (read_batch(other, batch) * valid - expected).abs().max();
  EXPECT_GT(moved.item<double>(), 1e-2);
}

// Noise is of the sequence and its chunks, not of the batch; another step draws others.
TEST(Gca, TheDrawDoesNotDependOnTheBatch) {
  torch::NoGradGuard no_grad;
  auto model = gca_model(tiny_gca(), deep_model());
  PassOptions training;
  training.training = true;
  training.step = 4;
  testing::TinySequence one{.context = 50, .sample = 1}, two{.context = 80, .sample = 2};
  auto alone = read_batch(model, tiny_batch({one}), training);
  auto beside = read_batch(model, tiny_batch({two, one}), training);
  EXPECT_TENSOR_NEAR(beside[1], alone[0], (Tolerance{0, 1e-4}));
  training.step = 5;
  EXPECT_GT((read_batch(model, tiny_batch({one}), training) - alone).abs().max().item<double>(),
            1e-2);
}

// 2 sinks + 80 + 6 tokens. A layer's window: 2 + 8 entries, and up to a quarter more; the chunks:
// one set of keys and values and a landmark each.
TEST(Gca, HoldsTheWindowInEveryLayerAndTheChunksOnce) {
  torch::NoGradGuard no_grad;
  auto config = tiny_gca();
  auto shape = deep_model();
  auto model = gca_model(config, shape);
  auto batch = tiny_batch({{.context = 80, .sample = 1}});
  batch.labels.fill_(-100);
  MethodState state;
  read_batch(model, batch, {}, &state);
  // 87 tokens in front of the question's last one: 22 chunks, the last of 3; one token is open.
  const int64_t chunks = 22, head = 2 * 8 * 4;
  int64_t store = chunks * (2 * 4 * head + 32 * 4 + 4) + 32 * 4 + 2 * (8 + 4);
  auto entries = 10;
  int64_t window = 5 * entries * (2 * head + 8 + 8 + 1), tails = 5 * 3 * 32 * 4;
  EXPECT_EQ(model->method().state_bytes(state), store + window + tails);
  for (int64_t t = 0; t < 30; ++t) {
    model->read_next(testing::token_ids("t", {1}), at::ones({1}, at::kBool), state);
    for (const auto& layer : state.layers) EXPECT_LE(layer.entries(), 12);
  }
}

// Gradient of a loss on the next chunk reaches what retrieved: landmarks' queries and the encoder.
TEST(Gca, TheLossTrainsTheRetrieval) {
  auto model = gca_model(tiny_gca(), testing::tiny_model());
  read_batch(model, tiny_batch({{.context = 50, .sample = 1}})).square().sum().backward();
  for (const auto& item : model->method().named_parameters())
    EXPECT_GT(item.value().grad().norm().item<double>(), 0) << item.key();
}

TEST(Gca, ConfigurationsThatCannotBeAreErrors) {
  auto fails = [](void (*change)(GcaConfig&)) {
    auto config = tiny_gca();
    change(config);
    EXPECT_THROW(GcaMethod(config, testing::tiny_model(), 1), ConfigError);
  };
  fails([](GcaConfig& c) { c.lower_layers = 2; });
  fails([](GcaConfig& c) { c.groups = 2; });
  fails([](GcaConfig& c) { c.window = 7; });
}

}  // namespace
}  // namespace dsrsq
