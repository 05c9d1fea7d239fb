// The training loop: stages, micro-batches, clipping, logs, held-out loss, checkpoints, exact
// resume.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dsrsq/batch/loader.h"
#include "dsrsq/train/checkpoint.h"
#include "dsrsq/train/hybrid_step.h"
#include "dsrsq/train/metrics_log.h"
#include "dsrsq/train/ppo.h"
#include "dsrsq/train/profile.h"
#include "dsrsq/train/run_config.h"

namespace dsrsq {

// Does it stand still where these groups do? What both the retriever and the reader look through
// (the retriever's convolution) stands still with either of them.
bool is_frozen(const std::string& name, const std::vector<std::string>& frozen);

// Is it an embedding, or of one of the first `layers` blocks? (train.frozen_layers; 0: never)
bool is_below(const std::string& name, int64_t layers);

class Trainer {
 public:
  // `run_folder`: where logs and checkpoints go; must exist.
  Trainer(const RunConfig& config, LanguageModel model, const Tokenizer& tokenizer,
          std::string run_folder);

  // Continues from a checkpoint: weights, optimiser, codebooks; all else is a function of the step.
  void resume(const Checkpoint& checkpoint);
  // Takes the weights of train.start_groups from another run's checkpoint; optimiser and step start
  // anew, and so does, with a warning, a tensor that the other run did not have. Throws
  // CheckpointError where one has another shape.
  void start_from(const Checkpoint& checkpoint);
  int64_t step() const { return step_; }
  // Records steps of run() into <run folder>/profile/ (profile.h).
  void profile(const ProfileSteps& steps);

  // Runs to the last step. Throws DivergedError before an update by a loss or gradient that is not
  // finite (checkpoints stay as they are), StoppedError after saving where stop_requested() became
  // true.
  void run();
  // One step, with its logs: what --dry-run does. In a stage with ppo, one rollout batch and what
  // follows it.
  std::map<std::string, double> train_step();

 private:
  std::map<std::string, double> profiled_step();
  void enter_stage();
  void calibrate(const PassOptions& now);
  PassOptions options_now() const;
  std::map<std::string, double> hybrid_update(int64_t update);
  std::map<std::string, double> policy_update();
  void check_target_share();
  // Sequences that the reader read in training.
  int64_t reader_calls() const { return reader_calls_other_ + hybrid_step_.sequences_read(); }
  void evaluate();
  void save();
  const Loader& stage_loader(const StageConfig& stage, bool single_questions = false);

  RunConfig config_;
  LanguageModel model_;
  const Tokenizer& tokenizer_;
  std::shared_ptr<const EncoderCollator> encoder_;  // null: no sentence encoder
  std::string run_folder_;
  HybridStep hybrid_step_;
  CheckpointFolder checkpoints_;
  std::unique_ptr<MetricsLog> log_;
  std::map<std::string, std::unique_ptr<Loader>> loaders_;  // training data by path
  std::unique_ptr<Loader> validation_, validation_answers_;
  std::unique_ptr<Ppo> ppo_;  // where a stage trains by reward
  std::unique_ptr<StepProfiler> profiler_;
  int64_t step_ = 0;
  int64_t saved_step_ = -1;  // of the checkpoint that this process wrote last
  size_t stage_index_ = size_t(-1);
  double best_ = 0;
  int64_t best_step_ = -1;
  bool has_best_ = false;
  bool projections_taken_ =
      false;  // from another run: the first stage does not calibrate them anew
  int64_t reader_calls_other_ = 0;  // by rewards, and before the run was resumed
  double core_seconds_before_ = 0;  // of the processes that this run resumed from
  at::Device device_;
};

// SIGTERM, SIGINT and SIGUSR1 set a flag that the trainer reads at step boundaries; a second signal
// ends the process.
double process_core_seconds();  // user and system time of this process, all threads
void install_stop_handlers();
bool stop_requested();

// All randomness is counter-based and CPU kernels are deterministic for a thread count: sets both.
// CUDA's are not all deterministic: the backward pass of a gather adds atomically.
void set_determinism(int64_t threads);
at::Device parse_device(
    const std::string& name);  // throws ConfigError where there is no such device

}  // namespace dsrsq
