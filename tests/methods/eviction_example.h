// One layer of an eviction method on numbers that one can follow by hand: a context of N tokens
// without sinks, no RoPE, head width 1, so that a logit is q x k.
#pragma once

#include <torch/torch.h>

#include <vector>

#include "dsrsq/methods/eviction.h"

namespace dsrsq::testing {

struct EvictionExample {
  Batch batch;
  AttentionInput input;
  LayerState layer;
};

inline TransformerConfig example_model(int64_t layers, int64_t heads, int64_t key_value_heads) {
  TransformerConfig model;
  model.layers = layers;
  model.width = heads;
  model.heads = heads;
  model.key_value_heads = key_value_heads;
  model.sinks = 0;
  return model;
}

// q [H, N], k [H_kv, N] and v (as k where it is not given).
inline EvictionExample eviction_example(const at::Tensor& q, const at::Tensor& k,
                                        const at::Tensor& v = {}) {
  EvictionExample example;
  auto tokens = k.size(1);
  example.batch.context = at::zeros({1, tokens}, at::kLong);
  example.batch.context_valid = at::ones({1, tokens}, at::kBool);
  auto& input = example.input;
  input.q = q.view({1, q.size(0), tokens, 1});
  input.k = k.view({1, k.size(0), tokens, 1});
  input.v = v.defined() ? v.view({1, v.size(0), tokens, 1}) : input.k;
  input.valid = example.batch.context_valid;
  input.order = at::arange(tokens, at::kLong).unsqueeze(0);
  input.positions = input.order;
  input.segments = {tokens, 0};
  example.layer.append(input.k, input.v, input.positions, input.order, input.valid, {}, false, {},
                       false);
  return example;
}

}  // namespace dsrsq::testing
