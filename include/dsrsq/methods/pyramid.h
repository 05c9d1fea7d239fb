// PyramidKV (arXiv 2406.02069): SnapKV's scores, but lower layers, whose attention is spread wider,
// keep more than upper ones.
#pragma once

#include "dsrsq/methods/snapkv.h"

namespace dsrsq {

struct PyramidConfig {
  int64_t beta = 20;
  void visit_fields(ConfigVisitor& v);
};

// Entries that each layer keeps beside its window, where a layer keeps `capacity` on average, the
// `window` included, of `context` entries: an arithmetic sequence from 2 (C - W) - (C - W) / beta
// in the first layer to (C - W) / beta in the last, cut where a layer would keep more than there
// is, and with what whole steps leave over spread from the first layer on. Its sum is layers x (C -
// W). Requires 1 <= window <= capacity <= context.
std::vector<int64_t> pyramid_capacities(int64_t layers, int64_t capacity, int64_t window,
                                        int64_t context, int64_t beta);

class PyramidMethod : public SnapKvMethod {
 public:
  PyramidMethod(const EvictionConfig& config, const PyramidConfig& pyramid,
                const TransformerConfig& model)
      : SnapKvMethod(config, model), pyramid_(pyramid) {}
  std::string method_name() const override { return "pyramid"; }

 protected:
  at::Tensor capacities(int64_t layer, const EvictionMemory& memory) const override;

 private:
  PyramidConfig pyramid_;
};

}  // namespace dsrsq
