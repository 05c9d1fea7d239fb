#include "dsrsq/bench/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <fstream>

#include "dsrsq/core/error.h"

#ifdef DSRSQ_WITH_CUDA
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <cuda_runtime_api.h>
#endif

namespace dsrsq::bench {

std::string device_name(c10::Device device) {
#ifdef DSRSQ_WITH_CUDA
  if (device.is_cuda()) {
    cudaDeviceProp properties;
    const int index = device.has_index() ? device.index() : c10::cuda::current_device();
    C10_CUDA_CHECK(cudaGetDeviceProperties(&properties, index));
    return properties.name;
  }
#endif
  return concat(device.str(), ", ", at::get_num_threads(), " threads");
}

std::map<std::string, std::string> device_versions(c10::Device device) {
  if (!device.is_cuda()) return {};
  std::map<std::string, std::string> versions;
  const long cudnn = at::detail::getCUDAHooks().versionRuntimeCuDNN();
  versions["cudnn"] = concat(cudnn / 10000, ".", cudnn / 100 % 100, ".", cudnn % 100);
  // "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.159.04  Release Build ..."
  std::ifstream file("/proc/driver/nvidia/version");
  for (std::string word; file >> word;) {
    if (word.find('.') == std::string::npos ||
        word.find_first_not_of("0123456789.") != std::string::npos)
      continue;
    versions["driver"] = word;
    break;
  }
  return versions;
}

}  // namespace dsrsq::bench
