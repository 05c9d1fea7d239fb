#include "dsrsq/train/trainer.h"

#include <ATen/record_function.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <optional>

#include "dsrsq/core/logging.h"
#include "dsrsq/core/progress.h"
#include "dsrsq/core/timer.h"
#include "dsrsq/eval/efficiency.h"
#include "dsrsq/train/reader_reward.h"

namespace dsrsq {

bool is_frozen(const std::string& name, const std::vector<std::string>& frozen) {
  auto stands = [&](const std::string& group) {
    return std::find(frozen.begin(), frozen.end(), group) != frozen.end();
  };
  return stands(parameter_group(name)) || (name == "method.dsr.conv" && stands("backbone"));
}

bool is_below(const std::string& name, int64_t layers) {
  if (layers == 0) return false;
  const std::string backbone = "backbone.", block = "backbone.block_";
  if (name == backbone + "embedding" || name == backbone + "position_table") return true;
  return name.rfind(block, 0) == 0 && std::stoll(name.substr(block.size())) < layers;
}

namespace {

// In a checkpoint's optimiser file, what PPO keeps stands under this.
constexpr const char* kPpoPrefix = "ppo/";
constexpr const char* kBestMetric = "validation/loss";

// The policy's own: all of the retriever but what the reader reads through.
std::vector<NamedParameter> policy_parameters(LanguageModel& model) {
  std::vector<NamedParameter> parameters;
  for (const auto& item : model->named_parameters())
    if (parameter_group(item.key()) == "retriever" && !is_frozen(item.key(), {"backbone"})) {
      NamedParameter parameter;
      parameter.name = item.key();
      parameter.tensor = item.value();
      parameters.push_back(std::move(parameter));
    }
  return parameters;
}

LoaderOptions loader_options(const RunConfig& config, const std::string& split, bool training) {
  LoaderOptions options;
  options.split = split;
  options.batch_size = config.train.batch_size;
  options.questions_per_sequence = training ? config.data.questions_per_sequence : 1;
  options.shuffle = training;
  options.maximum_context = config.data.maximum_context;
  options.chunk_tokens = config.data.chunk_tokens;
  options.seed = config.train.seed;
  return options;
}

}  // namespace

Trainer::Trainer(const RunConfig& config, LanguageModel model, const Tokenizer& tokenizer,
                 std::string run_folder)
    : config_(config),
      model_(std::move(model)),
      tokenizer_(tokenizer),
      encoder_(encoder_collator(config)),
      run_folder_(std::move(run_folder)),
      hybrid_step_(config, model_),
      checkpoints_(run_folder_),
      device_(model_->device()) {
  if (std::none_of(config.stages.begin(), config.stages.end(),
                   [](const StageConfig& stage) { return stage.ppo; }))
    return;
  ppo_ = std::make_unique<Ppo>(config.ppo, *model_->method().policy(), policy_parameters(model_),
                               config.train.seed, device_);
  check_target_share();
}

// Dual ascent towards a share that no bin can reach would push the cost to its limit and stay
// there.
void Trainer::check_target_share() {
  auto target = config_.ppo.reward.target_share;
  auto bins = model_->method().policy()->budget_bins();
  if (target <= 0 || bins.empty()) return;
  for (const auto& stage : config_.stages) {
    if (!stage.ppo) continue;
    auto tokens = stage_loader(stage, true).mean_context_tokens();
    auto low = double(bins.front()) / tokens, high = std::min(1.0, double(bins.back()) / tokens);
    if (target < low || target > high)
      throw ConfigError(
          concat("ppo.reward.target_share: expected a share within the budget's bins, ", low,
                 " to ", high, " of ", tokens, " tokens in stage ", stage.name, ", got ", target,
                 "; change it, dsr.budget_minimum, dsr.budget or dsr.alpha"));
  }
}

void Trainer::resume(const Checkpoint& checkpoint) {
  load_module_tensors(*model_, CheckpointFolder::read_model(checkpoint), checkpoint.folder);
  NamedTensors hybrid, policy;
  const std::string prefix = kPpoPrefix;
  for (const auto& [name, tensor] : CheckpointFolder::read_optimizer(checkpoint)) {
    if (name.rfind(prefix, 0) == 0)
      policy[name.substr(prefix.size())] = tensor;
    else
      hybrid[name] = tensor;
  }
  hybrid_step_.optimizer().load_state(hybrid);
  if (ppo_) ppo_->load_state(policy);
  auto state = CheckpointFolder::read_state(checkpoint);
  step_ = checkpoint.step;
  has_best_ = state.value("has_best", false);
  best_ = state.value("best", 0.0);
  best_step_ = state.value("best_step", int64_t{-1});
  if (best_step_ >= 0) checkpoints_.restore_best(best_step_, best_, kBestMetric);
  core_seconds_before_ = state.value("core_seconds", 0.0);
  reader_calls_other_ = state.value("reader_calls", int64_t{0});
  log_info("resumed from ", checkpoint.folder, " at step ", step_);
}

void Trainer::start_from(const Checkpoint& checkpoint) {
  at::NoGradGuard no_grad;
  auto stored = CheckpointFolder::read_model(checkpoint);
  int64_t taken = 0, own = 0;
  for (auto& [name, tensor] : module_tensors(*model_)) {
    if (!is_frozen(name, config_.train.start_groups)) {
      ++own;
      continue;
    }
    auto found = stored.find(name);
    if (found == stored.end()) {  // a part that the other run did not have
      log_warning("train.start_from: ", checkpoint.folder, " has no ", name, ", which starts anew");
      ++own;
      continue;
    }
    if (found->second.sizes() != tensor.sizes())
      throw CheckpointError(
          concat("train.start_from: ", checkpoint.folder, ": expected ", name, " of shape ",
                 tensor.sizes(), ", got shape ", found->second.sizes(),
                 "; take fewer train.start_groups or train with the model that it is from"));
    auto target = tensor;
    target.copy_(found->second);
    ++taken;
    if (parameter_group(name) == "projections") projections_taken_ = true;
  }
  log_info("weights of ", checkpoint.folder, ": ", taken, " tensors taken, ", own, " start anew");
}

void Trainer::profile(const ProfileSteps& steps) {
  profiler_ = std::make_unique<StepProfiler>(run_folder_ + "/profile", steps.skip, steps.count,
                                             device_.is_cuda());
}

const Loader& Trainer::stage_loader(const StageConfig& stage, bool single_questions) {
  auto path = stage.data.empty() ? config_.data.train : stage.data;
  auto options = loader_options(config_, config_.data.train_split, true);
  // A reward belongs to one question and its choice.
  if (single_questions) options.questions_per_sequence = 1;
  auto& loader = loaders_[concat(path, "\n", options.questions_per_sequence)];
  if (!loader) {
    options.encoder = encoder_;
    loader = std::make_unique<Loader>(path, tokenizer_, config_.prompt, options);
    log_info("training data ", path, ": ", loader->sequences(), " sequences of ",
             loader->holds_texts()
                 ? concat("a chunk of at most ", options.chunk_tokens, " tokens")
                 : concat("at most ", options.questions_per_sequence, " question(s)"));
  }
  return *loader;
}

void Trainer::enter_stage() {
  auto position = stage_at(config_.stages, step_);
  if (position.index == stage_index_) return;
  const auto& stage = config_.stages[position.index];
  stage_index_ = position.index;
  log_info("stage ", stage.name, ": steps ", position.first_step, " to ",
           position.first_step + stage.steps);
  for (auto& parameter : hybrid_step_.optimizer().parameters()) {
    const auto& name = parameter.name;
    parameter.frozen = is_frozen(name, stage.frozen) ||
                       is_below(name, config_.train.frozen_layers) ||
                       (parameter_group(name) == "encoder" && !config_.dsrsq.dsr.encoder_learns);
    parameter.tensor.set_requires_grad(
        !parameter.frozen);  // no gradient is computed, and after_step leaves it alone
  }
  // A resumed run finds the calibrated projections in its checkpoint; only the stage's first step
  // makes them.
  if (step_ != position.first_step) return;
  auto options = options_now();
  options.rckv = stage.rckv;  // whatever this step's coin says of the buffer
  calibrate(options);
}

PassOptions Trainer::options_now() const {
  auto position = stage_at(config_.stages, step_);
  return stage_options(config_.stages[position.index], position.first_step, step_, config_.loss,
                       config_.train.seed);
}

void Trainer::calibrate(const PassOptions& now) {
  PassOptions before;
  before.sqa = false;
  before.rckv = projections_taken_;
  if (stage_index_ > 0) {
    before.sqa = config_.stages[stage_index_ - 1].sqa;
    before.rckv = config_.stages[stage_index_ - 1].rckv;
  }
  auto wanted = model_->method().calibration_sequences(before, now);
  if (wanted == 0) return;
  at::NoGradGuard no_grad;
  const auto& loader = stage_loader(config_.stages[stage_index_]);
  model_->method().begin_calibration();
  auto options = now;
  options.training = false;  // nothing is learnt from these passes
  options.calibrating = true;
  options.sqa = options.rckv = false;
  for (int64_t done = 0, index = 0; done < wanted; done += config_.train.batch_size, ++index) {
    auto batch = loader.stream_batch(step_ * config_.train.accumulation + index).to(device_);
    auto state = model_->method().make_state(batch, options);
    model_->read(batch, state);
  }
  model_->method().finish_calibration();
}

// Update `update` of the step: several of a step read other data.
std::map<std::string, double> Trainer::hybrid_update(int64_t update) {
  Timer timer;
  const auto& stage = config_.stages[stage_index_];
  auto options = options_now();
  options.keep_context_hidden = config_.loss.task_tokens == "all";
  options.activation_checkpointing = config_.train.activation_checkpointing;
  const auto& loader = stage_loader(stage);
  std::vector<Batch> batches;
  double tokens = 0;
  auto updates = stage.ppo ? config_.ppo.lm_steps : 1;
  {
    RECORD_USER_SCOPE("data");
    for (int64_t i = 0; i < config_.train.accumulation; ++i) {
      auto index = (step_ * updates + update) * config_.train.accumulation + i;
      batches.push_back(loader.stream_batch(index).to(device_));
      tokens += double(batches.back().context_valid.sum().item<int64_t>());
    }
  }
  auto values = hybrid_step_.run(batches, options, step_, stage.ppo);
  values["train/context_tokens_per_second"] = tokens / std::max(1e-9, timer.seconds());
  return values;
}

std::map<std::string, double> Trainer::policy_update() {
  auto batch = stage_loader(config_.stages[stage_index_], true).stream_batch(step_).to(device_);
  auto options = options_now();
  options.observe = true;
  auto state = model_->method().make_state(batch, options);
  {
    at::NoGradGuard no_grad;
    model_->choose_tokens(batch, state);
  }
  ReaderReward reward(model_, tokenizer_, batch, state, config_.ppo);
  auto values = ppo_->step(state.policy_input, reward, step_,
                           loss_weights(config_.loss, step_).at("compute"));
  for (const auto& [name, value] : reward.metrics()) values[name] = value;
  reader_calls_other_ += reward.reader_calls();
  return values;
}

std::map<std::string, double> Trainer::train_step() {
  enter_stage();  // its calibration is not a step's
  if (profiler_) profiler_->begin_step();
  auto values = profiled_step();
  if (profiler_) profiler_->end_step();
  return values;
}

std::map<std::string, double> Trainer::profiled_step() {
  RECORD_USER_SCOPE("step");
  Timer timer;
  std::optional<PeakMemory> peak;  // of a CPU the process's own says little
  if (device_.is_cuda()) peak.emplace(device_);
  const auto& stage = config_.stages[stage_index_];
  std::map<std::string, double> values;
  if (stage.ppo) {
    RECORD_USER_SCOPE("policy");
    values = policy_update();
  }
  auto updates = stage.ppo ? config_.ppo.lm_steps : 1;
  for (int64_t update = 0; update < updates; ++update)
    for (const auto& [name, value] : hybrid_update(update)) values[name] = value;
  ++step_;
  values["train/stage"] = double(stage_index_);
  values["train/reader_calls"] = double(reader_calls());
  values["train/seconds"] = timer.seconds();
  if (peak) values["train/step_memory"] = peak->bytes();  // beyond what was held before the step
  return values;
}

void Trainer::evaluate() {
  auto options = loader_options(config_, config_.data.validation_split, false);
  options.encoder = encoder_;
  if (!validation_)
    validation_ = std::make_unique<Loader>(config_.data.train, tokenizer_, config_.prompt, options);
  auto stage = stage_at(config_.stages, std::max<int64_t>(0, step_ - 1));
  PassOptions pass;
  pass.sqa = config_.stages[stage.index].sqa;
  pass.rckv = config_.stages[stage.index].rckv;
  pass.select_per_segment = config_.stages[stage.index].selection == "config";
  pass.clusters_per_query = config_.stages[stage.index].clusters_per_query;
  pass.step = step_;  // the budget is the model's own: it is asked as it will be used
  auto batches = config_.train.evaluation_batches;
  auto found = held_out(model_, *validation_, batches, pass);
  std::map<std::string, double> values{{"validation/loss", found.loss},
                                       {"validation/token_share", found.token_share},
                                       {"validation/reader_calls", double(reader_calls())}};
  if (found.answer_recall >= 0) values["validation/answer_recall"] = found.answer_recall;
  if (found.evidence_recall >= 0) values["validation/evidence_recall"] = found.evidence_recall;
  if (config_.train.evaluate_answers) {
    options.with_answers = false;
    if (!validation_answers_)
      validation_answers_ =
          std::make_unique<Loader>(config_.data.train, tokenizer_, config_.prompt, options);
    auto answers = held_out_answers(model_, *validation_answers_, tokenizer_, batches, pass,
                                    config_.eval.maximum_tokens);
    values["validation/em"] = answers.exact_match;
    values["validation/f1"] = answers.f1;
  }
  log_->write(step_, values);
  log_info("step ", step_, ": held-out loss ", found.loss);
  // The best of the last stage only: earlier ones run with parts switched off.
  bool last_stage = step_ > 0 && stage.index + 1 == config_.stages.size();
  // With a learned budget the smallest loss is but the largest budget.
  if (config_.stages[stage.index].ppo && config_.dsrsq.dsr.complexity == "learned")
    last_stage = false;
  if (last_stage && (!has_best_ || found.loss < best_)) {
    has_best_ = true;
    best_ = found.loss;
    best_step_ = step_;
    save();
    checkpoints_.mark_best(step_, found.loss, kBestMetric);
  }
}

void Trainer::save() {
  if (saved_step_ == step_) return;  // the best step is often a checkpoint step too
  nlohmann::json state{{"has_best", has_best_},
                       {"best", best_},
                       {"best_step", best_step_},
                       {"method", config_.method},
                       {"reader_calls", reader_calls()},
                       {"core_seconds", core_seconds_before_ + process_core_seconds()}};
  auto optimizers = hybrid_step_.optimizer().state();
  if (ppo_)
    for (const auto& [name, tensor] : ppo_->state()) optimizers[kPpoPrefix + name] = tensor;
  checkpoints_.save(step_, module_tensors(*model_), optimizers, state,
                    config_.train.keep_checkpoints);
  saved_step_ = step_;
}

namespace {
std::string progress_text(const std::map<std::string, double>& values) {
  std::string text;
  // A mean since the last line may hold a loss of the stage before, where this step has none.
  auto speed = values.find("train/context_tokens_per_second");
  if (auto loss = values.find("train/loss"); loss != values.end() && speed != values.end())
    text = concat("loss ", loss->second, " | ", int64_t(speed->second), " tokens/s");
  if (auto score = values.find("ppo/task_score"); score != values.end())
    text += concat(text.empty() ? "" : " | ", "task score ", score->second, ", tokens read ",
                   values.at("ppo/token_share"));
  return text;
}
}  // namespace

void Trainer::run() {
  auto total = total_steps(config_.stages);
  log_ = std::make_unique<MetricsLog>(run_folder_, step_ > 0 ? step_ + 1 : 0);
  Progress progress("train", total, step_);
  auto evaluate_now = [&] {
    return config_.train.evaluate_every > 0 && step_ % config_.train.evaluate_every == 0;
  };
  if (step_ == 0 && evaluate_now()) {
    enter_stage();
    evaluate();
  }
  // What is noisy is shown as its mean since the last line, not one step's luck.
  std::map<std::string, std::pair<double, int64_t>> sums;
  auto is_averaged = [](const std::string& name) {
    return name == "train/loss" || name.rfind("ppo/", 0) == 0;
  };
  while (step_ < total) {
    auto values = train_step();
    for (const auto& [name, value] : values)
      if (is_averaged(name)) {
        sums[name].first += value;
        ++sums[name].second;
      }
    if (step_ % config_.train.log_every == 0 || step_ == total) {
      for (const auto& [name, sum] : sums) values[name] = sum.first / double(sum.second);
      for (const auto& [name, value] : model_->method().scalars()) values[name] = value;
      log_->write(step_, values);
      progress.update(step_, progress_text(values));
      sums.clear();
    } else {
      progress.update(step_);
    }
    bool last = step_ == total;
    if (config_.train.evaluate_every > 0 && (evaluate_now() || last)) evaluate();
    if (step_ % config_.train.checkpoint_every == 0 || last) save();
    if (stop_requested() && !last) {
      save();
      throw StoppedError(concat("stopped by a signal after step ", step_,
                                "; run the same command again to continue"));
    }
  }
  progress.finish();
  if (profiler_) profiler_->finish();
}

}  // namespace dsrsq
