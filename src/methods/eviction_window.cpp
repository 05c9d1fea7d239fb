// What eviction methods score by: the observation window, and what rows attend.
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
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

// Rows whose attention is summed.
struct Rows {
  at::Tensor q;      // [B, H, T, d], rotated
  at::Tensor order;  // [B, T]
  at::Tensor valid;  // [B, T] bool
  at::Tensor lse;    // [B, H, T]; undefined: still to be found
};

// Block by block, so that memory is linear in the layer's entries.
at::Tensor find_lse(const Rows& rows, const LayerState& layer) {
  constexpr int64_t kBlock = int64_t{1} << 24;  // logits at a time
  const auto& q = rows.q;
  auto step = std::clamp<int64_t>(kBlock / (q.size(0) * q.size(1) * layer.entries()), 16, 512);
  auto column = layer.values.narrow(3, 0, 1);  // values are not wanted
  std::vector<at::Tensor> parts;
  for (int64_t begin = 0; begin < q.size(2); begin += step) {
    auto order = rows.order.slice(1, begin, begin + step);
    auto mask = (layer.order.unsqueeze(1).unsqueeze(2) <= order.unsqueeze(1).unsqueeze(-1))
                    .logical_and(layer.valid.unsqueeze(1).unsqueeze(2));
    parts.push_back(
        masked_attention(q.slice(2, begin, begin + step), layer.keys, column, mask).lse);
  }
  return at::cat(parts, 2);
}

// Over `keys` of the layer's entries from the `first` on.
ops::AttentionMassInputs mass_inputs(const Rows& rows, const LayerState& layer, int64_t first,
                                     int64_t keys) {
  auto type = attention_type(rows.q);
  return {rows.q.to(type),
          layer.keys.narrow(2, first, keys).to(type),
          rows.lse.defined() ? rows.lse : find_lse(rows, layer),
          ops::positions_or_padding(rows.order, rows.valid),
          ops::positions_or_padding(layer.order.narrow(1, first, keys),
                                    layer.valid.narrow(1, first, keys)),
          {},
          {},
          {}};
}

ops::AttentionMassOptions dense_mass(const at::Tensor& q) {
  return {1 / std::sqrt(double(q.size(3)))};
}

}  // namespace

ops::AttentionMass EvictionMethod::window_mass(const AttentionInput& input, const LayerState& layer,
                                               const EvictionMemory& memory,
                                               const Window& window) const {
  at::NoGradGuard no_grad;
  auto own_rows = [&](const at::Tensor& x) { return gather_entries(x, window.index, 2); };
  Rows rows{own_rows(input.rotated(input.q)), input.order.gather(1, window.index), window.valid,
            memory.lse.defined() ? own_rows(memory.lse) : memory.lse};
  auto all = mass_inputs(rows, layer, sinks_, memory.slots);
  // One query head of each key-value head at a time: the operator sums over those that share one.
  auto heads = all.q.size(1), groups = all.k.size(1), queries = heads / groups;
  std::vector<at::Tensor> mass, squared;
  for (int64_t member = 0; member < queries; ++member) {
    auto one = all;
    auto own_head = [&](const at::Tensor& x) { return x.slice(1, member, heads, queries); };
    one.q = own_head(all.q);
    one.lse = own_head(all.lse);
    auto sums = ops::attention_mass(one, dense_mass(all.q));
    mass.push_back(sums.mass);
    squared.push_back(sums.squared);
  }
  return {at::stack(mass, 2).flatten(1, 2), at::stack(squared, 2).flatten(1, 2)};
}

ops::AttentionMass EvictionMethod::attention_mass(const AttentionInput& input,
                                                  const LayerState& layer,
                                                  const EvictionMemory& memory) const {
  at::NoGradGuard no_grad;
  Rows rows{input.rotated(input.q), input.order, input.valid, memory.lse};
  return ops::attention_mass(mass_inputs(rows, layer, sinks_, memory.slots), dense_mass(rows.q));
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
