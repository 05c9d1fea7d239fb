#include "dsrsq/train/checkpoint.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <system_error>
#include <utility>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/core/manifest.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kModelFile = "model.safetensors";
constexpr const char* kOptimizerFile = "optimizer.safetensors";
constexpr const char* kStateFile = "state.json";
constexpr const char* kManifestFile = "manifest.json";
constexpr const char* kBestFile = "best.json";
constexpr const char* kPayloadFiles[] = {kModelFile, kOptimizerFile, kStateFile};
constexpr size_t kMaximumJsonBytes = size_t{64} << 20;

std::string step_name(int64_t step) {
  char name[40];
  std::snprintf(name, sizeof(name), "step-%08lld", static_cast<long long>(step));
  return name;
}

// The step of "step-00001000"; empty for every other name.
std::optional<int64_t> parse_step_name(const std::string& name) {
  constexpr size_t kPrefix = 5, kMaximumDigits = 18;
  if (name.size() <= kPrefix || name.size() > kPrefix + kMaximumDigits ||
      name.compare(0, kPrefix, "step-") != 0)
    return std::nullopt;
  if (!std::all_of(name.begin() + kPrefix, name.end(), [](char c) { return c >= '0' && c <= '9'; }))
    return std::nullopt;
  const int64_t step = std::stoll(name.substr(kPrefix));
  if (step_name(step) != name) return std::nullopt;
  return step;
}

// The last part of a path, also where it ends in "/".
std::string base_name(const std::string& path) {
  const fs::path normal = fs::path(path).lexically_normal();
  return (normal.has_filename() ? normal : normal.parent_path()).filename().string();
}

bool is_folder(const fs::path& path) {
  std::error_code ignored;  // unreadable counts as absent; opening it reports the reason
  return fs::is_directory(path, ignored);
}

// Throws CheckpointError naming the file, in place of the JSON library's exceptions.
json read_json(const std::string& path) {
  std::string text;
  try {
    text = read_file(path, kMaximumJsonBytes);
  } catch (const Error& error) {
    throw CheckpointError(error.what());
  }
  json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object())
    throw CheckpointError(
        concat(path, ": expected a JSON object, got something else or cut-off text"));
  return value;
}

int64_t json_int(const json& object, const char* key, const std::string& path) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number_integer())
    throw CheckpointError(concat(path, ": expected an integer \"", key, "\""));
  return found->get<int64_t>();
}

// JSON has no NaN or infinity: they would come back as null, and a run could not be resumed.
void check_finite(const json& value, const std::string& key) {
  if (value.is_number_float() && !std::isfinite(value.get<double>()))
    throw Error(ExitCode::kInternal,
                concat("checkpoint state: ", key, " is not finite; JSON cannot hold it"));
  if (value.is_structured())
    for (const auto& item : value.items())
      check_finite(item.value(), key.empty() ? item.key() : key + "." + item.key());
}

void write_manifest(const std::string& folder, int64_t step) {
  Manifest manifest;
  manifest.step = step;
  for (const char* name : kPayloadFiles) {
    const std::string path = folder + "/" + name;
    manifest.files[name] = {fs::file_size(path), sha256_file(path)};
  }
  write_file_atomic(folder + "/" + kManifestFile, manifest_text(manifest));
}

// `where` stands in messages.
Manifest read_manifest(const std::string& folder, const std::string& where) {
  std::string text;
  try {
    text = read_file(folder + "/" + kManifestFile, kMaximumManifestBytes);
  } catch (const Error& error) {
    throw CheckpointError(error.what());
  }
  return parse_manifest(text, where);
}

std::string file_damage(const std::string& folder, const std::string& name,
                        const ManifestEntry& entry) {
  const std::string path = folder + "/" + name;
  std::error_code error;
  // A link could name a file that is not the run's, a pipe would be read for ever.
  if (const auto type = fs::symlink_status(path, error).type(); type != fs::file_type::regular)
    return concat(name, type == fs::file_type::not_found ? ": is missing" : ": is no regular file");
  const uintmax_t bytes = fs::file_size(path, error);
  if (error) return concat(name, ": ", error.message());
  if (bytes != entry.bytes) return concat(name, ": expected ", entry.bytes, " bytes, got ", bytes);
  if (sha256_file(path) != entry.sha256)
    return concat(name, ": its SHA-256 is not that of manifest.json");
  return "";
}

std::string damage_or_throw(const std::string& folder) {
  if (!is_folder(folder)) return "is not a folder";
  std::error_code ignored;
  if (!fs::exists(folder + "/" + kManifestFile, ignored)) return "manifest.json is missing";
  const Manifest manifest = read_manifest(folder, kManifestFile);
  const std::optional<int64_t> named = parse_step_name(base_name(folder));
  if (named && *named != manifest.step)
    return concat("manifest.json is that of step ", manifest.step);
  for (const char* name : kPayloadFiles)
    if (manifest.files.count(name) == 0) return concat("manifest.json does not list ", name);
  for (const auto& [name, entry] : manifest.files) {
    const std::string damage = file_damage(folder, name, entry);
    if (!damage.empty()) return damage;
  }
  return "";
}

// What a checkpoint takes on the disk, somewhat over: data, header lines, and a block for each
// file.
uint64_t stored_bytes(const NamedTensors& tensors) {
  constexpr uint64_t kHeaderLine = 160, kBlock = 4096;
  uint64_t bytes = 2 * kBlock;
  for (const auto& [name, tensor] : tensors) bytes += tensor.nbytes() + name.size() + kHeaderLine;
  return bytes;
}

// A run folder that was removed, or whose disk was unmounted, must not be made anew: what is in it
// besides checkpoints would be lost without a word.
void make_folder_in_run(const std::string& folder) {
  const fs::path run = fs::path(folder).parent_path();
  if (!is_folder(run))
    throw CheckpointError(concat(run.string(),
                                 ": expected the run folder, found none: was it removed or "
                                 "unmounted while the run went on? Nothing is saved"));
  std::error_code error;
  fs::create_directory(folder, error);
  if (error) throw CheckpointError(concat(folder, ": cannot be created: ", error.message()));
}

CheckpointError no_room(const std::string& checkpoint, uint64_t needed, uint64_t free) {
  // Room that is free again was taken by others, or file entries ran out.
  return CheckpointError(concat(
      checkpoint,
      free < needed ? ": the disk is full: " : ": the disk became full while it was written: ",
      "a checkpoint needs ", bytes_text(needed), ", ", bytes_text(free),
      " are free; the older checkpoints are whole: make room and run the same command again"));
}

// Renamed first: a kill in the middle leaves a .tmp- folder, never half a checkpoint.
void remove_checkpoint(const Checkpoint& checkpoint) {
  const fs::path path(checkpoint.folder);
  const fs::path doomed =
      path.parent_path() / concat(".tmp-pruned-", path.filename().string(), "-", ::getpid());
  std::error_code error;
  fs::rename(path, doomed, error);
  if (!error) fs::remove_all(doomed, error);
  if (error) log_warning(checkpoint.folder, ": could not be removed: ", error.message());
}

// The step that best.json names; empty where there is none. Throws CheckpointError where it cannot
// be read.
std::optional<int64_t> best_step(const std::string& folder) {
  const std::string path = folder + "/" + kBestFile;
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return std::nullopt;
  return json_int(read_json(path), "step", path);
}

// Keeps the newest `keep` up to the step just saved, and the best. Later steps stem from a run that
// was resumed from before them: they are replaced when this run gets there.
void prune(const std::string& folder, const std::vector<Checkpoint>& newest_first, int64_t saved,
           int64_t keep) {
  std::optional<int64_t> best;
  try {
    best = best_step(folder);
  } catch (const Error& error) {
    log_warning("no checkpoint is pruned: ", error.what());
    return;
  }
  int64_t kept = 0;
  for (const Checkpoint& checkpoint : newest_first) {
    if (checkpoint.step > saved || ++kept <= keep || checkpoint.step == best) continue;
    remove_checkpoint(checkpoint);
  }
}

}  // namespace

std::string checkpoint_damage(const std::string& folder) {
  try {
    return damage_or_throw(folder);
  } catch (const Error& error) {
    return error.what();
  }
}

CheckpointFolder::CheckpointFolder(std::string run_folder)
    : folder_(std::move(run_folder) + "/checkpoints") {}

Checkpoint CheckpointFolder::save(int64_t step, const NamedTensors& model,
                                  const NamedTensors& optimizer, const json& state, int64_t keep) {
  if (step < 0) throw Error(ExitCode::kInternal, concat("checkpoint: step ", step, " is negative"));
  if (keep < 1) throw ConfigError(concat("checkpoints to keep: expected at least 1, got ", keep));
  if (!state.is_object())
    throw Error(ExitCode::kInternal, "checkpoint state: expected a JSON object");
  check_finite(state, "");
  make_folder_in_run(folder_);
  if (!cleaned_) remove_stale_temporaries(folder_);
  cleaned_ = true;

  json content = state;
  content["step"] = step;
  const std::string text = content.dump(2) + "\n";
  const Checkpoint saved{folder_ + "/" + step_name(step), step};
  const uint64_t needed = stored_bytes(model) + stored_bytes(optimizer) + text.size();
  if (const uint64_t free = free_bytes(folder_); free < needed)
    throw no_room(saved.folder, needed, free);
  try {
    write_folder_atomic(folder_, step_name(step), [&](const std::string& folder) {
      write_tensors(folder + "/" + kModelFile, model);
      write_tensors(folder + "/" + kOptimizerFile, optimizer);
      write_file_atomic(folder + "/" + kStateFile, text);
      write_manifest(folder, step);
    });
  } catch (const NoSpaceError&) {  // others write to the same disk
    throw no_room(saved.folder, needed, free_bytes(folder_));
  }
  prune(folder_, list(), step, keep);
  return saved;
}

std::vector<Checkpoint> CheckpointFolder::list() const {
  std::vector<Checkpoint> checkpoints;
  if (!is_folder(folder_)) return checkpoints;
  std::error_code error;
  for (fs::directory_iterator it(folder_, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    const std::optional<int64_t> step = parse_step_name(name);
    if (step && is_folder(it->path())) checkpoints.push_back({folder_ + "/" + name, *step});
  }
  if (error) throw CheckpointError(concat(folder_, ": cannot be listed: ", error.message()));
  std::sort(checkpoints.begin(), checkpoints.end(),
            [](const Checkpoint& a, const Checkpoint& b) { return a.step > b.step; });
  return checkpoints;
}

std::optional<Checkpoint> CheckpointFolder::newest_whole() const {
  for (const Checkpoint& checkpoint : list()) {
    const std::string damage = checkpoint_damage(checkpoint.folder);
    if (damage.empty()) return checkpoint;
    log_warning("checkpoint ", checkpoint.folder, " is damaged and skipped: ", damage);
  }
  return std::nullopt;
}

void CheckpointFolder::mark_best(int64_t step, double value, const std::string& metric) {
  const std::string folder = folder_ + "/" + step_name(step);
  if (!is_folder(folder))
    throw CheckpointError(
        concat(folder, ": cannot be marked as the best: there is no such checkpoint"));
  const json best = {{"step", step}, {"metric", metric}, {"value", value}};
  check_finite(best, "best");
  write_file_atomic(folder_ + "/" + kBestFile, best.dump(2) + "\n");
}

void CheckpointFolder::restore_best(int64_t step, double value, const std::string& metric) {
  std::optional<int64_t> marked;
  try {
    marked = best_step(folder_);
  } catch (const Error& error) {
    log_warning("the best checkpoint is marked anew: ", error.what());
  }
  if (marked != step && is_folder(folder_ + "/" + step_name(step))) mark_best(step, value, metric);
}

std::optional<Checkpoint> CheckpointFolder::best() const {
  std::optional<int64_t> step;
  try {
    step = best_step(folder_);
  } catch (const Error& error) {
    log_warning("the best checkpoint is unknown: ", error.what());
    return std::nullopt;
  }
  if (!step) return std::nullopt;
  const Checkpoint checkpoint{folder_ + "/" + step_name(*step), *step};
  const std::string damage = checkpoint_damage(checkpoint.folder);
  if (damage.empty()) return checkpoint;
  log_warning("the best checkpoint ", checkpoint.folder, " is damaged and skipped: ", damage);
  return std::nullopt;
}

json CheckpointFolder::read_state(const Checkpoint& checkpoint) {
  return read_json(checkpoint.folder + "/" + kStateFile);
}

NamedTensors CheckpointFolder::read_model(const Checkpoint& checkpoint) {
  return read_tensors(checkpoint.folder + "/" + kModelFile);
}

NamedTensors CheckpointFolder::read_optimizer(const Checkpoint& checkpoint) {
  return read_tensors(checkpoint.folder + "/" + kOptimizerFile);
}

Checkpoint find_checkpoint(const std::string& path, bool prefer_best) {
  if (!is_folder(path))
    throw CheckpointError(
        concat(path, ": expected a run folder or a checkpoint folder, found no folder"));
  const std::string manifest = path + "/" + kManifestFile;
  std::error_code ignored;
  if (fs::exists(manifest, ignored) || parse_step_name(base_name(path))) {
    const std::string damage = checkpoint_damage(path);
    if (!damage.empty())
      throw CheckpointError(concat(path, ": expected a whole checkpoint: ", damage));
    return {path, read_manifest(path, manifest).step};
  }
  if (!is_folder(path + "/checkpoints"))
    throw CheckpointError(concat(
        path,
        ": expected a run folder (with checkpoints/) or a checkpoint folder (with manifest.json), "
        "found neither"));
  const CheckpointFolder folder(path);
  std::optional<Checkpoint> found;
  if (prefer_best) found = folder.best();
  if (!found) found = folder.newest_whole();
  if (!found)
    throw CheckpointError(concat(path,
                                 "/checkpoints: expected at least one whole checkpoint, found ",
                                 folder.list().size(), " damaged"));
  return *found;
}

}  // namespace dsrsq
