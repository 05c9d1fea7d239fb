// Oracles: the formula of each operator, written in plain ATen in fp64 with explicit masks. They
// share no code with the implementations, run on any device, and are slow on purpose. Only tests
// and benchmarks' checks call them.
#pragma once

#include "dsrsq/ops/attention_mass.h"
#include "dsrsq/ops/cluster_assign.h"
#include "dsrsq/ops/cluster_attention.h"
#include "dsrsq/ops/latent_attention.h"
#include "dsrsq/ops/latent_project.h"
#include "dsrsq/ops/reservoir_update.h"
#include "dsrsq/ops/retrieval_topk.h"

namespace dsrsq::ops::reference {

// As ops::cluster_assign; sums and counts come back in fp64.
ClusterAssignment cluster_assign(const at::Tensor& keys, const at::Tensor& centroids,
                                 const at::Tensor& bias,
                                 const std::optional<at::Tensor>& valid = std::nullopt);

// As ops::cluster_attention, differentiable: one softmax over the explicit union of a query's keys.
ClusterAttention cluster_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                   const at::Tensor& assignment, const at::Tensor& routes,
                                   const std::optional<at::Tensor>& key_bias,
                                   const ClusterAttentionOptions& options);

// As ops::attention_mass; sums come back in fp64.
AttentionMass attention_mass(const AttentionMassInputs& inputs,
                             const AttentionMassOptions& options);

// As ops::retrieval_topk; scores come back in fp64.
RetrievalTopk retrieval_topk(const RetrievalTopkInputs& inputs,
                             const RetrievalTopkOptions& options);

// As ops::gather_tokens, differentiable, in fp64: a product with the matrix of choices.
at::Tensor gather_tokens(const at::Tensor& rows, const at::Tensor& index);

// As ops::subset_log_prob, differentiable, in fp64: one pick after another.
at::Tensor subset_log_prob(const at::Tensor& score, const at::Tensor& candidate,
                           const at::Tensor& mask);

// As ops::reservoir_update.
ReservoirUpdate reservoir_update(const ReservoirInputs& inputs, const ReservoirOptions& options);

// As ops::latent_attention, differentiable: keys and values of every slot and head rebuilt whole,
// rotated, one softmax; in fp64.
LatentAttention latent_attention(const LatentAttentionInputs& inputs,
                                 const LatentAttentionOptions& options);

// As ops::latent_project, differentiable, in fp64.
Latents latent_project(const LatentProjectInputs& inputs);

}  // namespace dsrsq::ops::reference
