// Times pieces of work against each other on one device: in turns, so that clocks and heat are the
// same for all, and with nothing of the inputs left in the cache.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace dsrsq::bench {

struct Contestant {
  std::string name;
  std::function<void()> run;  // on a GPU: enqueues on the current stream, does not wait
};

struct TimingOptions {
  int64_t minimum_rounds = 5;
  int64_t maximum_rounds = 50;
  double seconds = 1;  // of a whole comparison, after the warm-up; the minimum counts first
};

// Seconds. On a GPU between events, of the device's work alone.
struct Timing {
  double median = 0, p10 = 0, p90 = 0;
  int64_t rounds = 0;
};

// Every contestant twice to warm up, then rounds of one run each. One result a contestant.
std::vector<Timing> time_interleaved(const std::vector<Contestant>& contestants, at::Device device,
                                     const TimingOptions& options);

// The value below which a share `q` of the values lies, by linear interpolation; values not empty.
double quantile(std::vector<double> values, double q);

// Bytes above what was held before, by the CUDA allocator; on a CPU both are -1.
struct PeakBytes {
  double allocated = -1, reserved = -1;
};
PeakBytes peak_bytes(const std::function<void()>& run, at::Device device);

// Waits for what was enqueued.
void synchronize(at::Device device);

// What the work cost kernel by kernel: name without namespaces and arguments, mean seconds a run.
struct KernelTime {
  std::string name;
  double seconds = 0;
  double calls = 0;
};
std::vector<KernelTime> kernel_times(const std::function<void()>& run, at::Device device,
                                     int64_t runs);

}  // namespace dsrsq::bench
