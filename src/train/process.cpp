// Process-wide settings of a training program: stop signals, determinism, device.
#include <sys/resource.h>
#include <torch/torch.h>

#include <atomic>
#include <csignal>
#include <cstdlib>

#include "dsrsq/core/error.h"
#include "dsrsq/train/trainer.h"

namespace dsrsq {

namespace {
std::atomic<int> stop_signals{0};

void on_signal(int) {
  if (stop_signals.fetch_add(1) > 0)
    std::_Exit(int(ExitCode::kStopped));  // the second one does not wait
}
}  // namespace

double process_core_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  auto seconds = [](const timeval& t) { return double(t.tv_sec) + double(t.tv_usec) * 1e-6; };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

void install_stop_handlers() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;  // a checkpoint that is being written is written to its end
  for (int signal : {SIGTERM, SIGINT, SIGUSR1}) sigaction(signal, &action, nullptr);
}

bool stop_requested() { return stop_signals.load() > 0; }

void set_determinism(int64_t threads) {
  if (threads > 0) at::set_num_threads(int(threads));
  at::set_num_interop_threads(1);
  at::globalContext().setDeterministicCuDNN(true);
  at::globalContext().setBenchmarkCuDNN(false);
}

at::Device parse_device(const std::string& name) {
  if (name == "cpu") return at::kCPU;
  auto count = int64_t(torch::cuda::device_count());
  auto digits = name.size() > 5 ? name.substr(5) : "0";
  bool well_formed =
      name == "cuda" || (name.rfind("cuda:", 0) == 0 && name.size() > 5 && digits.size() <= 3 &&
                         digits.find_first_not_of("0123456789") == std::string::npos);
  if (!well_formed)
    throw ConfigError(concat("train.device: expected cpu, cuda or cuda:N, got '", name, "'"));
  auto index = std::stoll(digits);
  if (index >= count)
    throw ConfigError(concat("train.device: '", name, "' does not exist, this machine has ", count,
                             " CUDA device(s); use --device cpu"));
  return at::Device(at::kCUDA, at::DeviceIndex(index));
}

}  // namespace dsrsq
