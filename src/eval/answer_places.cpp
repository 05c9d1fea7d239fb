#include "dsrsq/eval/answer_places.h"

#include <torch/torch.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace dsrsq {

namespace {

std::set<int64_t> valid_orders(const at::Tensor& order, const at::Tensor& valid, int64_t b) {
  std::set<int64_t> orders;
  if (!order.defined()) return orders;
  auto ranks = order[b].to(at::kCPU).contiguous(), present = valid[b].to(at::kCPU).contiguous();
  for (int64_t i = 0; i < ranks.numel(); ++i)
    if (present.data_ptr<bool>()[i]) orders.insert(ranks.data_ptr<int64_t>()[i]);
  return orders;
}

// Entries of answer tokens that the layers hold, of a batch.
struct AnswerEntries {
  // int64 [B, sets] on the CPU: of the answer's tokens, how many a layer holds, or a head where
  // heads hold their own.
  at::Tensor held;
  at::Tensor chosen;  // int64 [B]: answer tokens that the reader read
  at::Tensor marked;  // int64 [B]: answer tokens of the context
};

// bool [B, ranks]: where answer tokens stand in the reader's sequence; the last rank is nobody's.
at::Tensor answer_ranks(const SelectedTokens& selected, const at::Tensor& at_slots, int64_t sinks) {
  auto nobody = sinks + selected.slots();
  auto rank = (selected.mask.cumsum(1) - 1 + sinks).masked_fill(at_slots.logical_not(), nobody);
  auto wanted = at::zeros({rank.size(0), nobody + 1}, at_slots.options());
  wanted.scatter_(1, rank, at_slots);
  wanted.select(1, nobody).fill_(false);
  return wanted;
}

AnswerEntries answer_entries(const Batch& batch, const MethodState& state, int64_t sinks) {
  auto marks = batch.answer_tokens.select(1, 0);
  auto at_slots = state.selected.slots() > 0 ? state.selected.marked(marks)
                                             : at::zeros({batch.size(), 0}, marks.options());
  auto wanted = answer_ranks(state.selected, at_slots, sinks);
  auto nobody = wanted.size(1) - 1;
  std::vector<at::Tensor> held;
  auto count = [&](const at::Tensor& order, const at::Tensor& valid) {  // [B, h, K]
    auto own = order.to(at::kLong);
    auto rank = own.masked_fill(own < 0, nobody).clamp_max(nobody);
    auto found = wanted.unsqueeze(1).expand({-1, order.size(1), -1}).gather(2, rank);
    held.push_back((valid.defined() ? found.logical_and(valid) : found).sum(-1));
  };
  for (const auto& layer : state.layers) {
    if (layer.values.defined() && !layer.keys.defined()) continue;  // of another layer's keys
    for (const auto& group : layer.head_groups) count(group.order, group.valid);
    if (!layer.head_groups.empty()) continue;
    if (layer.order.defined())
      count(layer.order.unsqueeze(1), layer.valid.unsqueeze(1));
    else
      held.push_back(at::zeros({batch.size(), 1}, batch.context.options()));
  }
  return {at::cat(held, 1).to(at::kCPU).contiguous(), at_slots.sum(1).to(at::kCPU),
          marks.sum(1).to(at::kCPU)};
}

// Whether some layer's latents hold every one of the answer's tokens.
bool in_latents(const Batch& batch, const MethodState& state, int64_t b, int64_t sinks) {
  auto marks = batch.answer_tokens.select(1, 0);
  auto ranks = answer_ranks(state.selected, state.selected.marked(marks), sinks)[b]
                   .to(at::kCPU)
                   .nonzero()
                   .squeeze(1);
  for (const auto& layer : state.layers) {
    auto latents = valid_orders(layer.latents.order, layer.latents.valid, b);
    bool all = true;
    for (int64_t i = 0; i < ranks.numel(); ++i)
      all &= latents.count(ranks.data_ptr<int64_t>()[i]) > 0;
    if (all) return true;
  }
  return false;
}

// Where the answer's tokens stand: an exact key where every layer (and head, where heads hold their
// own) holds all of them, gone where none holds any.
void locate_answer(const Batch& batch, const MethodState& state, const AnswerEntries& entries,
                   int64_t b, int64_t sinks, QuestionResult& question) {
  auto marked = entries.marked.data_ptr<int64_t>()[b];
  auto chosen = entries.chosen.data_ptr<int64_t>()[b];
  if (marked == 0) return;
  auto sets = entries.held.size(1);
  const auto* held = entries.held.data_ptr<int64_t>() + b * sets;
  auto total = std::accumulate(held, held + sets, int64_t{0});
  question.answer_held = double(total) / double(marked * sets);
  if (chosen < marked) {
    question.place = AnswerPlace::kNotChosen;
    return;
  }
  question.place = total == marked * sets ? AnswerPlace::kExact
                   : total == 0           ? AnswerPlace::kLatent
                                          : AnswerPlace::kMixed;
  bool compressed = std::any_of(state.layers.begin(), state.layers.end(),
                                [](const auto& layer) { return !layer.latents.empty(); });
  question.retained = compressed && in_latents(batch, state, b, sinks);
}

}  // namespace

void locate_answers(const Batch& batch, const MethodState& state, int64_t sinks,
                    QuestionResult* questions) {
  auto entries = answer_entries(batch, state, sinks);
  for (int64_t b = 0; b < batch.size(); ++b)
    locate_answer(batch, state, entries, b, sinks, questions[b]);
}

}  // namespace dsrsq
