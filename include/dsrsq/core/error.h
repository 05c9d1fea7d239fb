// Errors that a user can act on. Each carries the exit code that the programs return for it (design
// section 4). Below src/apps nothing exits or prints: throw one of these, and the program's main
// logs it once.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace dsrsq {

enum class ExitCode : int {
  kDone = 0,
  kInternal = 1,    // a bug of ours
  kConfig = 2,      // usage or configuration
  kData = 3,        // a data set, tokenizer or record
  kCheckpoint = 4,  // no usable checkpoint, or an output that cannot be written
  kDiverged = 5,    // loss or gradient not finite; the last checkpoint is untouched
  kStopped = 75,    // stopped by a signal, resumable
};

// "a", 1, 2.5 -> "a12.5". The one way in which messages are put together.
template <typename... Parts>
std::string concat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// 'text', for messages: on one line, control characters as escapes, cut after 80 bytes.
std::string quote(const std::string& text);

class Error : public std::runtime_error {
 public:
  Error(ExitCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ExitCode exit_code() const { return code_; }

 private:
  ExitCode code_;
};

// One line each: where, what was expected, what was found, what to change.
struct ConfigError : Error {
  explicit ConfigError(const std::string& message) : Error(ExitCode::kConfig, message) {}
};
struct DataError : Error {
  explicit DataError(const std::string& message) : Error(ExitCode::kData, message) {}
};
struct CheckpointError : Error {
  explicit CheckpointError(const std::string& message) : Error(ExitCode::kCheckpoint, message) {}
};
struct DivergedError : Error {
  explicit DivergedError(const std::string& message) : Error(ExitCode::kDiverged, message) {}
};
struct StoppedError : Error {
  explicit StoppedError(const std::string& message) : Error(ExitCode::kStopped, message) {}
};

}  // namespace dsrsq
