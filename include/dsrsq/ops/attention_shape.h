// The sizes that attention and the caches share.
#pragma once

#include <cstdint>

namespace dsrsq {

struct AttentionShape {
  int64_t layers = 0;
  int64_t query_heads = 0;      // H
  int64_t key_value_heads = 0;  // H_kv
  int64_t head_width = 0;       // d
};

}  // namespace dsrsq
