// The backbone (D1): a decoder-only transformer, pre-norm.
#pragma once

#include <cstdint>
#include <string>

#include "dsrsq/core/config.h"
#include "dsrsq/ops/attention_shape.h"

namespace dsrsq {

struct TransformerConfig {
  int64_t layers = 12;
  int64_t width = 768;           // D
  int64_t heads = 12;            // H
  int64_t key_value_heads = 12;  // H_kv
  int64_t mlp_width = 2048;
  std::string mlp = "swiglu";
  std::string norm = "rmsnorm";
  std::string position_embedding = "rope";
  double rope_base = 10000;
  int64_t learned_positions = 4096;
  std::string positions = "packed";
  int64_t conv_width = 8;  // 0: no convolution
  bool tie_embeddings = true;
  int64_t sinks = 4;
  double initial_deviation = 0.02;
  std::string init = "random";
  void visit_fields(ConfigVisitor& v);
  void validate(const ConfigLocations& locations) const;  // cross-field; throws ConfigError

  int64_t head_width() const { return width / heads; }
  AttentionShape attention_shape() const { return {layers, heads, key_value_heads, head_width()}; }
};

}  // namespace dsrsq
