// What the implementations of the operators of retrieval and of the reservoir demand of their
// arguments. Each throws c10::Error naming the argument, what was expected and what was found.
#pragma once

#include "dsrsq/ops/reservoir_update.h"
#include "dsrsq/ops/retrieval_topk.h"

namespace dsrsq::ops {

void check_retrieval_topk(const RetrievalTopkInputs& in, const RetrievalTopkOptions& options);
void check_gather_tokens(const at::Tensor& rows, const at::Tensor& index);
void check_subset_log_prob(const at::Tensor& score, const at::Tensor& candidate,
                           const at::Tensor& mask);
void check_reservoir_update(const ReservoirInputs& in, const ReservoirOptions& options);

}  // namespace dsrsq::ops
