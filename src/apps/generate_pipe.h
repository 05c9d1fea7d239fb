// Lines from a pipe that may never end, with signals: what is held does not depend on how fast the
// other side writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace dsrsq {

// What signals asked for since take_signals() was last called.
struct PipeSignals {
  bool snapshot = false;  // SIGUSR1
  bool stop = false;      // SIGTERM, SIGINT; a second one ends the process
};

// Reads descriptor 0, `kBuffer` bytes at a time at most.
class LinePipe {
 public:
  static constexpr size_t kBuffer = size_t{1} << 16;

  LinePipe();  // installs the handlers

  enum class Event { kLine, kEnd, kSignal };
  // Waits for the next line, with its newline; a line of more than kBuffer bytes comes in pieces,
  // cut where a character (UTF-8) begins. What stands behind the last newline is a line, too.
  // kSignal: before any more input is taken.
  Event next(std::string& line);
  PipeSignals take_signals();
  int64_t bytes() const { return bytes_; }       // of the lines that were given out
  bool continues() const { return continues_; }  // the last line continues one that was cut
  // Drops input up to that byte. Throws DataError where it ends before.
  void skip(int64_t bytes);

 private:
  bool fill();          // false: the end
  std::string buffer_;  // given out up to begin_
  size_t begin_ = 0;
  bool ended_ = false, continues_ = false, cut_ = false;
  int64_t bytes_ = 0;
};

// All bytes to descriptor 1; waits as long as the reader takes. Throws Error where it is gone.
void write_to_pipe(const std::string& text);

}  // namespace dsrsq
