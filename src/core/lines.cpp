// for_each_line and for_each_chunk: stream a plain, gzip or zstd file.
#include <sys/stat.h>

#include <algorithm>
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

// Hands chunks on until the receiver has had enough.
class ChunkSink : public ByteSink {
 public:
  ChunkSink(const std::string& path, const std::function<bool(const char*, size_t)>& chunk)
      : path_(path), chunk_(chunk) {}
  std::string where() const override { return path_; }
  void add(const char* bytes, size_t size) override {
    if (!done_ && size > 0) done_ = !chunk_(bytes, size);
  }
  bool done() const override { return done_; }

 private:
  const std::string& path_;
  const std::function<bool(const char*, size_t)>& chunk_;
  bool done_ = false;
};

void read_into(ByteSink& sink, const std::string& path,
               const std::function<void(int64_t done, int64_t total)>& bytes_read,
               uint64_t maximum_unpacked_bytes) {
  Descriptor file(open_for_reading(path));
  struct stat status {};
  const bool sized = fstat(file.get(), &status) == 0 && S_ISREG(status.st_mode);
  const int64_t total = sized ? status.st_size : 0;
  // A small file needs no large buffer.
  std::string chunk(sized ? std::clamp<size_t>(status.st_size + 1, 4096, kChunk) : kChunk, '\0');
  size_t size = 0;  // a pipe may give one byte at a time
  while (size < kMagicBytes) {
    const size_t got = read_some(file.get(), chunk.data() + size, chunk.size() - size, path);
    if (got == 0) break;
    size += got;
  }
  const std::unique_ptr<Decompressor> packed = make_decompressor(
      compression_of(std::string_view(chunk).substr(0, size)), sink, maximum_unpacked_bytes);
  for (int64_t done = 0; size > 0; size = read_some(file.get(), chunk.data(), chunk.size(), path)) {
    if (packed) {
      packed->add(chunk.data(), size);
    } else {
      sink.add(chunk.data(), size);
    }
    if (sink.done()) return;
    done += static_cast<int64_t>(size);
    if (bytes_read) bytes_read(done, total);
  }
  if (packed) packed->finish();
}

}  // namespace

void for_each_line(const std::string& path,
                   const std::function<void(int64_t number, const std::string& text)>& line,
                   const std::function<void(int64_t done, int64_t total)>& bytes_read,
                   size_t maximum_line_bytes, uint64_t maximum_unpacked_bytes) {
  LineCutter lines(path, line, maximum_line_bytes);
  read_into(lines, path, bytes_read, maximum_unpacked_bytes);
  lines.finish();
}

void for_each_chunk(const std::string& path,
                    const std::function<bool(const char* bytes, size_t size)>& chunk,
                    const std::function<void(int64_t done, int64_t total)>& bytes_read,
                    uint64_t maximum_unpacked_bytes) {
  ChunkSink sink(path, chunk);
  read_into(sink, path, bytes_read, maximum_unpacked_bytes);
}

}  // namespace dsrsq
