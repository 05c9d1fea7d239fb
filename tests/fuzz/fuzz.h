// What the fuzz targets share. An Error of ours is the right answer to bad input; anything else
// that leaves the parser (another exception, a sanitizer's report, a hang) is a finding.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "dsrsq/core/error.h"

namespace dsrsq::fuzz {

inline std::string text_of(const uint8_t* data, size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

template <typename Action>
void expect_no_other_error(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    if (error.exit_code() == ExitCode::kInternal) std::abort();  // "a bug of ours"
  }
}

// A file in memory, for parsers that read from a path.
class MemoryFile {
 public:
  MemoryFile(const uint8_t* data, size_t size) : descriptor_(memfd_create("fuzz", MFD_CLOEXEC)) {
    if (descriptor_ < 0 || write(descriptor_, data, size) != static_cast<ssize_t>(size))
      std::abort();
  }
  ~MemoryFile() { close(descriptor_); }
  MemoryFile(const MemoryFile&) = delete;
  MemoryFile& operator=(const MemoryFile&) = delete;
  std::string path() const { return concat("/proc/self/fd/", descriptor_); }

 private:
  int descriptor_;
};

}  // namespace dsrsq::fuzz
