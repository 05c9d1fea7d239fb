#include "dsrsq/core/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "dsrsq/core/logging.h"
#include "terminal.h"

namespace dsrsq {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr int kBarCells = 20;

std::string format(const char* pattern, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), pattern, value);
  return text;
}

std::string rate_text(double rate) {
  if (rate >= 1e9) return format("%.1fG/s", rate / 1e9);
  if (rate >= 1e6) return format("%.1fM/s", rate / 1e6);
  if (rate >= 1e4) return format("%.1fk/s", rate / 1e3);
  if (rate >= 100) return format("%.0f/s", rate);
  if (rate >= 1) return format("%.1f/s", rate);
  return format("%.3f/s", rate);
}

// 28 -> "00:28", 3725 -> "1:02:05", two days and more -> "2d 03h".
std::string duration_text(double seconds) {
  const auto whole = static_cast<long long>(std::min(std::ceil(seconds), 1e12));
  char text[48];
  if (whole >= 2 * 86400) {
    std::snprintf(text, sizeof(text), "%lldd %02lldh", whole / 86400, whole % 86400 / 3600);
  } else if (whole >= 3600) {
    std::snprintf(text, sizeof(text), "%lld:%02lld:%02lld", whole / 3600, whole % 3600 / 60,
                  whole % 60);
  } else {
    std::snprintf(text, sizeof(text), "%02lld:%02lld", whole / 60, whole % 60);
  }
  return text;
}

double seconds_between(std::chrono::steady_clock::time_point from,
                       std::chrono::steady_clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

size_t terminal_columns() {
  winsize size{};
  if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0) return size.ws_col;
  return 80;
}

bool is_terminal() {
  const char* term = std::getenv("TERM");
  return isatty(STDERR_FILENO) == 1 && (term == nullptr || std::strcmp(term, "dumb") != 0);
}

// Drawn under the lock of the terminal. Cut to the width, as a wrapped bar cannot be redrawn with a
// carriage return.
void draw_bar(const std::string& text, int64_t done, int64_t total) {
  std::string bar;
  if (total > 0) {
    const double part =
        std::clamp(static_cast<double>(done) / static_cast<double>(total), 0.0, 1.0);
    const int cells = static_cast<int>(part * kBarCells);
    bar = "[" + std::string(cells, '#') + std::string(kBarCells - cells, '.') + "] ";
  }
  bar = (bar + text).substr(0, terminal_columns() - 1);
  std::fprintf(stderr, "\r%s\033[K", bar.c_str());
  std::fflush(stderr);
}

}  // namespace

TerminalState& terminal_state() {
  static TerminalState* state = new TerminalState;  // outlives every static object that logs
  return *state;
}

Progress::Progress(std::string label, int64_t total, int64_t start, double plain_seconds)
    : label_(std::move(label)),
      total_(total),
      start_(start),
      plain_seconds_(plain_seconds),
      terminal_(is_terminal()),
      begin_(std::chrono::steady_clock::now()),
      shown_(begin_) {}

// An exception may pass through: the bar's line is ended so that the message starts on a new one.
Progress::~Progress() {
  if (finished_ || !terminal_) return;
  std::lock_guard<std::mutex> lock(terminal_state().mutex);
  if (terminal_state().bar_shown) std::fputc('\n', stderr);
  terminal_state().bar_shown = false;
}

std::string Progress::line(int64_t done, double seconds, const std::string& detail) const {
  std::string text = concat(label_, " ", done);
  if (total_ > 0) {
    const double percent =
        std::floor(100.0 * static_cast<double>(done) / static_cast<double>(total_));
    text += concat("/", total_, " ", std::clamp(static_cast<int>(percent), 0, 100), "%");
  }
  if (!detail.empty()) text += " | " + detail;
  const double rate = seconds > 0 ? static_cast<double>(done - start_) / seconds : 0.0;
  if (rate > 0) {
    text += " | " + rate_text(rate);
    if (total_ > 0) {
      const double rest = static_cast<double>(std::max<int64_t>(total_ - done, 0)) / rate;
      text += " | ETA " + duration_text(rest);
    }
  }
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  }
  return text;
}

void Progress::update(int64_t done, const std::string& detail) {
  const auto now = std::chrono::steady_clock::now();
  if (seconds_between(shown_, now) < (terminal_ ? kRedrawSeconds : plain_seconds_)) return;
  shown_ = now;
  const std::string text = line(done, seconds_between(begin_, now), detail);
  if (!terminal_) {
    log_info(text);
    return;
  }
  std::lock_guard<std::mutex> lock(terminal_state().mutex);
  draw_bar(text, done, total_);
  terminal_state().bar_shown = true;
}

void Progress::finish(const std::string& detail) {
  if (finished_) return;
  finished_ = true;
  const double seconds = seconds_between(begin_, std::chrono::steady_clock::now());
  std::string text = concat(label_, " done in ", duration_text(seconds));
  if (!detail.empty()) text += " | " + detail;
  {
    std::lock_guard<std::mutex> lock(terminal_state().mutex);
    if (terminal_state().bar_shown) std::fputs("\r\033[K", stderr);
    terminal_state().bar_shown = false;
  }
  log_info(text);
}

}  // namespace dsrsq
