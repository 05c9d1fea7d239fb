#include "dsrsq/methods/quest.h"

#include <torch/torch.h>

#include <algorithm>
#include <limits>

#include "dsrsq/attention/dense.h"

namespace dsrsq {

void QuestConfig::visit_fields(ConfigVisitor& v) {
  v.field("page", page, "Keys of a page.", at_least(1));
  v.field("dense_layers", dense_layers,
          "First layers that attend everything, as long as half of the budget pays for it.",
          at_least(0));
}

at::Tensor page_bounds(const at::Tensor& keys, const at::Tensor& valid, int64_t page) {
  auto tokens = keys.size(2), pages = (tokens + page - 1) / page;
  auto missing = pages * page - tokens;
  auto padding = at::constant_pad_nd(valid.logical_not(), {0, missing}, 1);  // [B, P x page]
  auto paged = at::constant_pad_nd(keys, {0, 0, 0, missing})
                   .view({keys.size(0), keys.size(1), pages, page, keys.size(3)});
  auto outside = padding.view({keys.size(0), 1, pages, page, 1});
  auto infinity = std::numeric_limits<double>::infinity();
  auto bounds = at::stack(
      {paged.masked_fill(outside, infinity).amin(3), paged.masked_fill(outside, -infinity).amax(3)},
      3);
  return bounds.masked_fill(outside.all(3).unsqueeze(3), 0);
}

at::Tensor page_scores(const at::Tensor& q, const at::Tensor& bounds) {
  // max(q least, q greatest) is q greatest where q is positive, q least elsewhere.
  auto least = expand_heads(bounds.select(3, 0), q.size(1)).transpose(2, 3);
  auto greatest = expand_heads(bounds.select(3, 1), q.size(1)).transpose(2, 3);
  return at::matmul(q.clamp_min(0), greatest) + at::matmul(q.clamp_max(0), least);
}

at::Tensor QuestMethod::importance(const at::Tensor& q, const LayerState& layer,
                                   SelectiveReadMemory& memory, int64_t layer_number) const {
  auto scores = page_scores(q, memory.page_bounds[size_t(layer_number)]);
  // By rank, so that pages of equal score stay whole; within a page from its first key on.
  auto rank = scores.argsort(/*stable=*/true, /*dim=*/-1, /*descending=*/true)
                  .argsort(/*dim=*/int64_t{-1}, /*descending=*/false);
  auto place = at::arange(own_.page, rank.options());
  auto order = (rank.unsqueeze(-1) * own_.page + place).flatten(3).narrow(3, 0, memory.slots);
  return -order.to(at::kDouble);
}

std::vector<int64_t> QuestMethod::reads(int64_t layer_number,
                                        const SelectiveReadMemory& memory) const {
  std::vector<int64_t> counts;
  for (size_t b = 0; b < memory.context.size(); ++b) {
    auto context = memory.context[b], entries = memory.budget[b] * shape_.layers;
    auto dense = std::min(
        {own_.dense_layers, entries / 2 / std::max<int64_t>(1, context), shape_.layers - 1});
    if (memory.budget[b] >= context) dense = 0;  // every layer is
    counts.push_back(layer_number < dense ? context
                                          : (entries - dense * context) / (shape_.layers - dense));
  }
  return counts;
}

void QuestMethod::context_read(const LayerState& layer, SelectiveReadMemory& memory,
                               int64_t layer_number) const {
  if (layer.entries() < sinks_ + memory.slots) return;
  memory.page_bounds[size_t(layer_number)] =
      page_bounds(layer.keys.narrow(2, sinks_, memory.slots),
                  layer.valid.narrow(1, sinks_, memory.slots), own_.page);
}

}  // namespace dsrsq
