#include "dsrsq/train/run_folder.h"

#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <iomanip>
#include <nlohmann/json.hpp>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/train/trainer.h"

namespace dsrsq {

namespace fs = std::filesystem;

namespace {
VisitFields visitor(RunConfig& config) {
  return [&config](ConfigVisitor& v) { config.visit_fields(v); };
}

// Keys that may differ when a run is continued: they do not change what is computed.
bool may_differ(const std::string& line) {
  for (const char* key : {"log_every:", "keep_checkpoints:", "checkpoint_every:"})
    if (line.find(key) != std::string::npos) return true;
  return false;
}

// "" where two resolved configs agree, else the first line that differs.
std::string first_difference(const std::string& before, const std::string& now) {
  std::istringstream a(before), b(now);
  std::string x, y;
  while (true) {
    bool more_a = bool(std::getline(a, x)), more_b = bool(std::getline(b, y));
    if (!more_a && !more_b) return "";
    if (!more_a || !more_b || (x != y && !may_differ(x)))
      return concat("'", more_a ? x : "(nothing)", "' became '", more_b ? y : "(nothing)", "'");
  }
}

[[noreturn]] void fail_folder(const std::string& path, const std::string& what,
                              const std::string& reason) {
  throw Error(ExitCode::kCheckpoint,
              concat(path, ": ", what, ": ", reason, "; choose another --output-dir"));
}

// A folder without rights, say, is an error and not an absent one.
bool is_there(const std::string& path) {
  std::error_code error;
  const auto status = fs::status(path, error);
  if (status.type() == fs::file_type::none)
    fail_folder(path, "cannot be looked at", error.message());
  return fs::exists(status);
}

// Of a run that was killed in its first moments only this may be there.
bool is_unfinished_config(const fs::path& path) {
  return path.filename().string().rfind(".tmp-config.yaml-", 0) == 0;
}

bool holds_files(const std::string& folder) {
  if (!is_there(folder)) return false;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (!is_unfinished_config(it->path())) return true;
  if (error) fail_folder(folder, "cannot be looked into", error.message());
  return false;
}

std::string read_config(const std::string& path) {
  try {
    return read_file(path);
  } catch (const DataError& error) {
    throw CheckpointError(error.what());
  }
}

// Also removes what a killed process left there half-written.
void make_run_folder(const std::string& folder) {
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) fail_folder(folder, "cannot be created", error.message());
  remove_stale_temporaries(folder);
  remove_stale_temporaries(folder + "/checkpoints");
}
}  // namespace

std::vector<std::string> config_search_folders() {
  std::error_code error;
  auto program = fs::read_symlink("/proc/self/exe", error);
  if (error) return {};
  auto bin = program.parent_path();
  return {(bin / "../../configs").lexically_normal().string(),
          (bin / "../share/dsrsq/configs").lexically_normal().string()};
}

std::optional<Checkpoint> open_run_folder(const std::string& folder, RunConfig& config,
                                          const std::string& resume,
                                          const std::vector<std::string>& command) {
  auto resolved = dump_config(visitor(config));
  auto config_path = folder + "/config.yaml";
  CheckpointFolder checkpoints(folder);
  std::optional<Checkpoint> from;
  if (resume != "auto" && resume != "never") {
    from = find_checkpoint(resume, false);
    for (const auto& present : checkpoints.list())
      if (present.step > from->step)
        throw ConfigError(concat(folder, ": holds a checkpoint of step ", present.step,
                                 ", later than ", resume,
                                 "; two branches would mix. Choose another --output-dir"));
  } else if (is_there(config_path)) {
    auto present = checkpoints.list();
    if (resume == "never" && !present.empty())
      throw ConfigError(concat(folder, ": --resume never, but the folder holds ", present.size(),
                               " checkpoint(s); choose another --output-dir"));
    from = checkpoints.newest_whole();
    if (!from && !present.empty())
      throw CheckpointError(
          concat(folder, ": none of ", present.size(),
                 " checkpoints is whole; choose another --output-dir to start anew"));
    if (from)
      if (auto difference = first_difference(read_config(config_path), resolved);
          !difference.empty())
        throw ConfigError(concat(folder, ": the run there was made with another configuration: ",
                                 difference, "; choose another --output-dir"));
  } else if (holds_files(folder)) {
    throw ConfigError(concat(
        folder,
        ": expected a new folder or a run's, found other files; choose another --output-dir"));
  }
  make_run_folder(folder);
  write_file_atomic(config_path, resolved);
  auto provenance = make_provenance(command, config.train.device, {config.train.seed});
  write_file_atomic(folder + "/run.json", provenance.dump(2) + "\n");
  return from;
}

RunConfig load_run_folder_config(const std::string& folder,
                                 const std::vector<std::string>& overrides) {
  auto path = folder + "/config.yaml";
  if (!fs::exists(path))
    throw CheckpointError(concat(folder, ": expected a run folder with config.yaml, found none"));
  return load_run_config({path, overrides, {}}, /*resolved=*/true);
}

std::string describe_run(RunConfig& config, LanguageModel& model, int64_t typical_context) {
  std::ostringstream out;
  std::map<std::string, int64_t> parameters;
  int64_t total = 0;
  for (const auto& item : model->named_parameters()) {
    parameters[parameter_group(item.key())] += item.value().numel();
    total += item.value().numel();
  }
  out << "parameters: " << total << "\n";
  for (const auto& [group, count] : parameters)
    out << "  " << std::left << std::setw(12) << group << count << "\n";
  out << "codebooks and other buffers held once: " << model->method().shared_bytes() << " bytes\n";

  const auto& m = config.model;
  const auto& d = config.dsrsq;
  auto kv_bytes = 2 * m.key_value_heads * m.head_width() * 4;  // fp32, a token and layer
  bool dsrsq = config.method == "dsrsq";
  auto read = config.method == "standard" ? std::min(typical_context, config.standard.window)
              : dsrsq && d.dsr.enabled
                  ? std::min(typical_context,
                             int64_t(double(d.dsr.budget) *
                                     (d.dsr.complexity == "none" ? 1.0 : 1.0 + d.dsr.alpha)))
                  : typical_context;
  auto exact = read, latents = int64_t{0};
  if (dsrsq && d.rckv.enabled) {
    auto own =
        d.dsr.enabled && d.rckv.source == "stream"
            ? std::max<int64_t>(1, read * d.rckv.segment / std::max<int64_t>(1, typical_context))
            : std::min(d.rckv.segment, read);
    exact = std::min(read, m.sinks + d.rckv.window + own);
    latents = std::min(d.rckv.buffer_length, read - exact);
  }
  int64_t beside = 0;  // bytes, of all layers together
  if (config.method == "gca") {
    const auto& g = config.gca;
    if (g.window > 0) exact = std::min(read, m.sinks + g.window + g.window / 4);
    beside = read * kv_bytes + read / g.chunk * m.width * 4;  // chunks and their landmarks
  }
  if (config.method == "shared_attention")
    beside = -config.shared_attention.resolved(m).layers * exact * kv_bytes / 2;  // no keys
  out << "of a context of " << typical_context << " tokens the reader reads at most " << read
      << "\n"
      << "bytes held a sequence (keys, values, latents), at most: "
      << m.layers * (exact * kv_bytes + latents * 2 * d.rckv.latent_width * 4) + beside << " ("
      << exact << " exact keys and " << latents
      << " latents a layer; all keys exact: " << m.layers * typical_context * kv_bytes << ")\n";
  // Of one block; with activation checkpointing the others keep but their inputs.
  auto tokens = config.train.batch_size * read;
  auto block = m.width * 12 + m.mlp_width * 4 + m.heads * std::min(read, exact + latents + 1) * 4;
  auto kept = config.train.activation_checkpointing ? m.layers * m.width + block : m.layers * block;
  out << "memory: weights " << total * 4 / 1000000 << " MB, gradients " << total * 4 / 1000000
      << " MB, AdamW " << total * 8 / 1000000 << " MB; activations of a micro-batch about "
      << tokens * kept * 4 / 1000000 << " MB\n";
  out << "schedule: " << total_steps(config.stages) << " steps, learning rate "
      << config.optimizer.learning_rate << ", warm-up " << config.optimizer.warmup_steps << ", "
      << config.optimizer.schedule << "\n";
  for (const auto& stage : config.stages)
    out << "  " << std::left << std::setw(16) << stage.name << stage.steps << " steps, sqa "
        << (stage.sqa ? "on" : "off") << ", rckv " << (stage.rckv ? "on" : "off") << ", budget "
        << (stage.budget > 0 ? std::to_string(stage.budget) : "of the retriever") << "\n";
  return out.str();
}

}  // namespace dsrsq
