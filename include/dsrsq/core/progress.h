// Progress of long work with an ETA: a bar that redraws itself on a terminal (at most 10 times a
// second), else a plain line every `plain_seconds` through log_info, so that log files stay
// readable. Not thread-safe: one thread updates.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace dsrsq {

class Progress {
 public:
  // `total` in units (steps, bytes, questions); 0 where unknown. `start`: units that were done
  // before (a resumed run); the ETA counts only what this process did.
  Progress(std::string label, int64_t total, int64_t start = 0, double plain_seconds = 15.0);
  ~Progress();
  void update(int64_t done, const std::string& detail = "");
  void finish(const std::string& detail = "");

  // "step 12/100 12% | loss 1.2 | 3.1/s | ETA 00:28", without control characters. For tests.
  std::string line(int64_t done, double seconds, const std::string& detail) const;

 private:
  std::string label_;
  int64_t total_;
  int64_t start_;
  double plain_seconds_;
  bool terminal_;
  bool finished_ = false;
  std::chrono::steady_clock::time_point begin_;
  std::chrono::steady_clock::time_point shown_;
};

}  // namespace dsrsq
