// Which keys chosen queries read: their attention probabilities by the key's rank in the reader's
// sequence. A teacher for the retriever, and what one looks at to see what a model reads.
#pragma once

#include <ATen/core/Tensor.h>

namespace dsrsq {

// The flagged positions of each sequence, side by side.
struct FlaggedRows {
  at::Tensor index;  // [B, n] int64; n is the most of any sequence
  at::Tensor
      question;  // [B, n] int64 which question's row it is; -1: fills up a sequence with fewer
  int64_t count() const { return index.size(1); }
};
FlaggedRows flagged_rows(const at::Tensor& rows);  // [B, T] int64, -1: not flagged

// x [B, H, T, ...] -> [B, H, n, ...], its flagged positions.
at::Tensor take_rows(const at::Tensor& x, const FlaggedRows& rows);

// Adds exp(logits - lse), summed over heads and flagged rows, to read_mass [B, Q, ranks] fp32 at
// the ranks of the keys; read_mass starts undefined and grows as ranks come. No gradient.
//   logits [B, H, n, keys], lse [B, H, n], question [B, n] int64 (-1: none), key_order [B, keys]
void add_read_mass(at::Tensor& read_mass, const at::Tensor& logits, const at::Tensor& lse,
                   const at::Tensor& question, int64_t questions, const at::Tensor& key_order);

}  // namespace dsrsq
