// The backbone (D1): a decoder-only transformer, pre-norm.
#pragma once

#include <cstdint>
#include <string>

#include "dsrsq/core/config.h"
#include "dsrsq/ops/attention_shape.h"
#include "dsrsq/ops/rotary_scaling.h"

namespace dsrsq {

struct TransformerConfig {
  int64_t layers = 12;
  int64_t width = 768;           // D
  int64_t heads = 12;            // H
  int64_t key_value_heads = 12;  // H_kv
  int64_t own_head_width = 0;    // key head_width; 0: width / heads
  int64_t mlp_width = 2048;
  std::string mlp = "swiglu";
  std::string norm = "rmsnorm";
  double norm_epsilon = 1e-5;
  bool query_key_norm = false;
  std::string biases = "none";
  std::string position_embedding = "rope";
  double rope_base = 10000;
  ops::RotaryScaling rope_scaling;
  int64_t learned_positions = 4096;
  std::string positions = "packed";
  int64_t conv_width = 8;  // 0: no convolution
  bool tie_embeddings = true;
  int64_t sinks = 4;
  double initial_deviation = 0.02;
  std::string init = "random";
  int64_t vocabulary_size = 0;  // rows of the embedding; 0: as the tokenizer has
  void visit_fields(ConfigVisitor& v);
  // Of these, what a folder of pretrained weights decides.
  void visit_architecture(ConfigVisitor& v);
  void validate(const ConfigLocations& locations) const;  // cross-field; throws ConfigError

  int64_t head_width() const { return own_head_width > 0 ? own_head_width : width / heads; }
  AttentionShape attention_shape() const { return {layers, heads, key_value_heads, head_width()}; }
};

}  // namespace dsrsq
