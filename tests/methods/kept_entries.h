// What eviction left, read off a state, and an oracle that reads with exactly that: the n x n
// formula with an explicit mask, in double, sharing no code with methods/eviction.
#pragma once

#include <gtest/gtest.h>
#include <torch/torch.h>

#include <set>
#include <vector>

#include "dsrsq/model/transformer.h"
#include "support/tiny.h"

namespace dsrsq::testing {

// Ranks that a key-value head of a sequence holds: [layer][sequence][head].
using KeptRanks = std::vector<std::vector<std::vector<std::set<int64_t>>>>;

inline KeptRanks kept_ranks(const MethodState& state, int64_t sequences, int64_t heads) {
  KeptRanks kept;
  for (const auto& layer : state.layers) {
    kept.emplace_back(size_t(sequences), std::vector<std::set<int64_t>>(size_t(heads)));
    for (const auto& group : layer.head_groups)
      for (int64_t b = 0; b < sequences; ++b)
        for (int64_t i = 0; i < group.keys.size(1); ++i) {
          auto head = group.heads.defined() ? group.heads[i].item<int64_t>() : i;
          for (int64_t k = 0; k < group.keys.size(2); ++k) {
            if (group.valid.defined() && !group.valid[b][i][k].item<bool>()) continue;
            auto rank = group.order[b][i][k].item<int64_t>();
            bool fresh = kept.back()[size_t(b)][size_t(head)].insert(rank).second;
            EXPECT_TRUE(fresh) << "rank " << rank << " is held twice";
          }
        }
  }
  return kept;
}

// Dense attention in which queries behind the context (rank >= behind[b]) see of the tokens before
// that only what `kept` names.
class KeptOracle : public Method {
 public:
  KeptOracle(const AttentionShape& shape, KeptRanks kept, std::vector<int64_t> behind)
      : Method(shape), kept_(std::move(kept)), behind_(std::move(behind)) {}
  std::string method_name() const override { return "kept_oracle"; }
  at::Tensor attend(const AttentionInput& input, MethodState& state) override {
    auto& layer = state.layers[size_t(input.layer)];
    auto q = input.rotated(input.q);
    layer.append(input.rotated(input.k), input.v, input.positions, input.order, input.valid, {},
                 false);
    auto out = at::zeros_like(q);
    for (int64_t b = 0; b < q.size(0); ++b)
      for (int64_t h = 0; h < q.size(1); ++h) {
        auto head = h * layer.keys.size(1) / q.size(1);
        const auto& kept = kept_[size_t(input.layer)][size_t(b)][size_t(head)];
        auto mask = at::zeros({q.size(2), layer.entries()}, at::kBool);
        for (int64_t t = 0; t < q.size(2); ++t)
          for (int64_t k = 0; k < layer.entries(); ++k)
            mask[t][k] = sees(input.order[b][t].item<int64_t>(), layer.order[b][k].item<int64_t>(),
                              layer.valid[b][k].item<bool>(), behind_[size_t(b)], kept);
        auto logits = at::matmul(q[b][h], layer.keys[b][head].t()) / std::sqrt(double(q.size(3)));
        auto weights = at::softmax(logits.masked_fill(mask.logical_not(), -1e300), -1);
        out[b][h] = at::matmul(weights, layer.values[b][head]);
      }
    return out;
  }

 private:
  static bool sees(int64_t query, int64_t key, bool valid, int64_t behind,
                   const std::set<int64_t>& kept) {
    if (!valid || key > query) return false;
    return query < behind || key >= behind || kept.count(key) > 0;
  }
  KeptRanks kept_;
  std::vector<int64_t> behind_;
};

}  // namespace dsrsq::testing
