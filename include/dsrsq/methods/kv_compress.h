// KV-Compress (arXiv 2410.00161): whole blocks of entries go, from whichever layer and head can
// spare them most cheaply, by squared attention.
#pragma once

#include "dsrsq/methods/eviction.h"

namespace dsrsq {

struct KvCompressConfig {
  int64_t block = 16;
  int64_t protected_tokens = 32;
  void visit_fields(ConfigVisitor& v);
};

// Entries that each head keeps, for one sequence: `sorted` [heads][N] are a head's metrics,
// ascending, +inf where an entry is protected. Blocks hold `block` entries, the first one to go the
// remainder of N / block where there is one; a block costs the metric of its last entry to go, and
// the cheapest of all heads go until at most `budget` entries are left. Blocks that hold a
// protected entry stay.
std::vector<int64_t> cheapest_blocks(const std::vector<std::vector<float>>& sorted, int64_t block,
                                     int64_t budget);

class KvCompressMethod : public EvictionMethod {
 public:
  KvCompressMethod(const EvictionConfig& config, const KvCompressConfig& own,
                   const TransformerConfig& model)
      : EvictionMethod(config, model), own_(own) {}
  std::string method_name() const override { return "kv_compress"; }

 protected:
  // Squared attention of the observation window, summed over its rows and the heads of a group,
  // pooled over neighbours; the last `protected_tokens` stay.
  at::Tensor score(const AttentionInput& input, const LayerState& layer,
                   const EvictionMemory& memory) override;
  bool compares_layers() const override { return true; }
  void compare_layers(EvictionMemory& memory) override;

 private:
  KvCompressConfig own_;
};

}  // namespace dsrsq
