#include "dsrsq/eval/answer_loss.h"

#include <torch/torch.h>

#include <algorithm>

#include "dsrsq/model/generate.h"
#include "dsrsq/objective/task_loss.h"

namespace dsrsq {

namespace {

// int64 [B, A], -100 behind each answer's end.
at::Tensor padded_labels(const std::vector<std::vector<int32_t>>& answers) {
  size_t longest = 0;
  for (const auto& answer : answers) longest = std::max(longest, answer.size());
  auto labels = at::full({int64_t(answers.size()), int64_t(longest)}, -100, at::kLong);
  for (size_t b = 0; b < answers.size(); ++b)
    std::copy(answers[b].begin(), answers[b].end(), labels[int64_t(b)].data_ptr<int64_t>());
  return labels;
}

}  // namespace

std::vector<double> answer_losses(LanguageModel& model, const Batch& batch,
                                  const at::Tensor& tail_hidden, const MethodState& prompt,
                                  const std::vector<std::vector<int32_t>>& answers) {
  auto labels = padded_labels(answers).to(tail_hidden.device());
  std::vector<double> losses(answers.size(), -1);
  auto longest = labels.size(1);
  if (longest == 0) return losses;
  // The question's last token predicts the first, each token the one behind it.
  auto last = (batch.tail_valid.sum(1) - 1).view({-1, 1});
  auto hidden = gather_entries(tail_hidden, last, 1);
  if (longest > 1) {
    auto state = prompt;
    state.options.collect_stats = false;
    auto read = (labels >= 0).narrow(1, 1, longest - 1);
    auto ids = labels.narrow(1, 0, longest - 1).clamp_min(0);
    hidden = at::cat({hidden, read_more(model, ids, read, state)}, 1);
  }
  for (size_t b = 0; b < answers.size(); ++b) {
    auto row = int64_t(b);
    auto term = task_loss(model->backbone(), hidden.narrow(0, row, 1), labels.narrow(0, row, 1));
    if (term.count > 0) losses[b] = term.sum.item<double>() / term.count;
  }
  return losses;
}

}  // namespace dsrsq
