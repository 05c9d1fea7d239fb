#include "dsrsq/train/stream_snapshot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <filesystem>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "support/tiny.h"
#include "support/tiny_run.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using testing::TemporaryFolder;

StreamSnapshot sample(int64_t bytes) {
  return {std::string(64, 'a'),
          bytes,
          3,
          {{"layer_0.keys", testing::normal("keys", {1, 2, 3})},
           {"layer_0.latents.priority", testing::normal("priority", {1, 4}).to(at::kDouble)},
           {"valid", at::ones({1, 4}, at::kBool)},
           {"waiting_0", at::zeros({0}, at::kInt)}}};
}

void expect_same(const StreamSnapshot& actual, const StreamSnapshot& expected) {
  EXPECT_EQ(actual.weights, expected.weights);
  EXPECT_EQ(actual.input_bytes, expected.input_bytes);
  EXPECT_EQ(actual.questions, expected.questions);
  ASSERT_EQ(actual.tensors.size(), expected.tensors.size());
  for (const auto& [name, tensor] : expected.tensors) {
    EXPECT_EQ(actual.tensors.at(name).scalar_type(), tensor.scalar_type()) << name;
    EXPECT_TRUE(at::equal(actual.tensors.at(name), tensor)) << name;
  }
}

std::string refusal(const std::string& folder, const std::string& weights) {
  try {
    load_stream_snapshot(folder, weights);
  } catch (const CheckpointError& error) {
    return error.what();
  }
  return "";
}

TEST(StreamSnapshot, ComesBackAndIsReplacedWhole) {
  const TemporaryFolder folder;
  auto path = folder / "snapshot";
  save_stream_snapshot(path, sample(17));
  expect_same(load_stream_snapshot(path, std::string(64, 'a')), sample(17));
  save_stream_snapshot(path + "/", sample(12345));
  expect_same(load_stream_snapshot(path, std::string(64, 'a')), sample(12345));
  size_t entries = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(folder.path())) ++entries;
  EXPECT_EQ(entries, 1u) << "no temporary is left";
}

TEST(StreamSnapshot, DamageAndOtherWeightsAreRefused) {
  const TemporaryFolder folder;
  auto path = folder / "snapshot";
  EXPECT_NE(refusal(path, std::string(64, 'a')), "");
  save_stream_snapshot(path, sample(17));
  EXPECT_THAT(refusal(path, std::string(64, 'b')), HasSubstr("made with other weights"));
  for (const char* name : {"state.safetensors", "state.json", "manifest.json"}) {
    auto file = path + "/" + name;
    auto bytes = read_file(file);
    for (size_t place = 0; place < bytes.size(); place += 11) {
      auto damaged = bytes;
      damaged[place] = char(damaged[place] ^ 4);
      write_file_atomic(file, damaged);
      EXPECT_THAT(refusal(path, std::string(64, 'a')), HasSubstr(path)) << name << " " << place;
    }
    write_file_atomic(file, bytes.substr(0, bytes.size() / 2));
    EXPECT_THAT(refusal(path, std::string(64, 'a')), HasSubstr(path));
    fs::remove(file);
    EXPECT_THAT(refusal(path, std::string(64, 'a')), HasSubstr(path));
    write_file_atomic(file, bytes);
  }
  expect_same(load_stream_snapshot(path, std::string(64, 'a')), sample(17));
}

TEST(StreamSnapshot, FingerprintsTellWeightsApart) {
  auto make = [](int64_t seed) {
    return testing::tiny_dsrsq_model(testing::tiny_model(), testing::tiny_dsrsq(true, false, true),
                                     seed);
  };
  auto model = make(3);
  auto before = weights_fingerprint(*model);
  EXPECT_EQ(before.size(), 64u);
  EXPECT_EQ(weights_fingerprint(*make(3)), before);
  EXPECT_NE(weights_fingerprint(*make(4)), before);
  torch::NoGradGuard no_grad;
  model->parameters().back().flatten()[0] += 1e-4;
  EXPECT_NE(weights_fingerprint(*model), before);
}

}  // namespace
}  // namespace dsrsq
