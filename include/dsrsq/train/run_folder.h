// The folder of a run: config.yaml (resolved), run.json (commit, arguments, versions, device,
// seeds), log.txt, and what the trainer writes. And what --dry-run prints.
#pragma once

#include <string>
#include <vector>

#include "dsrsq/train/checkpoint.h"
#include "dsrsq/train/run_config.h"

namespace dsrsq {

// Folders where config names are looked up: the source tree's or the installation's configs/,
// beside this program.
std::vector<std::string> config_search_folders();

// Makes the folder, or checks that an existing one is a run of the same configuration. `resume`:
// auto (continue where there is a whole checkpoint, else start), never (the folder must hold no
// checkpoint), or a checkpoint's path. Returns what to continue from. Removes what killed processes
// left half-written. Throws ConfigError naming the first key that differs, CheckpointError where
// checkpoints exist and none is whole, Error with ExitCode::kCheckpoint where it cannot write.
std::optional<Checkpoint> open_run_folder(const std::string& folder, RunConfig& config,
                                          const std::string& resume,
                                          const std::vector<std::string>& command);

// The config that a run was trained with. Throws CheckpointError where the folder is no run.
RunConfig load_run_folder_config(const std::string& folder,
                                 const std::vector<std::string>& overrides);

// Parameters of each part, bytes held a sequence, memory of weights, gradients and optimiser, the
// schedule. Several lines.
std::string describe_run(RunConfig& config, LanguageModel& model, int64_t typical_context);

}  // namespace dsrsq
