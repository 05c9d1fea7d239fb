// What the backbone computes with Hugging Face folders, against `transformers`
// (scripts/make_pretrained_fixtures.py made both).
#include "dsrsq/model/pretrained.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/methods/standard.h"
#include "support/expect_tensor.h"
#include "support/tiny.h"

namespace dsrsq {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::Tolerance;
namespace fs = std::filesystem;

const std::string kFixtures = DSRSQ_SOURCE_DIR "/tests/model/pretrained/";
constexpr Tolerance kParity{0, 1e-4};  // of logits of order 10

at::Tensor read(const SafetensorsFile& file, const std::string& name) {
  const auto* view = file.find(name);
  if (view == nullptr) throw std::runtime_error(name);
  auto type = view->type == ScalarType::kI32 ? at::kInt : at::kFloat;
  auto tensor = at::empty(view->shape, type);
  std::memcpy(tensor.mutable_data_ptr(), view->data, view->bytes);
  return type == at::kInt ? tensor.to(at::kLong) : tensor;
}

LanguageModel load(const std::string& folder) {
  PretrainedFolder pretrained(folder);
  auto config = pretrained.config();
  config.conv_width = 3;  // starts as the identity
  config.positions = config.position_embedding == "rope" ? "original" : "packed";
  Transformer backbone(config, config.vocabulary_size, 3);
  load_pretrained(backbone, pretrained);
  return LanguageModel(backbone, std::make_shared<StandardMethod>(StandardConfig{}, config), 0);
}

// The chunk ids [B, T] after `state`, with `lengths` of it valid -> logits [B, T, V].
at::Tensor logits(LanguageModel& model, const at::Tensor& ids, MethodState& state,
                  int64_t first = 0, const at::Tensor& lengths = {}) {
  auto order = at::arange(ids.size(1)).unsqueeze(0).expand(ids.sizes()) + first;
  ReaderInput input;
  input.inputs = model->backbone()->embed(ids);
  input.valid = lengths.defined() ? order < lengths.unsqueeze(1) : at::ones_like(ids, at::kBool);
  input.padded = lengths.defined();
  input.positions = input.order = order;
  input.segments = {ids.size(1)};
  return model->backbone()->logits(model->backbone()->forward(input, model->method(), state));
}

MethodState new_state(LanguageModel& model, int64_t sequences) {
  std::vector<testing::TinySequence> each(size_t(sequences), {.context = 1, .sample = 1});
  return model->method().make_state(testing::tiny_batch(each), {});
}

class Pretrained : public ::testing::TestWithParam<std::string> {
 protected:
  Pretrained()
      : folder_(kFixtures + GetParam()),
        expected_(folder_ + "/expected.safetensors"),
        model_(load(folder_)) {}
  std::string folder_;
  SafetensorsFile expected_;
  LanguageModel model_;
  torch::NoGradGuard no_grad_;
};

TEST_P(Pretrained, LogitsAreThoseOfTransformers) {
  for (int64_t length : {1, 17, 512}) {
    auto ids = read(expected_, concat("ids.", length));
    auto wanted = read(expected_, concat("logits.", length));
    auto state = new_state(model_, 1);
    auto found = logits(model_, ids.unsqueeze(0), state)[0];
    EXPECT_TENSOR_NEAR(found.slice(0, length - wanted.size(0)), wanted, kParity);
  }
}

TEST_P(Pretrained, UnequalLengthsInABatchDoNotMix) {
  auto ids = read(expected_, "batch.ids"), lengths = read(expected_, "batch.lengths");
  auto state = new_state(model_, 2);
  auto found = logits(model_, ids, state, 0, lengths);
  for (int64_t b = 0; b < 2; ++b)
    EXPECT_TENSOR_NEAR(found[b][lengths[b].item<int64_t>() - 1], read(expected_, "batch.logits")[b],
                       kParity);
}

TEST_P(Pretrained, GreedyTokensAreIdentical) {
  auto prompt = read(expected_, "greedy.prompt").unsqueeze(0);
  auto wanted = read(expected_, "greedy.ids");
  auto state = new_state(model_, 1);
  auto next = logits(model_, prompt, state).select(1, prompt.size(1) - 1).argmax(-1);
  for (int64_t i = 0; i < wanted.size(0); ++i) {
    ASSERT_EQ(next.item<int64_t>(), wanted[i].item<int64_t>()) << "token " << i;
    next = logits(model_, next.unsqueeze(1), state, prompt.size(1) + i).select(1, 0).argmax(-1);
  }
}

// What transformers reads back is what it wrote: values, names, shapes, and the keys of config.json
// that decide what is computed.
TEST_P(Pretrained, ExportRestoresTheFolder) {
  auto folder = fs::temp_directory_path() / concat("dsrsq-export-", getpid(), "-", GetParam());
  fs::create_directories(folder);
  std::vector<at::Tensor> kept;
  std::vector<TensorView> views;
  for (const auto& item : model_->named_parameters()) {
    kept.push_back(item.value().contiguous());
    views.push_back({item.key(), ScalarType::kF32, kept.back().sizes().vec(),
                     kept.back().data_ptr(), kept.back().nbytes()});
  }
  write_safetensors(folder / "checkpoint.safetensors", views);
  auto own = write_pretrained(folder, model_->backbone()->config(),
                              SafetensorsFile(folder / "checkpoint.safetensors"), 0, 1);
  EXPECT_THAT(own, ::testing::ElementsAre("backbone.block_0_conv", "backbone.block_1_conv"));
  PretrainedFolder before(folder_), after(folder);
  // Mistral without a window is a Llama.
  auto wanted =
      before.architecture() == "MistralForCausalLM" ? "LlamaForCausalLM" : before.architecture();
  EXPECT_EQ(after.architecture(), wanted);
  for (const auto& weight : before.weights()) {
    const auto& a = before.tensor(weight.source);
    const auto& b = after.tensor(weight.source);
    ASSERT_EQ(a.shape, b.shape) << weight.source;
    if (a.type != ScalarType::kF32) continue;  // the logits below compare these
    EXPECT_EQ(std::memcmp(a.data, b.data, a.bytes), 0) << weight.source;
  }
  auto again = load(folder);
  auto ids = read(expected_, "ids.17").unsqueeze(0);
  auto state = new_state(model_, 1), state_again = new_state(again, 1);
  EXPECT_TENSOR_EQUAL(logits(again, ids, state_again), logits(model_, ids, state));
  fs::remove_all(folder);
}

std::vector<std::string> fixtures() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kFixtures))
    names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}
INSTANTIATE_TEST_SUITE_P(Families, Pretrained, ::testing::ValuesIn(fixtures()),
                         [](const auto& info) { return info.param; });

// ---- a real model ----

// 128 tokens of a news article; the reference is a numpy forward pass over the same 4-bit weights.
TEST(SmolLm2, AgreesWithTheReference) {
  const char* data = std::getenv("DSRSQ_SHARED_DATA");
  auto reference = std::string(data != nullptr ? data : DSRSQ_SOURCE_DIR "/../shared/data") +
                   "/metrics_golden/smollm2_reference.json";
  const std::string folder = DSRSQ_SOURCE_DIR "/runs/smollm2";
  if (!fs::exists(reference)) GTEST_SKIP() << reference << " is not there";
  if (!fs::exists(folder)) GTEST_SKIP() << folder << ": run scripts/import_smollm2.py";
  torch::NoGradGuard no_grad;
  auto wanted = nlohmann::json::parse(read_file(reference));
  auto ids = at::tensor(wanted.at("ids").get<std::vector<int64_t>>(), at::kLong);
  auto model = load(folder);
  auto state = new_state(model, 1);
  auto found = logits(model, ids.unsqueeze(0), state)[0];
  auto last = wanted.at("logits_first8_last_pos").get<std::vector<float>>();
  EXPECT_TENSOR_NEAR(found[127].slice(0, 0, 8), at::tensor(last), (Tolerance{0, 1e-2}));
  auto nll = wanted.at("nll").get<std::vector<float>>();
  auto log_p = at::log_softmax(found, -1).slice(0, 0, 127);
  EXPECT_TENSOR_NEAR(-log_p.gather(1, ids.slice(0, 1).unsqueeze(1)).squeeze(1), at::tensor(nll),
                     (Tolerance{0, 1e-2}));
}

// ---- damaged and unknown folders ----

class PretrainedErrors : public ::testing::Test {
 protected:
  PretrainedErrors() : folder_(fs::temp_directory_path() / concat("dsrsq-pretrained-", getpid())) {
    fs::remove_all(folder_);
    fs::copy(kFixtures + "mistral", folder_);
  }
  ~PretrainedErrors() override { fs::remove_all(folder_); }
  void set(const std::string& key, const nlohmann::json& value) {
    auto config = nlohmann::json::parse(read_file(folder_ / "config.json"));
    config[key] = value;
    std::ofstream(folder_ / "config.json") << config;
  }
  template <typename E>
  std::string error() {
    try {
      load(folder_);
    } catch (const E& found) {
      return found.what();
    }
    return "";
  }
  fs::path folder_;
};

TEST_F(PretrainedErrors, AFolderWithoutConfig) {
  fs::remove(folder_ / "config.json");
  EXPECT_THAT(error<ConfigError>(), AllOf(HasSubstr("config.json"), HasSubstr("none in it")));
  folder_ = "/no/such/folder";
  EXPECT_THAT(error<ConfigError>(), HasSubstr("no such folder"));
}

TEST_F(PretrainedErrors, AConfigThatIsNoneOrOfAnotherFamily) {
  set("architectures", {"BertModel"});
  EXPECT_THAT(error<ConfigError>(), AllOf(HasSubstr("BertModel"), HasSubstr("LlamaForCausalLM")));
  set("architectures", "LlamaForCausalLM");
  EXPECT_THAT(error<ConfigError>(), HasSubstr("architectures"));
  std::ofstream(folder_ / "config.json") << "{\"architectures\": [";
  EXPECT_THAT(error<ConfigError>(), HasSubstr("invalid JSON"));
}

TEST_F(PretrainedErrors, WhatTheBackboneCannotDoIsNamed) {
  for (const auto& [key, value] : std::map<std::string, nlohmann::json>{
           {"hidden_act", "relu"},
           {"mlp_bias", true},
           {"quantization_config", {{"bits", 4}}},
           {"rope_parameters", {{"rope_type", "longrope"}, {"rope_theta", 1e4}}},
           {"hidden_size", "wide"}}) {
    auto before = read_file(folder_ / "config.json");
    set(key, value);
    EXPECT_THAT(
        error<ConfigError>(),
        AllOf(HasSubstr("config.json"), HasSubstr(key == "rope_parameters" ? "rope_type" : key)));
    std::ofstream(folder_ / "config.json") << before;
  }
}

TEST_F(PretrainedErrors, AMissingShardATensorThatIsMissingOrTooMany) {
  set("num_hidden_layers", 3);
  EXPECT_THAT(error<CheckpointError>(), AllOf(HasSubstr("model.layers.2."), HasSubstr("missing")));
  set("num_hidden_layers", 1);
  EXPECT_THAT(error<CheckpointError>(),
              AllOf(HasSubstr("model.layers.1."), HasSubstr("belongs to nothing")));
  set("num_hidden_layers", 2);
  set("intermediate_size", 48);
  EXPECT_THAT(error<CheckpointError>(),
              AllOf(HasSubstr("mlp"), HasSubstr("expected shape"), HasSubstr("48")));
  set("intermediate_size", 40);
  fs::remove(folder_ / "model-00002-of-00003.safetensors");
  EXPECT_THAT(error<CheckpointError>(),
              HasSubstr("shard model-00002-of-00003.safetensors is missing"));
}

TEST_F(PretrainedErrors, ATruncatedFileAndAnEscapingShardName) {
  auto shard = folder_ / "model-00001-of-00003.safetensors";
  fs::resize_file(shard, fs::file_size(shard) - 8);
  EXPECT_THAT(error<CheckpointError>(), HasSubstr("model-00001-of-00003.safetensors"));
  std::ofstream(folder_ / "model.safetensors.index.json")
      << R"({"weight_map": {"a": "../model-00001-of-00003.safetensors"}})";
  EXPECT_THAT(error<CheckpointError>(), HasSubstr("name of a file in the folder"));
}

TEST_F(PretrainedErrors, AKeySetToAnotherValueThanTheFolders) {
  TransformerConfig config;
  config.width = 32;
  ConfigLocations locations;
  PretrainedFolder folder(folder_);
  take_architecture(config, folder, locations);
  EXPECT_EQ(config.width, 24);
  config.width = 32;
  locations.set("model.width", "run.yaml:3:5");
  try {
    take_architecture(config, folder, locations);
    FAIL();
  } catch (const ConfigError& found) {
    EXPECT_THAT(found.what(), AllOf(HasSubstr("run.yaml:3:5"), HasSubstr("model.width"),
                                    HasSubstr("24"), HasSubstr("32")));
  }
}

}  // namespace
}  // namespace dsrsq
