#include "dsrsq/attention/window.h"

#include <torch/torch.h>

#include <algorithm>

#include "dsrsq/attention/dense.h"

namespace dsrsq {

at::Tensor window_mask(const at::Tensor& query_order, const at::Tensor& key_order,
                       const at::Tensor& valid, int64_t window, int64_t sinks) {
  auto query = query_order.unsqueeze(1).unsqueeze(-1);  // [B, 1, T, 1]
  auto key = key_order.unsqueeze(1).unsqueeze(2);       // [B, 1, 1, K]
  return (key <= query)
      .logical_and((key >= query - window).logical_or(key < sinks))
      .logical_and(valid.unsqueeze(1).unsqueeze(2));
}

at::Tensor window_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            int64_t window, int64_t sinks) {
  auto batch = q.size(0), heads = q.size(1), rows = q.size(2), width = q.size(3);
  if (rows <= window + 1) return causal_attention(q, k, v);
  auto blocks = (rows + window - 1) / window, missing = blocks * window - rows;
  auto front = std::min(sinks, rows);
  auto longs = q.options().dtype(at::kLong);
  // A block's keys: the sinks, the block before it and the block itself.
  auto own = at::arange(blocks * window, longs).view({blocks, window});
  auto near = at::cat({own - window, own}, 1);  // [blocks, 2 window]
  auto first = at::arange(front, longs).expand({blocks, front});
  auto key_order = at::cat({first, near}, 1);
  // Rows in front of the sequence are none; the sinks are seen where they stand in front.
  auto valid =
      at::cat({at::ones_like(first, at::kBool), (near >= front).logical_and(near < rows)}, 1);
  auto mask = window_mask(own, key_order, valid, window, sinks);  // [blocks, 1, window, keys]

  auto padded_q = at::constant_pad_nd(q, {0, 0, 0, missing});
  auto index = key_order.clamp(0, rows - 1).reshape({-1});
  auto keys_of = [&](const at::Tensor& x) {  // [B, H_kv, T, d] -> [B blocks, H, keys, d]
    auto taken = x.index_select(2, index)
                     .view({batch, x.size(1), blocks, key_order.size(1), width})
                     .transpose(1, 2)
                     .reshape({batch * blocks, x.size(1), key_order.size(1), width});
    return expand_heads(taken, heads);
  };
  auto blocked_q = padded_q.view({batch, heads, blocks, window, width})
                       .transpose(1, 2)
                       .reshape({batch * blocks, heads, window, width});
  // A row behind the end sees no key but its mask must not be empty.
  auto behind = own.unsqueeze(1).unsqueeze(-1) >= rows;
  auto out = read_entries(blocked_q, keys_of(k), keys_of(v),
                          mask.logical_or(behind).repeat({batch, 1, 1, 1}));
  return out.view({batch, blocks, heads, window, width})
      .transpose(1, 2)
      .reshape({batch, heads, blocks * window, width})
      .narrow(2, 0, rows);
}

}  // namespace dsrsq
