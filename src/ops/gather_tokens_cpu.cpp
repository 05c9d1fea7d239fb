// One parallel region: forward over the rows taken, backward over columns of each sequence.
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <type_traits>
#include <vector>

#include "retrieval_backend.h"

namespace dsrsq::ops {
namespace {

constexpr int64_t kColumns = 64;  // of a task's sums

at::Tensor gather_tokens_cpu(const at::Tensor& rows_in, const at::Tensor& index_in) {
  const at::Tensor rows = rows_in.contiguous(), index = index_in.contiguous();
  const int64_t tokens = rows.size(1), slots = index.size(1);
  at::Tensor out = at::empty({rows.size(0), slots, rows.size(2)}, rows.options());
  const auto bytes = static_cast<size_t>(rows.size(2)) * rows.element_size();
  const auto* source = static_cast<const char*>(rows.const_data_ptr());
  auto* target = static_cast<char*>(out.mutable_data_ptr());
  const auto* of_slot = index.const_data_ptr<int64_t>();
  at::parallel_for(0, index.numel(), 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = of_slot[i];
      TORCH_CHECK(row >= -1 && row < tokens, "gather_tokens: expected indices in [-1, ", tokens,
                  "), got ", row);
      if (row < 0) {
        std::memset(target + size_t(i) * bytes, 0, bytes);
      } else {
        std::memcpy(target + size_t(i) * bytes, source + size_t(i / slots * tokens + row) * bytes,
                    bytes);
      }
    }
  });
  return out;
}

// Columns [first, first + count) of a sequence: d_out [n][width] to d_rows [N][width]. `order`:
// slots by their row, equal ones as they stand.
template <typename T>
void sum_columns(const T* d_out, const int64_t* index, const std::vector<int64_t>& order,
                 int64_t width, int64_t first, int64_t count, T* d_rows) {
  using Sum = std::conditional_t<std::is_same_v<T, double>, double, float>;
  for (size_t i = 0; i < order.size();) {
    const int64_t row = index[order[i]];
    Sum sum[kColumns] = {};
    for (; i < order.size() && index[order[i]] == row; ++i) {
      const T* own = d_out + order[i] * width + first;
      for (int64_t c = 0; c < count; ++c) sum[c] += static_cast<Sum>(own[c]);
    }
    if (row < 0) continue;
    for (int64_t c = 0; c < count; ++c) d_rows[row * width + first + c] = static_cast<T>(sum[c]);
  }
}

at::Tensor gather_tokens_backward_cpu(const at::Tensor& d_out_in, const at::Tensor& index_in,
                                      int64_t tokens) {
  const at::Tensor d_out = d_out_in.contiguous(), index = index_in.contiguous();
  const int64_t batch = d_out.size(0), slots = d_out.size(1), width = d_out.size(2);
  at::Tensor d_rows = at::zeros({batch, tokens, width}, d_out.options());
  const int64_t parts = (width + kColumns - 1) / kColumns;
  const auto* of_slot = index.const_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, d_out.scalar_type(), "gather_tokens_backward", [&] {
        const auto* from = d_out.const_data_ptr<scalar_t>();
        auto* to = d_rows.mutable_data_ptr<scalar_t>();
        at::parallel_for(0, batch * parts, 1, [&](int64_t begin, int64_t end) {
          std::vector<int64_t> order(static_cast<size_t>(slots));
          int64_t sorted = -1;  // the sequence that `order` is of
          for (int64_t i = begin; i < end; ++i) {
            const int64_t b = i / parts, first = i % parts * kColumns;
            const int64_t* own = of_slot + b * slots;
            if (b != sorted) {
              std::iota(order.begin(), order.end(), int64_t{0});
              std::stable_sort(order.begin(), order.end(),
                               [&](int64_t x, int64_t y) { return own[x] < own[y]; });
              sorted = b;
            }
            sum_columns(from + b * slots * width, own, order, width, first,
                        std::min(kColumns, width - first), to + b * tokens * width);
          }
        });
      });
  return d_rows;
}

const bool kRegistered = [] {
  gather_tokens_backend(at::kCPU) = {gather_tokens_cpu, gather_tokens_backward_cpu};
  return true;
}();

}  // namespace
}  // namespace dsrsq::ops
