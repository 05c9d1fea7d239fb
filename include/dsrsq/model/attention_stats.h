// How AttentionStats grow.
#pragma once

#include "dsrsq/model/method.h"

namespace dsrsq {

// Of a chunk: `attended` int64 [B, h, T], the exact entries that each row attends; a row of `h`
// stands for `query_heads` query heads. It could have seen what stands at or before it; padding
// counts for nothing.
void count_attended(const AttentionInput& input, const at::Tensor& attended, int64_t query_heads,
                    AttentionStats& stats);

}  // namespace dsrsq
