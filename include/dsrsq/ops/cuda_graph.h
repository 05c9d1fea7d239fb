// Work on a GPU that is recorded once and replayed as one launch (a CUDA graph), so that the host
// is not waited for between its kernels.
#pragma once

#include <c10/core/Device.h>

#include <functional>

namespace dsrsq::ops {

// Records what `run` launches on `device`, without doing it; each call of the result does it, on
// the current stream. `run` must have run before (what is loaded on first use is loaded), must not
// wait for the device or copy from the host, and finds its tensors where they were. Throws
// c10::Error where it does otherwise, or where the device is no GPU of this build.
std::function<void()> record_graph(const std::function<void()>& run, c10::Device device);

}  // namespace dsrsq::ops
