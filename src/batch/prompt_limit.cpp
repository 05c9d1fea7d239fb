#include "dsrsq/batch/prompt_limit.h"

#include <torch/torch.h>

#include <algorithm>
#include <vector>

#include "dsrsq/core/error.h"

namespace dsrsq {

Truncation parse_truncation(const std::string& name) {
  if (name == "right") return Truncation::kRight;
  if (name == "middle") return Truncation::kMiddle;
  if (name == "left") return Truncation::kLeft;
  throw ConfigError(concat("truncation: expected right, middle or left, got '", name, "'"));
}

namespace {

// What stays of a context: its first `head` and its last `end` tokens.
struct Kept {
  int64_t head = 0, end = 0;
};

Kept kept_of(int64_t context, int64_t tail, const PromptLimit& limit) {
  tail -= limit.uncounted_tail;
  if (limit.prefix + context + tail <= limit.tokens) return {context, 0};
  auto room = std::max<int64_t>(1, limit.tokens - limit.prefix - tail);
  if (limit.truncation == Truncation::kRight) return {room, 0};
  if (limit.truncation == Truncation::kLeft) return {0, room};
  auto half = limit.tokens / 2;
  Kept kept{std::clamp<int64_t>(half - limit.prefix, 0, room),
            std::clamp<int64_t>(half - tail, 0, room)};
  return kept.head + kept.end > 0 ? kept : Kept{1, 0};
}

}  // namespace

Batch limit_prompt(Batch batch, const PromptLimit& limit) {
  if (limit.tokens == 0) return batch;
  auto lengths = batch.context_valid.sum(1), tails = batch.tail_valid.sum(1);
  std::vector<Kept> kept;
  int64_t longest = 1;
  bool cut = false;
  for (int64_t b = 0; b < batch.size(); ++b) {
    auto length = lengths[b].item<int64_t>();
    kept.push_back(kept_of(length, tails[b].item<int64_t>(), limit));
    longest = std::max(longest, kept.back().head + kept.back().end);
    cut |= kept.back().head + kept.back().end < length;
  }
  if (!cut) return batch;
  if (batch.encoder.defined())
    throw ConfigError(
        "eval.maximum_prompt: expected 0 with a retriever that has a sentence encoder, whose "
        "windows are of the whole context; take data.maximum_context");
  auto index = at::zeros({batch.size(), longest}, at::kLong);  // token 0 where padded
  auto valid = at::zeros({batch.size(), longest}, at::kBool);
  for (int64_t b = 0; b < batch.size(); ++b) {
    auto [head, end] = kept[size_t(b)];
    auto length = lengths[b].item<int64_t>();
    index[b].slice(0, 0, head).copy_(at::arange(head));
    index[b].slice(0, head, head + end).copy_(at::arange(length - end, length));
    valid[b].slice(0, 0, head + end).fill_(true);
  }
  batch.context = batch.context.gather(1, index).masked_fill(valid.logical_not(), 0);
  batch.passage = batch.passage.gather(1, index).masked_fill(valid.logical_not(), -1);
  batch.context_valid = valid;
  auto of_question = index.unsqueeze(1).expand({-1, batch.evidence.size(1), -1});
  for (auto* marks : {&batch.evidence, &batch.answer_tokens})
    *marks = marks->gather(2, of_question).logical_and(valid.unsqueeze(1));
  return batch;
}

}  // namespace dsrsq
