#include "dsrsq/train/hybrid_step.h"

#include <ATen/record_function.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "dsrsq/core/error.h"
#include "dsrsq/objective/hybrid.h"
#include "dsrsq/objective/task_loss.h"
#include "dsrsq/ops/autocast.h"

namespace dsrsq {

std::string parameter_group(const std::string& name) {
  if (name.rfind("method.dsr.encoder.", 0) == 0) return "encoder";
  // What GCA adds to a backbone: retrieval, and what reads its results.
  for (const char* own : {"method.dsr.", "method.gca."})
    if (name.rfind(own, 0) == 0) return "retriever";
  // The buffer's gate and age bias are ordinary weights; only projections wander at the full rate.
  if (name.find("_projection_") != std::string::npos) return "projections";
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
                     : group == "encoder"     ? rates.encoder
                                              : rates.backbone;
    // Decay pulls matrices of the backbone; norms and convolution taps hold scales, the projections
    // stay orthonormal.
    auto is_conv = item.key().size() > 4 && item.key().substr(item.key().size() - 4) == "conv";
    parameter.decay = item.key().rfind("backbone.", 0) == 0 && item.value().dim() >= 2 && !is_conv;
    parameters.push_back(std::move(parameter));
  }
  return parameters;
}

}  // namespace

HybridStep::HybridStep(const RunConfig& config, LanguageModel model)
    : config_(config),
      model_(std::move(model)),
      optimizer_(config.optimizer, named_parameters(config, model_)),
      device_(model_->device()) {}

at::Tensor HybridStep::forward(const Batch& batch, MethodState& state) {
  {
    RECORD_USER_SCOPE("choose_tokens");
    model_->choose_tokens(batch, state);
  }
  RECORD_USER_SCOPE("read");
  return model_->read_selected(batch, state);
}

std::map<std::string, double> HybridStep::accumulate(const std::vector<Batch>& batches,
                                                     const PassOptions& options, int64_t step,
                                                     bool policy_trains) {
  auto weights = loss_weights(config_.loss, step);
  if (policy_trains) weights["compute"] = 0;  // part of the policy's own loss
  bool all_tokens = config_.loss.task_tokens == "all";
  if (all_tokens) weights["language"] = weights["task"];
  std::map<std::string, double> totals;
  for (const auto& batch : batches) {
    totals["task"] += double(batch.label_tokens());
    for (const auto& [name, count] : model_->method().loss_counts(batch, options))
      totals[name] += count;
    if (all_tokens) totals["language"] += 1;
    sequences_read_ += batch.size();
  }
  double selected = 0, available = 0, answers = 0, hits = 0;
  at::Tensor loss_sum;
  LossTerms kept;
  for (const auto& batch : batches) {
    auto state = model_->method().make_state(batch, options);
    at::Tensor loss;
    {
      ops::AutocastGuard autocast(device_, config_.train.precision == "bf16");
      auto hidden = forward(batch, state);
      RECORD_USER_SCOPE("losses");
      auto terms = model_->method().losses(batch, state);
      terms["task"] = task_loss(model_->backbone(), hidden, batch);
      if (all_tokens) {
        // How many tokens it covers is known only now, so it is averaged in its micro-batch.
        auto term =
            language_loss(model_->backbone(), state.context_hidden, hidden, state.selected, batch);
        terms["language"] = LossTerm{term.sum / std::max(1.0, term.count), 1};
      }
      loss = hybrid_loss(terms, weights, totals);
      for (const auto& [name, term] : terms) {
        auto value = term.sum.detach();
        kept[name].sum = kept[name].sum.defined() ? kept[name].sum + value : value;
      }
    }
    if (loss.requires_grad()) {  // with frozen parts a batch may hold nothing to learn from
      RECORD_USER_SCOPE("backward");
      loss.backward();
    }
    RECORD_USER_SCOPE("counts");
    loss_sum = loss_sum.defined() ? loss_sum + loss.detach() : loss.detach();
    selected += double(state.selected.mask.sum().item<int64_t>());
    available += double(batch.context_valid.sum().item<int64_t>());
    if (state.selected.slots() > 0) {
      auto wanted = batch.answer_tokens.any(1);
      answers += double(wanted.sum().item<int64_t>());
      hits += double(state.selected.marked(wanted).sum().item<int64_t>());
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
  // D15: the part of a fixed budget, and of clusters, is a constant: reported, without gradient.
  auto share = kept.count("compute") > 0 ? values["train/compute"] : values["train/token_share"];
  values["train/compute"] =
      config_.loss.compute_tokens * share +
      config_.loss.compute_clusters *
          (sparse ? double(clusters) / double(config_.dsrsq.sqa.cluster_count()) : 1.0);
  return values;
}

std::map<std::string, double> HybridStep::run(const std::vector<Batch>& batches,
                                              const PassOptions& options, int64_t step,
                                              bool policy_trains) {
  optimizer_.zero_gradients();
  auto values = accumulate(batches, options, step, policy_trains);
  RECORD_USER_SCOPE("update");
  auto norm = optimizer_.gradient_norm();
  auto norm_value = norm.item<double>();
  if (!std::isfinite(values["train/loss"]) || !std::isfinite(norm_value))
    throw DivergedError(concat("step ", step, ": loss ", values["train/loss"],
                               " and gradient norm ", norm_value,
                               ": expected finite numbers; nothing was updated, the last "
                               "checkpoint is as it was. Lower optimizer.learning_rate"));
  optimizer_.clip_gradients(norm);
  auto share = learning_rate_share(config_.optimizer, step, total_steps(config_.stages));
  optimizer_.step(share);
  model_->method().after_step(step);
  values["train/gradient_norm"] = norm_value;
  values["train/learning_rate"] = config_.optimizer.learning_rate * share;
  return values;
}

}  // namespace dsrsq
