#include "byte_source.h"

#include <sys/stat.h>
#include <zlib.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

constexpr unsigned kChunk = 1u << 18;

[[noreturn]] void fail_gzip(gzFile file, const std::string& path) {
  int code = Z_OK;
  const char* text = gzerror(file, &code);
  if (code == Z_ERRNO) throw DataError(concat(path, ": cannot be read: ", std::strerror(errno)));
  if (code == Z_BUF_ERROR)
    throw DataError(
        concat(path, ": the gzip file ends too early; it is truncated, fetch it again"));
  throw DataError(concat(path, ": the gzip data is corrupt (", text, "); fetch the file again"));
}

}  // namespace

void for_each_chunk(const std::string& path,
                    const std::function<bool(const char* bytes, size_t size)>& chunk,
                    const std::function<void(int64_t done, int64_t total)>& bytes_read) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0)
    throw DataError(concat(path, ": cannot be read: ", std::strerror(errno)));
  if (S_ISDIR(status.st_mode)) throw DataError(concat(path, ": is a folder, expected a file"));
  const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), &gzclose_r);
  if (!file) throw DataError(concat(path, ": cannot be read: ", std::strerror(errno)));
  gzbuffer(file.get(), kChunk);
  std::string buffer(kChunk, '\0');
  for (;;) {
    const int got = gzread(file.get(), buffer.data(), kChunk);
    if (got < 0) fail_gzip(file.get(), path);
    if (got == 0) break;
    if (!chunk(buffer.data(), static_cast<size_t>(got))) return;
    if (bytes_read) bytes_read(gzoffset(file.get()), status.st_size);
  }
  int code = Z_OK;  // gzread takes a stream that stops midway for its end; the error state knows
  gzerror(file.get(), &code);
  if (code != Z_OK && code != Z_STREAM_END) fail_gzip(file.get(), path);
}

}  // namespace dsrsq
