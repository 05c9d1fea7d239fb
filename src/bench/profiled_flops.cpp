#include "dsrsq/bench/profiled_flops.h"

#include <torch/csrc/autograd/profiler_kineto.h>

#include <set>
#include <string>

namespace dsrsq::bench {

double profiled_matmul_flops(const std::function<void()>& work) {
  namespace kineto = torch::autograd::profiler;
  using torch::profiler::impl::ActivityType;
  const torch::profiler::impl::ProfilerConfig config(
      torch::profiler::impl::ProfilerState::KINETO, /*report_input_shapes=*/true,
      /*profile_memory=*/false, /*with_stack=*/false, /*with_flops=*/true);
  const std::set<ActivityType> host = {ActivityType::CPU};
  kineto::prepareProfiler(config, host);
  kineto::enableProfiler(config, host);
  try {
    work();
  } catch (...) {
    kineto::disableProfiler();
    throw;
  }
  const std::set<std::string> products = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"};
  double flops = 0;
  const auto result = kineto::disableProfiler();
  for (const auto& event : result->events())
    if (products.count(event.name()) > 0) flops += double(event.flops());
  return flops;
}

}  // namespace dsrsq::bench
