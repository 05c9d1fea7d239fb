#include "dsrsq/bench/graph.h"

#ifdef DSRSQ_WITH_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <memory>
#endif

namespace dsrsq::bench {

std::function<void()> recorded(const std::function<void()>& run, c10::Device device, int64_t runs) {
#ifdef DSRSQ_WITH_CUDA
  if (device.is_cuda()) {
    run();  // what is loaded on first use is loaded
    c10::cuda::getCurrentCUDAStream(device.index()).synchronize();
    auto graph = std::make_shared<at::cuda::CUDAGraph>();
    const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool(false, device.index()));
    graph->capture_begin();
    for (int64_t i = 0; i < runs; ++i) run();
    graph->capture_end();
    return [graph] { graph->replay(); };
  }
#endif
  return [run, runs] {
    for (int64_t i = 0; i < runs; ++i) run();
  };
}

}  // namespace dsrsq::bench
