// Proximal policy optimisation (arXiv 1707.06347) of the choice of tokens (D6; paper section 3.2).
// One step: G draws of each question of a batch, their rewards from a reader that stands still,
// `epochs` updates of the policy. Every pick is an action of its own, with its own ratio: the joint
// ratio of 512 picks explodes.
//
//   L = - mean over picks of min(r A, clip(r) A) - budget action's own surrogate
//       - entropy bonus + value_weight x clipped value error
#pragma once

#include <torch/nn/module.h>

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "dsrsq/core/config.h"
#include "dsrsq/retriever/policy.h"
#include "dsrsq/train/optimizer.h"

namespace dsrsq {

struct PpoRewardConfig {
  std::string score = "gain";
  double task = 1.0;
  double f1 = 0.0;
  double token_cost = 0.0;    // lambda_2, a share of the context
  double target_share = 0.0;  // 0: token_cost is fixed
  double dual_rate = 0.01;
  double dual_damping = 0.5;
  double maximum_cost = 2.0;
  void visit_fields(ConfigVisitor& v);
};

struct PpoConfig {
  int64_t rollouts = 4;  // G
  int64_t epochs = 4;
  int64_t lm_steps = 0;
  double temperature = 1;
  std::string baseline = "rloo";
  std::string credit = "shared";
  int64_t credit_group = 1;
  int64_t reader_batch = 64;
  double learning_rate = 1e-3;
  double clip = 0.2;
  bool whiten = true;
  double entropy = 0.01;
  double budget_entropy = 0.01;
  double maximum_kl = 0.02;
  double value_weight = 0.1;
  double value_clip = 0.2;
  double discount = 1.0;
  double gae_lambda = 0.95;
  PpoRewardConfig reward;
  void visit_fields(ConfigVisitor& v);
};

// Task scores of rollouts, higher is better. fp64 on the CPU. The reader, or a bandit of a test.
class RolloutScorer {
 public:
  virtual ~RolloutScorer() = default;
  virtual at::Tensor score(const Rollouts& rollouts) = 0;  // [R]
  // The scores with one group of picks taken away (Rollouts::groups): [R, groups].
  virtual at::Tensor score_without(const Rollouts& rollouts) = 0;
};

// Advantages of picks: each draw's score less a baseline of the other draws of its question, those
// of the same budget only where the budget is an action (a draw that has no such other: 0).
// scores [B G] fp64, bin [B G] or undefined -> [B G].
at::Tensor leave_one_out_advantage(const at::Tensor& scores, const at::Tensor& bin, int64_t draws);

// Generalised advantage estimation (arXiv 1506.02438) over the S rows of a stream with the score at
// its end: values [R, S], scores [R] -> advantages [R, S]; returns are advantages + values. The
// score is paid at a sequence's last row that is `present` [R, S] (undefined: all are); others are
// 0.
at::Tensor stream_advantage(const at::Tensor& values, const at::Tensor& scores, double discount,
                            double lambda, const at::Tensor& present = {});

// The clipped surrogate, to be maximised: mean over sequences of the mean over their actions. All
// [R, actions]; mask bool.
struct Surrogate {
  at::Tensor objective;  // scalar with gradient
  double clip_fraction = 0;
  double approximate_kl = 0;   // mean of r - 1 - log r (Schulman's k3)
  double ratio_deviation = 0;  // max |r - 1|
};
Surrogate clipped_surrogate(const at::Tensor& log_prob, const at::Tensor& old_log_prob,
                            const at::Tensor& advantage, const at::Tensor& mask, double clip);

// Moves the token cost so that the mean share of tokens reaches the target (dual ascent): by
// dual_rate x (share / target - 1) / target, within +-maximum_cost / target, and not at all where
// every draw already took the bin that the cost pushes to. The constraint is an equality, so the
// cost may fall below 0: were it held at 0, a policy that overshot to few tokens would never come
// back, since bins that are no longer drawn earn nothing.
double next_token_cost(const PpoRewardConfig& config, double cost, double share, bool all_smallest,
                       bool all_largest);
// The cost that draws pay: the one that dual ascent moves plus dual_damping x (share / target - 1)
// / target, within the same limits. Dual ascent alone swings around the target, since the policy
// follows the cost with a lag (an integral controller; this is its proportional part).
double damped_token_cost(const PpoRewardConfig& config, double cost, double share);

// V(state) of every row of a stream [R, S] from PolicyEvaluation::features.
class CriticImpl : public torch::nn::Module {
 public:
  CriticImpl(int64_t features, int64_t seed);
  at::Tensor forward(const at::Tensor& features) const;

 private:
  at::Tensor hidden_, hidden_bias_, output_;
};
TORCH_MODULE(Critic);

class Ppo {
 public:
  // `parameters`: the policy's; the updates have an optimiser of their own, since their gradients
  // are of another kind than the hybrid loss's.
  Ppo(const PpoConfig& config, SelectionPolicy& policy, std::vector<NamedParameter> parameters,
      int64_t seed, at::Device device);

  // One rollout batch and its updates. `compute_weight`: of L_compute (D15), the expected share of
  // the context under the budget action, which is part of this loss: with an optimiser of its own,
  // which scales gradients to one size, its small gradient would outrun reward. Returns metrics
  // ("ppo/..."). Throws DivergedError before any update where a score or a loss is not finite.
  std::map<std::string, double> step(const PolicyInput& seen, RolloutScorer& scorer, int64_t step,
                                     double compute_weight = 0);

  // What must survive: the optimiser, the critic, the token cost.
  std::map<std::string, at::Tensor> state() const;
  // Throws CheckpointError.
  void load_state(const std::map<std::string, at::Tensor>& state);
  double token_cost() const { return token_cost_; }
  const PpoConfig& config() const { return config_; }

 private:
  struct Advantages;
  Advantages advantages(const PolicyInput& input, RolloutScorer& scorer, const Rollouts& rollouts,
                        const at::Tensor& scores, const at::Tensor& values,
                        const at::Tensor& present) const;
  void update(const PolicyInput& input, const Rollouts& rollouts, const Advantages& advantages,
              const PolicyEvaluation& old, const at::Tensor& old_values,
              std::map<std::string, double>& metrics, int64_t step, double compute_weight);
  void move_token_cost(const Rollouts& rollouts);

  PpoConfig config_;
  SelectionPolicy& policy_;
  Critic critic_{nullptr};  // only for baseline value
  AdamW optimizer_;
  double token_cost_ = 0;      // that draws pay
  double token_cost_sum_ = 0;  // that dual ascent moves; both are the same where it is fixed
};

}  // namespace dsrsq
