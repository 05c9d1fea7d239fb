// What a run measured: metrics.jsonl (one object a line) and TensorBoard event files, written
// without protobuf or Python.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace dsrsq {

class MetricsLog {
 public:
  // <run>/metrics.jsonl and <run>/tensorboard/. On a resumed run lines of `resume_step` and later
  // are dropped first, so that no step stands twice; TensorBoard gets a new file, whose first step
  // purges the old one's.
  MetricsLog(const std::string& run_folder, int64_t resume_step);
  ~MetricsLog();
  // {"step": 12, "time": seconds since the process began, "train/loss": 1.5, ...}; a value that is
  // not finite is written as "NaN", "Infinity" or "-Infinity" (JSON has none), and as the float to
  // TensorBoard. Written at once, whole or not at all. Throws Error with ExitCode::kCheckpoint on a
  // full disk and where the files were removed or replaced.
  void write(int64_t step, const std::map<std::string, double>& values);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace dsrsq
