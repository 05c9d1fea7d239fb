#include "dsrsq/objective/schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "dsrsq/core/random.h"

namespace dsrsq {

void LossWeights::visit_fields(ConfigVisitor& v) {
  v.field("task", task, "Cross-entropy of the answer's tokens.", at_least(0));
  v.field("retrieval", retrieval, "L_retrieval: evidence tokens under the retriever's scores.",
          at_least(0));
  v.field("compression", compression,
          "L_compression: relative reconstruction error of keys and values.", at_least(0));
  v.field("compute", compute,
          "L_compute: expected share of the context under the learned budget, in stages with ppo. "
          "Where the budget is "
          "fixed it "
          "is a constant: logged, without gradient.",
          at_least(0));
}

void LossConfig::visit_fields(ConfigVisitor& v) {
  v.group("weight", weight, "Weights lambda of the hybrid loss at full strength.");
  v.field(
      "ramp", ramp,
      "How weights other than the task's grow from 0 to full strength at ramp_steps. linear: the "
      "paper. constant: full from the start, where stages already order what is learnt. cosine: "
      "slow "
      "at both ends, for fine-tuning. step: 0, then full, to switch parts on at one step.",
      one_of({"linear", "constant", "cosine", "step"}));
  v.field("ramp_steps", ramp_steps, "Steps until full strength.", at_least(1));
  v.field("task_tokens", task_tokens,
          "answer: the task loss covers the answers. all: also questions and the context tokens "
          "that are "
          "read with the token before them, to train the reader's language on the way.",
          one_of({"answer", "all"}));
  v.field(
      "retrieval_form", retrieval_form,
      "softmax: -mean log softmax of the scores over the target; it has negatives, for the start. "
      "inclusion: -mean log p(selected), once the ranking is there: it asks for no more than being "
      "picked. printed: the paper's formula over the policy's own picks, which only reinforces "
      "them; "
      "for comparison.",
      one_of({"softmax", "inclusion", "printed"}));
  v.field("retrieval_target", retrieval_target,
          "evidence: the data's evidence spans. attention: what the reader's answer positions "
          "attend to "
          "among the tokens read, sinks removed; for data without spans (gradients stop at the "
          "retriever's inputs). evidence_or_attention: attention where a record has no spans.",
          one_of({"evidence", "attention", "evidence_or_attention"}));
  v.field("retrieval_negatives", retrieval_negatives,
          "softmax: over the question's own context, or over all contexts of the batch, for "
          "contexts so "
          "short that they hold few negatives.",
          one_of({"sequence", "batch"}));
  v.field("compute_tokens", compute_tokens, "beta_1: weight of the selected share of the context.",
          at_least(0));
  v.field("compute_clusters", compute_clusters, "beta_2: weight of the share of clusters attended.",
          at_least(0));
}

std::map<std::string, double> loss_weights(const LossConfig& config, int64_t step) {
  auto progress = std::min(1.0, double(step + 1) / double(config.ramp_steps));
  auto ramp = config.ramp == "linear"   ? progress
              : config.ramp == "cosine" ? 0.5 * (1 - std::cos(std::numbers::pi * progress))
              : config.ramp == "step"   ? (progress < 1 ? 0.0 : 1.0)
                                        : 1.0;
  return {{"task", config.weight.task},
          {"retrieval", config.weight.retrieval * ramp},
          {"compression", config.weight.compression * ramp},
          {"compute", config.weight.compute * config.compute_tokens * ramp}};
}

void StageConfig::visit_fields(ConfigVisitor& v) {
  v.field("name", name, "Name of the stage in logs.");
  v.field("steps", steps, "Optimiser steps.", at_least(1));
  v.field("data", data,
          "Data set of this stage, for a curriculum over lengths; empty: data.train.");
  v.field("sqa", sqa, "Attend sparsely in this stage.");
  v.field("rckv", rckv,
          "Compress in this stage. Where it is first on, the projections start from the principal "
          "components of real "
          "keys and values.");
  v.field("budget", budget, "Tokens selected; 0: the retriever's own budget.", at_least(0));
  v.field(
      "selection", selection,
      "config: as rckv.source says. global: from the whole context. all: everything is read, as a "
      "teacher for retrieval_target: attention, on short contexts.",
      one_of({"config", "global", "all"}));
  v.field("force_evidence", force_evidence,
          "Always select the evidence, so that the reader learns before the retriever has.");
  v.field("random_rest", random_rest, "Share of sequences whose other tokens are random.",
          between(0, 1));
  v.field("clusters_per_query", clusters_per_query,
          "Clusters a query attends; 0: sqa.clusters_per_query.", at_least(0));
  v.field("sample", sample,
          "Draw the selection with Gumbel noise instead of taking the top, so that a loss over the "
          "picks "
          "sees more than the present favourites.");
  v.field("ppo", ppo,
          "A step is one rollout batch, ppo.epochs updates of the policy by reward with the reader "
          "frozen, "
          "then ppo.lm_steps steps of the hybrid loss.");
  v.field(
      "buffer_from", buffer_from,
      "Share of steps in which the latent buffer replaces true keys, at the stage's start; below 1 "
      "the reader meets latents little by little.",
      between(0, 1));
  v.field("buffer_to", buffer_to, "The same at the stage's end; linear in between.", between(0, 1));
  v.field("retrieval_form", retrieval_form, "loss.retrieval_form of this stage; empty: as there.",
          one_of({"", "softmax", "inclusion", "printed"}));
  v.field("retrieval_target", retrieval_target,
          "loss.retrieval_target of this stage; empty: as there.",
          one_of({"", "evidence", "attention", "evidence_or_attention"}));
  v.field("retrieval_negatives", retrieval_negatives,
          "loss.retrieval_negatives of this stage; empty: as there.",
          one_of({"", "sequence", "batch"}));
  v.field(
      "frozen", frozen,
      "Parameter groups that do not learn: backbone, retriever, projections, encoder. The "
      "retriever's convolution, which the reader reads through, stands still with either of the "
      "first two.",
      one_of({"backbone", "retriever", "projections", "encoder"}));
}

StagePosition stage_at(const std::vector<StageConfig>& stages, int64_t step) {
  StagePosition position;
  for (size_t i = 0; i + 1 < stages.size() && step >= position.first_step + stages[i].steps; ++i) {
    position.first_step += stages[i].steps;
    position.index = i + 1;
  }
  return position;
}

int64_t total_steps(const std::vector<StageConfig>& stages) {
  int64_t total = 0;
  for (const auto& stage : stages) total += stage.steps;
  return total;
}

PassOptions stage_options(const StageConfig& stage, int64_t first_step, int64_t step,
                          const LossConfig& loss, int64_t seed) {
  PassOptions options;
  options.training = true;
  options.step = step;
  options.sqa = stage.sqa;
  auto progress = stage.steps > 1 ? double(step - first_step) / double(stage.steps - 1) : 1.0;
  auto buffer = stage.buffer_from + (stage.buffer_to - stage.buffer_from) * progress;
  // Samples have coins of their own (random_rest); no sample has this number.
  RandomStream coins(uint64_t(seed), Purpose::kCurriculum, uint64_t(step), ~uint64_t{0});
  options.rckv = stage.rckv && coins.uniform(0) < buffer;
  options.budget = stage.budget;
  options.select_per_segment = stage.selection == "config";
  options.read_everything = stage.selection == "all";
  options.force_evidence = stage.force_evidence;
  options.random_rest = stage.random_rest;
  options.clusters_per_query = stage.clusters_per_query;
  options.sample = stage.sample;
  options.budget_learns = stage.ppo;
  auto own_or = [](const std::string& own, const std::string& other) {
    return own.empty() ? other : own;
  };
  options.retrieval = {own_or(stage.retrieval_form, loss.retrieval_form),
                       own_or(stage.retrieval_target, loss.retrieval_target),
                       own_or(stage.retrieval_negatives, loss.retrieval_negatives)};
  return options;
}

}  // namespace dsrsq
