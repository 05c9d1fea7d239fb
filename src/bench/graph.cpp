#include "dsrsq/bench/graph.h"

#include "dsrsq/ops/cuda_graph.h"

namespace dsrsq::bench {

std::function<void()> recorded(const std::function<void()>& run, c10::Device device, int64_t runs) {
  const auto all = [run, runs] {
    for (int64_t i = 0; i < runs; ++i) run();
  };
  if (!device.is_cuda()) return all;
  run();  // what is loaded on first use is loaded
  return ops::record_graph(all, device);
}

}  // namespace dsrsq::bench
