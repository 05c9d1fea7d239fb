// Methods that keep every key and value and choose anew for each query what it attends: they save
// time, not bytes. The budget is the number of context entries that a query attends, a share of the
// context; what stands around the context is always attended (eviction.h: one protocol).
#pragma once

#include <vector>

#include "dsrsq/methods/eviction.h"

namespace dsrsq {

struct SelectiveReadMemory : MethodMemory {
  std::vector<int64_t> context;  // [B] tokens of each context
  std::vector<int64_t> budget;   // [B] context entries that a query of a layer attends, on average
  int64_t slots = 0;             // N, of the longest context
  std::vector<at::Tensor> page_bounds;  // [layers] of [B, H_kv, P, 2, d], Quest's
  int64_t bytes() const override;
};

class SelectiveReadMethod : public Method, public SharedPrompt {
 public:
  SelectiveReadMethod(const EvictionConfig& config, const TransformerConfig& model)
      : Method(model.attention_shape()), config_(config), sinks_(model.sinks) {}

  MethodState make_state(const Batch& batch, const PassOptions& options) const override;
  at::Tensor attend(const AttentionInput& input, MethodState& state) override;
  void end_segment(MethodState& state) override;
  Parting parting() const override { return Parting::kContext; }
  bool one_segment_per_chunk() const override { return true; }
  bool counts_without_masks() const override { return true; }

 protected:
  // Importance of the context's entries to each query, fp32 or fp64 [B, H, T, N], higher is
  // attended first; padding is masked by the caller.
  virtual at::Tensor importance(const at::Tensor& q, const LayerState& layer,
                                SelectiveReadMemory& memory, int64_t layer_number) const = 0;
  // Context entries that a query of the layer attends, a sequence each.
  virtual std::vector<int64_t> reads(int64_t layer_number,
                                     const SelectiveReadMemory& memory) const {
    return memory.budget;
  }
  // Behind the context of a layer, before anything chooses from it.
  virtual void context_read(const LayerState& layer, SelectiveReadMemory& memory,
                            int64_t layer_number) const {}
  EvictionConfig config_;
  int64_t sinks_;

 private:
  SelectiveReadMemory& memory_of(MethodState& state) const;
  at::Tensor read_chosen(const AttentionInput& input, const at::Tensor& q, const LayerState& layer,
                         SelectiveReadMemory& memory, AttentionStats* stats) const;
};

}  // namespace dsrsq
