#include "dsrsq/model/pretrained_folder.h"

#include <algorithm>
#include <filesystem>
#include <set>
#include <sstream>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/json.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/core/manifest.h"

namespace dsrsq {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr size_t kMaximumConfig = size_t{16} << 20;
constexpr int64_t kMaximumShards = 1000;

// Reads the keys of a config.json with errors that name file and key.
class Keys {
 public:
  Keys(const json& object, std::string path) : object_(object), path_(std::move(path)) {}

  bool has(const char* key) const { return object_.contains(key) && !object_.at(key).is_null(); }
  int64_t integer(const char* key) const {
    require(key);
    return as<int64_t>(key, object_.at(key).is_number_integer(), "an integer");
  }
  int64_t integer(const char* key, int64_t otherwise) const {
    return has(key) ? integer(key) : otherwise;
  }
  double number(const char* key, double otherwise) const {
    return has(key) ? as<double>(key, object_.at(key).is_number(), "a number") : otherwise;
  }
  bool flag(const char* key, bool otherwise) const {
    return has(key) ? as<bool>(key, object_.at(key).is_boolean(), "true or false") : otherwise;
  }
  std::string text(const char* key, const std::string& otherwise) const {
    return has(key) ? as<std::string>(key, object_.at(key).is_string(), "a string") : otherwise;
  }
  Keys group(const char* key) const {
    if (!object_.at(key).is_object()) fail(key, "an object", object_.at(key).dump());
    return Keys(object_.at(key), path_);
  }
  // A feature that the backbone has in one form only.
  void require_value(const char* key, const json& wanted) const {
    if (has(key) && object_.at(key) != wanted) fail(key, wanted.dump(), object_.at(key).dump());
  }
  [[noreturn]] void fail(const std::string& key, const std::string& expected,
                         const std::string& got) const {
    throw ConfigError(concat(path_, ": \"", key, "\": expected ", expected, ", got ", got,
                             "; this backbone cannot load such a model"));
  }
  const std::string& path() const { return path_; }

 private:
  void require(const char* key) const {
    if (!has(key)) throw ConfigError(concat(path_, ": key \"", key, "\" is missing"));
  }
  template <typename T>
  T as(const char* key, bool fits, const char* expected) const {
    if (!fits) fail(key, expected, object_.at(key).dump());
    return object_.at(key).get<T>();
  }

  const json& object_;
  std::string path_;
};

void read_rope(const Keys& keys, TransformerConfig& config) {
  // Newer files keep all of RoPE in `rope_parameters`.
  auto holder = keys.has("rope_parameters") ? keys.group("rope_parameters") : keys;
  config.rope_base = holder.number("rope_theta", keys.number("rope_theta", 10000));
  if (!keys.has("rope_parameters") && !keys.has("rope_scaling")) return;
  auto scaling = keys.has("rope_parameters") ? holder : keys.group("rope_scaling");
  auto kind = scaling.text("rope_type", scaling.text("type", "default"));
  if (kind == "default") return;
  if (kind != "linear" && kind != "llama3" && kind != "yarn")
    scaling.fail("rope_type", "default, linear, llama3 or yarn", "\"" + kind + "\"");
  for (const char* key : {"mscale", "mscale_all_dim", "truncate"})
    if (scaling.has(key)) scaling.fail(key, "nothing", "a value");
  auto& s = config.rope_scaling;
  s.kind = kind;
  s.factor = scaling.number("factor", 1);
  s.original_positions =
      scaling.integer("original_max_position_embeddings",
                      keys.integer("original_max_position_embeddings",
                                   keys.integer("max_position_embeddings", s.original_positions)));
  s.low_frequency_factor = scaling.number("low_freq_factor", s.low_frequency_factor);
  s.high_frequency_factor = scaling.number("high_freq_factor", s.high_frequency_factor);
  s.beta_fast = scaling.number("beta_fast", s.beta_fast);
  s.beta_slow = scaling.number("beta_slow", s.beta_slow);
  s.attention_factor = scaling.number("attention_factor", 0);
}

TransformerConfig read_llama(const Keys& keys, const std::string& architecture) {
  TransformerConfig config;
  keys.require_value("hidden_act", "silu");
  keys.require_value("mlp_bias", false);
  config.layers = keys.integer("num_hidden_layers");
  config.width = keys.integer("hidden_size");
  config.heads = keys.integer("num_attention_heads");
  config.key_value_heads = keys.integer("num_key_value_heads", config.heads);
  config.own_head_width = keys.integer("head_dim", 0);
  if (config.own_head_width * config.heads == config.width) config.own_head_width = 0;
  config.mlp_width = keys.integer("intermediate_size");
  config.norm_epsilon = keys.number("rms_norm_eps", 1e-6);
  config.tie_embeddings = keys.flag("tie_word_embeddings", false);
  config.query_key_norm = architecture == "Qwen3ForCausalLM";
  config.biases = architecture == "Qwen2ForCausalLM"   ? "qkv"
                  : keys.flag("attention_bias", false) ? "attention"
                                                       : "none";
  read_rope(keys, config);
  bool slides = keys.has("sliding_window") && keys.flag("use_sliding_window", true);
  if (slides && architecture != "LlamaForCausalLM")
    log_warning(keys.path(), ": attention was trained in a sliding window of ",
                keys.integer("sliding_window"),
                " tokens; here every token is attended, which differs beyond that");
  return config;
}

TransformerConfig read_gpt2(const Keys& keys) {
  TransformerConfig config;
  keys.require_value("scale_attn_weights", true);
  keys.require_value("scale_attn_by_inverse_layer_idx", false);
  keys.require_value("add_cross_attention", false);
  config.layers = keys.integer("n_layer");
  config.width = keys.integer("n_embd");
  config.heads = config.key_value_heads = keys.integer("n_head");
  config.mlp_width = keys.integer("n_inner", 4 * config.width);
  auto activation = keys.text("activation_function", "gelu_new");
  if (activation != "gelu_new" && activation != "gelu_pytorch_tanh" && activation != "gelu")
    keys.fail("activation_function", "gelu_new, gelu_pytorch_tanh or gelu",
              "\"" + activation + "\"");
  config.mlp = activation == "gelu" ? "gelu" : "gelu_tanh";
  config.norm = "layernorm";
  config.norm_epsilon = keys.number("layer_norm_epsilon", 1e-5);
  config.biases = "all";
  config.position_embedding = "learned";
  config.learned_positions = keys.integer("n_positions", 1024);
  config.tie_embeddings = keys.flag("tie_word_embeddings", true);
  return config;
}

json parse_json_file(const std::string& path) {
  try {
    return parse_json(read_file(path, kMaximumConfig));
  } catch (const JsonError& error) {
    throw ConfigError(concat(path, ": ", error.what()));
  }
}

// Buffers that some writers stored beside the weights.
bool is_buffer(const std::string& name) {
  auto ends = [&](const std::string& tail) {
    return name.size() >= tail.size() &&
           name.compare(name.size() - tail.size(), tail.size(), tail) == 0;
  };
  return ends("rotary_emb.inv_freq") || ends(".attn.bias") || ends(".attn.masked_bias");
}

}  // namespace

PretrainedFolder::PretrainedFolder(const std::string& folder) : folder_(folder) {
  auto path = folder + "/config.json";
  if (!fs::is_regular_file(path))
    throw ConfigError(concat("model.init: ", folder,
                             ": expected a Hugging Face folder with config.json and "
                             "safetensors, got ",
                             fs::exists(folder) ? "none in it" : "no such folder"));
  auto object = parse_json_file(path);
  if (!object.is_object()) throw ConfigError(concat(path, ": expected an object"));
  Keys keys(object, path);
  if (!object.contains("architectures") || !object.at("architectures").is_array() ||
      object.at("architectures").size() != 1 || !object.at("architectures")[0].is_string())
    throw ConfigError(concat(path, ": \"architectures\": expected a list of one name"));
  architecture_ = object.at("architectures")[0].get<std::string>();
  if (keys.has("quantization_config"))
    keys.fail("quantization_config", "none: plain fp32, fp16 or bf16 weights", "quantised weights");
  const std::set<std::string> llamas{"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM",
                                     "Qwen3ForCausalLM"};
  if (llamas.count(architecture_) > 0)
    config_ = read_llama(keys, architecture_);
  else if (architecture_ == "GPT2LMHeadModel")
    config_ = read_gpt2(keys);
  else
    keys.fail("architectures",
              "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM or "
              "GPT2LMHeadModel",
              architecture_);
  config_.vocabulary_size = keys.integer("vocab_size");
  open_tensors();
}

void PretrainedFolder::open_tensors() {
  auto index = folder_ + "/model.safetensors.index.json", single = folder_ + "/model.safetensors";
  std::set<std::string> shards;
  if (fs::is_regular_file(single)) {
    shards.insert("model.safetensors");
  } else if (fs::is_regular_file(index)) {
    auto object = parse_json_file(index);
    if (!object.is_object() || !object.contains("weight_map") || !object["weight_map"].is_object())
      throw CheckpointError(concat(index, ": expected an object \"weight_map\""));
    for (const auto& [name, file] : object["weight_map"].items()) {
      auto shard = file.is_string() ? file.get<std::string>() : "";
      if (shard.empty() || shard.find('/') != std::string::npos)
        throw CheckpointError(
            concat(index, ": ", name, ": expected the name of a file in the folder"));
      shards.insert(shard);
    }
    if (int64_t(shards.size()) > kMaximumShards)
      throw CheckpointError(concat(index, ": over ", kMaximumShards, " shards"));
  } else {
    throw CheckpointError(concat(
        folder_, ": expected model.safetensors or model.safetensors.index.json, got neither"));
  }
  shards_.assign(shards.begin(), shards.end());
  for (const auto& shard : shards) {
    if (!fs::is_regular_file(folder_ + "/" + shard))
      throw CheckpointError(concat(folder_, ": shard ", shard, " is missing; copy it there"));
    files_.push_back(std::make_unique<SafetensorsFile>(folder_ + "/" + shard));
    for (const auto& tensor : files_.back()->tensors())
      if (!tensors_.emplace(tensor.name, &tensor).second)
        throw CheckpointError(concat(folder_, ": ", tensor.name, " stands in two shards"));
  }
  if (architecture_ == "GPT2LMHeadModel" && tensors_.count("transformer.wte.weight") > 0)
    prefix_ = "transformer.";
}

void PretrainedFolder::verify_checksums() const {
  auto path = folder_ + "/" + kFolderManifest;
  if (!fs::exists(path)) return;
  auto manifest = parse_manifest(read_file(path, kMaximumManifestBytes), path);
  for (const auto& shard : shards_) {
    auto entry = manifest.files.find(shard);
    if (entry == manifest.files.end())
      throw CheckpointError(concat(path, ": does not list ", shard,
                                   "; if the file was added on purpose, remove the manifest"));
    auto file = folder_ + "/" + shard;
    if (fs::file_size(file) != entry->second.bytes || sha256_file(file) != entry->second.sha256)
      throw CheckpointError(concat(file, ": is not what ", kFolderManifest,
                                   " says: it is damaged, copy it again; if it was changed on "
                                   "purpose, remove the manifest"));
  }
}

void take_architecture(TransformerConfig& config, const PretrainedFolder& folder,
                       const ConfigLocations& locations) {
  auto theirs = folder.config();
  auto visit = [](TransformerConfig& c) {
    return [&c](ConfigVisitor& v) { c.visit_architecture(v); };
  };
  // Both dumps have the same keys in the same order, one a line, groups indented below their name.
  std::istringstream own_lines(dump_config(visit(config))), their_lines(dump_config(visit(theirs)));
  std::string group;
  for (std::string own, other; std::getline(own_lines, own) && std::getline(their_lines, other);) {
    auto begin = own.find_first_not_of(' '), colon = own.find(':');
    if (begin == std::string::npos || colon == std::string::npos) continue;
    auto name = own.substr(begin, colon - begin);
    if (begin == 0) group = colon + 1 == own.size() ? name + "." : "";
    auto key = concat("model.", begin == 0 ? "" : group, name);
    if (own == other || locations.of(key) == "default") continue;
    throw ConfigError(concat(locations.of(key), ": ", key, ": expected",
                             other.substr(other.find(':') + 1), " as in ", folder.folder(),
                             "/config.json, got", own.substr(colon + 1), "; leave the key out"));
  }
  auto mine = config;
  config = theirs;
  config.init = mine.init;
  config.positions = mine.positions;
  config.conv_width = mine.conv_width;
  config.sinks = mine.sinks;
  config.initial_deviation = mine.initial_deviation;
}

std::vector<WeightMapping> PretrainedFolder::weights() const {
  return pretrained_weights(architecture_, config_, prefix_);
}

const TensorView& PretrainedFolder::tensor(const std::string& source) const {
  auto found = tensors_.find(source);
  if (found == tensors_.end())
    throw CheckpointError(concat(folder_, ": tensor ", source, " is missing; the config.json says ",
                                 architecture_, " with ", config_.layers, " layers"));
  return *found->second;
}

void PretrainedFolder::require_all_used() const {
  std::set<std::string> used;
  for (const auto& weight : weights()) used.insert(weight.source);
  if (config_.tie_embeddings) used.insert("lm_head.weight");  // some writers store it twice
  for (const auto& [name, tensor] : tensors_)
    if (used.count(name) == 0 && !is_buffer(name))
      throw CheckpointError(concat(folder_, ": tensor ", name, " belongs to nothing in ",
                                   architecture_, " as config.json describes it"));
}

namespace {

void add_llama_layer(std::vector<WeightMapping>& list, const TransformerConfig& config,
                     int64_t layer) {
  auto add = [&](const char* ours, const char* theirs) {
    list.push_back(
        {concat("block_", layer, "_", ours), concat("model.layers.", layer, ".", theirs)});
  };
  add("attention_norm", "input_layernorm.weight");
  add("query", "self_attn.q_proj.weight");
  add("key", "self_attn.k_proj.weight");
  add("value", "self_attn.v_proj.weight");
  add("output", "self_attn.o_proj.weight");
  if (config.biases != "none") {
    add("query_bias", "self_attn.q_proj.bias");
    add("key_bias", "self_attn.k_proj.bias");
    add("value_bias", "self_attn.v_proj.bias");
  }
  if (config.biases == "attention") add("output_bias", "self_attn.o_proj.bias");
  if (config.query_key_norm) {
    add("query_norm", "self_attn.q_norm.weight");
    add("key_norm", "self_attn.k_norm.weight");
  }
  add("mlp_norm", "post_attention_layernorm.weight");
  add("gate", "mlp.gate_proj.weight");
  add("up", "mlp.up_proj.weight");
  add("down", "mlp.down_proj.weight");
}

void add_gpt2_layer(std::vector<WeightMapping>& list, const std::string& prefix, int64_t layer) {
  auto add = [&](const char* ours, const char* theirs, bool transposed = false, int64_t part = 0,
                 int64_t parts = 1) {
    list.push_back({concat("block_", layer, "_", ours), concat(prefix, "h.", layer, ".", theirs),
                    transposed, part, parts});
  };
  add("attention_norm", "ln_1.weight");
  add("attention_norm_bias", "ln_1.bias");
  const char* names[] = {"query", "key", "value"};
  const char* biases[] = {"query_bias", "key_bias", "value_bias"};
  for (int64_t part = 0; part < 3; ++part) {
    add(names[part], "attn.c_attn.weight", true, part, 3);
    add(biases[part], "attn.c_attn.bias", false, part, 3);
  }
  add("output", "attn.c_proj.weight", true);
  add("output_bias", "attn.c_proj.bias");
  add("mlp_norm", "ln_2.weight");
  add("mlp_norm_bias", "ln_2.bias");
  add("up", "mlp.c_fc.weight", true);
  add("up_bias", "mlp.c_fc.bias");
  add("down", "mlp.c_proj.weight", true);
  add("down_bias", "mlp.c_proj.bias");
}

}  // namespace

std::vector<WeightMapping> pretrained_weights(const std::string& architecture,
                                              const TransformerConfig& config,
                                              const std::string& prefix) {
  std::vector<WeightMapping> list;
  bool gpt2 = architecture == "GPT2LMHeadModel";
  list.push_back({"embedding", gpt2 ? prefix + "wte.weight" : "model.embed_tokens.weight"});
  if (!config.tie_embeddings) list.push_back({"output", "lm_head.weight"});
  if (gpt2) list.push_back({"position_table", prefix + "wpe.weight"});
  for (int64_t layer = 0; layer < config.layers; ++layer) {
    if (gpt2)
      add_gpt2_layer(list, prefix, layer);
    else
      add_llama_layer(list, config, layer);
  }
  list.push_back({"final_norm", gpt2 ? prefix + "ln_f.weight" : "model.norm.weight"});
  if (gpt2) list.push_back({"final_norm_bias", prefix + "ln_f.bias"});
  return list;
}

}  // namespace dsrsq
