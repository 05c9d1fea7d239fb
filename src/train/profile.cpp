#include "dsrsq/train/profile.h"

#include <torch/csrc/autograd/profiler_kineto.h>

#include <filesystem>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/logging.h"

namespace dsrsq {
namespace {

namespace kineto = torch::autograd::profiler;
using torch::profiler::impl::ActivityType;
using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

std::set<ActivityType> activities(bool cuda) {
  std::set<ActivityType> found{ActivityType::CPU};
  if (cuda) found.insert(ActivityType::CUDA);
  return found;
}

std::vector<ProfileEvent> to_events(const std::vector<kineto::KinetoEvent>& recorded) {
  const auto is_phase = [](const kineto::KinetoEvent& event) {
    return event.scope() == uint8_t(at::RecordScope::USER_SCOPE);
  };
  std::set<std::string> phases;
  for (const auto& event : recorded)
    if (is_phase(event)) phases.insert(event.name());
  std::vector<ProfileEvent> events;
  for (const auto& event : recorded) {
    ProfileEvent made;
    made.name = event.name();
    made.thread = event.startThreadId();
    made.begin_ns = int64_t(event.startNs());
    made.end_ns = int64_t(event.endNs());
    if (event.deviceType() != c10::DeviceType::CPU) {
      // Kineto repeats the phases on the device's time line, where nothing but the name tells them.
      if (phases.count(made.name) > 0) continue;
      made.kind = ProfileEvent::Kind::kDevice;
    } else if (is_phase(event)) {
      made.kind = ProfileEvent::Kind::kPhase;
    }
    events.push_back(std::move(made));
  }
  return events;
}

}  // namespace

std::vector<ProfileEvent> record_events(bool cuda, const std::function<void()>& work) {
  ProfilerConfig config(ProfilerState::KINETO);
  kineto::prepareProfiler(config, activities(cuda));
  kineto::enableProfiler(config, activities(cuda));
  try {
    work();
  } catch (...) {
    kineto::disableProfiler();
    throw;
  }
  return to_events(kineto::disableProfiler()->events());
}

StepProfiler::StepProfiler(std::string folder, int64_t skip, int64_t count, bool cuda)
    : folder_(std::move(folder)), skip_(skip), count_(count), cuda_(cuda) {}

StepProfiler::~StepProfiler() {
  if (recording_) kineto::disableProfiler();  // training failed; its own error is what matters
}

void StepProfiler::begin_step() {
  if (written_ || recording_ || seen_ < skip_) return;
  ProfilerConfig config(ProfilerState::KINETO);
  kineto::prepareProfiler(config, activities(cuda_));
  kineto::enableProfiler(config, activities(cuda_));
  recording_ = true;
}

void StepProfiler::end_step() {
  ++seen_;
  if (recording_ && seen_ == skip_ + count_) write();
}

void StepProfiler::finish() {
  if (written_) return;
  if (recording_)
    write();
  else
    log_warning("--profile: nothing was recorded: the run had ", seen_, " steps, of which ", skip_,
                " were to be left out");
}

void StepProfiler::write() {
  recording_ = false;
  written_ = true;
  auto result = kineto::disableProfiler();
  std::filesystem::create_directories(folder_);
  auto trace = folder_ + "/trace.json";
  result->save(trace);
  auto table = profile_markdown(summarise_profile(to_events(result->events())));
  write_file_atomic(folder_ + "/table.md", table);
  log_info("profile: ", trace, " (open in ui.perfetto.dev) and ", folder_, "/table.md");
}

ProfileSteps parse_profile_steps(const std::string& text) {
  ProfileSteps steps;
  auto colon = text.find(':');
  try {
    if (colon == std::string::npos) throw std::invalid_argument("");
    size_t first = 0, second = 0;
    steps.skip = std::stoll(text.substr(0, colon), &first);
    steps.count = std::stoll(text.substr(colon + 1), &second);
    if (first != colon || second != text.size() - colon - 1 || steps.skip < 0 || steps.count < 1)
      throw std::invalid_argument("");
  } catch (const std::logic_error&) {
    throw ConfigError(
        concat("--profile: expected SKIP:COUNT with SKIP >= 0 and COUNT >= 1, as 10:5, got \"",
               text, "\""));
  }
  return steps;
}

}  // namespace dsrsq
