#include "dsrsq/cache/kv_cache.h"

#include <torch/torch.h>

#include <algorithm>

namespace dsrsq {

namespace {
int64_t tensor_bytes(std::initializer_list<at::Tensor> tensors) {
  int64_t total = 0;
  for (const auto& tensor : tensors)
    if (tensor.defined()) total += tensor.numel() * tensor.element_size();
  return total;
}

at::Tensor joined(const at::Tensor& old, const at::Tensor& more, int64_t dim) {
  return old.defined() ? at::cat({old, more}, dim) : more;
}

// Keys and values, which are many times the rest.
at::Tensor grown(GrowingEntries& entries, const at::Tensor& old, const at::Tensor& more) {
  bool plain = old.defined() && !at::GradMode::is_enabled();
  return plain ? entries.append(old, more, 2) : joined(old, more, 2);
}
}  // namespace

at::Tensor GrowingEntries::append(const at::Tensor& old, const at::Tensor& more, int64_t dim) {
  constexpr int64_t kLeastRoom = 64;
  auto before = old.size(dim), after = before + more.size(dim);
  bool continues = room_ && room_->used == before && room_->all.size(dim) >= after &&
                   old.data_ptr() == room_->all.data_ptr() && old.strides() == room_->all.strides();
  if (!continues) {
    auto sizes = old.sizes().vec();
    sizes[size_t(dim)] = after + std::max(kLeastRoom, after / 8);
    room_ = std::make_shared<Room>(Room{at::empty(sizes, old.options()), 0});
    room_->all.narrow(dim, 0, before).copy_(old);
  }
  room_->all.narrow(dim, before, after - before).copy_(more);
  room_->used = after;
  return room_->all.narrow(dim, 0, after);
}

int64_t LatentBuffer::bytes() const {
  return tensor_bytes({keys, values, positions, order, priority, valid, bias});
}

int64_t LayerState::bytes() const {
  int64_t groups = 0;
  for (const auto& group : head_groups) groups += group.bytes();
  return tensor_bytes({keys, values, positions, order, valid, cluster, mass, exposure, bias,
                       cluster_direction, cluster_mean}) +
         latents.bytes() + groups;
}

at::Tensor HeadEntries::own_heads(const at::Tensor& x) const {
  return heads.defined() ? x.index_select(1, heads) : x;
}

int64_t HeadEntries::bytes() const {
  return tensor_bytes({heads, keys, values, order, valid, bias});
}

void HeadEntries::append(const at::Tensor& new_keys, const at::Tensor& new_values,
                         const at::Tensor& new_order, const at::Tensor& new_valid) {
  auto more_keys = own_heads(new_keys);
  auto sizes = more_keys.sizes().slice(0, 3);  // [B, h, T]
  if (new_valid.defined() && !valid.defined()) valid = at::ones_like(order, at::kBool);
  if (valid.defined()) {
    auto more = new_valid.defined() ? new_valid.unsqueeze(1).expand(sizes)
                                    : at::ones({1}, valid.options()).expand(sizes);
    valid = grown(growing_valid_, valid, more);
  }
  if (bias.defined())
    bias = grown(growing_bias_, bias, at::zeros({1}, bias.options()).expand(sizes));
  order = grown(growing_order_, order, new_order.to(at::kInt).unsqueeze(1).expand(sizes));
  keys = grown(growing_keys_, keys, more_keys);
  values = grown(growing_values_, values, own_heads(new_values));
}

void LayerState::append(const at::Tensor& new_keys, const at::Tensor& new_values,
                        const at::Tensor& new_positions, const at::Tensor& new_order,
                        const at::Tensor& new_valid, const at::Tensor& new_cluster, bool keep_mass,
                        const at::Tensor& new_bias, bool new_padded) {
  if (next_place_.defined()) {
    TORCH_CHECK(!new_bias.defined(), "LayerState: no biases come into reserved room");
    return write(new_keys, new_values, new_positions, new_order, new_valid, new_cluster);
  }
  padded = padded || new_padded;
  bias = join_bias(bias, entries(), new_bias, new_order.size(1));
  keys = grown(growing_keys_, keys, new_keys);
  values = grown(growing_values_, values, new_values);
  positions = joined(positions, new_positions, 1);
  order = joined(order, new_order, 1);
  valid = joined(valid, new_valid, 1);
  if (new_cluster.defined()) cluster = joined(cluster, new_cluster, 2);
  if (keep_mass) {
    auto zeros = at::zeros(new_order.sizes(), new_order.options().dtype(at::kFloat));
    mass = joined(mass, zeros, 1);
    exposure = joined(exposure, zeros, 1);
  }
}

void LayerState::reserve(int64_t tokens) {
  TORCH_CHECK(head_groups.empty() && keys.defined() && !next_place_.defined(),
              "LayerState: room is reserved once, behind entries of the whole layer");
  constexpr int64_t kStep = 16;  // products of the tensor cores want even lengths
  held_before_ = entries();
  padded_before_ = padded;
  padded = true;
  auto room = (held_before_ + tokens + kStep - 1) / kStep * kStep;
  auto widen = [&](at::Tensor& x, int64_t dim, const at::Scalar& rest) {
    if (!x.defined()) return;
    auto sizes = x.sizes().vec();
    sizes[size_t(dim)] = room;
    auto wide = at::full(sizes, rest, x.options());
    wide.narrow(dim, 0, held_before_).copy_(x);
    x = wide;
  };
  widen(keys, 2, 0);
  widen(values, 2, 0);
  widen(cluster, 2, -1);
  widen(positions, 1, 0);
  widen(order, 1, 0);
  widen(valid, 1, false);
  widen(mass, 1, 0);
  widen(exposure, 1, 0);
  widen(bias, 1, 0);
  next_place_ = at::full({1}, held_before_, order.options());
}

void LayerState::write(const at::Tensor& new_keys, const at::Tensor& new_values,
                       const at::Tensor& new_positions, const at::Tensor& new_order,
                       const at::Tensor& new_valid, const at::Tensor& new_cluster) {
  TORCH_CHECK(new_order.size(1) == 1, "LayerState: reserved room takes one entry at a time, got ",
              new_order.size(1));
  keys.index_copy_(2, next_place_, new_keys.to(keys.scalar_type()));
  values.index_copy_(2, next_place_, new_values.to(values.scalar_type()));
  positions.index_copy_(1, next_place_, new_positions);
  order.index_copy_(1, next_place_, new_order);
  valid.index_copy_(1, next_place_, new_valid);
  if (new_cluster.defined()) cluster.index_copy_(2, next_place_, new_cluster);
  next_place_.add_(1);
}

void LayerState::release(int64_t appended, bool some_padded) {
  auto held = held_before_ + appended;
  for (auto* tensor : {&keys, &values, &cluster})
    if (tensor->defined()) *tensor = tensor->narrow(2, 0, held);
  for (auto* tensor : {&positions, &order, &valid, &mass, &exposure, &bias})
    if (tensor->defined()) *tensor = tensor->narrow(1, 0, held);
  padded = padded_before_ || some_padded;
  next_place_ = at::Tensor();
}

at::Tensor join_bias(const at::Tensor& old_bias, int64_t old_entries, const at::Tensor& new_bias,
                     int64_t new_entries) {
  if (!old_bias.defined() && !new_bias.defined()) return {};
  const auto& known = old_bias.defined() ? old_bias : new_bias;
  auto or_zeros = [&](const at::Tensor& x, int64_t entries) {
    return x.defined() ? x : at::zeros({known.size(0), entries}, known.options());
  };
  return at::cat({or_zeros(old_bias, old_entries), or_zeros(new_bias, new_entries)}, 1);
}

at::Tensor gather_entries(const at::Tensor& x, const at::Tensor& index, int64_t dim) {
  auto view = index;
  for (int64_t i = 1; i < dim; ++i) view = view.unsqueeze(1);
  for (int64_t i = dim + 1; i < x.dim(); ++i) view = view.unsqueeze(-1);
  auto sizes = x.sizes().vec();
  sizes[dim] = index.size(-1);
  return x.gather(dim, view.expand(sizes));
}

void LayerState::append_values(const at::Tensor& new_values) {
  values = grown(growing_values_, values, new_values);
}

void LayerState::keep(const at::Tensor& index) {
  keys = gather_entries(keys, index, 2);
  values = gather_entries(values, index, 2);
  positions = gather_entries(positions, index, 1);
  order = gather_entries(order, index, 1);
  valid = gather_entries(valid, index, 1);
  if (cluster.defined()) cluster = gather_entries(cluster, index, 2);
  if (bias.defined()) bias = gather_entries(bias, index, 1);
  if (mass.defined()) {
    mass = gather_entries(mass, index, 1);
    exposure = gather_entries(exposure, index, 1);
  }
}

void LayerState::detach() {
  for (auto* tensor : {&keys, &values, &bias, &latents.keys, &latents.values, &latents.bias})
    if (tensor->defined()) *tensor = tensor->detach();
  for (auto& group : head_groups)
    for (auto* tensor : {&group.keys, &group.values, &group.bias})
      if (tensor->defined()) *tensor = tensor->detach();
}

}  // namespace dsrsq
