// Backbones as Hugging Face folders; the other direction is pretrained_folder.cpp.
#include <algorithm>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/manifest.h"
#include "dsrsq/model/pretrained_folder.h"

namespace dsrsq {
namespace {

using nlohmann::json;

[[noreturn]] void no_family(const std::string& what) {
  throw ConfigError(concat("export: no Hugging Face architecture has ", what,
                           "; Llama, Qwen2 and Qwen3 (rmsnorm, swiglu, rope) and GPT-2 (layernorm, "
                           "gelu, learned positions, biases: all) are known"));
}

json rope_scaling_json(const ops::RotaryScaling& s) {
  json scaling{{"rope_type", s.kind}, {"factor", s.factor}};
  if (s.kind == "linear") return scaling;
  scaling["original_max_position_embeddings"] = s.original_positions;
  if (s.kind == "llama3") {
    scaling["low_freq_factor"] = s.low_frequency_factor;
    scaling["high_freq_factor"] = s.high_frequency_factor;
  } else {
    scaling["beta_fast"] = s.beta_fast;
    scaling["beta_slow"] = s.beta_slow;
    if (s.attention_factor > 0) scaling["attention_factor"] = s.attention_factor;
  }
  return scaling;
}

json llama_json(const TransformerConfig& c) {
  // The backbone has no longest position; transformers wants a number.
  constexpr int64_t kPositions = 131072;
  json object{{"model_type", c.query_key_norm    ? "qwen3"
                             : c.biases == "qkv" ? "qwen2"
                                                 : "llama"},
              {"hidden_size", c.width},
              {"num_hidden_layers", c.layers},
              {"num_attention_heads", c.heads},
              {"num_key_value_heads", c.key_value_heads},
              {"head_dim", c.head_width()},
              {"intermediate_size", c.mlp_width},
              {"hidden_act", "silu"},
              {"rms_norm_eps", c.norm_epsilon},
              {"rope_theta", c.rope_base},
              {"max_position_embeddings", kPositions},
              {"attention_bias", c.biases == "attention"},
              {"tie_word_embeddings", c.tie_embeddings}};
  if (c.rope_scaling.kind != "none") object["rope_scaling"] = rope_scaling_json(c.rope_scaling);
  return object;
}

json gpt2_json(const TransformerConfig& c) {
  return {{"model_type", "gpt2"},
          {"n_embd", c.width},
          {"n_layer", c.layers},
          {"n_head", c.heads},
          {"n_inner", c.mlp_width},
          {"n_positions", c.learned_positions},
          {"activation_function", c.mlp == "gelu" ? "gelu" : "gelu_new"},
          {"layer_norm_epsilon", c.norm_epsilon},
          {"tie_word_embeddings", c.tie_embeddings}};
}

// A tensor of the folder, put together from one or several of ours.
struct Assembled {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

void put(Assembled& target, const WeightMapping& weight, const TensorView& ours) {
  auto rows = ours.shape[0], columns = ours.shape.size() > 1 ? ours.shape[1] : 1;
  if (target.values.empty()) {
    target.values.resize(size_t(rows * columns * weight.parts));
    target.shape = ours.shape;
    target.shape[0] = rows * weight.parts;
    if (weight.transposed) std::swap(target.shape[0], target.shape[1]);
  }
  const auto* bytes = static_cast<const char*>(ours.data);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) {
      auto row = weight.part * rows + r;
      auto place = weight.transposed ? c * rows * weight.parts + row : row * columns + c;
      std::memcpy(&target.values[size_t(place)], bytes + 4 * (r * columns + c), 4);
    }
}

TensorView view_of(const std::string& name, const Assembled& tensor) {
  TensorView view;
  view.name = name;
  view.type = ScalarType::kF32;
  view.shape = tensor.shape;
  view.data = tensor.values.data();
  view.bytes = tensor.values.size() * 4;
  return view;
}

const TensorView& require_fp32(const SafetensorsFile& checkpoint, const std::string& name) {
  const auto* found = checkpoint.find(name);
  if (found == nullptr) throw CheckpointError(concat("export: the checkpoint has no ", name));
  if (found->type != ScalarType::kF32 || found->shape.empty() || found->shape.size() > 2)
    throw CheckpointError(concat("export: ", name, ": expected a vector or matrix of F32, got ",
                                 scalar_name(found->type), " of rank ", found->shape.size()));
  return *found;
}

}  // namespace

std::string architecture_of(const TransformerConfig& c) {
  if (c.norm == "layernorm") {
    if (c.position_embedding != "learned")
      no_family("model.norm: layernorm without learned positions");
    if (c.biases != "all") no_family(concat("model.norm: layernorm with model.biases: ", c.biases));
    if (c.mlp == "swiglu") no_family("model.norm: layernorm with model.mlp: swiglu");
    if (c.key_value_heads != c.heads) no_family("learned positions with grouped heads");
    if (c.head_width() * c.heads != c.width)
      no_family("learned positions with a head_width of its own");
    return "GPT2LMHeadModel";
  }
  if (c.position_embedding != "rope")
    no_family(concat("model.norm: rmsnorm with model.position_embedding: ", c.position_embedding));
  if (c.mlp != "swiglu") no_family(concat("model.norm: rmsnorm with model.mlp: ", c.mlp));
  if (c.biases == "all") no_family("model.norm: rmsnorm with model.biases: all");
  if (c.query_key_norm) {
    if (c.biases == "qkv") no_family("model.query_key_norm with model.biases: qkv");
    return "Qwen3ForCausalLM";
  }
  return c.biases == "qkv" ? "Qwen2ForCausalLM" : "LlamaForCausalLM";
}

std::string pretrained_config_json(const TransformerConfig& config, int64_t vocabulary_size,
                                   int64_t begin_id, int64_t end_id) {
  auto architecture = architecture_of(config);
  auto object = architecture == "GPT2LMHeadModel" ? gpt2_json(config) : llama_json(config);
  object["architectures"] = {architecture};
  object["vocab_size"] = vocabulary_size;
  object["torch_dtype"] = "float32";
  object["bos_token_id"] = begin_id;
  object["eos_token_id"] = end_id;
  return object.dump(2) + "\n";
}

std::vector<std::string> write_pretrained(const std::string& folder,
                                          const TransformerConfig& config,
                                          const SafetensorsFile& checkpoint, int64_t begin_id,
                                          int64_t end_id) {
  const std::string backbone = "backbone.";
  auto architecture = architecture_of(config);
  auto prefix = architecture == "GPT2LMHeadModel" ? "transformer." : "";
  std::map<std::string, Assembled> assembled;
  std::set<std::string> taken;
  for (const auto& weight : pretrained_weights(architecture, config, prefix)) {
    put(assembled[weight.source], weight, require_fp32(checkpoint, backbone + weight.name));
    taken.insert(backbone + weight.name);
  }
  std::vector<TensorView> tensors, own;
  for (const auto& [name, tensor] : assembled) tensors.push_back(view_of(name, tensor));
  std::vector<std::string> names;
  for (const auto& tensor : checkpoint.tensors()) {
    if (taken.count(tensor.name) > 0) continue;
    own.push_back(tensor);
    names.push_back(tensor.name);
  }
  auto vocabulary = require_fp32(checkpoint, backbone + "embedding").shape[0];
  write_safetensors(folder + "/model.safetensors", tensors, {{"format", "pt"}});
  if (!own.empty()) write_safetensors(folder + "/dsrsq.safetensors", own);
  Manifest manifest;
  for (const char* name : {"model.safetensors", "dsrsq.safetensors"}) {
    auto path = folder + "/" + name;
    if (!own.empty() || name == std::string("model.safetensors"))
      manifest.files[name] = {std::filesystem::file_size(path), sha256_file(path)};
  }
  write_file_atomic(folder + "/" + kFolderManifest, manifest_text(manifest));
  write_file_atomic(folder + "/config.json",
                    pretrained_config_json(config, vocabulary, begin_id, end_id));
  return names;
}

}  // namespace dsrsq
