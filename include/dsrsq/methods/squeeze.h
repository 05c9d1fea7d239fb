// SqueezeAttention (arXiv 2404.04793): layers whose attention hardly changes the residual stream
// keep less, the others share what that frees.
#pragma once

#include "dsrsq/methods/snapkv.h"

namespace dsrsq {

struct SqueezeConfig {
  double squeezed_share = 0.4;
  std::string policy = "streaming_llm";
  int64_t sinks = 4;
  void visit_fields(ConfigVisitor& v);
};

// The class, 0 to 2, of each value under the best split of the sorted values into three runs (least
// sum of squares, which 3-means approaches); class 2 holds the highest. Fewer than three distinct
// values: all are 0.
std::vector<int64_t> three_means(const std::vector<double>& values);

// Entries that each layer keeps where the mean is `mean`, of `context`: class 2 of `similarity`
// keeps `squeezed_share` of the mean, the others what that leaves, evenly; what a layer cannot hold
// goes back to class 2.
std::vector<int64_t> squeezed_capacities(const std::vector<double>& similarity, int64_t mean,
                                         int64_t context, double squeezed_share);

class SqueezeMethod : public SnapKvMethod {
 public:
  SqueezeMethod(const EvictionConfig& config, const SqueezeConfig& own,
                const TransformerConfig& model)
      : SnapKvMethod(config, model), own_(own) {}
  std::string method_name() const override { return "squeeze"; }
  // Adds nothing: looks at the residual stream before and after attention, its cosine averaged over
  // the prompt's tokens.
  at::Tensor extra_sublayer(const AttentionInput& input, const at::Tensor& residual,
                            MethodState& state) override;

 protected:
  at::Tensor score(const AttentionInput& input, const LayerState& layer,
                   const EvictionMemory& memory) override;
  bool compares_layers() const override { return true; }
  void compare_layers(EvictionMemory& memory) override;

 private:
  SqueezeConfig own_;
};

}  // namespace dsrsq
