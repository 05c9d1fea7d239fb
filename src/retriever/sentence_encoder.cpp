#include "dsrsq/retriever/sentence_encoder.h"

#include <torch/torch.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/json.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/core/safetensors.h"
#include "dsrsq/ops/autocast.h"
#include "dsrsq/ops/mapped_tensor.h"
#include "dsrsq/text/tokenizer.h"

namespace dsrsq {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr size_t kMaximumConfigBytes = size_t{1} << 20;

class ConfigKeys {
 public:
  ConfigKeys(const json& object, std::string path) : object_(object), path_(std::move(path)) {}
  bool has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }
  int64_t count(const char* key) const {
    if (!has(key)) throw ConfigError(concat(path_, ": key \"", key, "\" is missing"));
    const auto& value = object_.at(key);
    if (!value.is_number_integer() || value.get<int64_t>() < 1)
      fail(key, "a number of at least 1", value.dump());
    return value.get<int64_t>();
  }
  const json& at(const char* key) const { return object_.at(key); }
  void require(const char* key, const json& wanted) const {
    if (has(key) && at(key) != wanted) fail(key, wanted.dump(), at(key).dump());
  }
  [[noreturn]] void fail(const char* key, const std::string& expected,
                         const std::string& got) const {
    throw ConfigError(concat(path_, ": \"", key, "\": expected ", expected, ", got ", got,
                             "; the sentence encoder cannot load such a model"));
  }

 private:
  const json& object_;
  std::string path_;
};

std::string activation_of(const ConfigKeys& keys) {
  if (!keys.has("hidden_act")) return "gelu";
  const auto& value = keys.at("hidden_act");
  if (value == "gelu" || value == "relu") return value.get<std::string>();
  if (value == "gelu_new" || value == "gelu_pytorch_tanh") return "gelu_tanh";
  keys.fail("hidden_act", "gelu, gelu_new, gelu_pytorch_tanh or relu", value.dump());
}

// Beside the encoder in most files: what a sentence's vector does not need.
bool is_unused(const std::string& name) {
  return name.find("pooler.dense.") != std::string::npos ||
         name.find("embeddings.position_ids") != std::string::npos;
}

// A module's parameters have no dots in their names.
std::string parameter_name(std::string source) {
  std::replace(source.begin(), source.end(), '.', '_');
  return source;
}

}  // namespace

SentenceEncoderConfig read_sentence_encoder_config(const std::string& folder) {
  auto path = folder + "/config.json";
  if (!fs::is_regular_file(path))
    throw ConfigError(concat("dsr.encoder: ", folder,
                             ": expected a Hugging Face folder with config.json, model.safetensors "
                             "and a tokenizer, got ",
                             fs::exists(folder) ? "none in it" : "no such folder"));
  json object;
  try {
    object = parse_json(read_file(path, kMaximumConfigBytes));
  } catch (const JsonError& error) {
    throw ConfigError(concat(path, ": ", error.what()));
  }
  if (!object.is_object()) throw ConfigError(concat(path, ": expected an object"));
  ConfigKeys keys(object, path);
  if (!keys.has("architectures") || keys.at("architectures") != json{"BertModel"})
    keys.fail("architectures", "[\"BertModel\"]",
              keys.has("architectures") ? keys.at("architectures").dump() : "nothing");
  keys.require("position_embedding_type", "absolute");
  keys.require("is_decoder", false);
  keys.require("add_cross_attention", false);
  SentenceEncoderConfig config;
  config.vocabulary_size = keys.count("vocab_size");
  config.width = keys.count("hidden_size");
  config.layers = keys.count("num_hidden_layers");
  config.heads = keys.count("num_attention_heads");
  config.mlp_width = keys.count("intermediate_size");
  config.positions = keys.count("max_position_embeddings");
  if (keys.has("type_vocab_size")) config.token_types = keys.count("type_vocab_size");
  if (keys.has("layer_norm_eps")) {
    if (!keys.at("layer_norm_eps").is_number())
      keys.fail("layer_norm_eps", "a number", keys.at("layer_norm_eps").dump());
    config.norm_epsilon = keys.at("layer_norm_eps").get<double>();
  }
  config.activation = activation_of(keys);
  if (config.width % config.heads != 0)
    keys.fail("num_attention_heads", concat("a divisor of hidden_size = ", config.width),
              std::to_string(config.heads));
  return config;
}

SentenceEncoderImpl::SentenceEncoderImpl(const std::string& folder)
    : config_(read_sentence_encoder_config(folder)) {
  auto rows = Tokenizer::from_file(folder).vocabulary_size();
  if (rows > config_.vocabulary_size)
    throw ConfigError(concat(folder, ": expected a tokenizer of at most ", config_.vocabulary_size,
                             " ids, which config.json's vocab_size says, got ", rows,
                             "; take the model's own tokenizer"));
  const auto width = config_.width;
  words_ = weight("embeddings.word_embeddings.weight", {config_.vocabulary_size, width});
  positions_ = weight("embeddings.position_embeddings.weight", {config_.positions, width});
  token_types_ = weight("embeddings.token_type_embeddings.weight", {config_.token_types, width});
  embedding_norm_ = norm("embeddings.LayerNorm");
  for (int64_t i = 0; i < config_.layers; ++i) {
    auto name = [&](const char* part) { return concat("encoder.layer.", i, ".", part); };
    Layer layer;
    layer.query = linear(name("attention.self.query"), width, width);
    layer.key = linear(name("attention.self.key"), width, width);
    layer.value = linear(name("attention.self.value"), width, width);
    layer.output = linear(name("attention.output.dense"), width, width);
    layer.attention_norm = norm(name("attention.output.LayerNorm"));
    layer.up = linear(name("intermediate.dense"), config_.mlp_width, width);
    layer.down = linear(name("output.dense"), width, config_.mlp_width);
    layer.mlp_norm = norm(name("output.LayerNorm"));
    layers_.push_back(layer);
  }
  load(folder);
}

at::Tensor SentenceEncoderImpl::weight(const std::string& source, at::IntArrayRef shape) {
  auto tensor = register_parameter(parameter_name(source), at::empty(shape, at::kFloat));
  sources_.emplace_back(source, tensor);
  return tensor;
}

SentenceEncoderImpl::Linear SentenceEncoderImpl::linear(const std::string& source, int64_t out,
                                                        int64_t in) {
  return {weight(source + ".weight", {out, in}), weight(source + ".bias", {out})};
}

SentenceEncoderImpl::Linear SentenceEncoderImpl::norm(const std::string& source) {
  return {weight(source + ".weight", {config_.width}), weight(source + ".bias", {config_.width})};
}

void SentenceEncoderImpl::load(const std::string& folder) {
  at::NoGradGuard no_grad;
  auto path = folder + "/model.safetensors";
  if (!fs::is_regular_file(path))
    throw CheckpointError(concat(folder, ": expected model.safetensors, got none"));
  SafetensorsFile file(path);
  const std::string prefix = "bert.";  // of models that were saved with a head
  bool prefixed = file.find(prefix + sources_.front().first) != nullptr;
  std::set<std::string> used;
  for (auto& [source, target] : sources_) {
    auto name = (prefixed ? prefix : "") + source;
    const auto* stored = file.find(name);
    if (stored == nullptr)
      throw CheckpointError(concat(path, ": tensor ", name, " is missing; config.json says ",
                                   config_.layers, " layers"));
    auto value = ops::mapped_tensor(*stored, path);
    if (value.sizes() != target.sizes())
      throw CheckpointError(concat(path, ": ", name, ": expected shape ", target.sizes(),
                                   " by config.json, got ", value.sizes()));
    target.copy_(value);
    used.insert(name);
  }
  for (const auto& tensor : file.tensors())
    if (used.count(tensor.name) == 0 && !is_unused(tensor.name))
      throw CheckpointError(concat(path, ": tensor ", tensor.name,
                                   " belongs to nothing in BertModel as config.json describes it"));
  log_info("sentence encoder ", folder, ": ", config_.layers, " layers of width ", config_.width,
           ", at most ", config_.positions, " word pieces");
}

at::Tensor SentenceEncoderImpl::normalise(const at::Tensor& x, const Linear& norm) const {
  return at::layer_norm(x, {config_.width}, norm.weight, norm.bias, config_.norm_epsilon);
}

at::Tensor SentenceEncoderImpl::run_layer(const at::Tensor& x, const Layer& layer,
                                          const at::Tensor& mask) const {
  auto size = x.size(0), length = x.size(1);
  auto heads = [&](const Linear& part) {
    return at::linear(x, part.weight, part.bias)
        .view({size, length, config_.heads, -1})
        .transpose(1, 2);
  };
  auto attended = at::scaled_dot_product_attention(heads(layer.query), heads(layer.key),
                                                   heads(layer.value), mask);
  attended = attended.transpose(1, 2).reshape(x.sizes());
  auto middle = normalise(x + at::linear(attended, layer.output.weight, layer.output.bias),
                          layer.attention_norm);
  auto up = at::linear(middle, layer.up.weight, layer.up.bias);
  auto active = config_.activation == "relu"
                    ? at::relu(up)
                    : at::gelu(up, config_.activation == "gelu" ? "none" : "tanh");
  return normalise(middle + at::linear(active, layer.down.weight, layer.down.bias), layer.mlp_norm);
}

// Rows that hold a text.
at::Tensor SentenceEncoderImpl::run(const at::Tensor& ids, const at::Tensor& valid) const {
  auto x = at::embedding(words_, ids) + positions_.narrow(0, 0, ids.size(1)) +
           token_types_.narrow(0, 0, 1);
  x = normalise(x, embedding_norm_);
  auto mask = valid.unsqueeze(1).unsqueeze(2);
  for (const auto& layer : layers_) x = run_layer(x, layer, mask);
  return x * valid.unsqueeze(-1);
}

at::Tensor SentenceEncoderImpl::states(const at::Tensor& ids, const at::Tensor& valid) const {
  ops::Fp32Guard fp32(words_.device());
  TORCH_CHECK(ids.size(1) <= config_.positions, "sentence encoder: texts of ", ids.size(1),
              " word pieces, at most ", config_.positions);
  constexpr int64_t kRows = 32;  // at once: attention weights and the MLP's inner layer are held
  auto present = valid.any(1).nonzero().squeeze(1);
  auto out = at::zeros({ids.size(0), ids.size(1), config_.width}, words_.options());
  std::vector<at::Tensor> parts;
  for (int64_t begin = 0; begin < present.numel(); begin += kRows) {
    auto rows = present.narrow(0, begin, std::min(kRows, present.numel() - begin));
    parts.push_back(run(ids.index_select(0, rows), valid.index_select(0, rows)));
  }
  return parts.empty() ? out : out.index_copy(0, present, at::cat(parts));
}

at::Tensor SentenceEncoderImpl::embed(const at::Tensor& ids, const at::Tensor& valid) const {
  auto sum = states(ids, valid).sum(1);  // the states of padding are zero
  auto mean = sum / valid.sum(1, true).clamp_min(1);
  return mean / mean.norm(2, -1, true).clamp_min(1e-9);
}

}  // namespace dsrsq
