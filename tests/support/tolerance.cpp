#include "support/tolerance.h"

#include <map>
#include <utility>

namespace dsrsq::testing {

Tolerance parity_tolerance(const std::string& op, at::ScalarType dtype) {
  static const std::map<std::pair<std::string, at::ScalarType>, Tolerance> kTable = {
      // Sums of a few hundred members in fp32; bf16 keys are widened exactly, so they need no more.
      {{"cluster_assign", at::kDouble}, {1e-5, 1e-5}},
      {{"cluster_assign", at::kFloat}, {1e-5, 1e-5}},
      {{"cluster_assign", at::kBFloat16}, {1e-5, 1e-5}},
      {{"cluster_assign", at::kHalf}, {1e-5, 1e-5}},
      // On CUDA fp32 inputs are multiplied at 16 bits of mantissa; double and half become fp32
      // there.
      {{"attention_mass", at::kDouble}, {2e-4, 1e-5}},
      {{"attention_mass", at::kFloat}, {2e-4, 1e-5}},
      {{"attention_mass", at::kBFloat16}, {2e-5, 1e-6}},
      {{"attention_mass", at::kHalf}, {2e-4, 1e-5}},
      // Scores are fp32 of any type of rows.
      {{"retrieval_topk", at::kDouble}, {1e-5, 1e-5}},
      {{"retrieval_topk", at::kFloat}, {1e-5, 1e-5}},
      {{"retrieval_topk", at::kBFloat16}, {1e-5, 1e-5}},
      {{"retrieval_topk", at::kHalf}, {1e-5, 1e-5}},
      {{"gather_tokens", at::kDouble}, kExact},
      {{"gather_tokens", at::kFloat}, kExact},
      {{"gather_tokens", at::kBFloat16}, kExact},
      {{"gather_tokens", at::kHalf}, kExact},
      // fp32 on CUDA.
      {{"subset_log_prob", at::kDouble}, {1e-5, 1e-5}},
      {{"subset_log_prob", at::kFloat}, {1e-5, 1e-5}},
      // Logarithms to two units in the last place.
      {{"reservoir_update", at::kDouble}, {1e-15, 1e-14}},
      // As attention_mass. bf16: absorbed queries, rebuilt keys and weights are rounded to it on
      // CUDA,
      // as queries and weights are in attention over exact keys; outputs are bf16.
      {{"latent_attention", at::kDouble}, {2e-4, 2e-4}},
      {{"latent_attention", at::kFloat}, {2e-4, 2e-4}},
      {{"latent_attention", at::kBFloat16}, {1e-2, 1e-2}},
      {{"latent_attention", at::kHalf}, {1e-3, 5e-4}},
      // Sums of up to some hundred products in fp32; on CUDA fp32 weights have 16 bits of mantissa.
      {{"latent_project", at::kDouble}, {1e-5, 1e-4}},
      {{"latent_project", at::kFloat}, {1e-5, 1e-4}},
      {{"latent_project", at::kBFloat16}, {1e-4, 1e-4}},
      {{"latent_project", at::kHalf}, {1e-5, 1e-4}},
  };
  return kTable.at({op, dtype});
}

}  // namespace dsrsq::testing
