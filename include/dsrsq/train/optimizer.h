// AdamW over named parameters in groups, with a state that can be saved and restored exactly
// (torch::optim builds its state lazily and has no stable names). Updates run through ATen's fused
// kernel, on a CPU as on a GPU.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "dsrsq/core/config.h"

namespace dsrsq {

struct OptimizerConfig {
  double learning_rate = 5e-5;
  int64_t warmup_steps = 100;
  std::string schedule = "cosine";
  double constant_share = 0.6;  // of all steps, for constant_linear
  double final_share = 0.01;    // of the learning rate, at the last step
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.1;
  double clip = 1.0;  // 0: no clipping
  void visit_fields(ConfigVisitor& v);
};

// Share of the learning rate at `step` (0-based) of `total`: linear warm-up from 1/warmup to 1,
// then cosine to final_share, or constant until constant_share of all steps and linear to
// final_share.
double learning_rate_share(const OptimizerConfig& config, int64_t step, int64_t total);

struct NamedParameter {
  std::string name;
  at::Tensor tensor;
  double rate = 1.0;    // multiplies the learning rate (group)
  bool decay = false;   // weight decay applies
  bool frozen = false;  // skipped: no update, no change of its state
};

class AdamW {
 public:
  AdamW(const OptimizerConfig& config, std::vector<NamedParameter> parameters);

  // Global L2 norm of all gradients of unfrozen parameters (fp32 scalar tensor, 0-dim). Parameters
  // without a gradient count 0.
  at::Tensor gradient_norm() const;
  // Scales gradients so that their global norm is at most config.clip, given that norm.
  void clip_gradients(const at::Tensor& norm);
  // One update at this share of the learning rate. Parameters that are frozen or have no gradient
  // are skipped entirely.
  void step(double share);
  void zero_gradients();
  std::vector<NamedParameter>& parameters() { return parameters_; }

  // "first.<name>", "second.<name>" (shape of the parameter), "step.<name>" (fp32 scalar), for
  // parameters that were ever updated. They share memory with the optimizer: clone what must
  // outlive the next step.
  std::map<std::string, at::Tensor> state() const;
  // Restores exactly; throws CheckpointError naming a missing, surplus or misshapen entry.
  void load_state(const std::map<std::string, at::Tensor>& state);
  int64_t bytes() const;

 private:
  OptimizerConfig config_;
  std::vector<NamedParameter> parameters_;
  std::vector<at::Tensor> first_, second_,
      steps_;  // by parameter; undefined until its first update
};

}  // namespace dsrsq
