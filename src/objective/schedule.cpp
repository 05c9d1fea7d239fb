#include "dsrsq/objective/schedule.h"

#include <algorithm>

namespace dsrsq {

void LossWeights::visit_fields(ConfigVisitor& v) {
  v.field("task", task, "Cross-entropy of the answer's tokens.", at_least(0));
  v.field("retrieval", retrieval, "L_retrieval: evidence tokens under the retriever's scores.",
          at_least(0));
  v.field("compression", compression,
          "L_compression: relative reconstruction error of keys and values.", at_least(0));
  v.field(
      "compute", compute,
      "L_compute. Budget and clusters are fixed, so it is a constant: logged, without gradient.",
      at_least(0));
}

void LossConfig::visit_fields(ConfigVisitor& v) {
  v.group("weight", weight, "Weights lambda of the hybrid loss at full strength.");
  v.field("ramp", ramp, "How weights other than the task's grow from 0.",
          one_of({"linear", "constant"}, {"cosine", "step"}));
  v.field("ramp_steps", ramp_steps, "Steps until full strength.", at_least(1));
  v.field("retrieval_form", retrieval_form,
          "softmax: -mean log softmax of the scores over the evidence.",
          one_of({"softmax"}, {"inclusion", "printed"}));
  v.field("compute_tokens", compute_tokens, "beta_1: weight of the selected share of the context.",
          at_least(0));
  v.field("compute_clusters", compute_clusters, "beta_2: weight of the share of clusters attended.",
          at_least(0));
}

std::map<std::string, double> loss_weights(const LossConfig& config, int64_t step) {
  auto ramp =
      config.ramp == "constant" ? 1.0 : std::min(1.0, double(step + 1) / double(config.ramp_steps));
  return {{"task", config.weight.task},
          {"retrieval", config.weight.retrieval * ramp},
          {"compression", config.weight.compression * ramp},
          {"compute", config.weight.compute * ramp}};
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
  v.field("selection", selection, "config: as rckv.source says; global: from the whole context.",
          one_of({"config", "global"}));
  v.field("force_evidence", force_evidence,
          "Always select the evidence, so that the reader learns before the retriever has.");
  v.field("random_rest", random_rest, "Share of sequences whose other tokens are random.",
          between(0, 1));
  v.field("clusters_per_query", clusters_per_query,
          "Clusters a query attends; 0: sqa.clusters_per_query.", at_least(0));
  v.field("frozen", frozen, "Parameter groups that do not learn: backbone, retriever, projections.",
          one_of({"backbone", "retriever", "projections"}));
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

PassOptions stage_options(const StageConfig& stage, int64_t step) {
  PassOptions options;
  options.training = true;
  options.step = step;
  options.sqa = stage.sqa;
  options.rckv = stage.rckv;
  options.budget = stage.budget;
  options.select_per_segment = stage.selection == "config";
  options.force_evidence = stage.force_evidence;
  options.random_rest = stage.random_rest;
  options.clusters_per_query = stage.clusters_per_query;
  return options;
}

}  // namespace dsrsq
