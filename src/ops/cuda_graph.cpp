#include "dsrsq/ops/cuda_graph.h"

#include <c10/util/Exception.h>

#ifdef DSRSQ_WITH_CUDA
#include <ATen/cuda/CUDAGraph.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>

#include <memory>
#endif

namespace dsrsq::ops {

std::function<void()> record_graph(const std::function<void()>& run, c10::Device device) {
#ifdef DSRSQ_WITH_CUDA
  if (device.is_cuda()) {
    c10::cuda::getCurrentCUDAStream(device.index()).synchronize();
    auto graph = std::make_shared<at::cuda::CUDAGraph>();
    const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool(false, device.index()));
    // Other threads may go on as they like.
    graph->capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    try {
      run();
    } catch (...) {
      try {
        graph->capture_end();
      } catch (const std::exception&) {  // what broke the recording is thrown below
      }
      throw;
    }
    graph->capture_end();
    return [graph] { graph->replay(); };
  }
#endif
  TORCH_CHECK(false, "record_graph: expected a GPU of this build, got ", device);
}

}  // namespace dsrsq::ops
