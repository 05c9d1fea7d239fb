#include "dsrsq/model/attention_stats.h"

#include <torch/torch.h>

namespace dsrsq {

void count_attended(const AttentionInput& input, const at::Tensor& attended, int64_t query_heads,
                    AttentionStats& stats) {
  auto padding = input.valid.logical_not().unsqueeze(1);  // [B, 1, T]
  auto own = attended.masked_fill(padding, 0);
  auto seen = (input.order + 1).unsqueeze(1).masked_fill(padding, 0).expand_as(own);
  stats.add(stats.rows, input.valid.sum() * own.size(1) * query_heads);
  stats.add(stats.sparse_rows, (own * 2 < seen).sum() * query_heads);
  stats.add(stats.attended_pairs, own.sum() * query_heads);
  stats.add(stats.visible_pairs, seen.sum() * query_heads);
}

}  // namespace dsrsq
