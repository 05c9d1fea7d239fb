// dsrsq-data export: a trained run as a Hugging Face folder, without torch.
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "data_commands.h"
#include "dsrsq/core/config.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/manifest.h"
#include "dsrsq/model/pretrained_folder.h"
#include "dsrsq/text/tokenizer.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

// <run>/checkpoints/step-00001000 or, of a run, its newest.
struct Source {
  fs::path run, checkpoint;
};

Source find_source(const std::string& path) {
  if (fs::exists(fs::path(path) / "manifest.json")) {
    auto folder = fs::absolute(path).lexically_normal();
    if (!folder.has_filename()) folder = folder.parent_path();
    return {folder.parent_path().parent_path(), folder};
  }
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(fs::path(path) / "checkpoints", error))
    if (entry.path().filename().string().rfind("step-", 0) == 0) found.push_back(entry.path());
  if (found.empty())
    throw CheckpointError(concat("export: ", path,
                                 ": expected a run's folder or one of its checkpoints, found no "
                                 "checkpoints/step-*"));
  return {path, *std::max_element(found.begin(), found.end())};
}

// What is exported is what was saved: its size and checksum are those of the manifest.
std::string verified_weights(const fs::path& checkpoint) {
  const std::string name = "model.safetensors", path = (checkpoint / name).string();
  const std::string manifest_path = (checkpoint / "manifest.json").string();
  const Manifest manifest =
      parse_manifest(read_file(manifest_path, kMaximumManifestBytes), manifest_path);
  const auto entry = manifest.files.find(name);
  if (entry == manifest.files.end())
    throw CheckpointError(concat(manifest_path, ": does not list ", name));
  if (!fs::is_regular_file(path) || fs::file_size(path) != entry->second.bytes ||
      sha256_file(path) != entry->second.sha256)
    throw CheckpointError(
        concat(path, ": is not what manifest.json says; export another checkpoint"));
  return path;
}

// The config is a run's own dump: scalars, lists, groups.
json to_json(const YAML::Node& node) {
  if (node.IsMap()) {
    json object = json::object();
    for (const auto& item : node) object[item.first.as<std::string>()] = to_json(item.second);
    return object;
  }
  if (node.IsSequence()) {
    json list = json::array();
    for (const auto& item : node) list.push_back(to_json(item));
    return list;
  }
  if (node.IsNull()) return nullptr;
  const bool quoted = node.Tag() == "!";
  bool flag = false;
  int64_t integer = 0;
  double number = 0;
  if (!quoted && YAML::convert<bool>::decode(node, flag)) return flag;
  if (!quoted && YAML::convert<int64_t>::decode(node, integer)) return integer;
  if (!quoted && YAML::convert<double>::decode(node, number)) return number;
  return node.as<std::string>();
}

TransformerConfig backbone_of(const YAML::Node& config, const std::string& path) {
  if (!config.IsMap() || !config["model"] || !config["data"])
    throw ConfigError(concat(path, ": expected a run's config with model and data"));
  TransformerConfig model;
  load_config_text(YAML::Dump(config["model"]), path + ", model",
                   [&model](ConfigVisitor& v) { model.visit_fields(v); });
  return model;
}

YAML::Node load_yaml(const std::string& path) {
  try {
    return YAML::Load(read_file(path, size_t{1} << 20));
  } catch (const YAML::Exception& error) {
    throw ConfigError(concat(path, ": ", error.what()));
  }
}

}  // namespace

void export_run(const std::string& path, const std::string& folder) {
  if (fs::exists(folder))
    throw ConfigError(concat("export: ", folder, ": is there already; choose a new folder"));
  const Source source = find_source(path);
  const std::string config_path = (source.run / "config.yaml").string();
  const YAML::Node config = load_yaml(config_path);
  const TransformerConfig model = backbone_of(config, config_path);
  architecture_of(model);  // throws before anything is written
  const auto tokenizer_path = config["data"]["tokenizer"].as<std::string>("");
  const Tokenizer tokenizer = Tokenizer::from_file(tokenizer_path);
  const SafetensorsFile weights(verified_weights(source.checkpoint));
  const TensorView* embedding = weights.find("backbone.embedding");
  if (embedding != nullptr && !embedding->shape.empty() &&
      embedding->shape[0] < tokenizer.vocabulary_size())
    throw ConfigError(concat("export: ", tokenizer_path, ": expected at most ", embedding->shape[0],
                             " ids, which the checkpoint has embeddings for, got ",
                             tokenizer.vocabulary_size(),
                             "; put the run's own tokenizer back there"));

  auto target = fs::absolute(folder).lexically_normal();
  if (!target.has_filename()) target = target.parent_path();
  std::vector<std::string> own;
  write_folder_atomic(target.parent_path(), target.filename(), [&](const std::string& made) {
    own = write_pretrained(made, model, weights, tokenizer.begin_id(), tokenizer.end_id());
    write_file_atomic(made + "/dsrsq_config.json", to_json(config).dump(2) + "\n");
    if (fs::is_regular_file(tokenizer_path) && fs::path(tokenizer_path).extension() == ".json")
      write_file_atomic(made + "/tokenizer.json", read_file(tokenizer_path));
  });
  std::cout << folder << ": " << architecture_of(model) << " of " << source.checkpoint.string()
            << "\n";
  if (!own.empty())
    std::cout << own.size() << " tensors of DSRSQ's own parts (" << own.front()
              << ", ...) are in dsrsq.safetensors; transformers leaves them out\n";
}

}  // namespace dsrsq
