// One update of a model by the hybrid loss, on batches that are given: forward, losses, backward,
// clipping, AdamW, what the method does after a step. The trainer brings data, curriculum and logs;
// a benchmark times this alone.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "dsrsq/model/transformer.h"
#include "dsrsq/train/optimizer.h"
#include "dsrsq/train/run_config.h"

namespace dsrsq {

// Which group a parameter of a LanguageModel is in: backbone, retriever, projections, encoder.
std::string parameter_group(const std::string& name);

class HybridStep {
 public:
  HybridStep(const RunConfig& config, LanguageModel model);

  // The micro-batches of step `step`, on the model's device; losses are averaged over all their
  // tokens (D18). `policy_trains`: L_compute is part of the policy's own loss. -> train/loss and
  // the rest of a step's metrics. Throws DivergedError before the update by a loss or gradient that
  // is not finite.
  std::map<std::string, double> run(const std::vector<Batch>& batches, const PassOptions& options,
                                    int64_t step, bool policy_trains);
  AdamW& optimizer() { return optimizer_; }
  const AdamW& optimizer() const { return optimizer_; }
  int64_t sequences_read() const { return sequences_read_; }

 private:
  at::Tensor forward(const Batch& batch, MethodState& state);
  std::map<std::string, double> accumulate(const std::vector<Batch>& batches,
                                           const PassOptions& options, int64_t step,
                                           bool policy_trains);

  RunConfig config_;
  LanguageModel model_;
  AdamW optimizer_;
  at::Device device_;
  int64_t sequences_read_ = 0;
};

}  // namespace dsrsq
