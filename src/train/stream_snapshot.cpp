#include "dsrsq/train/stream_snapshot.h"

#include <torch/nn/module.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/json.h"
#include "dsrsq/core/manifest.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kTensors = "state.safetensors";
constexpr const char* kState = "state.json";
constexpr const char* kManifest = "manifest.json";
constexpr const char* kFormat = "dsrsq-stream";

// Folder above and name, also where the path ends in "/".
std::pair<std::string, std::string> parent_and_name(const std::string& folder) {
  auto path = fs::absolute(folder).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return {path.parent_path().string(), path.filename().string()};
}

std::string read_small_file(const std::string& path) {
  try {
    return read_file(path, kMaximumManifestBytes);
  } catch (const Error& error) {
    throw CheckpointError(error.what());
  }
}

// -> the bytes of text that the manifest names.
int64_t verify(const std::string& folder) {
  const std::string path = folder + "/" + kManifest;
  const Manifest manifest = parse_manifest(read_small_file(path), path);
  for (const char* name : {kTensors, kState}) {
    const auto entry = manifest.files.find(name);
    if (entry == manifest.files.end())
      throw CheckpointError(concat(path, ": expected an entry for ", name, ", found none"));
    const std::string file = folder + "/" + name;
    std::error_code error;
    const bool regular = fs::is_regular_file(fs::symlink_status(file, error));
    if (!regular || fs::file_size(file, error) != entry->second.bytes ||
        sha256_file(file) != entry->second.sha256)
      throw CheckpointError(
          concat(file,
                 ": is not the file that was written: damaged, cut off or missing; give "
                 "another snapshot, or none to begin anew"));
  }
  return manifest.step;
}

int64_t count_of(const json& state, const char* key, const std::string& path) {
  const auto found = state.find(key);
  if (found == state.end() || !found->is_number_integer() || found->get<int64_t>() < 0)
    throw CheckpointError(concat(path, ": expected a count \"", key, "\""));
  return found->get<int64_t>();
}

}  // namespace

std::string weights_fingerprint(const torch::nn::Module& module) {
  std::string digests;
  for (const auto& [name, tensor] : module_tensors(module)) {
    const auto host = tensor.detach().cpu().contiguous();
    digests += concat(
        name, " ", host.sizes(), " ",
        sha256_hex(std::string(static_cast<const char*>(host.const_data_ptr()), host.nbytes())),
        "\n");
  }
  return sha256_hex(digests);
}

void save_stream_snapshot(const std::string& folder, const StreamSnapshot& snapshot) {
  const auto [parent, name] = parent_and_name(folder);
  const json state = {{"format", kFormat},
                      {"weights", snapshot.weights},
                      {"input_bytes", snapshot.input_bytes},
                      {"questions", snapshot.questions}};
  write_folder_atomic(parent, name, [&](const std::string& fresh) {
    write_tensors(fresh + "/" + kTensors, snapshot.tensors);
    write_file_atomic(fresh + "/" + kState, state.dump(2) + "\n");
    Manifest manifest;
    manifest.step = snapshot.input_bytes;
    for (const char* file : {kTensors, kState}) {
      const std::string path = fresh + "/" + file;
      manifest.files[file] = {fs::file_size(path), sha256_file(path)};
    }
    write_file_atomic(fresh + "/" + kManifest, manifest_text(manifest));
  });
}

StreamSnapshot load_stream_snapshot(const std::string& folder, const std::string& weights) {
  const int64_t step = verify(folder);
  const std::string path = folder + "/" + kState;
  json state;
  try {
    state = parse_json(read_small_file(path));
  } catch (const JsonError& error) {
    throw CheckpointError(concat(path, ": ", error.what()));
  }
  const auto text_of = [&](const char* key) {
    const auto found = state.is_object() ? state.find(key) : state.end();
    return found != state.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  if (text_of("format") != kFormat)
    throw CheckpointError(concat(path, ": is not the snapshot of a stream"));
  StreamSnapshot snapshot;
  snapshot.weights = text_of("weights");
  if (snapshot.weights != weights)
    throw CheckpointError(concat(folder, ": the snapshot was made with other weights (SHA-256 ",
                                 snapshot.weights.substr(0, 12), ", this model has ",
                                 weights.substr(0, 12),
                                 "); give the model that it was made with, or another --snapshot"));
  snapshot.input_bytes = count_of(state, "input_bytes", path);
  snapshot.questions = count_of(state, "questions", path);
  if (snapshot.input_bytes != step)
    throw CheckpointError(concat(folder, ": manifest.json is that of byte ", step, ", expected ",
                                 snapshot.input_bytes));
  snapshot.tensors = read_tensors(folder + "/" + kTensors);
  return snapshot;
}

}  // namespace dsrsq
