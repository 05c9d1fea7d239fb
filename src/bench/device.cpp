#include "dsrsq/bench/device.h"

#include <ATen/Context.h>
#include <ATen/Parallel.h>

#include <fstream>
#include <regex>

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
  std::ifstream file("/proc/driver/nvidia/version");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  std::smatch match;
  if (std::regex_search(text, match, std::regex(R"(\b(\d+\.\d+(\.\d+)?)\b)")))
    versions["driver"] = match[1];
  return versions;
}

}  // namespace dsrsq::bench
