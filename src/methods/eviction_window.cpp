// The observation window of eviction methods: which rows score, and what they attend.
#include <torch/torch.h>

#include <algorithm>
#include <limits>

#include "dsrsq/attention/dense.h"
#include "dsrsq/methods/eviction.h"

namespace dsrsq {

EvictionMethod::Window EvictionMethod::observation_window(const AttentionInput& input,
                                                          const EvictionMemory& memory) const {
  Window window;
  auto tokens = input.valid.size(1);
  std::vector<int64_t> rows;
  for (auto inside : memory.window)
    rows.push_back(std::min(tokens, config_.query_aware ? config_.window : inside));
  auto most = *std::max_element(rows.begin(), rows.end());
  auto place = at::arange(most, input.order.options()).unsqueeze(0);
  auto index = input.valid.sum(1, true) - most + place;
  auto own = at::tensor(rows, at::kLong).to(place.device()).unsqueeze(1);
  window.valid = (place >= most - own).logical_and(index >= 0);
  window.index = index.clamp_min(0);
  return window;
}

namespace {
// Attention probabilities of rows q [B, H, T, d] over the layer's first `keys` entries, softmax
// over what each sees: fp32 [B, H, T, keys]. Values are not read, but for one column.
at::Tensor probabilities(const at::Tensor& q, const at::Tensor& order, const LayerState& layer,
                         int64_t keys) {
  auto mask =
      (layer.order.narrow(1, 0, keys).unsqueeze(1).unsqueeze(2) <= order.unsqueeze(1).unsqueeze(-1))
          .logical_and(layer.valid.narrow(1, 0, keys).unsqueeze(1).unsqueeze(2));
  auto read = masked_attention(q, layer.keys.narrow(2, 0, keys),
                               layer.values.narrow(2, 0, keys).narrow(3, 0, 1), mask);
  return (read.logits - read.lse.unsqueeze(-1)).exp();
}
}  // namespace

at::Tensor EvictionMethod::window_attention(const AttentionInput& input, const LayerState& layer,
                                            const EvictionMemory& memory,
                                            const Window& window) const {
  auto rows = window.index.unsqueeze(1).unsqueeze(-1);
  auto q = input.rotated(input.q);
  q = q.gather(2, rows.expand({-1, q.size(1), -1, q.size(3)}));
  return probabilities(q, input.order.gather(1, window.index), layer, layer.entries())
      .narrow(3, sinks_, memory.slots)
      .masked_fill(window.valid.logical_not().unsqueeze(1).unsqueeze(-1), 0);
}

at::Tensor EvictionMethod::attention_mass(const AttentionInput& input, const LayerState& layer,
                                          const EvictionMemory& memory) const {
  constexpr int64_t kBlock = int64_t{1} << 24;  // probabilities at a time
  auto q = input.rotated(input.q);
  auto tokens = q.size(2), before = layer.entries() - tokens;
  auto rows = std::clamp<int64_t>(kBlock / (q.size(0) * q.size(1) * layer.entries()), 16, 512);
  auto mass =
      at::zeros({q.size(0), q.size(1), layer.entries()},
                q.options().dtype(q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  for (int64_t begin = 0; begin < tokens; begin += rows) {
    auto end = std::min(begin + rows, tokens);
    auto keys = before + end;  // behind them nothing is seen
    auto padding = input.valid.slice(1, begin, end).logical_not().unsqueeze(1).unsqueeze(-1);
    mass.narrow(2, 0, keys)
        .add_(probabilities(q.slice(2, begin, end), input.order.slice(1, begin, end), layer, keys)
                  .masked_fill(padding, 0)
                  .sum(2));
  }
  return mass.narrow(2, sinks_, memory.slots);
}

at::Tensor EvictionMethod::mean_of_group(const at::Tensor& x) const {
  return x.reshape({x.size(0), shape_.key_value_heads, -1, x.size(2)}).mean(2);
}

at::Tensor EvictionMethod::pooled(const at::Tensor& x, const at::Tensor& counts) const {
  auto own = x.masked_fill(counts.logical_not(), 0);
  if (config_.kernel == 1) return own;
  auto around = config_.kernel / 2;
  return config_.pooling == "max" ? at::max_pool1d(own, {config_.kernel}, {1}, {around})
                                  : at::avg_pool1d(own, {config_.kernel}, {1}, {around});
}

at::Tensor EvictionMethod::first_and_last(const EvictionMemory& memory, int64_t sinks) const {
  auto place = at::arange(memory.slots, memory.context_tokens.options());
  return place.to(at::kDouble)
      .masked_fill(place < sinks - sinks_, std::numeric_limits<double>::infinity())
      .expand({memory.context_tokens.size(0), shape_.key_value_heads, memory.slots});
}

at::Tensor EvictionMethod::last_entries(const EvictionMemory& memory,
                                        const std::vector<int64_t>& count) const {
  auto place = at::arange(memory.slots, memory.context_tokens.options()).view({1, 1, -1});
  auto own = at::tensor(count, at::kLong).to(place.device()).view({-1, 1, 1});
  auto end = memory.context_tokens.view({-1, 1, 1});
  return (place >= end - own).logical_and(place < end);
}

}  // namespace dsrsq
