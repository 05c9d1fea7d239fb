// Shared by logging.cpp and progress.cpp: a log line must first wipe the progress bar that stands
// on the terminal's last line, and neither may write inside the other's line.
#pragma once

#include <mutex>

namespace dsrsq {

struct TerminalState {
  std::mutex mutex;
  bool bar_shown = false;  // the last line on standard error is a bar without a newline
};

TerminalState& terminal_state();

}  // namespace dsrsq
