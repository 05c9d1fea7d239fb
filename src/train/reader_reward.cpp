#include "dsrsq/train/reader_reward.h"

#include <torch/torch.h>

#include <algorithm>

#include "dsrsq/text/task_metrics.h"

namespace dsrsq {

namespace {
// Below this many nats the whole context does not help the reader, and a gain cannot be measured.
constexpr double kLeastGain = 0.1;

std::vector<int64_t> rows_of_draws(int64_t size, int64_t draws) {
  std::vector<int64_t> rows;
  for (int64_t b = 0; b < size; ++b) rows.insert(rows.end(), size_t(draws), b);
  return rows;
}
}  // namespace

ReaderReward::ReaderReward(LanguageModel& model, const Tokenizer& tokenizer, const Batch& batch,
                           const MethodState& state, const PpoConfig& config)
    : model_(model), tokenizer_(tokenizer), batch_(batch), state_(state), config_(config) {
  TORCH_CHECK(batch.questions.size(1) == 1, "ReaderReward: one question a sequence");
}

ReaderReward::Answers ReaderReward::answers_of(const Batch& batch, const at::Tensor& hidden) const {
  auto labelled = batch.labels >= 0;
  auto logits = model_->backbone()->logits(hidden).to(at::kFloat);
  auto log_p =
      at::log_softmax(logits, -1).gather(2, batch.labels.clamp_min(0).unsqueeze(2)).squeeze(2);
  Answers answers;
  answers.loss =
      (-(log_p * labelled).sum(1).to(at::kDouble) / labelled.sum(1).clamp_min(1)).to(at::kCPU);
  if (config_.reward.f1 <= 0) return answers;
  auto best = logits.argmax(-1).to(at::kCPU).contiguous();
  auto mask = labelled.to(at::kCPU).contiguous();
  answers.f1 = at::zeros({batch.size()}, at::kDouble);
  for (int64_t b = 0; b < batch.size(); ++b) {
    std::vector<int32_t> tokens;
    for (int64_t t = 0; t < best.size(1); ++t)
      if (mask[b][t].item<bool>()) tokens.push_back(int32_t(best[b][t].item<int64_t>()));
    answers.f1[b] = token_f1(tokenizer_.decode(tokens), batch.records[size_t(b)][0].answers);
  }
  return answers;
}

ReaderReward::Answers ReaderReward::read(const SelectedTokens& selected,
                                         const std::vector<int64_t>& row) {
  at::NoGradGuard no_grad;
  auto options = state_.options;
  options.training = options.observe = false;
  std::vector<Answers> parts;
  for (size_t begin = 0; begin < row.size(); begin += size_t(config_.reader_batch)) {
    auto end = std::min(row.size(), begin + size_t(config_.reader_batch));
    std::vector<int64_t> rows(row.begin() + int64_t(begin), row.begin() + int64_t(end));
    auto batch = batch_.rows(rows);
    auto state = model_->method().make_state(batch, options);
    auto part = [&](const at::Tensor& x) {
      return x.narrow(0, int64_t(begin), int64_t(end - begin));
    };
    state.selected = {part(selected.index), part(selected.mask), selected.lengths};
    if (state_.context_inputs.defined() && selected.slots() > 0) {
      // Token i of context b is row b N + i: gathers without copying whole contexts.
      const auto& inputs = state_.context_inputs;
      auto base = at::tensor(rows, at::kLong).to(inputs.device()).unsqueeze(1) * inputs.size(1);
      auto flat = (state.selected.index + base).reshape({-1});
      state.selected_inputs = inputs.reshape({-1, inputs.size(2)})
                                  .index_select(0, flat)
                                  .view({batch.size(), selected.slots(), inputs.size(2)});
    }
    parts.push_back(answers_of(batch, model_->read_selected(batch, state)));
  }
  calls_ += int64_t(row.size());
  std::vector<at::Tensor> losses, scores;
  for (const auto& part : parts) {
    losses.push_back(part.loss);
    if (part.f1.defined()) scores.push_back(part.f1);
  }
  return {at::cat(losses), scores.empty() ? at::Tensor() : at::cat(scores)};
}

void ReaderReward::measure_references() {
  if (none_.defined() || config_.reward.score == "likelihood") return;
  auto size = batch_.size();
  auto every = rows_of_draws(size, 1);
  auto longs = batch_.context.options();
  SelectedTokens nothing{
      at::zeros({size, 0}, longs), at::zeros({size, 0}, batch_.context_valid.options()), {}};
  none_ = read(nothing, every).loss;
  if (config_.reward.score == "relative") return;
  // In the segments that the method itself would read everything in.
  at::NoGradGuard no_grad;
  auto options = state_.options;
  options.training = options.observe = false;
  options.read_everything = true;
  auto state = model_->method().make_state(batch_, options);
  full_ = answers_of(batch_, model_->read(batch_, state)).loss;
  calls_ += size;
  without_gain_ = ((none_ - full_) < kLeastGain).to(at::kDouble).mean().item<double>();
}

at::Tensor ReaderReward::task_score(const Answers& answers, const std::vector<int64_t>& row) {
  measure_references();
  auto of_row = [&](const at::Tensor& x) { return x.index_select(0, at::tensor(row, at::kLong)); };
  auto likelihood = (-answers.loss).exp();
  auto score = likelihood;
  if (config_.reward.score == "relative") {
    score = 1 - answers.loss / of_row(none_).clamp_min(1e-6);
  } else if (config_.reward.score == "gain") {
    auto gain = of_row(none_ - full_);
    auto share = ((of_row(none_) - answers.loss) / gain.clamp_min(kLeastGain)).clamp(-1, 1);
    score = at::where(gain < kLeastGain, likelihood, share);
  }
  score = score * config_.reward.task;
  return answers.f1.defined() ? score + answers.f1 * config_.reward.f1 : score;
}

at::Tensor ReaderReward::score(const Rollouts& rollouts) {
  auto rows = rows_of_draws(batch_.size(), rollouts.draws);
  const auto& selected = rollouts.selected;
  auto recall = [&](const at::Tensor& marked) {
    auto wanted = marked.select(1, 0).repeat_interleave(rollouts.draws, 0);  // [R, N]
    auto found = wanted.gather(1, selected.index).logical_and(selected.mask);
    auto total = wanted.sum().item<int64_t>();
    return total > 0 ? double(found.sum().item<int64_t>()) / double(total) : -1;
  };
  // The draws are scored first, a baseline's selection without noise after them.
  if (evidence_recall_ < 0 && answer_recall_ < 0) {
    evidence_recall_ = recall(batch_.evidence);
    answer_recall_ = recall(batch_.answer_tokens);
  }
  return task_score(read(selected, rows), rows);
}

std::map<std::string, double> ReaderReward::metrics() const {
  std::map<std::string, double> values;
  if (evidence_recall_ >= 0) values["ppo/evidence_recall"] = evidence_recall_;
  if (answer_recall_ >= 0) values["ppo/answer_recall"] = answer_recall_;
  if (config_.reward.score == "gain") values["ppo/without_gain"] = without_gain_;
  return values;
}

at::Tensor ReaderReward::score_without(const Rollouts& rollouts) {
  auto rollout_rows = rows_of_draws(batch_.size(), rollouts.draws);
  auto count = int64_t(rollout_rows.size()), groups = rollouts.groups;
  const auto& selected = rollouts.selected;
  auto group = at::arange(groups, selected.index.options()).view({1, groups, 1});
  auto mask = selected.mask.unsqueeze(1).logical_and(rollouts.group_of_slot.unsqueeze(1) != group);
  SelectedTokens without{selected.index.repeat_interleave(groups, 0),
                         mask.reshape({count * groups, selected.slots()}), selected.lengths};
  std::vector<int64_t> rows;
  for (auto row : rollout_rows) rows.insert(rows.end(), size_t(groups), row);
  return task_score(read(without, rows), rows).view({count, groups});
}

}  // namespace dsrsq
