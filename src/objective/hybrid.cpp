#include "dsrsq/objective/hybrid.h"

#include <torch/torch.h>

namespace dsrsq {

at::Tensor hybrid_loss(const LossTerms& terms, const std::map<std::string, double>& weights,
                       const std::map<std::string, double>& total_counts) {
  at::Tensor total;
  for (const auto& [name, term] : terms) {
    auto weight = weights.find(name);
    TORCH_CHECK(weight != weights.end(), "hybrid_loss: no weight for the term '", name, "'");
    auto count = total_counts.find(name);
    TORCH_CHECK(count != total_counts.end(), "hybrid_loss: no total count for the term '", name,
                "'");
    if (count->second <= 0) continue;
    auto part = term.sum * (weight->second / count->second);
    total = total.defined() ? total + part : part;
  }
  // Nothing to learn from (a batch of unanswerable questions): a loss of 0 without gradient.
  return total.defined() ? total : at::zeros({});
}

}  // namespace dsrsq
