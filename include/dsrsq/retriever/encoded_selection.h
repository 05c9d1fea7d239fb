// The choice of the top tokens straight from encoded text: as select_top (selection.h) of the
// scores, which are never made (ops/retrieval_topk.h).
#pragma once

#include <ATen/core/Tensor.h>

#include "dsrsq/retriever/selection.h"

namespace dsrsq {

struct EncodedText {
  at::Tensor questions;        // E_q [B, Q, r] fp32
  at::Tensor questions_valid;  // [B, Q] bool
  at::Tensor context;          // E_c [B, N, r] fp32
  at::Tensor context_valid;    // [B, N] bool
};

// What select_top takes under phi = max over questions of E_q . E_c, of equal scores the earlier
// token. The temperature, which is the same for all, changes no order.
SelectedTokens select_top(const EncodedText& text, const at::Tensor& budget, int64_t segment,
                          bool per_segment);

// Whether the operator serves such text; on a CPU always.
bool serves_encoded_selection(const at::Tensor& questions);

}  // namespace dsrsq
