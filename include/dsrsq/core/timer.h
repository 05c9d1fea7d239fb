// Wall-clock time of host work. Device work is waited for by the caller (see eval/efficiency).
#pragma once

#include <chrono>

namespace dsrsq {

class Timer {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }
  void restart() { begin_ = std::chrono::steady_clock::now(); }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace dsrsq
