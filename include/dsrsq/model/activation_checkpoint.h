// Activation checkpointing (arXiv:1604.06174): a part of the forward pass keeps its inputs alone
// and is run again in the backward pass, memory for arithmetic.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace dsrsq {

// A function of its inputs, and of weights that it captured, that gives the same outputs every
// time. `again`: this is the run in the backward pass. Inputs and outputs may be undefined.
using CheckpointBody =
    std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs, bool again)>;

// body(inputs, false) under no-grad; its outputs have the gradients of body(inputs, true), which
// runs in the backward pass under the same autocast. The gradients of weights go straight into
// their .grad, so it serves Tensor::backward, not torch::autograd::grad, and one backward pass.
std::vector<at::Tensor> run_checkpointed(const CheckpointBody& body,
                                         const std::vector<at::Tensor>& inputs);

}  // namespace dsrsq
