// Files that survive a kill: atomic writes, checksums, temporary folders, logs. Errors name the
// path and the reason. What cannot be read is a DataError; what cannot be written is an Error with
// ExitCode::kCheckpoint (4), and where the disk is full its subclass NoSpaceError.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "dsrsq/core/error.h"

namespace dsrsq {

// The file system is full, or the user's quota is used up.
struct NoSpaceError : Error {
  explicit NoSpaceError(const std::string& message) : Error(ExitCode::kCheckpoint, message) {}
};

// Bytes that this process may still write on the file system of `path` (the path itself or the
// nearest folder above it that exists). Quotas are not seen. The largest number where the file
// system does not tell.
uint64_t free_bytes(const std::string& path);
std::string bytes_text(uint64_t bytes);  // "12.3 MB", "410 kB", "17 bytes"
// "<path>: the disk is full: <needed> are needed, <free> are free; make room and ...".
NoSpaceError no_space(const std::string& path, uint64_t needed_bytes);

std::string read_file(const std::string& path,
                      size_t maximum_bytes = size_t{1} << 30);  // throws DataError
// temporary file, fsync, rename, fsync of the folder.
void write_file_atomic(const std::string& path, const std::string& content);
void sync_path(const std::string& path);  // fsync of a file or folder

std::string sha256_hex(const std::string& bytes);
std::string sha256_file(const std::string& path);

// Writes into a fresh folder `<parent>/.tmp-<name>-<pid>` by `fill(folder)`, syncs every file, then
// renames it to `<parent>/<name>`. What is there under that name is replaced only after the new
// folder is complete. `parent` is made where only it is missing: a folder above it that has
// vanished is an error.
void write_folder_atomic(const std::string& parent, const std::string& name,
                         const std::function<void(const std::string& folder)>& fill);
// `.tmp-<name>-<pid>` in the folder of `path`: what a writer fills before it renames it to `path`.
std::string temporary_path(const std::string& path);
// Removes `.tmp-*` folders and files in `parent` left by a killed process, or only those for the
// file `name`; those of another process that still runs on this machine stay. A folder `.old-*`,
// set aside where the file system cannot exchange two names, gets its name back if nothing stands
// there. Never follows links.
void remove_stale_temporaries(const std::string& parent, const std::string& name = "");

// A log that grows while a run goes on.
class AppendFile {
 public:
  explicit AppendFile(const std::string& path);
  ~AppendFile();
  AppendFile(const AppendFile&) = delete;
  AppendFile& operator=(const AppendFile&) = delete;
  const std::string& path() const { return path_; }
  // All bytes in one go, so that a reader who follows the file sees whole records; on a full disk
  // none of them stays. Throws where the file was removed or replaced: what is written then is
  // lost.
  void append(const std::string& bytes);

 private:
  std::string path_;
  int descriptor_ = -1;
};

// Calls `line(number, text)` for each line (without its newline, \n or \r\n) of a plain, gzip
// (RFC 1952) or zstd (RFC 8878) file, told apart by magic bytes, streaming; members and frames one
// after another are one text. `bytes_read(compressed_bytes_so_far, total)` is called now and then,
// for progress. Throws DataError naming file:line on a truncated or corrupt stream, on a zstd
// window over 128 MiB, on a line over `maximum_line_bytes`, and on a packed file that unpacks to
// more than `maximum_unpacked_bytes` (2^38 = 256 GiB, a few minutes of work and far above what
// one shard of a data set holds; without it, some megabytes of zstd could unpack for days). A
// limit on the ratio would refuse honest text: 94 to 1 has been seen. Plain files may be larger.
void for_each_line(const std::string& path,
                   const std::function<void(int64_t number, const std::string& text)>& line,
                   const std::function<void(int64_t done, int64_t total)>& bytes_read = {},
                   size_t maximum_line_bytes = size_t{64} << 20,
                   uint64_t maximum_unpacked_bytes = uint64_t{1} << 38);
// The same bytes as chunks, unpacked, until `chunk` returns false: for JSON documents that have no
// lines to speak of.
void for_each_chunk(const std::string& path,
                    const std::function<bool(const char* bytes, size_t size)>& chunk,
                    const std::function<void(int64_t done, int64_t total)>& bytes_read = {},
                    uint64_t maximum_unpacked_bytes = uint64_t{1} << 38);

}  // namespace dsrsq
