// for_each_line: streams a plain, gzip or zstd file line by line.
#include <sys/stat.h>

#include <cstring>

#include "decompress.h"
#include "descriptor.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"

namespace dsrsq {
namespace {

constexpr size_t kChunk = size_t{1} << 18;

// Cuts a stream of bytes into lines. The last line needs no newline.
class LineCutter : public ByteSink {
 public:
  LineCutter(const std::string& path, const std::function<void(int64_t, const std::string&)>& line,
             size_t maximum)
      : path_(path), line_(line), maximum_(maximum) {}

  std::string where() const override { return concat(path_, ":", number_); }

  void add(const char* bytes, size_t size) override {
    while (size > 0) {
      const auto* newline = static_cast<const char*>(std::memchr(bytes, '\n', size));
      const size_t part = newline != nullptr ? static_cast<size_t>(newline - bytes) : size;
      if (pending_.size() + part > maximum_) {
        throw DataError(concat(where(), ": the line is longer than ", maximum_,
                               " bytes; is this a file of lines?"));
      }
      pending_.append(bytes, part);
      if (newline == nullptr) return;
      deliver();
      bytes += part + 1;
      size -= part + 1;
    }
  }

  void finish() {
    if (!pending_.empty()) deliver();
  }

 private:
  void deliver() {
    if (!pending_.empty() && pending_.back() == '\r') pending_.pop_back();
    line_(number_, pending_);
    pending_.clear();
    ++number_;
  }

  const std::string& path_;
  const std::function<void(int64_t, const std::string&)>& line_;
  size_t maximum_;
  std::string pending_;
  int64_t number_ = 1;
};

}  // namespace

void for_each_line(const std::string& path,
                   const std::function<void(int64_t number, const std::string& text)>& line,
                   const std::function<void(int64_t done, int64_t total)>& bytes_read,
                   size_t maximum_line_bytes, uint64_t maximum_unpacked_bytes) {
  Descriptor file(open_for_reading(path));
  struct stat status {};
  const bool sized = fstat(file.get(), &status) == 0 && S_ISREG(status.st_mode);
  const int64_t total = sized ? status.st_size : 0;
  LineCutter lines(path, line, maximum_line_bytes);
  std::string chunk(kChunk, '\0');
  size_t size = 0;  // a pipe may give one byte at a time
  while (size < kMagicBytes) {
    const size_t got = read_some(file.get(), chunk.data() + size, chunk.size() - size, path);
    if (got == 0) break;
    size += got;
  }
  const std::unique_ptr<Decompressor> packed = make_decompressor(
      compression_of(std::string_view(chunk).substr(0, size)), lines, maximum_unpacked_bytes);
  for (int64_t done = 0; size > 0; size = read_some(file.get(), chunk.data(), chunk.size(), path)) {
    if (packed) {
      packed->add(chunk.data(), size);
    } else {
      lines.add(chunk.data(), size);
    }
    done += static_cast<int64_t>(size);
    if (bytes_read) bytes_read(done, total);
  }
  if (packed) packed->finish();
  lines.finish();
}

}  // namespace dsrsq
