// Work that is too short to be timed launch by launch.
#pragma once

#include <c10/core/Device.h>

#include <cstdint>
#include <functional>

namespace dsrsq::bench {

// `runs` runs of `run` as one piece of work: on a GPU recorded as a CUDA graph, so that nothing
// waits for the host between launches; `run` must not wait for the device. On a CPU a loop.
std::function<void()> recorded(const std::function<void()>& run, c10::Device device, int64_t runs);

}  // namespace dsrsq::bench
