#include "generate_pipe.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <system_error>

#include "dsrsq/core/error.h"

namespace dsrsq {

namespace {

std::atomic<int> stop_signals{0};
std::atomic<bool> snapshot_signal{false};

void on_signal(int signal) {
  if (signal == SIGUSR1) {
    snapshot_signal = true;
  } else if (stop_signals.fetch_add(1) > 0) {
    std::_Exit(int(ExitCode::kStopped));  // the second one does not wait
  }
}

std::string reason(int error) { return std::generic_category().message(error); }

// Where text may be cut, at `place` or up to three bytes before it: not inside a character (UTF-8).
size_t character_begin(const std::string& text, size_t place) {
  auto inside = [&](size_t at) { return (static_cast<unsigned char>(text[at]) & 0xc0) == 0x80; };
  for (size_t back = 0; back < 4; ++back)
    if (!inside(place - back)) return place - back;
  return place;  // no UTF-8
}

}  // namespace

LinePipe::LinePipe() {
  struct sigaction action {};
  action.sa_handler = on_signal;
  for (int signal : {SIGUSR1, SIGTERM, SIGINT}) sigaction(signal, &action, nullptr);
  action.sa_handler = SIG_IGN;  // a reader that has gone is an error of write
  sigaction(SIGPIPE, &action, nullptr);
  buffer_.reserve(2 * kBuffer);
}

PipeSignals LinePipe::take_signals() {
  return {snapshot_signal.exchange(false), stop_signals.load() > 0};
}

// Signals are blocked but while the program waits for input: one that comes between the look at the
// flags and the wait would not end the wait.
bool LinePipe::fill() {
  sigset_t ours, before;
  sigemptyset(&ours);
  for (int signal : {SIGUSR1, SIGTERM, SIGINT}) sigaddset(&ours, signal);
  pthread_sigmask(SIG_BLOCK, &ours, &before);
  bool signalled = snapshot_signal || stop_signals.load() > 0;
  if (!signalled) {
    pollfd in{0, POLLIN, 0};
    signalled = ppoll(&in, 1, nullptr, &before) < 0 && errno == EINTR;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  if (signalled) return false;
  char bytes[kBuffer];
  const ssize_t got = read(0, bytes, sizeof(bytes));
  if (got < 0 && errno == EINTR) return false;
  if (got < 0) throw DataError(concat("standard input: cannot be read: ", reason(errno)));
  ended_ = got == 0;
  buffer_.erase(0, begin_);
  begin_ = 0;
  buffer_.append(bytes, size_t(got));
  return true;
}

LinePipe::Event LinePipe::next(std::string& line) {
  while (true) {
    if (snapshot_signal || stop_signals.load() > 0) return Event::kSignal;
    auto newline = buffer_.find('\n', begin_);
    size_t held = buffer_.size() - begin_;
    size_t size = newline == std::string::npos ? 0 : newline + 1 - begin_;
    bool cut = size == 0 ? held > kBuffer : size > kBuffer;
    if (cut) size = character_begin(buffer_, begin_ + kBuffer) - begin_;
    if (size == 0 && ended_) size = held;
    if (size > 0) {
      line.assign(buffer_, begin_, size);
      begin_ += size;
      bytes_ += int64_t(size);
      continues_ = cut_;
      cut_ = cut;
      return Event::kLine;
    }
    if (ended_) return Event::kEnd;
    if (!fill() && !ended_) continue;
  }
}

void LinePipe::skip(int64_t bytes) {
  while (bytes_ < bytes) {
    auto held = buffer_.size() - begin_;
    if (held == 0 && ended_)
      throw DataError(concat("standard input: expected the text that the snapshot has read, ",
                             bytes, " bytes and more, got ", bytes_,
                             "; give it from its beginning"));
    if (held == 0) {
      fill();
      if (stop_signals.load() > 0) return;
      snapshot_signal = false;  // there is nothing new to save
      continue;
    }
    auto dropped = std::min(held, size_t(bytes - bytes_));
    begin_ += dropped;
    bytes_ += int64_t(dropped);
  }
}

void write_to_pipe(const std::string& text) {
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t put = write(1, text.data() + done, text.size() - done);
    if (put > 0) done += size_t(put);
    if (put < 0 && errno != EINTR)
      throw Error(ExitCode::kCheckpoint,
                  concat("standard output: cannot be written: ", reason(errno)));
  }
}

}  // namespace dsrsq
