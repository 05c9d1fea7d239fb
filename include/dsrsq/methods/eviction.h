// Key-value eviction over a dense reader: the context is read whole, then every key-value head
// keeps a few of its entries, then question and answer are read from what is left. What SnapKV,
// PyramidKV, StreamingLLM and their kin share; each adds its score, and where it has one its own
// split of the budget over layers and heads.
//
// The protocol, one for all of them, so that rows are comparable:
//   - The budget is a share of the bytes of the context's keys and values, over all layers and
//   heads.
//     What stands in front of the context (model.sinks) and what comes behind it (question, answer)
//     is kept by every method alike and is outside the budget.
//   - Eviction takes place once: behind the context (the question is hidden from it), or behind the
//     question (`eviction.query_aware`). Question and answer only append.
//   - Keys stay rotated by their place in the document; places are not renumbered.
//   - Prefill is torch's fused causal attention. A method scores with sums over rows of
//     probabilities, which ops::attention_mass takes from the log-sum-exp of that prefill.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "dsrsq/model/config.h"
#include "dsrsq/model/method.h"
#include "dsrsq/model/shared_prompt.h"
#include "dsrsq/ops/attention_mass.h"

namespace dsrsq {

struct EvictionConfig {
  double share = 0.12;
  bool query_aware = false;
  int64_t window = 32;
  int64_t kernel = 7;
  std::string pooling = "max";
  void visit_fields(ConfigVisitor& v);
  void validate(const ConfigLocations& locations) const;  // throws ConfigError
};

// Tokens of each context and how many of them a budget pays for, by the options or, where they name
// none, by `share`: rounded down, so that no budget is exceeded, but at least one.
struct ContextBudgets {
  std::vector<int64_t> context, budget;  // [B]
};
ContextBudgets context_budgets(const Batch& batch, const PassOptions& options, double share);

// What eviction knows of a batch beside its entries. Slots of a layer: [sinks][context, padded at
// its end][question].
struct EvictionMemory : MethodMemory {
  std::vector<int64_t> sample_ids;  // [B]
  std::vector<int64_t> context;     // [B] tokens of each context
  std::vector<int64_t> budget;      // [B] context entries that a key-value head keeps, on average
  std::vector<int64_t> window;      // [B] last context tokens that are kept because they observe
  at::Tensor context_tokens;        // [B] int64, `context` on the device
  int64_t slots = 0;                // N, of the longest context
  bool evicting = false;            // this chunk is the one behind which entries go
  // [B, H, T], of the chunk and layer that has just attended, until its cache is updated; undefined
  // where its attention gave none.
  at::Tensor lse;
  // [layers] of [B, H_kv, N], where a score needs more than the chunk behind which entries go, or
  // all layers are compared first.
  std::vector<at::Tensor> scores;
  std::vector<at::Tensor> similarity;  // [layers] of fp32 [B], what squeeze compares layers by
  std::vector<at::Tensor> capacity;    // [layers] of int64 [B, H_kv] on the CPU, by compare_layers
  int64_t bytes() const override;
};

class EvictionMethod : public Method, public SharedPrompt {
 public:
  EvictionMethod(const EvictionConfig& config, const TransformerConfig& model)
      : Method(model.attention_shape()), config_(config), sinks_(model.sinks) {}

  // Throws ConfigError where query_aware meets a batch with answers, which it would see.
  MethodState make_state(const Batch& batch, const PassOptions& options) const override;
  at::Tensor attend(const AttentionInput& input, MethodState& state) override;
  void update_cache(const AttentionInput& input, MethodState& state) override;
  void end_segment(MethodState& state) override;
  bool one_segment_per_chunk() const override { return true; }
  bool counts_without_masks() const override { return true; }
  Parting parting() const override {
    return config_.query_aware ? Parting::kQuestion : Parting::kContext;
  }

 protected:
  // Importance of the context's entries, fp32 or fp64 [B, H_kv, N], higher stays; padding is masked
  // by the caller. +inf: kept first.
  virtual at::Tensor score(const AttentionInput& input, const LayerState& layer,
                           const EvictionMemory& memory) = 0;
  // Of every prompt chunk before eviction, the evicting one included: for scores that sum over all
  // rows.
  virtual void observe(const AttentionInput& input, const LayerState& layer,
                       EvictionMemory& memory) {}
  // Context entries that the layer's heads keep: int64 [B, H_kv] on the CPU, at most the context.
  // Default: the budget, evenly.
  virtual at::Tensor capacities(int64_t layer, const EvictionMemory& memory) const;
  // true: the split needs every layer's score; nothing is evicted before the last layer, then
  // compare_layers fills memory.capacity from memory.scores.
  virtual bool compares_layers() const { return false; }
  virtual void compare_layers(EvictionMemory& memory) {}
  // After `group` was cut out of `layer`, where a head lost entries: `dropped` bool [B, h, N] marks
  // them.
  virtual void after_eviction(const LayerState& layer, const at::Tensor& dropped,
                              HeadEntries& group) const {}

  // The observation window of each sequence: the last rows of the chunk behind which entries are
  // evicted, at most eviction.window of them.
  struct Window {
    at::Tensor index;  // [B, W] int64 into the chunk, ascending; filled up at the front
    at::Tensor valid;  // [B, W] bool
  };
  Window observation_window(const AttentionInput& input, const EvictionMemory& memory) const;
  // The window's rows' attention probabilities of the context's entries, and their squares, summed
  // over rows of each query head [B, H, N]; softmax over everything that a row sees.
  ops::AttentionMass window_mass(const AttentionInput& input, const LayerState& layer,
                                 const EvictionMemory& memory, const Window& window) const;
  // [B, H, N] -> [B, H_kv, N], mean over the query heads of a key-value head.
  at::Tensor mean_of_group(const at::Tensor& x) const;
  // x [B, H, N] smoothed over neighbours (eviction.kernel, eviction.pooling), length kept; entries
  // where `counts` bool [B, 1, N] is false add 0.
  at::Tensor pooled(const at::Tensor& x, const at::Tensor& counts) const;
  // The same of all of the chunk's rows, summed over the query heads of a key-value head, too:
  // [B, H_kv, N].
  ops::AttentionMass attention_mass(const AttentionInput& input, const LayerState& layer,
                                    const EvictionMemory& memory) const;
  // [B, H_kv, N] under which the sequence's first `sinks` tokens come first, then the last ones:
  // StreamingLLM's choice.
  at::Tensor first_and_last(const EvictionMemory& memory, int64_t sinks) const;
  // bool [B, 1, N]: the context's last `count[b]` tokens.
  at::Tensor last_entries(const EvictionMemory& memory, const std::vector<int64_t>& count) const;

  const EvictionMemory& memory_of(const MethodState& state) const;
  EvictionMemory& memory_of(MethodState& state) const;
  EvictionConfig config_;
  int64_t sinks_;

 private:
  // Cuts `layer` down to memory's budget, or leaves its score for compare_layers.
  void evict_or_compare(const AttentionInput& input, LayerState& layer, EvictionMemory& memory);
  void evict(LayerState& layer, const at::Tensor& score, const at::Tensor& capacity,
             const EvictionMemory& memory) const;
  HeadEntries cut_out(const LayerState& layer, const at::Tensor& ranked, const at::Tensor& capacity,
                      const std::vector<int64_t>& heads, const EvictionMemory& memory) const;
  bool evicts_behind(const AttentionInput& input) const;
};

// Appends a chunk to every group of a layer, and its attention over what they hold then: [B, H, T,
// d].
at::Tensor attend_head_groups(const AttentionInput& input, LayerState& layer,
                              AttentionStats* stats);

}  // namespace dsrsq
