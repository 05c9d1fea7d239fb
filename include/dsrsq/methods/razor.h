// RazorAttention (arXiv 2407.15891): a few retrieval heads keep the whole context; the others keep
// the first and the last tokens, and one entry that stands for all that they dropped.
#pragma once

#include <vector>

#include "dsrsq/methods/eviction.h"

namespace dsrsq {

struct RazorConfig {
  double echo_share = 0.01;
  double induction_share = 0.14;
  int64_t search_tokens = 2500;
  int64_t search_repeats = 4;
  int64_t sinks = 4;
  double retrieval_budget = 0.5;
  bool compensation = true;
  void visit_fields(ConfigVisitor& v);
};

// How much of a query's attention goes to earlier tokens that are the same (echo) and to those
// right behind them (induction), mean over the queries of all repeats of a random text but the
// first.
struct HeadScores {
  at::Tensor echo;       // [layers, H] fp32 on the CPU
  at::Tensor induction;  // [layers, H]
};

// Reads `begin_id` and `repeats` times the same `tokens` random ids, no id twice among them (as
// many as the vocabulary has at most). Attention rows are computed block by block.
HeadScores search_heads(const LanguageModelView& model, const AttentionShape& shape,
                        const RazorConfig& config, at::Device device);

struct RetrievalHead {
  int64_t layer = 0, head = 0;  // key-value head
  double echo = 0, induction = 0;
  bool by_echo = false;  // else by induction
};
// The key-value heads whose best query head is among the `echo_share` highest by echo, then those
// among the `induction_share` highest by induction, over all layers, each list from its best on.
std::vector<RetrievalHead> retrieval_heads(const HeadScores& scores, int64_t key_value_heads,
                                           const RazorConfig& config);

// The paper's sizes (4,000 local tokens, or a fifth of the context) know no budget. Here retrieval
// heads, in their order, keep the whole context as long as that takes at most `retrieval_budget` of
// the budget; all other heads share the rest evenly. The entry that stands for D dropped tokens
// holds their mean key and value, and log D is added to its logit, so that it weighs as much as D
// tokens (equation 5 of the paper).
class RazorMethod : public EvictionMethod {
 public:
  RazorMethod(const EvictionConfig& config, const RazorConfig& own, const TransformerConfig& model)
      : EvictionMethod(config, model), own_(own) {}
  std::string method_name() const override { return "razor"; }
  // Searches the heads once: they belong to the weights, not to a sequence.
  void prepare(const Batch& batch, const LanguageModelView& model, MethodState& state) override;
  // Scores of the retrieval heads by layer and head, once they were searched.
  std::map<std::string, double> scalars() const override;
  void set_retrieval_heads(std::vector<RetrievalHead> heads) { heads_ = std::move(heads); }

 protected:
  at::Tensor score(const AttentionInput& input, const LayerState& layer,
                   const EvictionMemory& memory) override;
  at::Tensor capacities(int64_t layer, const EvictionMemory& memory) const override;
  void after_eviction(const LayerState& layer, const at::Tensor& dropped,
                      HeadEntries& group) const override;

 private:
  RazorConfig own_;
  std::optional<std::vector<RetrievalHead>> heads_;
};

}  // namespace dsrsq
