#include "descriptor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"

namespace dsrsq {

Descriptor::~Descriptor() {
  if (is_open()) ::close(number_);
}

int Descriptor::close() {
  const int result = ::close(number_);
  number_ = -1;
  return result == 0 ? 0 : errno;
}

std::string error_text(int error_number) { return std::generic_category().message(error_number); }

int open_for_reading(const std::string& path) {
  const int number = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (number < 0) throw DataError(concat(path, ": cannot be opened: ", error_text(errno)));
  struct stat status {};
  if (fstat(number, &status) != 0 || S_ISDIR(status.st_mode)) {
    ::close(number);
    throw DataError(concat(path, ": is a folder; a file was expected"));
  }
  return number;
}

size_t read_some(int descriptor, void* to, size_t size, const std::string& path) {
  while (true) {
    const ssize_t got = ::read(descriptor, to, size);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) throw DataError(concat(path, ": cannot be read: ", error_text(errno)));
  }
}

void throw_write_error(const std::string& path, const std::string& what, int error_number) {
  const std::string message = concat(path, ": ", what, ": ", error_text(error_number));
  if (error_number != ENOSPC && error_number != EDQUOT) throw Error(ExitCode::kCheckpoint, message);
  throw NoSpaceError(concat(message, " (", bytes_text(free_bytes(path)),
                            " are free); make room and run the same command again"));
}

void write_all(int descriptor, const void* from, size_t size, const std::string& path) {
  const char* bytes = static_cast<const char*>(from);
  while (size > 0) {
    const ssize_t put = ::write(descriptor, bytes, std::min<size_t>(size, size_t{1} << 30));
    if (put < 0) {
      if (errno == EINTR) continue;
      throw_write_error(path, "cannot be written", errno);
    }
    bytes += put;
    size -= static_cast<size_t>(put);
  }
}

void sync_descriptor(int descriptor, const std::string& path) {
  int result = 0;
  do {
    result = fsync(descriptor);
  } while (result != 0 && errno == EINTR);
  // EINVAL: a file system or a pipe that has nothing to sync.
  if (result != 0 && errno != EINVAL)
    throw_write_error(path, "cannot be written to the disk", errno);
}

}  // namespace dsrsq
