// Against `transformers` (scripts/make_encoder_fixtures.py made models and expectations).
#include "dsrsq/retriever/sentence_encoder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "dsrsq/batch/encoder_input.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/safetensors.h"
#include "support/expect_tensor.h"

namespace dsrsq {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::Tolerance;
using Json = nlohmann::json;
namespace fs = std::filesystem;

const std::string kFolder = DSRSQ_SOURCE_DIR "/tests/retriever/";

at::Tensor read(const SafetensorsFile& file, const std::string& name) {
  const auto* view = file.find(name);
  if (view == nullptr) throw std::runtime_error(name);
  auto tensor = at::empty(view->shape, view->type == ScalarType::kI32 ? at::kInt : at::kFloat);
  std::memcpy(tensor.mutable_data_ptr(), view->data, view->bytes);
  return view->type == ScalarType::kI32 ? tensor.to(at::kLong) : tensor;
}

class Parity : public ::testing::TestWithParam<std::string> {};

TEST_P(Parity, StatesAndVectorsAreThoseOfTransformers) {
  torch::NoGradGuard no_grad;
  auto folder = kFolder + "encoder/" + GetParam();
  SentenceEncoder encoder(folder);
  SafetensorsFile expected(folder + "/expected.safetensors");
  auto ids = read(expected, "ids"), lengths = read(expected, "lengths");
  auto valid = at::arange(ids.size(1)).unsqueeze(0) < lengths.unsqueeze(1);
  EXPECT_TENSOR_NEAR(encoder->states(ids, valid), read(expected, "states"), (Tolerance{0, 1e-5}));
  EXPECT_TENSOR_NEAR(encoder->embed(ids, valid), read(expected, "embedded"), (Tolerance{0, 1e-5}));
  // A text does not depend on what it is padded with, nor on the other texts; all padding is zero.
  auto alone = encoder->embed(ids[2].narrow(0, 0, 17).unsqueeze(0), at::ones({1, 17}, at::kBool));
  EXPECT_TENSOR_NEAR(alone[0], read(expected, "embedded")[2], (Tolerance{0, 1e-5}));
  auto with_empty = encoder->embed(ids, valid.clone().index_fill_(0, at::tensor({1L}), false));
  EXPECT_EQ(with_empty[1].abs().max().item<double>(), 0);
  EXPECT_TENSOR_NEAR(with_empty[0], read(expected, "embedded")[0], (Tolerance{0, 1e-5}));
}

INSTANTIATE_TEST_SUITE_P(Kinds, Parity, ::testing::Values("gelu", "relu_half", "tanh"),
                         [](const auto& info) { return info.param; });

TEST(MiniLm, IsThatOfTransformers) {
  torch::NoGradGuard no_grad;
  const std::string folder = DSRSQ_SOURCE_DIR "/runs/minilm";
  if (!fs::exists(folder + "/config.json"))
    GTEST_SKIP() << folder << " is not there; scripts/import_minilm.py makes it";
  SentenceEncoder encoder(folder);
  EncoderCollator collator(folder, 256);
  auto texts = collator.texts(
      {"What is the capital of France?", "Paris is the capital and largest city of France.",
       "The mitochondrion is the powerhouse of the cell.", "a",
       "Zoë's café — naïve 漢字 😀 Zoë's café — naïve 漢字 😀 Zoë's café — naïve "
       "漢字 😀 Zoë's café — naïve 漢字 😀 Zoë's café — naïve 漢字 😀 Zoë's café — "
       "naïve 漢字 😀 "});
  SafetensorsFile expected(kFolder + "minilm_expected.safetensors");
  ASSERT_TRUE(at::equal(texts.ids, read(expected, "ids")));
  auto states = encoder->states(texts.ids, texts.valid).slice(2, 0, c10::nullopt, 16);
  EXPECT_TENSOR_NEAR(states, read(expected, "states"), (Tolerance{0, 1e-5}));
  auto embedded = encoder->embed(texts.ids, texts.valid);
  EXPECT_TENSOR_NEAR(embedded, read(expected, "embedded"), (Tolerance{0, 1e-5}));
  // What it is for: the question is closer to its answer than to another fact.
  auto cosine = at::matmul(embedded, embedded[0]);
  EXPECT_GT(cosine[1].item<double>(), cosine[2].item<double>() + 0.3);
}

class Hostile : public ::testing::Test {
 protected:
  Hostile() : folder_(fs::temp_directory_path() / ("encoder_" + std::to_string(getpid()))) {
    fs::remove_all(folder_);
    fs::copy(kFolder + "encoder/gelu", folder_);
  }
  ~Hostile() override { fs::remove_all(folder_); }
  void set(const std::string& key, const Json& value) const {
    auto path = (folder_ / "config.json").string();
    auto config = Json::parse(read_file(path));
    config[key] = value;
    if (value.is_null()) config.erase(key);
    std::ofstream(path) << config.dump();
  }
  // The tensors, changed.
  void rewrite(const std::function<void(std::vector<TensorView>&)>& change) const {
    auto path = (folder_ / "model.safetensors").string();
    fs::rename(path, path + ".old");
    SafetensorsFile old(path + ".old");
    auto tensors = old.tensors();
    change(tensors);
    write_safetensors(path, tensors);
  }
  template <typename Kind>
  std::string error() const {
    try {
      SentenceEncoder encoder(folder_.string());
    } catch (const Kind& error) {
      return error.what();
    }
    return "no error";
  }
  fs::path folder_;
};

TEST_F(Hostile, ConfigErrorsNameTheKey) {
  set("architectures", Json{"RobertaModel"});
  EXPECT_THAT(error<ConfigError>(), AllOf(HasSubstr("architectures"), HasSubstr("RobertaModel")));
  set("architectures", Json{"BertModel"});
  set("hidden_act", "swish");
  EXPECT_THAT(error<ConfigError>(), AllOf(HasSubstr("hidden_act"), HasSubstr("swish")));
  set("hidden_act", "gelu");
  set("num_attention_heads", 5);
  EXPECT_THAT(error<ConfigError>(), HasSubstr("a divisor of hidden_size = 24, got 5"));
  set("num_attention_heads", 2);
  set("position_embedding_type", "relative_key");
  EXPECT_THAT(error<ConfigError>(), HasSubstr("relative_key"));
  set("position_embedding_type", nullptr);
  set("vocab_size", nullptr);
  EXPECT_THAT(error<ConfigError>(), HasSubstr("\"vocab_size\" is missing"));
  fs::remove(folder_ / "config.json");
  EXPECT_THAT(error<ConfigError>(), AllOf(HasSubstr("dsr.encoder"), HasSubstr("config.json")));
}

TEST_F(Hostile, AVocabularyThatDoesNotFitIsNamed) {
  std::ofstream(folder_ / "vocab.txt", std::ios::app) << "one\ntwo\nthree\nfour\n";
  EXPECT_THAT(error<ConfigError>(), HasSubstr("at most 88 ids"));
}

TEST_F(Hostile, TensorErrorsNameTheTensor) {
  set("num_hidden_layers", 3);
  EXPECT_THAT(error<CheckpointError>(),
              HasSubstr("encoder.layer.2.attention.self.query.weight is missing"));
  set("num_hidden_layers", 1);
  EXPECT_THAT(error<CheckpointError>(), AllOf(HasSubstr("encoder.layer.1."), HasSubstr("nothing")));
  set("num_hidden_layers", 2);
  set("intermediate_size", 41);
  EXPECT_THAT(error<CheckpointError>(),
              AllOf(HasSubstr("encoder.layer.0.intermediate.dense.weight"), HasSubstr("[41, 24]"),
                    HasSubstr("[40, 24]")));
  set("intermediate_size", 40);
  rewrite([](auto& tensors) {
    for (auto& tensor : tensors)
      if (tensor.name == "embeddings.LayerNorm.bias") tensor.type = ScalarType::kI32;
  });
  EXPECT_THAT(error<CheckpointError>(), AllOf(HasSubstr("LayerNorm.bias"), HasSubstr("I32")));
}

TEST_F(Hostile, AMissingOrDamagedFileIsOneLine) {
  auto path = folder_ / "model.safetensors";
  fs::resize_file(path, fs::file_size(path) - 100);
  EXPECT_THAT(error<CheckpointError>(), HasSubstr("model.safetensors"));
  fs::remove(path);
  EXPECT_THAT(error<CheckpointError>(), HasSubstr("expected model.safetensors, got none"));
}

// Saved with a head, all tensors stand under "bert.".
TEST_F(Hostile, APrefixIsTaken) {
  torch::NoGradGuard no_grad;
  rewrite([](auto& tensors) {
    for (auto& tensor : tensors) tensor.name = "bert." + tensor.name;
  });
  SentenceEncoder plain(kFolder + "encoder/gelu"), prefixed(folder_.string());
  auto ids = at::arange(5, 15).unsqueeze(0);
  auto valid = at::ones({1, 10}, at::kBool);
  EXPECT_TRUE(at::equal(plain->embed(ids, valid), prefixed->embed(ids, valid)));
}

}  // namespace
}  // namespace dsrsq
