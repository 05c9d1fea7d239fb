// Quest (arXiv 2406.10774): pages of keys with their least and greatest value a dimension; a query
// attends the pages whose keys could give it the highest logit.
#pragma once

#include "dsrsq/methods/selective_read.h"

namespace dsrsq {

struct QuestConfig {
  int64_t page = 16;
  int64_t dense_layers = 2;
  void visit_fields(ConfigVisitor& v);
};

// Bounds [B, H_kv, P, 2, d] (least, greatest) of keys [B, H_kv, N, d] in pages of `page`; valid [B,
// N] bool: what is padding bounds nothing. A page of padding has bounds 0.
at::Tensor page_bounds(const at::Tensor& keys, const at::Tensor& valid, int64_t page);
// The upper bound of q k over the keys of each page, sum_d max(q_d least_d, q_d greatest_d): q [B,
// H, T, d] -> [B, H, T, P].
at::Tensor page_scores(const at::Tensor& q, const at::Tensor& bounds);

// The first `dense_layers` attend everything, as the authors run it, as long as that takes at most
// half of the budget; the other layers share the rest, so that the mean over layers is the budget.
// The last page is cut at the budget. Bounds are part of the bytes held.
class QuestMethod : public SelectiveReadMethod {
 public:
  QuestMethod(const EvictionConfig& config, const QuestConfig& own, const TransformerConfig& model)
      : SelectiveReadMethod(config, model), own_(own) {}
  std::string method_name() const override { return "quest"; }

 protected:
  at::Tensor importance(const at::Tensor& q, const LayerState& layer, SelectiveReadMemory& memory,
                        int64_t layer_number) const override;
  std::vector<int64_t> reads(int64_t layer_number,
                             const SelectiveReadMemory& memory) const override;
  void context_read(const LayerState& layer, SelectiveReadMemory& memory,
                    int64_t layer_number) const override;

 private:
  QuestConfig own_;
};

}  // namespace dsrsq
