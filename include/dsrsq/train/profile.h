// Where a training step's time goes: `dsrsq-train --profile` records some steps with Kineto, writes
// a trace for chrome://tracing or ui.perfetto.dev, and a table.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace dsrsq {

// An interval on one thread, or on the device.
struct ProfileEvent {
  enum class Kind {
    kPhase,     // a part of the step that the trainer named; "step" is the whole
    kOperator,  // a torch operator, or one of ours ("dsrsq::...")
    kDevice,    // a kernel or a copy on the GPU
  };
  std::string name;
  Kind kind = Kind::kOperator;
  uint64_t thread = 0;
  int64_t begin_ns = 0, end_ns = 0;
};

// Seconds and calls are a step's, on average.
struct ProfileRow {
  std::string name;    // phases: with the phases around it, "hybrid/forward"
  double seconds = 0;  // phases: from begin to end. Operators and kernels: without what they call
  double unaccounted = 0;  // phases: what no operator covers
  double calls = 0;
};

struct ProfileSummary {
  int64_t steps = 0;
  double step_seconds = 0;
  // These three make up step_seconds on the thread that trains: in torch's operators, in our own
  // ones, and in neither, which is the trainer's own work: data, bookkeeping, waiting.
  double torch_seconds = 0, own_seconds = 0, outside_seconds = 0;
  double device_seconds = 0;          // the device was busy; 0 on a CPU
  std::vector<ProfileRow> phases;     // in order of first appearance
  std::vector<ProfileRow> operators;  // by seconds, largest first
  std::vector<ProfileRow> kernels;    // likewise
};

// Throws Error where no event named "step" is there.
ProfileSummary summarise_profile(std::vector<ProfileEvent> events);
std::string profile_markdown(const ProfileSummary& summary);

// What happened while `work` ran, which waits for its own device work.
std::vector<ProfileEvent> record_events(bool cuda, const std::function<void()>& work);

// Records `count` steps after the first `skip` ones, which are slow for other reasons (allocation,
// first touch), then writes <folder>/trace.json and <folder>/table.md.
class StepProfiler {
 public:
  StepProfiler(std::string folder, int64_t skip, int64_t count, bool cuda);
  ~StepProfiler();
  StepProfiler(const StepProfiler&) = delete;
  void begin_step();
  void end_step();
  // At the end of training: writes what was recorded; a warning where that is nothing.
  void finish();

 private:
  void write();

  std::string folder_;
  int64_t skip_, count_, seen_ = 0;
  bool cuda_;
  bool recording_ = false, written_ = false;
};

// "10:5" -> skip 10, record 5. Throws ConfigError.
struct ProfileSteps {
  int64_t skip = 10, count = 5;
};
ProfileSteps parse_profile_steps(const std::string& text);

}  // namespace dsrsq
