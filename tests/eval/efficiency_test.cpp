#include "dsrsq/eval/efficiency.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <memory>

namespace dsrsq {
namespace {

TransformerConfig tiny_model() {
  TransformerConfig model;
  model.layers = 1;
  model.width = 4;
  model.heads = 2;
  model.key_value_heads = 1;
  model.mlp_width = 8;
  model.mlp = "gelu";
  model.conv_width = 0;
  return model;
}

// Does the arithmetic's loops and counts every multiply-add. Shares nothing with the formula.
class Counter {
 public:
  void matmul(int64_t rows, int64_t inner, int64_t columns) {
    for (int64_t i = 0; i < rows; ++i)
      for (int64_t j = 0; j < columns; ++j)
        for (int64_t l = 0; l < inner; ++l) flops_ += 2;
  }
  void depthwise_conv(int64_t tokens, int64_t width, int64_t taps) {
    for (int64_t i = 0; i < tokens * width; ++i)
      for (int64_t tap = 0; tap < taps; ++tap) flops_ += 2;
  }
  double flops() const { return flops_; }

 private:
  double flops_ = 0;
};

// A reader's sequence in two segments: `first` tokens, all but `window` of which go into a buffer
// that the rest reads; every query attends at most `window` exact keys.
struct Scene {
  int64_t context = 40, first = 9, rest = 5, window = 3, clusters = 4, latent = 3, retriever = 5,
          retriever_taps = 3, vocabulary = 11, predicted = 2;
  int64_t tokens() const { return first + rest; }
  int64_t exact_keys(int64_t query) const { return std::min(query + 1, window); }
  int64_t latents() const { return first - window; }
};

SequenceWork work_of(const Scene& scene, const TransformerConfig& model) {
  SequenceWork work;
  work.context_tokens = double(scene.context);
  work.reader_tokens = double(scene.tokens());
  for (int64_t i = 0; i < scene.tokens(); ++i)
    work.attended_pairs += double(model.layers * scene.exact_keys(i));
  work.latent_pairs = double(model.layers * scene.rest * scene.latents());
  auto queries = double(model.layers * scene.tokens() * scene.clusters);
  work.routed_pairs = queries + queries * double(model.key_value_heads) / double(model.heads);
  work.predicted_tokens = double(scene.predicted);
  work.rebuilt_latents = double(model.layers * scene.latents());
  return work;
}

FlopSettings settings_of(const Scene& scene) {
  FlopSettings settings;
  settings.retriever_width = scene.retriever;
  settings.retriever_conv_width = scene.retriever_taps;
  settings.latent_width = scene.latent;
  settings.clusters = scene.clusters;
  settings.vocabulary_size = scene.vocabulary;
  return settings;
}

double enumerate(const Scene& scene, const TransformerConfig& model) {
  Counter count;
  auto d = model.head_width(), joint = model.key_value_heads * d, n = scene.tokens();
  count.depthwise_conv(scene.context, model.width, scene.retriever_taps);
  count.matmul(scene.context, model.width, scene.retriever);
  count.matmul(1, model.width, scene.retriever);
  count.matmul(1, scene.retriever, scene.context);
  for (int64_t layer = 0; layer < model.layers; ++layer) {
    count.depthwise_conv(n, model.width, model.conv_width);
    count.matmul(n, model.width, model.heads * d);                             // queries
    for (int kind = 0; kind < 2; ++kind) count.matmul(n, model.width, joint);  // keys, values
    for (int64_t head = 0; head < model.key_value_heads; ++head)
      count.matmul(n, d, scene.clusters);  // assign
    for (int64_t head = 0; head < model.heads; ++head) {
      count.matmul(n, d, scene.clusters);  // route
      for (int64_t query = 0; query < n; ++query) {
        count.matmul(1, d, scene.exact_keys(query));
        count.matmul(1, scene.exact_keys(query), d);
      }
      count.matmul(scene.rest, d, scene.latents());
      count.matmul(scene.rest, scene.latents(), scene.latent);
      count.matmul(n, scene.latent, d);  // expand
    }
    for (int kind = 0; kind < 2; ++kind) count.matmul(n, joint, scene.latent);  // compress
    count.matmul(scene.latents(), scene.latent, joint);                         // rebuild keys
    count.matmul(n, model.heads * d, model.width);
    for (int matrix = 0; matrix < (model.mlp == "swiglu" ? 2 : 1); ++matrix)
      count.matmul(n, model.width, model.mlp_width);
    count.matmul(n, model.mlp_width, model.width);
  }
  count.matmul(scene.predicted, model.width, scene.vocabulary);
  return count.flops();
}

TEST(Efficiency, ForwardFlopsByHand) {
  // D = 4, H = 2, H_kv = 1, d = 2, three tokens, causal attention, one prediction over 10 words.
  SequenceWork work;
  work.reader_tokens = 3;
  work.attended_pairs = 1 + 2 + 3;
  work.predicted_tokens = 1;
  FlopSettings settings;
  settings.vocabulary_size = 10;
  double query_and_output = 2 * (4 * 4), key_and_value = 2 * (4 * 2), mlp = 2 * (4 * 8);
  double per_token = 2 * (query_and_output + key_and_value + mlp);  // 224
  double attention = 6 * 2 * (4 * 2);                               // 6 pairs, 2 heads, 4 d: 96
  EXPECT_EQ(forward_flops(tiny_model(), settings, work), 3 * per_token + attention + 2 * 4 * 10);
  EXPECT_EQ(forward_flops(tiny_model(), settings, work), 848);
}

TEST(Efficiency, ForwardFlopsEqualAnEnumeration) {
  auto model = tiny_model();
  model.layers = 3;
  model.width = 12;
  model.heads = 4;
  model.key_value_heads = 2;
  for (const char* mlp : {"gelu", "swiglu"}) {
    for (int64_t conv : {0, 5}) {
      model.mlp = mlp;
      model.conv_width = conv;
      Scene scene;
      EXPECT_EQ(forward_flops(model, settings_of(scene), work_of(scene, model)),
                enumerate(scene, model))
          << mlp << " " << conv;
    }
  }
}

TEST(Efficiency, PartsThatAreOffCostNothing) {
  auto model = tiny_model();
  SequenceWork work;
  work.context_tokens = 1000;
  work.reader_tokens = 8;
  FlopSettings off, on;
  on.retriever_width = 16;
  on.latent_width = 2;  // a buffer that nothing has been read from
  EXPECT_EQ(forward_flops(model, off, work), 8 * 224.0);
  EXPECT_EQ(forward_flops(model, on, work), 8 * 224.0 + 2 * (1000 * (4 * 16 + 16) + 4 * 16));
}

// Of two blocks: queries, keys, values, output 4 x 6 x 6, MLP 2 x 6 x 8, logits and mix 2 x 6 x 10.
TEST(Efficiency, ASentenceEncoderReadsEveryContextToken) {
  SequenceWork work;
  work.context_tokens = 1000;
  FlopSettings settings;
  settings.retriever_width = 16;
  settings.encoder_width = 6;
  settings.encoder_layers = 2;
  settings.encoder_mlp_width = 8;
  settings.encoder_window = 10;
  EXPECT_EQ(forward_flops(tiny_model(), settings, work),
            2 * (1000 * (2 * (144 + 96 + 120) + 6 * 16 + 16) + 6 * 16));
}

constexpr size_t kMegabyte = 1000000;

void touch(size_t bytes) {
  auto memory = std::make_unique<char[]>(bytes);
  std::memset(memory.get(), 1, bytes);
  volatile char seen = memory[bytes - 1];  // keeps the writes
  (void)seen;
}

TEST(Efficiency, PeakMemoryOfTheProcess) {
  touch(300 * kMegabyte);  // an older, higher peak does not count
  PeakMemory peak(at::kCPU);
  if (!std::ofstream("/proc/self/clear_refs").is_open()) {
    EXPECT_EQ(peak.bytes(), -1);
    GTEST_SKIP()
        << "/proc/self/clear_refs cannot be written here: the resident peak cannot be reset";
  }
  EXPECT_LT(peak.bytes(), 10.0 * kMegabyte);
  touch(100 * kMegabyte);
  EXPECT_GT(peak.bytes(), 95.0 * kMegabyte);
  EXPECT_LT(peak.bytes(), 115.0 * kMegabyte);
  PeakMemory again(at::kCPU);
  EXPECT_LT(again.bytes(), 10.0 * kMegabyte);
}

TEST(Efficiency, PeakMemoryWithoutWhatRunsInAPause) {
  PeakMemory peak(at::kCPU);
  if (peak.bytes() < 0)
    GTEST_SKIP()
        << "/proc/self/clear_refs cannot be written here: the resident peak cannot be reset";
  touch(50 * kMegabyte);
  peak.pause();
  touch(200 * kMegabyte);
  peak.resume();
  EXPECT_GT(peak.bytes(), 45.0 * kMegabyte);  // from before the pause
  EXPECT_LT(peak.bytes(), 65.0 * kMegabyte);
  touch(100 * kMegabyte);
  EXPECT_GT(peak.bytes(), 95.0 * kMegabyte);
  EXPECT_LT(peak.bytes(), 115.0 * kMegabyte);
}

TEST(Efficiency, PeakMemoryOfAnUnknownDevice) {
  PeakMemory peak(at::Device(at::kMeta));
  EXPECT_EQ(peak.bytes(), -1);
  peak.pause();
  peak.resume();
  EXPECT_EQ(peak.bytes(), -1);
}

}  // namespace
}  // namespace dsrsq
