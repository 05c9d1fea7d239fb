// Runs the steps of a fused operator on a CPU in one parallel region.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

namespace dsrsq::ops {

// A thread's working memory, handed out anew to each task and kept for the next ones.
class Scratch {
 public:
  // Aligned to a cache line, not initialised.
  template <typename T>
  T* take(int64_t count) {
    return static_cast<T*>(bytes(count * int64_t(sizeof(T))));
  }
  void reset() { used_ = 0; }

 private:
  struct Free {
    void operator()(void* p) const;
  };
  struct Piece {
    std::unique_ptr<void, Free> memory;
    int64_t size = 0;
  };
  void* bytes(int64_t count);
  std::vector<Piece> pieces_;
  size_t used_ = 0;
};

// `tasks` independent pieces of work; run(task, scratch) is called once for each.
struct Stage {
  int64_t tasks;
  std::function<void(int64_t, Scratch&)> run;
};

// One at::parallel_for; threads take tasks one at a time in order, so that unequal tasks balance. A
// stage begins when the one before it is complete. What a task computes may not depend on the
// thread that runs it: then neither does the result on their number.
void run_stages(const std::vector<Stage>& stages);

}  // namespace dsrsq::ops
