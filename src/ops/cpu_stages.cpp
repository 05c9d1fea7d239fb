#include "cpu_stages.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <new>
#include <thread>

namespace dsrsq::ops {
namespace {

constexpr std::align_val_t kLine{64};

// Shared by the threads of one run_stages.
struct Progress {
  explicit Progress(size_t stages) : done(stages) {}
  std::atomic<int64_t> next{0};
  std::vector<std::atomic<int64_t>> done;
  std::atomic<bool> failed{false};
};

// No deadlock, however few threads there are: tasks are taken in order, so those of the stage
// before are all taken, and their threads wait for nothing but earlier stages.
void wait_for(const Stage& stage, const std::atomic<int64_t>& done, const Progress& progress) {
  while (done.load(std::memory_order_acquire) < stage.tasks && !progress.failed)
    std::this_thread::yield();
}

void work(const std::vector<Stage>& stages, Progress& progress) {
  // Kept from one call to the next: fresh pages cost more than many a task.
  static thread_local Scratch scratch;
  size_t stage = 0;
  int64_t before = 0;  // tasks of the stages before
  while (true) {
    const int64_t task = progress.next.fetch_add(1);
    for (; stage < stages.size() && task >= before + stages[stage].tasks; ++stage)
      before += stages[stage].tasks;
    if (stage == stages.size()) return;
    for (size_t s = 0; s < stage; ++s) wait_for(stages[s], progress.done[s], progress);
    if (progress.failed) return;
    scratch.reset();
    try {
      stages[stage].run(task - before, scratch);
    } catch (...) {
      progress.failed = true;
      throw;
    }
    progress.done[stage].fetch_add(1, std::memory_order_release);
  }
}

}  // namespace

void Scratch::Free::operator()(void* p) const { ::operator delete(p, kLine); }

void* Scratch::bytes(int64_t count) {
  if (used_ == pieces_.size()) pieces_.emplace_back();
  Piece& piece = pieces_[used_++];
  if (piece.size < count) {
    piece.memory.reset();
    piece.memory.reset(::operator new(size_t(count), kLine));
    piece.size = count;
  }
  return piece.memory.get();
}

void run_stages(const std::vector<Stage>& stages) {
  int64_t most = 0;
  for (const Stage& stage : stages) most = std::max(most, stage.tasks);
  Progress progress(stages.size());
  at::parallel_for(0, std::min<int64_t>(most, at::get_num_threads()), 1,
                   [&](int64_t begin, int64_t end) {
                     for (; begin < end; ++begin) work(stages, progress);
                   });
}

}  // namespace dsrsq::ops
