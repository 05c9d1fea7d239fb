// What a TextStream carries on: its size, how it stands, by name for snapshots.
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "dsrsq/core/error.h"
#include "dsrsq/core/logging.h"
#include "dsrsq/methods/text_stream.h"

namespace dsrsq {

namespace {

using Tensors = std::map<std::string, at::Tensor>;

struct Field {
  std::string name;
  at::Tensor* tensor;
};

// Every tensor of a layer that a stream carries on.
std::vector<Field> layer_fields(int64_t number, LayerState& layer) {
  auto& latents = layer.latents;
  std::vector<Field> fields{{"keys", &layer.keys},
                            {"values", &layer.values},
                            {"positions", &layer.positions},
                            {"order", &layer.order},
                            {"valid", &layer.valid},
                            {"cluster", &layer.cluster},
                            {"mass", &layer.mass},
                            {"exposure", &layer.exposure},
                            {"bias", &layer.bias},
                            {"cluster_direction", &layer.cluster_direction},
                            {"cluster_mean", &layer.cluster_mean},
                            {"latents.keys", &latents.keys},
                            {"latents.values", &latents.values},
                            {"latents.positions", &latents.positions},
                            {"latents.order", &latents.order},
                            {"latents.priority", &latents.priority},
                            {"latents.valid", &latents.valid},
                            {"latents.bias", &latents.bias}};
  for (auto& field : fields) field.name = concat("layer_", number, ".", field.name);
  return fields;
}

double largest_norm(const at::Tensor& rows, const at::Tensor& valid) {
  auto norms = rows.to(at::kFloat).norm(2, -1).masked_fill(valid.logical_not(), 0);
  return norms.numel() > 0 ? norms.max().item<double>() : 0;
}

bool all_finite(const at::Tensor& x) { return !x.defined() || at::isfinite(x).all().item<bool>(); }

at::Tensor longs(const std::vector<int64_t>& values) { return at::tensor(values, at::kLong); }

}  // namespace

int64_t TextStream::bytes() const {
  auto total = method_->state_bytes(state_);
  for (const auto& tensor : {input_tail_, state_.next_order, state_.next_position})
    if (tensor.defined()) total += int64_t(tensor.nbytes());
  // A segment's tokens of each stream, however many of them wait.
  return total + streams() * segment_ * int64_t(sizeof(int32_t));
}

StreamHealth TextStream::health() const {
  at::NoGradGuard no_grad;
  StreamHealth health;
  for (auto fed : fed_) health.tokens += fed;
  health.segments = segments_;
  health.state_bytes = bytes();
  health.latent_mass = latent_mass_;
  std::vector<at::Tensor> ages, priorities;
  const auto window = method_->config().rckv.window;
  for (const auto& layer : state_.layers) {
    for (const auto& tensor : {layer.keys, layer.values, layer.mass})
      health.finite = health.finite && all_finite(tensor);
    if (layer.entries() > 0)
      health.window_key_norm =
          std::max(health.window_key_norm, largest_norm(layer.keys, layer.valid.unsqueeze(1)));
    const auto& latents = layer.latents;
    if (latents.empty()) continue;
    health.finite = health.finite && all_finite(latents.keys) && all_finite(latents.values);
    health.key_norm = std::max(health.key_norm, largest_norm(latents.keys, latents.valid));
    health.value_norm = std::max(health.value_norm, largest_norm(latents.values, latents.valid));
    ages.push_back((state_.next_order.unsqueeze(1) - latents.order).masked_select(latents.valid));
    priorities.push_back(latents.priority.masked_select(latents.valid));
    health.finite = health.finite && all_finite(priorities.back());
  }
  auto left = (state_.next_order - sinks_ - window).clamp_min(0).sum().item<int64_t>();
  health.latents_of = left * int64_t(state_.layers.size());
  if (ages.empty() || at::cat(ages).numel() == 0) return health;
  auto age = at::cat(ages).to(at::kDouble);
  health.latents = age.numel();
  health.age_median = age.median().item<double>();
  health.age_oldest = age.max().item<double>();
  health.priority_median = at::cat(priorities).median().item<double>();
  return health;
}

Tensors TextStream::tensors() const {
  Tensors tensors;
  auto add = [&](const std::string& name, const at::Tensor& tensor) {
    if (tensor.defined()) tensors[name] = tensor.detach().to(at::kCPU).contiguous().clone();
  };
  std::vector<int64_t> closed, padded;
  for (size_t i = 0; i < state_.layers.size(); ++i) {
    auto layer = state_.layers[i];
    for (const auto& field : layer_fields(int64_t(i), layer)) add(field.name, *field.tensor);
    closed.push_back(layer.closed);
    padded.push_back(layer.padded);
  }
  for (size_t i = 0; i < state_.conv_tails.size(); ++i)
    add(concat("conv_tail_", i), state_.conv_tails[i]);
  add("input_tail", input_tail_);
  add("next_order", state_.next_order);
  add("next_position", state_.next_position);
  add("closed", longs(closed));
  add("padded", longs(padded));
  add("fed", longs(fed_));
  add("document", longs(document_));
  add("document_begin", longs(document_begin_));
  add("segments", longs({segments_}));
  for (size_t b = 0; b < waiting_.size(); ++b)
    add(concat("waiting_", b), at::tensor(waiting_[b], at::kInt));
  return tensors;
}

void TextStream::restore(const Tensors& tensors, const std::string& where) {
  at::NoGradGuard no_grad;
  size_t used = 0;
  auto take = [&](const std::string& name) -> at::Tensor {
    auto found = tensors.find(name);
    if (found == tensors.end()) return {};
    ++used;
    return found->second;
  };
  auto fail = [&](const std::string& name, const std::string& expected) {
    throw CheckpointError(concat(where, ": ", name, ": expected ", expected,
                                 "; is it the snapshot of another model, or of another number of "
                                 "streams?"));
  };
  auto numbers = [&](const std::string& name, size_t count) {
    auto tensor = take(name);
    if (!tensor.defined() || tensor.scalar_type() != at::kLong || tensor.dim() != 1 ||
        size_t(tensor.size(0)) != count)
      fail(name, concat(count, " integers"));
    const auto* begin = tensor.const_data_ptr<int64_t>();
    return std::vector<int64_t>(begin, begin + count);
  };
  auto size = streams(), layers = int64_t(state_.layers.size());
  const auto& shape = method_->shape();
  const auto& rckv = method_->config().rckv;
  auto closed = numbers("closed", size_t(layers)), padded = numbers("padded", size_t(layers));
  MethodState state = start_;
  for (int64_t i = 0; i < layers; ++i) {
    auto& layer = state.layers[size_t(i)];
    layer = LayerState();
    for (const auto& field : layer_fields(i, layer)) {
      auto tensor = take(field.name);
      if (!tensor.defined()) continue;
      if (tensor.dim() < 2 || tensor.size(0) != size)
        fail(field.name, concat("the state of ", size, " streams"));
      *field.tensor = tensor.to(model_->device());
    }
    // What a layer keeps is a matter of the configuration, latents once a token has left the
    // window.
    auto fields = layer_fields(i, layer), at_start = layer_fields(i, start_.layers[size_t(i)]);
    for (size_t f = 0; f < fields.size(); ++f) {
      bool latent = fields[f].name.find("latents") != std::string::npos;
      bool expected = latent ? layer.latents.keys.defined() : at_start[f].tensor->defined();
      bool optional = (latent && fields[f].name.ends_with("bias")) || sinks_ == 0 ||
                      fields[f].name.find("cluster_") != std::string::npos;
      if (!optional && fields[f].tensor->defined() != expected)
        fail(fields[f].name, expected ? "a tensor, got none" : "none, got a tensor");
    }
    if (!layer.keys.defined() && sinks_ == 0) continue;  // nothing was read
    auto heads = {size, shape.key_value_heads, layer.entries(), shape.head_width};
    auto most = sinks_ + rckv.window;
    if (!layer.keys.defined() || layer.keys.sizes() != at::IntArrayRef(heads) ||
        layer.entries() > most || layer.values.sizes() != layer.keys.sizes() ||
        !layer.order.defined() || layer.order.size(1) != layer.entries() || !layer.valid.defined())
      fail(concat("layer_", i, ".keys"), concat("at most ", most, " entries of ",
                                                shape.key_value_heads, " x ", shape.head_width));
    const auto& latents = layer.latents;
    if (!latents.empty() &&
        (latents.keys.size(1) > rckv.buffer_length || latents.keys.size(2) != rckv.latent_width ||
         !latents.priority.defined() || latents.priority.size(1) != latents.keys.size(1)))
      fail(concat("layer_", i, ".latents.keys"),
           concat("at most ", rckv.buffer_length, " latents of width ", rckv.latent_width));
    layer.closed = closed[size_t(i)];
    layer.padded = padded[size_t(i)] != 0;
  }
  for (auto& tail : state.conv_tails) tail = at::Tensor();
  state.conv_tails.resize(size_t(layers));
  for (int64_t i = 0; i < layers; ++i) {
    auto tail = take(concat("conv_tail_", i));
    if (sinks_ > 0 && tail.defined() != start_.conv_tails[size_t(i)].defined())
      fail(concat("conv_tail_", i), "what the convolution carries on");
    if (tail.defined()) state.conv_tails[size_t(i)] = tail.to(model_->device());
  }
  auto input_tail = take("input_tail");
  if (input_tail.defined() != input_tail_.defined() ||
      (input_tail.defined() && input_tail.sizes() != input_tail_.sizes()))
    fail("input_tail", "what the retriever's convolution carries on");
  auto next_order = numbers("next_order", size_t(size)),
       next_position = numbers("next_position", size_t(size));
  state.next_order = longs(next_order).to(model_->device());
  state.next_position = longs(next_position).to(model_->device());
  auto fed = numbers("fed", size_t(size)), document = numbers("document", size_t(size)),
       begin = numbers("document_begin", size_t(size));
  auto segments = numbers("segments", 1);
  std::vector<std::vector<int32_t>> waiting;
  for (int64_t b = 0; b < size; ++b) {
    auto ids = take(concat("waiting_", b));
    if (!ids.defined() || ids.scalar_type() != at::kInt || ids.dim() != 1 ||
        ids.size(0) >= segment_)
      fail(concat("waiting_", b), concat("less than ", segment_, " tokens"));
    const auto* first = ids.const_data_ptr<int32_t>();
    waiting.emplace_back(first, first + ids.size(0));
  }
  if (used != tensors.size())
    fail("tensors", concat(used, " that are known, got ", tensors.size()));
  state_ = std::move(state);
  if (input_tail.defined()) input_tail_ = input_tail.to(model_->device());
  fed_ = std::move(fed);
  document_ = std::move(document);
  document_begin_ = std::move(begin);
  segments_ = segments[0];
  waiting_ = std::move(waiting);
  for (size_t b = 0; b < options_.histories.size(); ++b) {
    auto& history = *options_.histories[b];
    auto read = fed_[b] - int64_t(waiting_[b].size());
    history.truncate(read);
    if (history.end() < read)
      log_warning(history.path(), ": holds the stream up to token ", history.end(),
                  ", the snapshot up to ", read, ": the ", read - history.end(),
                  " between them cannot be searched");
  }
}

}  // namespace dsrsq
