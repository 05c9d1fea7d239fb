// for_each_line: streams a plain or gzip file line by line.
#include <sys/stat.h>
#include <zlib.h>

#include <algorithm>
#include <cstring>

#include "descriptor.h"
#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"

namespace dsrsq {
namespace {

constexpr size_t kChunk = size_t{1} << 18;

// Cuts a stream of bytes into lines. The last line needs no newline.
class LineCutter {
 public:
  LineCutter(const std::string& path, const std::function<void(int64_t, const std::string&)>& line,
             size_t maximum)
      : path_(path), line_(line), maximum_(maximum) {}

  std::string where() const { return concat(path_, ":", number_); }

  void add(const char* bytes, size_t size) {
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

// Inflates the members of a gzip file one after another.
class Gunzip {
 public:
  explicit Gunzip(LineCutter& lines) : lines_(lines), out_(kChunk, '\0') {
    if (inflateInit2(&stream_, 16 + MAX_WBITS) != Z_OK)
      throw Error(ExitCode::kInternal, "zlib cannot be started");
  }
  ~Gunzip() { inflateEnd(&stream_); }
  Gunzip(const Gunzip&) = delete;
  Gunzip& operator=(const Gunzip&) = delete;

  void add(const char* bytes, size_t size) {
    stream_.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(bytes));
    stream_.avail_in = static_cast<uInt>(size);
    while (stream_.avail_in > 0) {
      if (between_members_ && !start_member()) return;
      inflate_some();
    }
  }

  void finish() const {
    if (!between_members_) {
      throw DataError(concat(lines_.where(),
                             ": the gzip file ends too early; it is truncated, fetch it again"));
    }
  }

 private:
  // Zero bytes after a member are padding, as gzip itself has it. False where the input is used up.
  bool start_member() {
    while (stream_.avail_in > 0 && members_ > 0 && *stream_.next_in == 0) {
      padding_ = true;
      ++stream_.next_in;
      --stream_.avail_in;
    }
    if (stream_.avail_in == 0) return false;
    if (padding_ || (members_ > 0 && *stream_.next_in != 0x1f)) {
      throw DataError(concat(
          lines_.where(), ": the gzip file goes on with other data after its end; fetch it again"));
    }
    inflateReset(&stream_);
    between_members_ = false;
    return true;
  }

  void inflate_some() {
    int result = Z_OK;
    do {
      stream_.next_out = reinterpret_cast<Bytef*>(out_.data());
      stream_.avail_out = static_cast<uInt>(out_.size());
      result = inflate(&stream_, Z_NO_FLUSH);
      lines_.add(out_.data(), out_.size() - stream_.avail_out);
    } while (result == Z_OK && stream_.avail_out == 0);
    if (result == Z_STREAM_END) {
      between_members_ = true;
      ++members_;
    } else if (result != Z_OK && result != Z_BUF_ERROR) {
      throw DataError(concat(lines_.where(), ": the gzip data is corrupt (",
                             stream_.msg != nullptr ? stream_.msg : "unknown reason",
                             "); fetch the file again"));
    }
  }

  LineCutter& lines_;
  std::string out_;
  z_stream stream_{};
  bool between_members_ = true;
  bool padding_ = false;
  int64_t members_ = 0;
};

}  // namespace

void for_each_line(const std::string& path,
                   const std::function<void(int64_t number, const std::string& text)>& line,
                   const std::function<void(int64_t done, int64_t total)>& bytes_read,
                   size_t maximum_line_bytes) {
  Descriptor file(open_for_reading(path));
  struct stat status {};
  const bool sized = fstat(file.get(), &status) == 0 && S_ISREG(status.st_mode);
  const int64_t total = sized ? status.st_size : 0;
  LineCutter lines(path, line, maximum_line_bytes);
  std::string chunk(kChunk, '\0');
  size_t size = 0;  // a pipe may give one byte at a time, and the magic has two
  while (size < 2) {
    const size_t got = read_some(file.get(), chunk.data() + size, chunk.size() - size, path);
    if (got == 0) break;
    size += got;
  }
  const bool gzip = size >= 2 && chunk[0] == '\x1f' && chunk[1] == '\x8b';
  Gunzip gunzip(lines);
  for (int64_t done = 0; size > 0; size = read_some(file.get(), chunk.data(), chunk.size(), path)) {
    if (gzip) {
      gunzip.add(chunk.data(), size);
    } else {
      lines.add(chunk.data(), size);
    }
    done += static_cast<int64_t>(size);
    if (bytes_read) bytes_read(done, total);
  }
  if (gzip) gunzip.finish();
  lines.finish();
}

}  // namespace dsrsq
