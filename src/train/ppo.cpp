#include "dsrsq/train/ppo.h"

#include <torch/torch.h>

#include <algorithm>
#include <cmath>

#include "dsrsq/core/error.h"
#include "dsrsq/ops/noise.h"

namespace dsrsq {

void PpoRewardConfig::visit_fields(ConfigVisitor& v) {
  v.field("score", score,
          "Task score of a selection, CE the mean cross-entropy of the answer's tokens. gain: (CE "
          "without context - CE) / (CE without context - CE of the whole context), which is "
          "informative "
          "while the reader is unsure; where the reader does not profit from the whole context, "
          "likelihood. likelihood: exp(-CE), for a reader that answers well. relative: 1 - CE / CE "
          "without context, for a reader that cannot read the whole context.",
          one_of({"gain", "likelihood", "relative"}));
  v.field("task", task, "Weight of the task score.", at_least(0));
  v.field(
      "f1", f1,
      "Weight of the token F1 of the most probable tokens under teacher forcing; for answers where "
      "likelihood pays for the wrong words.",
      at_least(0));
  v.field(
      "token_cost", token_cost,
      "Cost of reading the whole context; a selection pays its share. It trains the learned budget "
      "alone: among draws of equal budget it is a constant.",
      at_least(0));
  v.field(
      "target_share", target_share,
      "Share of the context that is to be read on average: token_cost is then driven there (dual "
      "ascent), below 0 where the policy would read less. 0: token_cost is fixed.",
      between(0, 1));
  v.field("dual_rate", dual_rate, "Step of the dual ascent.", more_than(0));
  v.field(
      "dual_damping", dual_damping,
      "Added to the cost in proportion to the present excess over the target: keeps the share from "
      "swinging around it.",
      at_least(0));
  v.field("maximum_cost", maximum_cost,
          "Limit of the size of token_cost x target_share, in units of reward, under dual ascent.",
          more_than(0));
}

void PpoConfig::visit_fields(ConfigVisitor& v) {
  v.field("rollouts", rollouts, "Draws of each question.", between(1, 64));
  v.field("temperature", temperature,
          "Of the draws, beside the retriever's own: below 1 they come closer to the choice "
          "without noise, "
          "which is what is read later; for a retriever that already chooses well.",
          between(0.01, 100));
  v.field("epochs", epochs, "Updates of the policy with one rollout batch.", between(1, 64));
  v.field(
      "lm_steps", lm_steps,
      "Steps of the hybrid loss after each policy step, so that the reader follows the policy; 0: "
      "the reader stands still.",
      at_least(0));
  v.field("baseline", baseline,
          "What a draw's score is compared with. rloo: the other draws of the question. value: a "
          "critic, "
          "with generalised advantage estimation over the segments of a stream; for one draw a "
          "question. greedy: the selection without noise, one more reading.",
          one_of({"rloo", "value", "greedy"}));
  v.field(
      "credit", credit,
      "shared: one advantage for all picks of a draw; cheap. span_loo: the score that each group "
      "of "
      "picks adds, by reading once more without it; for large budgets, where a shared advantage "
      "learns slowly.",
      one_of({"shared", "span_loo"}));
  v.field("credit_group", credit_group,
          "span_loo: neighbouring picks that are left out together; 1 is exact and reads most.",
          at_least(1));
  v.field("reader_batch", reader_batch, "Sequences that are read at once for rewards.",
          at_least(1));
  v.field("learning_rate", learning_rate, "Of the policy's own AdamW.", between(1e-8, 1e-2));
  v.field("clip", clip, "Clip of the ratio.", between(0.01, 1));
  v.field("whiten", whiten, "Scale advantages of a batch to mean 0 and deviation 1.");
  v.field("entropy", entropy, "Bonus on the entropy of the scores over its maximum.", at_least(0));
  v.field("budget_entropy", budget_entropy, "Bonus on the entropy of the budget's bins, likewise.",
          at_least(0));
  v.field("maximum_kl", maximum_kl, "Approximate KL at which the epochs of a batch end.",
          more_than(0));
  v.field("value_weight", value_weight, "Weight of the critic's error.", at_least(0));
  v.field("value_clip", value_clip, "Clip of the change of a value.", more_than(0));
  v.field("discount", discount, "Discount a segment of a stream.", between(0, 1));
  v.field("gae_lambda", gae_lambda, "Lambda of the advantage estimation.", between(0, 1));
  v.group("reward", reward, "What a selection is paid for.");
}

// ---- advantages ----

at::Tensor leave_one_out_advantage(const at::Tensor& scores, const at::Tensor& bin, int64_t draws) {
  auto own = scores.view({-1, draws});
  auto same = at::ones({own.size(0), draws, draws}, own.options());
  if (bin.defined()) {
    auto bins = bin.to(own.device()).view({-1, draws});
    same = (bins.unsqueeze(2) == bins.unsqueeze(1)).to(own.scalar_type());
  }
  same = same * (1 - at::eye(draws, own.options()));
  auto others = same.sum(2);
  auto baseline = at::matmul(same, own.unsqueeze(2)).squeeze(2) / others.clamp_min(1);
  return ((own - baseline) * (others > 0)).reshape({-1});
}

at::Tensor stream_advantage(const at::Tensor& values, const at::Tensor& scores, double discount,
                            double lambda, const at::Tensor& present) {
  auto rows = values.size(1);
  std::vector<at::Tensor> advantages(static_cast<size_t>(rows));
  auto next_value = at::zeros_like(scores), next = at::zeros_like(scores);
  auto paid = at::zeros_like(scores);  // 1 once the sequence's last row was met, from the end
  for (int64_t s = rows - 1; s >= 0; --s) {
    auto here =
        present.defined() ? present.select(1, s).to(scores.options()) : at::ones_like(scores);
    auto reward = scores * (here > paid);
    auto value = values.select(1, s);
    next = (reward + discount * next_value - value + discount * lambda * next) * here;
    next_value = value * here;
    paid = at::maximum(paid, here);
    advantages[size_t(s)] = next;
  }
  return at::stack(advantages, 1);
}

Surrogate clipped_surrogate(const at::Tensor& log_prob, const at::Tensor& old_log_prob,
                            const at::Tensor& advantage, const at::Tensor& mask, double clip) {
  auto difference = log_prob - old_log_prob;
  auto ratio = difference.exp();
  auto value = at::minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage);
  auto weight = mask.to(value.scalar_type());
  auto actions = weight.sum(1).clamp_min(1);
  Surrogate result;
  result.objective = ((value * weight).sum(1) / actions).mean();
  at::NoGradGuard no_grad;
  auto total = weight.sum().clamp_min(1);
  auto mean = [&](const at::Tensor& x) { return ((x * weight).sum() / total).item<double>(); };
  result.clip_fraction = mean(((ratio - 1).abs() > clip).to(weight.scalar_type()));
  result.approximate_kl = mean(ratio - 1 - difference);
  result.ratio_deviation = ((ratio - 1).abs() * weight).max().item<double>();
  return result;
}

double next_token_cost(const PpoRewardConfig& config, double cost, double share, bool all_smallest,
                       bool all_largest) {
  if (config.target_share <= 0) return cost;
  auto excess = share / config.target_share - 1;
  if ((excess > 0 && all_smallest) || (excess < 0 && all_largest)) return cost;
  auto moved = cost + config.dual_rate * excess / config.target_share;
  auto limit = config.maximum_cost / config.target_share;
  return std::clamp(moved, -limit, limit);
}

double damped_token_cost(const PpoRewardConfig& config, double cost, double share) {
  if (config.target_share <= 0) return cost;
  auto excess = share / config.target_share - 1;
  auto limit = config.maximum_cost / config.target_share;
  return std::clamp(cost + config.dual_damping * excess / config.target_share, -limit, limit);
}

// ---- critic ----

CriticImpl::CriticImpl(int64_t features, int64_t seed) {
  constexpr int64_t kHidden = 64;
  hidden_ = register_parameter(
      "hidden", ops::initial_normal("ppo.critic", {kHidden, features},
                                    1 / std::sqrt(double(features)), uint64_t(seed)));
  hidden_bias_ = register_parameter("hidden_bias", at::zeros({kHidden}));
  output_ = register_parameter("output", at::zeros({1, kHidden + 1}));  // the last column: a bias
}

at::Tensor CriticImpl::forward(const at::Tensor& features) const {
  auto hidden = at::tanh(at::linear(features, hidden_, hidden_bias_));
  auto width = hidden.size(-1);
  return at::linear(hidden, output_.narrow(1, 0, width), output_.select(1, width)).squeeze(-1);
}

// ---- a step ----

namespace {
OptimizerConfig policy_optimizer(const PpoConfig& config) {
  OptimizerConfig optimizer;
  optimizer.learning_rate = config.learning_rate;
  optimizer.beta2 = 0.999;  // gradients of reward are noisier than those of a loss
  optimizer.weight_decay = 0;
  return optimizer;
}

// Mean 0, deviation 1 over `mask`. Where all are alike (nothing was learnt from the batch) they
// stay about 0 instead of noise being blown up.
at::Tensor whitened(const at::Tensor& x, const at::Tensor& mask) {
  auto weight = mask.to(x.scalar_type());
  auto count = weight.sum().clamp_min(1);
  auto mean = (x * weight).sum() / count;
  auto deviation = (((x - mean) * weight).square().sum() / count).sqrt();
  return (x - mean) / deviation.clamp_min(1e-3) * weight;
}

void require_finite(const at::Tensor& x, const char* what, int64_t step) {
  if (x.isfinite().all().item<bool>()) return;
  throw DivergedError(
      concat("step ", step, ": ", what,
             " of the rollouts: expected finite numbers; nothing was updated with them, the last "
             "checkpoint is as it was. Lower optimizer.learning_rate or "
             "ppo.learning_rate"));
}
}  // namespace

struct Ppo::Advantages {
  at::Tensor pick;     // [R, S k]
  at::Tensor bin;      // [R]; undefined where the budget is no action
  at::Tensor returns;  // [R, S]; undefined without a critic
};

Ppo::Ppo(const PpoConfig& config, SelectionPolicy& policy, std::vector<NamedParameter> parameters,
         int64_t seed, at::Device device)
    : config_(config),
      policy_(policy),
      optimizer_(policy_optimizer(config),
                 [&] {
                   if (config.baseline == "value") {
                     critic_ = Critic(policy.feature_width(), seed);
                     critic_->to(device);
                     for (const auto& item : critic_->named_parameters()) {
                       NamedParameter parameter;
                       parameter.name = "critic." + item.key();
                       parameter.tensor = item.value();
                       parameters.push_back(std::move(parameter));
                     }
                   }
                   return std::move(parameters);
                 }()),
      token_cost_(config.reward.token_cost),
      token_cost_sum_(config.reward.token_cost) {}

Ppo::Advantages Ppo::advantages(const PolicyInput& input, RolloutScorer& scorer,
                                const Rollouts& rollouts, const at::Tensor& scores,
                                const at::Tensor& values, const at::Tensor& present) const {
  Advantages result;
  auto mask = rollouts.picks.mask.to(at::kCPU).view({scores.size(0), -1});  // [R, S k]
  auto of_rows = [&](const at::Tensor& x) {  // [R, S] or [R, 1] -> [R, S k]
    auto per_row = mask.size(1) / rollouts.rows;
    return x.expand({x.size(0), rollouts.rows}).repeat_interleave(per_row, 1);
  };
  if (config_.credit == "span_loo") {
    auto added = scores.unsqueeze(1) - scorer.score_without(rollouts);  // [R, groups]
    auto group = rollouts.group_of_pick.to(at::kCPU).view({scores.size(0), -1}).clamp_min(0);
    result.pick = added.gather(1, group);
  } else if (config_.baseline == "greedy") {
    auto greedy = scorer.score(policy_.greedy(input, rollouts));
    if (greedy.size(0) != scores.size(0)) greedy = greedy.repeat_interleave(rollouts.draws, 0);
    result.pick = of_rows((scores - greedy).unsqueeze(1));
  } else if (config_.baseline == "value") {
    auto advantage =
        stream_advantage(values, scores, config_.discount, config_.gae_lambda, present);
    result.returns = advantage + values;
    result.pick = of_rows(advantage);
  } else {
    result.pick =
        of_rows(leave_one_out_advantage(scores, rollouts.bin, rollouts.draws).unsqueeze(1));
  }
  if (values.defined() && !result.returns.defined())
    result.returns =
        stream_advantage(values, scores, config_.discount, config_.gae_lambda, present) + values;
  if (config_.whiten) result.pick = whitened(result.pick, mask);
  result.pick = result.pick * mask;
  if (rollouts.bin.defined()) {
    auto reward = scores - token_cost_ * rollouts.share.to(at::kCPU);
    result.bin = rollouts.draws > 1 ? leave_one_out_advantage(reward, {}, rollouts.draws)
                                    : reward - reward.mean();
    if (config_.whiten) result.bin = whitened(result.bin, at::ones_like(result.bin));
  }
  return result;
}

void Ppo::update(const PolicyInput& input, const Rollouts& rollouts, const Advantages& advantages,
                 const PolicyEvaluation& old, const at::Tensor& old_values,
                 std::map<std::string, double>& metrics, int64_t step, double compute_weight) {
  auto size = advantages.pick.size(0);
  auto device = old.pick_log_prob.device();
  auto on_device = [&](const at::Tensor& x) { return x.defined() ? x.to(device, at::kFloat) : x; };
  auto pick_advantage = on_device(advantages.pick), bin_advantage = on_device(advantages.bin);
  auto returns = on_device(advantages.returns), values_before = on_device(old_values);
  auto mask = rollouts.picks.mask.view({size, -1});
  auto budgets = at::tensor(policy_.budget_bins(), at::kLong).to(device, at::kFloat);
  double clipped = 0;
  int64_t done = 0;
  for (int64_t epoch = 0; epoch < config_.epochs; ++epoch) {
    auto now = policy_.evaluate(input, rollouts);
    auto picks =
        clipped_surrogate(now.pick_log_prob.view({size, -1}), old.pick_log_prob.view({size, -1}),
                          pick_advantage, mask, config_.clip);
    auto kl = picks.approximate_kl;
    auto loss = -picks.objective - config_.entropy * now.entropy.mean();
    if (rollouts.bin.defined()) {
      auto bins = clipped_surrogate(now.bin_log_prob.unsqueeze(1), old.bin_log_prob.unsqueeze(1),
                                    bin_advantage.unsqueeze(1),
                                    at::ones_like(bin_advantage.unsqueeze(1)), config_.clip);
      auto log_bins = std::log(double(now.bin_probability.size(1)));
      auto entropy = -(now.bin_probability * now.bin_probability.clamp_min(1e-12).log()).sum(1);
      loss = loss - bins.objective - config_.budget_entropy * entropy.mean() / log_bins;
      auto tokens = input.context_valid.sum(1, true).to(at::kFloat).clamp_min(1);
      auto share = (now.bin_probability * (budgets / tokens).clamp_max(1)).sum(1).mean();
      loss = loss + compute_weight * share;
      metrics["ppo/budget_entropy"] = entropy.mean().item<double>() / log_bins;
      kl = std::max(kl, bins.approximate_kl);
    }
    if (returns.defined()) {
      auto value = critic_->forward(now.features);
      auto near =
          values_before + (value - values_before).clamp(-config_.value_clip, config_.value_clip);
      auto row = now.present.to(value.scalar_type());
      auto error =
          0.5 * (at::maximum((value - returns).square(), (near - returns).square()) * row).sum() /
          row.sum().clamp_min(1);
      loss = loss + config_.value_weight * error;
      metrics["ppo/value_loss"] = error.item<double>();
    }
    if (epoch == 0) metrics["ppo/first_ratio_deviation"] = picks.ratio_deviation;
    metrics["ppo/approximate_kl"] = kl;
    metrics["ppo/entropy"] = now.entropy.mean().item<double>();
    if (kl > config_.maximum_kl) break;
    clipped += picks.clip_fraction;
    ++done;
    optimizer_.zero_gradients();
    loss.backward();
    auto norm = optimizer_.gradient_norm();
    require_finite(norm, "the gradient", step);
    optimizer_.clip_gradients(norm);
    optimizer_.step(1.0);
  }
  optimizer_.zero_gradients();
  metrics["ppo/clip_fraction"] = clipped / double(std::max<int64_t>(1, done));
  metrics["ppo/epochs"] = double(done);
}

void Ppo::move_token_cost(const Rollouts& rollouts) {
  if (!rollouts.bin.defined()) return;
  auto last = int64_t(policy_.budget_bins().size()) - 1;
  auto share = rollouts.share.mean().item<double>();
  token_cost_sum_ = next_token_cost(config_.reward, token_cost_sum_, share,
                                    (rollouts.bin == 0).all().item<bool>(),
                                    (rollouts.bin == last).all().item<bool>());
  token_cost_ = damped_token_cost(config_.reward, token_cost_sum_, share);
}

std::map<std::string, double> Ppo::step(const PolicyInput& seen, RolloutScorer& scorer,
                                        int64_t step, double compute_weight) {
  auto input = seen;
  input.temperature = config_.temperature;
  auto rollouts = policy_.sample(input, config_.rollouts, step, config_.credit_group);
  auto scores = scorer.score(rollouts);
  require_finite(scores, "the rewards", step);
  PolicyEvaluation old;
  at::Tensor old_values;
  {
    at::NoGradGuard no_grad;
    old = policy_.evaluate(input, rollouts);
    if (!critic_.is_empty()) old_values = critic_->forward(old.features).to(at::kCPU, at::kDouble);
  }
  std::map<std::string, double> metrics;
  auto share = rollouts.share.mean().item<double>();
  metrics["ppo/task_score"] = scores.mean().item<double>();
  metrics["ppo/token_share"] = share;
  metrics["ppo/token_cost"] = token_cost_;
  metrics["ppo/reward"] = scores.mean().item<double>() - token_cost_ * share;
  if (config_.reward.target_share > 0) metrics["ppo/target_share"] = config_.reward.target_share;
  auto tokens = policy_.budget_bins();
  for (size_t i = 0; i < tokens.size(); ++i) {
    metrics[concat("ppo/budget_share_", i)] =
        (rollouts.bin == int64_t(i)).to(at::kDouble).mean().item<double>();
    metrics[concat("ppo/budget_tokens_", i)] = double(tokens[i]);
  }
  auto found = advantages(input, scorer, rollouts, scores, old_values, old.present.to(at::kCPU));
  // A baseline's, a group's or the critic's value may be what is not finite.
  for (const auto& x : {found.pick, found.bin, found.returns})
    if (x.defined()) require_finite(x, "the advantages", step);
  update(input, rollouts, found, old, old_values, metrics, step, compute_weight);
  move_token_cost(rollouts);
  return metrics;
}

// ---- checkpoints ----

std::map<std::string, at::Tensor> Ppo::state() const {
  auto state = optimizer_.state();
  if (!critic_.is_empty())
    for (const auto& item : critic_->named_parameters())
      state["weight.critic." + item.key()] = item.value().detach();
  state["token_cost"] = at::tensor({token_cost_, token_cost_sum_}, at::kDouble);
  return state;
}

void Ppo::load_state(const std::map<std::string, at::Tensor>& state) {
  at::NoGradGuard no_grad;
  auto rest = state;
  auto take = [&](const std::string& name, at::IntArrayRef shape) {
    auto found = rest.find(name);
    if (found == rest.end() || found->second.sizes() != shape)
      throw CheckpointError(concat("state of PPO: ", name, " of shape ", shape,
                                   " is missing; was the run trained with another ppo.baseline?"));
    auto value = found->second;
    rest.erase(found);
    return value;
  };
  auto costs = take("token_cost", {2});
  if (!critic_.is_empty())
    for (auto& item : critic_->named_parameters())
      item.value().copy_(take("weight.critic." + item.key(), item.value().sizes()));
  optimizer_.load_state(rest);
  token_cost_ = costs[0].item<double>();
  token_cost_sum_ = costs[1].item<double>();
}

}  // namespace dsrsq
