// Checkpoints of a run: <run>/checkpoints/step-00001000/{model,optimizer}.safetensors, state.json,
// manifest.json. Written into a temporary folder that is renamed when complete; manifest.json
// (core/manifest.h) holds size and SHA-256 of every file, and a folder whose files do not match it
// is not a checkpoint.
// Random numbers are functions of the step (D21), so none are saved.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace torch::nn {
class Module;
}

namespace dsrsq {

using NamedTensors = std::map<std::string, at::Tensor>;

// Parameters and buffers of a module by name.
NamedTensors module_tensors(const torch::nn::Module& module);
// Copies values into the module's own tensors. The names must be equal and shapes and dtypes agree:
// CheckpointError names the first that does not, and says which config keys decide it ("was the run
// trained with another model.width or part switched off?").
void load_module_tensors(torch::nn::Module& module, const NamedTensors& tensors,
                         const std::string& where);

void write_tensors(const std::string& path, const NamedTensors& tensors,
                   const std::map<std::string, std::string>& metadata = {});
// Tensors own their memory, on the CPU.
NamedTensors read_tensors(const std::string& path);

struct Checkpoint {
  std::string folder;
  int64_t step = 0;
};

// Every file of the folder against its manifest; "" where it is whole, else what is wrong with it.
std::string checkpoint_damage(const std::string& folder);

class CheckpointFolder {
 public:
  explicit CheckpointFolder(std::string run_folder);  // uses <run_folder>/checkpoints

  // Atomic. `state` (an object of finite numbers) goes into state.json as it is; "step" is added.
  // Then keeps the newest `keep` (>= 1) up to this step and the one that best.json names; later
  // steps are left alone.
  // A disk that has no room for it (looked at before, and noticed while writing), a read-only
  // folder and a run folder that has vanished throw Error with ExitCode::kCheckpoint; older
  // checkpoints are untouched.
  Checkpoint save(int64_t step, const NamedTensors& model, const NamedTensors& optimizer,
                  const nlohmann::json& state, int64_t keep);
  // Newest first.
  std::vector<Checkpoint> list() const;
  // The newest whole one; each damaged one is skipped with a warning that names what is wrong.
  // Empty where there is none.
  std::optional<Checkpoint> newest_whole() const;
  // Remembers a step as the best (checkpoints/best.json, atomic); it is never pruned.
  void mark_best(int64_t step, double value, const std::string& metric);
  // As mark_best, where the checkpoint is there and best.json does not name it yet: a run may be
  // killed between the save of its best step and the mark.
  void restore_best(int64_t step, double value, const std::string& metric);
  std::optional<Checkpoint> best() const;
  static nlohmann::json read_state(const Checkpoint& checkpoint);
  static NamedTensors read_model(const Checkpoint& checkpoint);
  static NamedTensors read_optimizer(const Checkpoint& checkpoint);

 private:
  std::string folder_;
  bool cleaned_ = false;  // stale temporaries are removed at the first save
};

// What --checkpoint may be: a run folder (best, else newest whole) or one checkpoint folder, which
// must be whole. Throws CheckpointError naming the path and what was expected.
Checkpoint find_checkpoint(const std::string& path, bool prefer_best);

}  // namespace dsrsq
