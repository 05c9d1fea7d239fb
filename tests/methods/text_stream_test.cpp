#include "dsrsq/methods/text_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "dsrsq/core/error.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

using ::testing::HasSubstr;
using testing::parts_name;
using testing::tiny_batch;
using testing::tiny_dsrsq;
using testing::tiny_dsrsq_model;
using testing::tiny_model;
using testing::Tolerance;
using Tokens = std::vector<int32_t>;

constexpr int64_t kFar = 1 << 16;  // a position range that nothing reaches

Tokens tokens(const std::string& name, int64_t count) {
  auto ids = testing::token_ids(name, {count}).to(at::kInt);
  return Tokens(ids.data_ptr<int32_t>(), ids.data_ptr<int32_t>() + count);
}

Tokens part(const Tokens& all, int64_t begin, int64_t end) {
  return Tokens(all.begin() + begin, all.begin() + end);
}

// The hidden state of the question's tokens [B, T, D], and the reply.
at::Tensor ask(TextStream& stream, const std::vector<Tokens>& questions,
               StreamReply* reply = nullptr, int64_t maximum_tokens = 3) {
  at::Tensor hidden;
  GenerateOptions settings;
  settings.maximum_tokens = maximum_tokens;
  settings.prompt_read = [&](const at::Tensor& tail, const MethodState&) { hidden = tail.clone(); };
  auto own = stream.answer(questions, settings);
  if (reply != nullptr) *reply = own;
  return hidden;
}

void expect_same_state(const TextStream& actual, const TextStream& expected) {
  auto a = actual.tensors(), b = expected.tensors();
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [name, tensor] : b) {
    ASSERT_TRUE(a.count(name)) << name;
    EXPECT_TRUE(at::equal(a[name], tensor)) << name;
  }
}

// [sinks][all of the context, segment by segment][question], given at once.
at::Tensor whole_read(LanguageModel& model, const Tokens& context, const Tokens& question) {
  torch::NoGradGuard no_grad;
  auto batch = tiny_batch({{.context = int64_t(context.size()), .tail = int64_t(question.size())}});
  batch.context.copy_(at::tensor(context, at::kLong).unsqueeze(0));
  batch.tail.copy_(at::tensor(question, at::kLong).unsqueeze(0));
  PassOptions options;
  options.read_everything = true;
  return testing::read_batch(model, batch, options);
}

TEST(TextStream, FedBitByBitEqualsTheWholeContext) {
  for (int64_t parts = 0; parts < 4; ++parts) {
    bool dsr = parts & 1, sqa = parts & 2;
    SCOPED_TRACE(parts_name(dsr, sqa, true));
    auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(dsr, sqa, true));
    for (int64_t length : {3, 8, 45, 64}) {
      auto context = tokens("context", length), question = tokens("question", 5);
      auto expected = whole_read(model, context, question);
      for (int64_t step : {1, 7, 100}) {
        TextStream stream(model, {.position_range = kFar});
        for (int64_t begin = 0; begin < length; begin += step)
          stream.feed(part(context, begin, std::min(length, begin + step)));
        EXPECT_TENSOR_NEAR(ask(stream, {question}), expected, (Tolerance{1e-4, 1e-4}));
      }
    }
  }
}

TEST(TextStream, AskingChangesNothing) {
  auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(true, true, true));
  TextStream asked(model), silent(model);
  auto text = tokens("text", 203);
  for (int64_t begin = 0; begin < 203; begin += 29) {
    auto piece = part(text, begin, begin + 29);
    asked.feed(piece);
    silent.feed(piece);
    auto first = ask(asked, {tokens("question", 4)});
    EXPECT_TENSOR_EQUAL(ask(asked, {tokens("question", 4)}), first);
    ask(asked, {tokens("another", 6)});
    expect_same_state(asked, silent);
  }
}

TEST(TextStream, BytesStayWhatTheyAre) {
  for (const char* centroids : {"codebook", "segment"}) {
    auto config = tiny_dsrsq(true, true, true);
    config.sqa.centroids = centroids;
    auto model = tiny_dsrsq_model(tiny_model(), config);
    TextStream stream(model);
    stream.feed(tokens("text", 64));
    auto bytes = stream.bytes();
    for (int64_t i = 0; i < 100; ++i) {
      stream.feed(tokens(concat("text ", i), 31));
      if (config.sqa.centroids == "codebook") {
        EXPECT_EQ(stream.bytes(), bytes);
      }
      // A segment's own clusters live as long as a member of them does.
      EXPECT_LE(stream.bytes(), 2 * bytes);
    }
    // Counted here: of each layer 2 sinks + 4 in the window (keys, values fp32; positions, order,
    // two int64; valid; cluster a head; mass, exposure), 5 latents of 8 + 8 numbers (position,
    // order, priority, valid); the convolutions' tails; one segment's tokens.
    if (config.sqa.centroids != "codebook") continue;
    int64_t entries = 6 * (2 * 2 * 8 * 4 + 2 * 8 + 1 + 2 * 8 + 2 * 4);
    int64_t latents = 5 * (2 * 8 * 4 + 2 * 8 + 8 + 1);
    int64_t tails = 2 * 3 * 32 * 4 + 2 * 32 * 4;
    EXPECT_EQ(bytes, 2 * (entries + latents) + tails + 2 * 8 + 8 * 4);
    auto health = stream.health();
    EXPECT_EQ(health.state_bytes, bytes);
    EXPECT_EQ(health.latents, 2 * 5);
    EXPECT_TRUE(health.finite);
    EXPECT_EQ(health.tokens, 64 + 100 * 31);
    EXPECT_EQ(health.segments, (64 + 100 * 31) / 8);
    EXPECT_GT(health.age_oldest, 4);
    EXPECT_LE(health.age_median, health.age_oldest);
  }
}

TEST(TextStream, ARestoredStreamGoesOnAsIfNothingHadBeen) {
  for (bool sqa : {false, true}) {
    auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(true, sqa, true));
    auto text = tokens("text", 300);
    TextStream straight(model);
    straight.feed(part(text, 0, 131));
    auto saved = straight.tensors();
    straight.feed(part(text, 131, 300));
    TextStream restored(model);
    restored.feed(tokens("other", 50));
    restored.restore(saved, "snapshot");
    EXPECT_EQ(restored.tokens(), 131);
    restored.feed(part(text, 131, 300));
    expect_same_state(restored, straight);
    EXPECT_TENSOR_EQUAL(ask(restored, {tokens("question", 4)}),
                        ask(straight, {tokens("question", 4)}));
  }
}

TEST(TextStream, StatesOfOthersAreRefused) {
  auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(true, true, true));
  TextStream stream(model);
  stream.feed(tokens("text", 60));
  auto before = stream.tensors();
  auto refused = [&](std::map<std::string, at::Tensor> tensors) {
    try {
      stream.restore(tensors, "snapshot");
    } catch (const CheckpointError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  TextStream two(model, {.streams = 2});
  EXPECT_THAT(refused(two.tensors()), HasSubstr("snapshot: "));
  auto config = tiny_dsrsq(true, true, true);
  config.rckv.buffer_length = 7;
  auto longer = tiny_dsrsq_model(tiny_model(), config);
  TextStream other(longer);
  other.feed(tokens("text", 60));
  EXPECT_THAT(refused(other.tensors()), HasSubstr("layer_0.latents.keys: expected at most 5"));
  auto more = before;
  more["more"] = at::zeros({1});
  EXPECT_THAT(refused(more), HasSubstr("that are known"));
  for (const auto& [name, tensor] : before) {
    auto less = before;
    less.erase(name);
    EXPECT_THAT(refused(less), HasSubstr("snapshot: ")) << name;
  }
  TextStream untouched(model);
  untouched.feed(tokens("text", 60));
  expect_same_state(stream, untouched);
}

TEST(TextStream, StreamsOfABatchAreIndependent) {
  for (bool sqa : {false, true}) {
    auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(true, sqa, true));
    TextStream both(model, {.streams = 3, .sample_ids = {4, 7, 9}});
    TextStream first(model, {.sample_ids = {4}}), second(model, {.sample_ids = {7}});
    auto a = tokens("a", 150), b = tokens("b", 150);
    for (int64_t i = 0; i < 10; ++i) {  // at different paces; the third gets nothing
      auto of_a = part(a, i * 15, (i + 1) * 15), of_b = part(b, i * 4, (i + 1) * 4);
      both.feed({of_a, of_b, {}});
      first.feed(of_a);
      second.feed(of_b);
      if (i == 6) {
        both.end_document(1);
        second.end_document();
      }
      auto hidden = ask(both, {tokens("question", 5), tokens("another", 3), {}});
      EXPECT_TENSOR_NEAR(hidden.narrow(0, 0, 1), ask(first, {tokens("question", 5)}),
                         (Tolerance{1e-4, 1e-4}));
      EXPECT_TENSOR_NEAR(hidden.narrow(0, 1, 1).narrow(1, 0, 3),
                         ask(second, {tokens("another", 3)}), (Tolerance{1e-4, 1e-4}));
    }
    StreamReply reply;
    ask(both, {{}, tokens("another", 3), {}}, &reply);
    EXPECT_TRUE(reply.generated.tokens[0].empty());
    EXPECT_FALSE(reply.generated.tokens[1].empty());
  }
}

TEST(TextStream, ANewDocumentRemembersNothingOfTheLast) {
  auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(true, true, true));
  TextStream stream(model), fresh(model);
  stream.feed(tokens("first", 77));
  stream.end_document();
  auto text = tokens("second", 60);
  stream.feed(text);
  fresh.feed(text);
  EXPECT_TENSOR_EQUAL(ask(stream, {tokens("question", 4)}), ask(fresh, {tokens("question", 4)}));
  EXPECT_EQ(stream.tokens(), 77 + 60);
}

// ---- positions ----

// Attention with RoPE sees distances alone: as long as all that is held lies within the range, it
// does not matter where it is moved to. Without sinks, whose distance the rule bounds.
TEST(TextStream, MovedPositionsKeepDistances) {
  auto backbone = tiny_model();
  backbone.sinks = 0;
  auto config = tiny_dsrsq(true, false, true);
  config.rckv.weight = "recency";  // the newest 5: nothing old is held
  auto model = tiny_dsrsq_model(backbone, config);
  TextStream moved(model, {.position_range = 40}), straight(model, {.position_range = kFar});
  for (int64_t i = 0; i < 40; ++i) {
    auto piece = tokens(concat("text ", i), 23);
    moved.feed(piece);
    straight.feed(piece);
    if (i % 8 != 7) continue;
    EXPECT_TENSOR_NEAR(ask(moved, {tokens("question", 4)}), ask(straight, {tokens("question", 4)}),
                       (Tolerance{1e-4, 1e-4}));
  }
  auto at_moved = moved.tensors(), at_straight = straight.tensors();
  EXPECT_LE(at_moved["next_position"].item<int64_t>(), 40);  // of the next token, which moves them
  EXPECT_EQ(at_straight["next_position"].item<int64_t>(), 40 * 23 / 8 * 8);
}

TEST(TextStream, NothingStandsBehindThePositionRange) {
  for (const char* kind : {"rope", "learned", "none"}) {
    auto backbone = tiny_model();
    backbone.position_embedding = kind;
    backbone.learned_positions = 30;
    auto model = tiny_dsrsq_model(backbone, tiny_dsrsq(true, true, true));
    TextStream stream(model, {.position_range = 30});
    for (int64_t i = 0; i < 20; ++i) {
      stream.feed(tokens(concat("text ", i), 50));
      ask(stream, {tokens("question", 4)});  // a learned position behind the table would throw
      for (const auto& [name, tensor] : stream.tensors()) {
        if (name.find("positions") == std::string::npos) continue;
        EXPECT_LT(tensor.max().item<int64_t>(), 30) << kind << " " << name;
        EXPECT_GE(tensor.min().item<int64_t>(), 0) << kind << " " << name;
      }
    }
    EXPECT_TRUE(stream.health().finite);
    EXPECT_THROW(ask(stream, {tokens("question", 29)}), ConfigError);
  }
}

// ---- training ----

TEST(TextStream, TrainsBySegmentsThatAreCutOff) {
  auto backbone = tiny_model();
  auto model = tiny_dsrsq_model(backbone, tiny_dsrsq(true, true, true));
  TextStream stream(model, {.streams = 2});
  torch::optim::Adam optimizer(model->parameters(), torch::optim::AdamOptions(3e-3));
  auto& method = model->method();
  double first = 0, last = 0;
  for (int64_t step = 1; step <= 60; ++step) {
    // Two texts that repeat themselves.
    auto place = at::arange(step * 8, step * 8 + 9);
    auto text = at::stack({place.remainder(7) + 3, place.remainder(11) + 20});
    auto valid = at::ones({2, 8}, at::kBool);
    auto trained = stream.train_segment(text.narrow(1, 0, 8), valid, step);
    EXPECT_TRUE(trained.losses.count("compression"));
    auto loss =
        model->backbone()
            ->cross_entropy(trained.hidden.reshape({16, -1}), text.narrow(1, 1, 8).reshape({16}))
            .div(16);
    optimizer.zero_grad();
    loss.backward();  // would throw where the graph went back into the last segment's
    optimizer.step();
    method.after_step(step);
    stream.follow_projections();
    for (const auto& [name, tensor] : stream.tensors())
      EXPECT_FALSE(tensor.requires_grad()) << name;
    if (step == 1) first = loss.item<double>();
    last = loss.item<double>();
  }
  EXPECT_LT(last, 0.25 * first);
  EXPECT_EQ(stream.tokens(0), 480);
}

// Latents of keys that the old projection holds exactly are what the new one makes of the same
// keys.
TEST(TextStream, LatentsFollowTheProjections) {
  torch::NoGradGuard no_grad;
  auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(false, false, true));
  TextStream stream(model);
  stream.feed(tokens("text", 80));
  auto before = stream.tensors();
  auto parameters = model->method().named_parameters();
  auto& p = parameters["rckv.key_projection_1"];
  auto old = p.clone();
  p.copy_(std::get<0>(at::linalg_qr(testing::normal("new", {16, 8}))).t());
  stream.follow_projections();
  auto after = stream.tensors();
  auto rebuilt = at::matmul(before["layer_1.latents.keys"], old);  // P_old^T z
  EXPECT_TENSOR_NEAR(after["layer_1.latents.keys"], at::matmul(rebuilt, p.t()),
                     (Tolerance{1e-5, 1e-5}));
  EXPECT_TENSOR_NEAR(after["layer_0.latents.keys"], before["layer_0.latents.keys"],
                     (Tolerance{1e-5, 1e-5}));
}

// ---- the history ----

class StreamHistory : public ::testing::Test {
 protected:
  std::shared_ptr<HistoryStore> history(LanguageModel& model, const std::string& name = "history") {
    return std::make_shared<HistoryStore>(folder_ / name, TextStream::history_layout(model));
  }
  testing::TemporaryFolder folder_;
};

// cos(E_q, E_c) of every token, from the weights, in double: embedding, centring, convolution and
// projection as the paper has them.
std::vector<double> cosines(LanguageModel& model, const Tokens& text, const Tokens& question,
                            const std::vector<int64_t>& begins) {
  auto weights = model->named_parameters();
  auto get = [&](const std::string& name) { return weights[name].detach().to(at::kDouble); };
  auto table = get("backbone.embedding"), taps = get("method.dsr.conv");
  auto mean = table.mean(0);
  auto unit = [](const at::Tensor& x) { return x / x.norm(); };
  auto pooled = at::zeros_like(mean);
  for (auto id : question) pooled = pooled + (table[id] - mean) / double(question.size());
  auto asked = unit(at::mv(get("method.dsr.question_projection"), pooled));
  std::vector<double> found;
  for (int64_t i = 0; i < int64_t(text.size()); ++i) {
    auto begin = *(std::upper_bound(begins.begin(), begins.end(), i) - 1);
    auto y = at::zeros_like(mean);
    for (int64_t j = 0; j < taps.size(1); ++j) {
      auto place = i - (taps.size(1) - 1) + j;
      if (place >= begin) y = y + taps.select(1, j) * (table[text[size_t(place)]] - mean);
    }
    found.push_back(
        asked.dot(unit(at::mv(get("method.dsr.context_projection"), y))).item<double>());
  }
  return found;
}

std::vector<int64_t> best_places(const std::vector<double>& score, int64_t end, size_t count) {
  std::vector<int64_t> places;
  for (int64_t i = 0; i < end; ++i) places.push_back(i);
  std::stable_sort(places.begin(), places.end(),
                   [&](int64_t x, int64_t y) { return score[size_t(x)] > score[size_t(y)]; });
  places.resize(std::min(places.size(), count));
  std::sort(places.begin(), places.end());
  return places;
}

TEST_F(StreamHistory, BringsBackTheBestOfAllThatHasLeftTheWindow) {
  torch::NoGradGuard no_grad;
  auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(true, true, true));
  TextStream stream(model, {.position_range = 64, .budget = 9, .histories = {history(model)}});
  auto text = tokens("text", 140), question = tokens("question", 4);
  stream.feed(part(text, 0, 53));
  stream.end_document();
  stream.feed(part(text, 53, 140));
  StreamReply reply;
  ask(stream, {question}, &reply);
  // Read: 53 of the first document, 80 of the second; the last 4 of them are in the window.
  auto expected = best_places(cosines(model, text, question, {0, 53}), 53 + 80 - 4, 9);
  EXPECT_EQ(reply.brought_back[0], expected);
  EXPECT_EQ(reply.scanned_tokens, 53 + 80 - 4);
  EXPECT_EQ(reply.scanned_bytes, reply.scanned_tokens * 16 * 4);
  EXPECT_GT(reply.scan_seconds, 0);
}

// Runs of two, best first by the log-sum-exp of their scores; those of a document's short last
// segment and at the window's edge may be cut.
TEST_F(StreamHistory, BringsBackWholeRuns) {
  torch::NoGradGuard no_grad;
  auto config = tiny_dsrsq(true, false, true);
  config.dsr.span = 2;
  auto model = tiny_dsrsq_model(tiny_model(), config);
  TextStream stream(model, {.position_range = 64, .budget = 8, .histories = {history(model)}});
  auto text = tokens("text", 133), question = tokens("question", 4);
  stream.feed(part(text, 0, 53));
  stream.end_document();
  stream.feed(part(text, 53, 133));
  StreamReply reply;
  ask(stream, {question}, &reply);
  auto cosine = cosines(model, text, question, {0, 53});
  auto temperature =
      std::exp(model->named_parameters()["method.dsr.log_temperature"].item<double>());
  auto run_of = [](int64_t place) { return place < 53 ? place / 2 : 27 + (place - 53) / 2; };
  std::vector<double> sums(100, 0), score;
  const int64_t end = 53 + 80 - 4;
  for (int64_t i = 0; i < end; ++i)
    sums[size_t(run_of(i))] += std::exp(cosine[size_t(i)] / temperature);
  for (int64_t i = 0; i < end; ++i) score.push_back(sums[size_t(run_of(i))]);
  EXPECT_EQ(reply.brought_back[0], best_places(score, end, 8));
}

TEST_F(StreamHistory, ATokenThatComesBackMasksItsLatent) {
  auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(true, true, true));
  TextStream stream(model, {.position_range = 400, .budget = 90, .histories = {history(model)}});
  stream.feed(tokens("text", 100));
  StreamReply reply;
  ask(stream, {tokens("question", 4)}, &reply);
  ASSERT_EQ(reply.brought_back[0].size(), 90u);
  std::set<int64_t> back(reply.brought_back[0].begin(), reply.brought_back[0].end());
  int64_t masked = 0;
  for (const auto& layer : reply.generated.state.layers) {
    const auto& latents = layer.latents;
    for (int64_t i = 0; i < latents.order.size(1); ++i) {
      auto place = latents.order[0][i].item<int64_t>() - 2;  // behind the sinks
      EXPECT_EQ(latents.valid[0][i].item<bool>(), back.count(place) == 0) << place;
      masked += int64_t(back.count(place));
    }
  }
  EXPECT_GT(masked, 0);
}

// With an empty window and a budget for all, what comes back is the context itself: nothing else is
// attended, in the order and at the distances of the text.
TEST_F(StreamHistory, AllOfItIsTheWholeContextReadDensely) {
  torch::NoGradGuard no_grad;
  auto backbone = tiny_model();
  backbone.sinks = 0;
  backbone.conv_width = 0;  // it would carry the end of the text in front of its beginning
  auto config = tiny_dsrsq(true, false, true);
  config.rckv.window = 0;
  auto model = tiny_dsrsq_model(backbone, config);
  TextStream stream(model, {.position_range = 400, .budget = 64, .histories = {history(model)}});
  auto text = tokens("text", 64), question = tokens("question", 5);
  stream.feed(text);
  auto batch = tiny_batch({{.context = 64, .tail = 5}});
  batch.context.copy_(at::tensor(text, at::kLong).unsqueeze(0));
  batch.tail.copy_(at::tensor(question, at::kLong).unsqueeze(0));
  PassOptions dense;
  dense.read_everything = true;
  dense.rckv = false;
  EXPECT_TENSOR_NEAR(ask(stream, {question}), testing::read_batch(model, batch, dense),
                     (Tolerance{1e-4, 1e-4}));
}

TEST_F(StreamHistory, GoesBackToTheSnapshotAndTellsAGap) {
  auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(true, true, true));
  auto text = tokens("text", 200), question = tokens("question", 4);
  StreamReply expected, reply;
  std::map<std::string, at::Tensor> saved;
  {
    TextStream stream(model, {.position_range = 64, .histories = {history(model)}});
    stream.feed(part(text, 0, 101));
    saved = stream.tensors();
    stream.feed(part(text, 101, 200));
    ask(stream, {question}, &expected);
  }
  {
    TextStream resumed(model, {.position_range = 64, .histories = {history(model)}});
    EXPECT_EQ(resumed.tokens(), 200 / 8 * 8) << "without a snapshot it goes on as a new document";
    resumed.restore(saved, "snapshot");
    EXPECT_EQ(resumed.histories()[0]->end(), 96);
    resumed.feed(part(text, 101, 200));
    ask(resumed, {question}, &reply);
    EXPECT_EQ(reply.brought_back, expected.brought_back);
    EXPECT_EQ(reply.generated.tokens, expected.generated.tokens);
  }
  history(model)->truncate(40);
  ::testing::internal::CaptureStderr();
  TextStream damaged(model, {.position_range = 64, .histories = {history(model)}});
  damaged.restore(saved, "snapshot");
  EXPECT_THAT(::testing::internal::GetCapturedStderr(),
              HasSubstr("the 56 between them cannot be searched"));
  damaged.feed(part(text, 101, 200));
  ask(damaged, {question}, &reply);
  EXPECT_EQ(reply.scanned_tokens, 40 + (200 - 4 - 96));
}

TEST_F(StreamHistory, OfOtherWeightsIsRefused) {
  auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(true, false, true));
  auto layout = TextStream::history_layout(model);
  EXPECT_EQ(layout.width, 16);
  EXPECT_EQ(layout.block_tokens, 8);
  for (const char* name :
       {"backbone.embedding", "method.dsr.context_projection", "method.dsr.conv"}) {
    torch::NoGradGuard no_grad;
    auto weights = model->named_parameters();
    weights[name].flatten()[0] += 1e-3;
    EXPECT_NE(TextStream::history_layout(model).weights, layout.weights) << name;
    weights[name].flatten()[0] -= 1e-3;
  }
}

TEST(TextStream, SaysWhatCannotBeRead) {
  auto message = [](auto&& make) {
    try {
      make();
    } catch (const ConfigError& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  auto open = [&](const DsrsqConfig& config, TextStreamOptions options = {}) {
    auto model = tiny_dsrsq_model(tiny_model(), config);
    return message([&] { TextStream stream(model, options); });
  };
  EXPECT_THAT(open(tiny_dsrsq(true, true, false)), HasSubstr("rckv.enabled"));
  auto config = tiny_dsrsq(true, true, true);
  config.sqa.centroids = "kmeans";
  config.sqa.kernel = "auto";
  EXPECT_THAT(open(config), HasSubstr("sqa.centroids"));
  EXPECT_THAT(open(tiny_dsrsq(true, true, true), {.position_range = 13}),
              HasSubstr("expected at least 14"));
  auto model = tiny_dsrsq_model(tiny_model(), tiny_dsrsq(false, true, true));
  EXPECT_THAT(message([&] { TextStream::history_layout(model); }), HasSubstr("dsr.enabled"));
  config = tiny_dsrsq(true, true, true);
  config.dsr.pool = "rarity";
  auto rarity = tiny_dsrsq_model(tiny_model(), config);
  EXPECT_THAT(message([&] { TextStream::history_layout(rarity); }), HasSubstr("dsr.pool"));
}

}  // namespace
}  // namespace dsrsq
