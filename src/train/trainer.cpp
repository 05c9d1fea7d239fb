#include "dsrsq/train/trainer.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "dsrsq/core/logging.h"
#include "dsrsq/core/progress.h"
#include "dsrsq/core/timer.h"
#include "dsrsq/objective/hybrid.h"
#include "dsrsq/objective/task_loss.h"
#include "dsrsq/ops/autocast.h"

namespace dsrsq {

std::string parameter_group(const std::string& name) {
  if (name.rfind("method.dsr.", 0) == 0) return "retriever";
  if (name.rfind("method.rckv.", 0) == 0) return "projections";
  return "backbone";
}

namespace {

std::vector<NamedParameter> named_parameters(const RunConfig& config, LanguageModel& model) {
  std::vector<NamedParameter> parameters;
  const auto& rates = config.train.groups;
  for (const auto& item : model->named_parameters()) {
    NamedParameter parameter;
    parameter.name = item.key();
    parameter.tensor = item.value();
    auto group = parameter_group(item.key());
    parameter.rate = group == "retriever"     ? rates.retriever
                     : group == "projections" ? rates.projections
                                              : rates.backbone;
    // Decay pulls matrices of the backbone; norms and convolution taps hold scales, the projections
    // stay orthonormal.
    auto is_conv = item.key().size() > 4 && item.key().substr(item.key().size() - 4) == "conv";
    parameter.decay = group == "backbone" && item.value().dim() >= 2 && !is_conv;
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
  options.seed = config.train.seed;
  return options;
}

}  // namespace

Trainer::Trainer(const RunConfig& config, LanguageModel model, const Tokenizer& tokenizer,
                 std::string run_folder)
    : config_(config),
      model_(std::move(model)),
      tokenizer_(tokenizer),
      run_folder_(std::move(run_folder)),
      optimizer_(config.optimizer, named_parameters(config, model_)),
      checkpoints_(run_folder_),
      device_(model_->device()) {}

void Trainer::resume(const Checkpoint& checkpoint) {
  load_module_tensors(*model_, CheckpointFolder::read_model(checkpoint), checkpoint.folder);
  optimizer_.load_state(CheckpointFolder::read_optimizer(checkpoint));
  auto state = CheckpointFolder::read_state(checkpoint);
  step_ = checkpoint.step;
  has_best_ = state.value("has_best", false);
  best_ = state.value("best", 0.0);
  core_seconds_before_ = state.value("core_seconds", 0.0);
  log_info("resumed from ", checkpoint.folder, " at step ", step_);
}

const Loader& Trainer::stage_loader(const StageConfig& stage) {
  auto path = stage.data.empty() ? config_.data.train : stage.data;
  auto& loader = loaders_[path];
  if (!loader) {
    loader = std::make_unique<Loader>(path, tokenizer_, config_.prompt,
                                      loader_options(config_, config_.data.train_split, true));
    log_info("training data ", path, ": ", loader->sequences(), " sequences");
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
  for (auto& parameter : optimizer_.parameters()) {
    auto group = parameter_group(parameter.name);
    parameter.frozen =
        std::find(stage.frozen.begin(), stage.frozen.end(), group) != stage.frozen.end();
    parameter.tensor.set_requires_grad(
        !parameter.frozen);  // no gradient is computed, and after_step leaves it alone
  }
  // A resumed run finds the calibrated projections in its checkpoint; only the stage's first step
  // makes them.
  if (step_ == position.first_step) calibrate(stage_options(stage, step_));
}

void Trainer::calibrate(const PassOptions& now) {
  PassOptions before;
  before.sqa = before.rckv = false;
  if (stage_index_ > 0) before = stage_options(config_.stages[stage_index_ - 1], step_);
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

std::map<std::string, double> Trainer::accumulate(const std::vector<Batch>& batches,
                                                  const PassOptions& options) {
  auto weights = loss_weights(config_.loss, step_);
  std::map<std::string, double> totals;
  for (const auto& batch : batches) {
    totals["task"] += double(batch.label_tokens());
    for (const auto& [name, count] : model_->method().loss_counts(batch, options))
      totals[name] += count;
  }
  double selected = 0, available = 0, answers = 0, hits = 0;
  at::Tensor loss_sum;
  LossTerms kept;
  for (const auto& batch : batches) {
    auto state = model_->method().make_state(batch, options);
    at::Tensor loss;
    {
      ops::AutocastGuard autocast(device_, config_.train.precision == "bf16");
      auto hidden = model_->read(batch, state);
      auto terms = model_->method().losses(batch, state);
      terms["task"] = task_loss(model_->backbone(), hidden, batch);
      loss = hybrid_loss(terms, weights, totals);
      for (const auto& [name, term] : terms) {
        auto value = term.sum.detach();
        kept[name].sum = kept[name].sum.defined() ? kept[name].sum + value : value;
      }
    }
    if (loss.requires_grad())
      loss.backward();  // with frozen parts a batch may hold nothing to learn from
    loss_sum = loss_sum.defined() ? loss_sum + loss.detach() : loss.detach();
    selected += double(state.selected.mask.sum().item<int64_t>());
    available += double(batch.context_valid.sum().item<int64_t>());
    if (state.selected.slots() > 0) {
      auto wanted = batch.answer_tokens.any(1);
      answers += double(wanted.sum().item<int64_t>());
      hits += double(wanted.gather(1, state.selected.index)
                         .logical_and(state.selected.mask)
                         .sum()
                         .item<int64_t>());
    }
  }
  std::map<std::string, double> values{{"train/loss", loss_sum.item<double>()}};
  for (const auto& [name, term] : kept)
    if (totals[name] > 0) values["train/" + name] = term.sum.item<double>() / totals[name];
  for (const auto& [name, weight] : weights) values["weight/" + name] = weight;
  values["train/token_share"] = available > 0 ? selected / available : 0;
  if (answers > 0) values["train/answer_recall"] = hits / answers;
  auto clusters = options.clusters_per_query > 0 ? options.clusters_per_query
                                                 : config_.dsrsq.sqa.clusters_per_query;
  bool sparse = config_.method == "dsrsq" && config_.dsrsq.sqa.enabled && options.sqa;
  // D15: budget and clusters are fixed, so the term is a constant: reported, without gradient.
  values["train/compute"] =
      config_.loss.compute_tokens * values["train/token_share"] +
      config_.loss.compute_clusters *
          (sparse ? double(clusters) / double(config_.dsrsq.sqa.clusters) : 1.0);
  return values;
}

std::map<std::string, double> Trainer::train_step() {
  enter_stage();
  Timer timer;
  const auto& stage = config_.stages[stage_index_];
  auto options = stage_options(stage, step_);
  const auto& loader = stage_loader(stage);
  std::vector<Batch> batches;
  double tokens = 0;
  for (int64_t i = 0; i < config_.train.accumulation; ++i) {
    batches.push_back(loader.stream_batch(step_ * config_.train.accumulation + i).to(device_));
    tokens += double(batches.back().context_valid.sum().item<int64_t>());
  }
  optimizer_.zero_gradients();
  auto values = accumulate(batches, options);
  auto norm = optimizer_.gradient_norm();
  auto norm_value = norm.item<double>();
  if (!std::isfinite(values["train/loss"]) || !std::isfinite(norm_value))
    throw DivergedError(concat("step ", step_, ": loss ", values["train/loss"],
                               " and gradient norm ", norm_value,
                               ": expected finite numbers; nothing was updated, the last "
                               "checkpoint is as it was. Lower optimizer.learning_rate"));
  optimizer_.clip_gradients(norm);
  auto share = learning_rate_share(config_.optimizer, step_, total_steps(config_.stages));
  optimizer_.step(share);
  model_->method().after_step(step_);
  ++step_;
  values["train/gradient_norm"] = norm_value;
  values["train/learning_rate"] = config_.optimizer.learning_rate * share;
  values["train/stage"] = double(stage_index_);
  values["train/seconds"] = timer.seconds();
  values["train/context_tokens_per_second"] = tokens / std::max(1e-9, timer.seconds());
  return values;
}

void Trainer::evaluate() {
  if (!validation_)
    validation_ =
        std::make_unique<Loader>(config_.data.train, tokenizer_, config_.prompt,
                                 loader_options(config_, config_.data.validation_split, false));
  auto options = stage_options(
      config_.stages[stage_at(config_.stages, std::max<int64_t>(0, step_ - 1)).index], step_);
  options.training = false;
  options.budget = 0;  // held-out loss always asks the model as it will be used
  auto loss = held_out_loss(model_, *validation_, config_.train.evaluation_batches, options);
  log_->write(step_, {{"validation/loss", loss}});
  log_info("step ", step_, ": held-out loss ", loss);
  // The best of the last stage only: earlier ones run with parts switched off.
  bool last_stage =
      step_ > 0 && stage_at(config_.stages, step_ - 1).index + 1 == config_.stages.size();
  if (last_stage && (!has_best_ || loss < best_)) {
    has_best_ = true;
    best_ = loss;
    save();
    checkpoints_.mark_best(step_, loss, "validation/loss");
  }
}

void Trainer::save() {
  if (saved_step_ == step_) return;  // the best step is often a checkpoint step too
  nlohmann::json state{{"has_best", has_best_},
                       {"best", best_},
                       {"method", config_.method},
                       {"core_seconds", core_seconds_before_ + process_core_seconds()}};
  checkpoints_.save(step_, module_tensors(*model_), optimizer_.state(), state,
                    config_.train.keep_checkpoints);
  saved_step_ = step_;
}

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
  double loss_sum = 0;
  int64_t loss_steps = 0;
  while (step_ < total) {
    auto values = train_step();
    loss_sum += values["train/loss"];
    ++loss_steps;
    if (step_ % config_.train.log_every == 0 || step_ == total) {
      values["train/loss"] =
          loss_sum / double(loss_steps);  // the mean since the last line, not one step's luck
      for (const auto& [name, value] : model_->method().scalars()) values[name] = value;
      log_->write(step_, values);
      progress.update(step_,
                      concat("loss ", values["train/loss"], " | ",
                             int64_t(values["train/context_tokens_per_second"]), " tokens/s"));
      loss_sum = 0;
      loss_steps = 0;
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
}

}  // namespace dsrsq
