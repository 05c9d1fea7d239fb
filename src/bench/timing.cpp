#include "dsrsq/bench/timing.h"

#include <ATen/ops/empty.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <algorithm>
#include <cmath>

#include "dsrsq/core/timer.h"
#include "dsrsq/train/profile.h"

#ifdef DSRSQ_WITH_CUDA
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAFunctions.h>
#endif

namespace dsrsq::bench {
namespace {

// Overwritten before each run: several times the L2 cache of any GPU, and long enough for the host
// to enqueue the run behind it.
constexpr int64_t kFlushBytes = int64_t{1} << 30;

c10::Stream current_stream(at::Device device) {
  return c10::impl::VirtualGuardImpl(device.type()).getStream(device);
}

// Clock of one run: events on a GPU, the host's clock on a CPU.
class Stopwatch {
 public:
  explicit Stopwatch(at::Device device) : device_(device) {
    if (device.is_cuda())
      flush_ = at::empty({kFlushBytes}, at::TensorOptions(device).dtype(at::kByte));
  }
  double time(const std::function<void()>& run) {
    if (device_.is_cpu()) {
      Timer timer;
      run();
      return timer.seconds();
    }
    flush_.fill_(1);
    c10::Event begin(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
    c10::Event end(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
    begin.record(current_stream(device_));
    run();
    end.record(current_stream(device_));
    end.synchronize();
    return begin.elapsedTime(end) * 1e-3;
  }

 private:
  at::Device device_;
  at::Tensor flush_;
};

// "void dsrsq::kernels::(anonymous namespace)::attend_kernel<64>(...)" -> "attend_kernel<64>".
std::string short_name(const std::string& kernel) {
  std::string name = kernel;
  constexpr char kAnonymous[] = "(anonymous namespace)::";
  for (size_t at; (at = name.find(kAnonymous)) != std::string::npos;)
    name.erase(at, sizeof(kAnonymous) - 1);
  if (name.starts_with("void ")) name.erase(0, 5);
  name = name.substr(0, name.find('('));
  const auto scope = name.substr(0, name.find('<')).rfind("::");
  return scope == std::string::npos ? name : name.substr(scope + 2);
}

}  // namespace

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  const double at = q * double(values.size() - 1);
  const auto low = size_t(at), high = std::min(low + 1, values.size() - 1);
  return values[low] + (at - double(low)) * (values[high] - values[low]);
}

void synchronize(at::Device device) {
  if (device.is_cuda()) current_stream(device).synchronize();
}

std::vector<Timing> time_interleaved(const std::vector<Contestant>& contestants, at::Device device,
                                     const TimingOptions& options) {
  Stopwatch watch(device);
  double round_seconds = 0;
  for (const auto& contestant : contestants) {
    contestant.run();
    synchronize(device);
    Timer timer;
    watch.time(contestant.run);
    round_seconds += timer.seconds();
  }
  const auto fit = int64_t(options.seconds / std::max(round_seconds, 1e-9));
  const int64_t rounds = std::clamp(fit, options.minimum_rounds, options.maximum_rounds);
  std::vector<std::vector<double>> seconds(contestants.size());
  for (int64_t round = 0; round < rounds; ++round)
    for (size_t i = 0; i < contestants.size(); ++i)
      seconds[i].push_back(watch.time(contestants[i].run));
  std::vector<Timing> timings;
  for (const auto& values : seconds)
    timings.push_back({quantile(values, .5), quantile(values, .1), quantile(values, .9), rounds});
  return timings;
}

PeakBytes peak_bytes(const std::function<void()>& run, at::Device device) {
  PeakBytes peak;
#ifdef DSRSQ_WITH_CUDA
  if (!device.is_cuda()) return peak;
  namespace allocator = c10::cuda::CUDACachingAllocator;
  constexpr auto kAll = size_t(c10::CachingAllocator::StatType::AGGREGATE);
  const auto index = device.has_index() ? device.index() : c10::cuda::current_device();
  synchronize(device);
  allocator::emptyCache();
  allocator::resetPeakStats(index);
  const auto before = allocator::getDeviceStats(index);
  run();
  synchronize(device);
  const auto after = allocator::getDeviceStats(index);
  peak.allocated = double(after.allocated_bytes[kAll].peak - before.allocated_bytes[kAll].current);
  peak.reserved = double(after.reserved_bytes[kAll].peak - before.reserved_bytes[kAll].current);
#endif
  return peak;
}

std::vector<KernelTime> kernel_times(const std::function<void()>& run, at::Device device,
                                     int64_t runs) {
  run();
  synchronize(device);
  const auto events = record_events(device.is_cuda(), [&] {
    for (int64_t i = 0; i < runs; ++i) run();
    synchronize(device);
  });
  const auto wanted =
      device.is_cuda() ? ProfileEvent::Kind::kDevice : ProfileEvent::Kind::kOperator;
  std::vector<KernelTime> times;
  for (const auto& event : events) {
    if (event.kind != wanted) continue;
    const std::string name = device.is_cuda() ? short_name(event.name) : event.name;
    auto found = std::find_if(times.begin(), times.end(),
                              [&](const KernelTime& t) { return t.name == name; });
    if (found == times.end()) found = times.insert(times.end(), {name});
    found->seconds += double(event.end_ns - event.begin_ns) * 1e-9 / double(runs);
    found->calls += 1 / double(runs);
  }
  return times;
}

}  // namespace dsrsq::bench
