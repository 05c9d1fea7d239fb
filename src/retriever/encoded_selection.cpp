#include "dsrsq/retriever/encoded_selection.h"

#include <torch/torch.h>

#include <algorithm>

#include "dsrsq/ops/retrieval_topk.h"

namespace dsrsq {

namespace {

// Rows of candidates: sequences, or segments of them.
struct Rows {
  at::Tensor questions, questions_valid, context, context_valid;
};

// The count[r] best of each row in document order [R, slots]; unfilled slots, which come last, are
// `beyond`.
at::Tensor best_in_order(const Rows& rows, const at::Tensor& count, int64_t slots, int64_t beyond) {
  ops::RetrievalTopkInputs in{rows.questions, rows.context, count, rows.questions_valid,
                              rows.context_valid};
  auto index = ops::retrieval_topk(in, {std::max<int64_t>(1, slots), 1.0, {}}).index;
  return std::get<0>(index.masked_fill(index < 0, beyond).sort(1)).narrow(1, 0, slots);
}

SelectedTokens from_whole(const EncodedText& text, const at::Tensor& budget, int64_t segment) {
  auto tokens = text.context.size(1);
  auto slots = std::min(tokens, budget.max().item<int64_t>());
  auto index =
      best_in_order({text.questions, text.questions_valid, text.context, text.context_valid},
                    budget, slots, tokens);
  SelectedTokens selected;
  selected.mask = index < tokens;
  selected.index = index.masked_fill(selected.mask.logical_not(), 0);
  for (auto left = slots; left > 0; left -= segment)
    selected.lengths.push_back(std::min(left, segment));
  return selected;
}

// [B, N, ...] -> [B segments, segment, ...], filled up with zeros.
at::Tensor cut(const at::Tensor& x, int64_t segments, int64_t segment) {
  std::vector<int64_t> padding(size_t(2 * (x.dim() - 1)), 0);
  padding.back() = segments * segment - x.size(1);
  auto padded = padding.back() > 0 ? at::constant_pad_nd(x, padding, 0) : x;
  auto sizes = x.sizes().vec();
  sizes[0] *= segments;
  sizes[1] = segment;
  return padded.reshape(sizes);
}

}  // namespace

SelectedTokens select_top(const EncodedText& text, const at::Tensor& budget, int64_t segment,
                          bool per_segment) {
  at::NoGradGuard no_grad;
  if (!per_segment) return from_whole(text, budget, segment);
  auto size = text.context.size(0), tokens = text.context.size(1);
  auto segments = (tokens + segment - 1) / segment;
  // As in selection.cpp: shares go by a sequence's own number of segments, the first ones take the
  // rest, and a budget for the whole context takes it all.
  auto length = text.context_valid.logical_and(text.questions_valid.any(1, true)).sum(1, true);
  auto own = (length + (segment - 1)).floor_divide(segment).clamp_min(1);
  auto asked = budget.unsqueeze(1);
  auto number = at::arange(segments, budget.options()).unsqueeze(0);
  auto share = asked.floor_divide(own) + (asked.remainder(own) > number).to(at::kLong);
  auto count = at::where(asked >= length, at::full_like(share, segment), share)
                   .clamp_max(segment);  // [B, segments]
  auto most = count.amax(0).to(at::kCPU);
  auto slots = std::min(segment, most.max().item<int64_t>());
  Rows rows{text.questions.repeat_interleave(segments, 0),
            text.questions_valid.repeat_interleave(segments, 0),
            cut(text.context, segments, segment), cut(text.context_valid, segments, segment)};
  auto index =
      best_in_order(rows, count.reshape({-1}), slots, segment).view({size, segments, slots});
  SelectedTokens selected;
  std::vector<at::Tensor> places, masks;
  for (int64_t s = 0; s < segments; ++s) {
    auto begin = s * segment;
    auto here = std::min({slots, tokens - begin, most[s].item<int64_t>()});
    auto part = index.select(1, s).narrow(1, 0, here);
    auto filled = part < segment;
    places.push_back((part + begin).masked_fill(filled.logical_not(), 0));
    masks.push_back(filled);
    selected.lengths.push_back(here);
  }
  selected.index = at::cat(places, 1);
  selected.mask = at::cat(masks, 1);
  return selected;
}

bool serves_encoded_selection(const at::Tensor& questions) {
  constexpr int64_t kMostNumbers = 49152;  // ops/retrieval_topk.h
  auto width = (questions.size(2) + 7) / 8 * 8;
  return questions.is_cpu() || questions.size(1) * width <= kMostNumbers;
}

}  // namespace dsrsq
