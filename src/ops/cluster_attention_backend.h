// What a device provides for cluster_attention. Only the operator itself is registered with torch:
// what the forward pass keeps for the backward pass is a matter between the two.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "dsrsq/ops/cluster_attention.h"

namespace dsrsq::ops {

struct ClusterAttentionArguments {
  at::Tensor q, k, v, assignment, routes;
  std::optional<at::Tensor> key_bias;
  ClusterAttentionOptions options;
};

struct ClusterAttentionKept {
  at::Tensor out, lse;
  at::Tensor index;  // undefined where the device keeps none
};

struct ClusterAttentionGradients {
  at::Tensor dq, dk, dv;
  at::Tensor d_key_bias;  // undefined without key_bias
};

struct ClusterAttentionBackend {
  ClusterAttentionKept (*forward)(const ClusterAttentionArguments&);
  ClusterAttentionGradients (*backward)(const ClusterAttentionArguments&,
                                        const ClusterAttentionKept&, const at::Tensor& d_out);
};

// The device's entry; each device's file fills in its own when the library is loaded.
ClusterAttentionBackend& cluster_attention_backend(at::DeviceType device);

}  // namespace dsrsq::ops
