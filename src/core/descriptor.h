// Internal: a file descriptor that closes itself, and system calls that report the path and the
// reason.
#pragma once

#include <cstddef>
#include <string>

namespace dsrsq {

class Descriptor {
 public:
  explicit Descriptor(int number) : number_(number) {}
  ~Descriptor();
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return number_; }
  bool is_open() const { return number_ >= 0; }
  int close();  // 0, or errno; for writers, as a full disk may show only here

 private:
  int number_;
};

std::string error_text(int error_number);  // "No such file or directory"
// Opens for reading; throws DataError for a missing file, a folder or a lack of rights.
int open_for_reading(const std::string& path);
// Up to `size` bytes; 0 at the end. Throws DataError.
size_t read_some(int descriptor, void* to, size_t size, const std::string& path);
// "<path>: <what>: <reason>" with ExitCode::kCheckpoint; NoSpaceError for a full disk or quota.
[[noreturn]] void throw_write_error(const std::string& path, const std::string& what,
                                    int error_number);
// All bytes, or throws a write error.
void write_all(int descriptor, const void* from, size_t size, const std::string& path);
void sync_descriptor(int descriptor, const std::string& path);

}  // namespace dsrsq
