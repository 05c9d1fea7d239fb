#include "dsrsq/core/files.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <system_error>

#include "descriptor.h"
#include "dsrsq/core/error.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;

constexpr const char* kTemporaryPrefix = ".tmp-";
constexpr const char* kSetAsidePrefix = ".old-";

fs::path folder_of(const fs::path& path) {
  return path.has_parent_path() ? path.parent_path() : fs::path(".");
}

// The process id stands at the end: remove_stale_temporaries asks whether that process lives.
std::string temporary_name(const std::string& name) {
  return concat(kTemporaryPrefix, name, "-", getpid());
}

void write_new_file(const std::string& path, const std::string& content) {
  Descriptor file(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0666));
  if (!file.is_open()) throw_write_error(path, "cannot be created", errno);
  write_all(file.get(), content.data(), content.size(), path);
  sync_descriptor(file.get(), path);
  if (const int error = file.close()) throw_write_error(path, "cannot be written", error);
}

void sync_tree(const fs::path& folder) {
  for (const auto& entry :
       fs::recursive_directory_iterator(folder)) {  // does not enter links to folders
    if (!entry.is_symlink() && (entry.is_regular_file() || entry.is_directory()))
      sync_path(entry.path().string());
  }
  sync_path(folder.string());
}

// Puts the complete folder `fresh` in the place of `target`. The kernel exchanges the two names in
// one step, so that a kill at any moment leaves the old or the new one. File systems without
// exchange get two renames; a kill between them leaves the old folder as `.old-NAME-PID`, which
// remove_stale_temporaries puts back.
void put_in_place(const fs::path& fresh, const fs::path& target, const fs::path& set_aside) {
  if (rename(fresh.c_str(), target.c_str()) == 0) return;
  if (errno != ENOTEMPTY && errno != EEXIST && errno != ENOTDIR)
    throw_write_error(target.string(), "cannot be renamed to", errno);
  if (renameat2(AT_FDCWD, fresh.c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) == 0) {
    fs::remove_all(fresh);
    return;
  }
  if (errno != EINVAL && errno != ENOSYS)
    throw_write_error(target.string(), "cannot be replaced", errno);
  fs::rename(target, set_aside);
  fs::rename(fresh, target);
  fs::remove_all(set_aside);
}

// Whether a temporary belongs to another process that still runs. Our own number counts as dead: in
// a container, a restarted program often gets the number of the killed one.
bool in_use(const std::string& name) {
  const size_t dash = name.rfind('-');
  const char* end = name.data() + name.size();
  long process = 0;
  const auto [stop, error] = std::from_chars(name.data() + dash + 1, end, process);
  if (error != std::errc() || stop != end || process <= 0 || process == getpid()) return false;
  return kill(static_cast<pid_t>(process), 0) == 0 || errno == EPERM;
}

// `.tmp-<name>-...` or, where `name` is empty, of any name; also what was set aside.
bool is_temporary(const std::string& found, const std::string& name) {
  for (const char* prefix : {kTemporaryPrefix, kSetAsidePrefix}) {
    const std::string expected = name.empty() ? prefix : concat(prefix, name, "-");
    if (found.rfind(expected, 0) == 0) return true;
  }
  return false;
}

// A folder that was set aside for a newer one that never took its place.
bool put_back(const fs::path& path) {
  const std::string name = path.filename().string();
  const std::string prefix = kSetAsidePrefix;
  if (name.rfind(prefix, 0) != 0) return false;
  const fs::path target =
      path.parent_path() / name.substr(prefix.size(), name.rfind('-') - prefix.size());
  std::error_code error;
  if (fs::exists(fs::symlink_status(target, error))) return false;
  fs::rename(path, target, error);
  return !error;
}

}  // namespace

std::string read_file(const std::string& path, size_t maximum_bytes) {
  Descriptor file(open_for_reading(path));
  std::string content;
  size_t used = 0;
  while (true) {
    content.resize(
        std::max<size_t>(size_t{1} << 16, std::min(content.size() * 2, maximum_bytes + 1)));
    const size_t got = read_some(file.get(), content.data() + used, content.size() - used, path);
    used += got;
    if (used > maximum_bytes)
      throw DataError(concat(path, ": larger than the ", maximum_bytes, " bytes expected at most"));
    if (got == 0) break;
  }
  content.resize(used);
  return content;
}

void write_file_atomic(const std::string& path, const std::string& content) {
  static std::atomic<unsigned> serial{0};  // two threads may write the same file
  const fs::path target(path);
  const std::string temporary =
      (folder_of(target) / temporary_name(concat(target.filename().string(), "-", serial++)))
          .string();
  try {
    if (unlink(temporary.c_str()) != 0 && errno != ENOENT)
      throw_write_error(temporary, "cannot be removed", errno);
    write_new_file(temporary, content);
    if (rename(temporary.c_str(), path.c_str()) != 0)
      throw_write_error(path, "cannot be replaced", errno);
  } catch (const NoSpaceError&) {
    unlink(temporary.c_str());
    throw no_space(path, content.size());
  } catch (...) {
    unlink(temporary.c_str());
    throw;
  }
  sync_path(folder_of(target).string());
}

void sync_path(const std::string& path) {
  Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) throw_write_error(path, "cannot be opened", errno);
  sync_descriptor(file.get(), path);
}

void write_folder_atomic(const std::string& parent, const std::string& name,
                         const std::function<void(const std::string& folder)>& fill) {
  if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos) {
    throw Error(ExitCode::kInternal,
                concat("write_folder_atomic: '", name, "' is not the name of a folder"));
  }
  const fs::path fresh = fs::path(parent) / temporary_name(name);
  try {
    fs::create_directory(parent);
    fs::remove_all(fresh);
    if (!fs::create_directory(fresh))
      throw_write_error(fresh.string(), "cannot be created", EEXIST);
    fill(fresh.string());
    sync_tree(fresh);
    put_in_place(fresh, fs::path(parent) / name,
                 fs::path(parent) / concat(kSetAsidePrefix, name, "-", getpid()));
    sync_path(parent);
  } catch (const fs::filesystem_error& error) {
    std::error_code ignored;
    fs::remove_all(fresh, ignored);
    const std::string& path = error.path2().empty() ? error.path1() : error.path2();
    throw_write_error(path, "cannot be written", error.code().value());
  } catch (...) {
    std::error_code ignored;
    fs::remove_all(fresh, ignored);
    throw;
  }
}

std::string temporary_path(const std::string& path) {
  return (folder_of(path) / temporary_name(fs::path(path).filename().string())).string();
}

void remove_stale_temporaries(const std::string& parent, const std::string& name) {
  std::error_code error;
  std::vector<fs::path> stale;
  for (const auto& entry : fs::directory_iterator(parent, error)) {
    const std::string found = entry.path().filename().string();
    if (!is_temporary(found, name) || in_use(found)) continue;
    const fs::file_type type = entry.symlink_status().type();
    if (type == fs::file_type::directory || type == fs::file_type::regular)
      stale.push_back(entry.path());
  }
  if (error && error != std::errc::no_such_file_or_directory)
    throw_write_error(parent, "cannot be listed", error.value());
  for (const fs::path& path : stale) {
    if (!put_back(path)) fs::remove_all(path, error);  // removes links, does not follow them
    if (error) throw_write_error(path.string(), "cannot be removed", error.value());
  }
}

uint64_t free_bytes(const std::string& path) {
  constexpr uint64_t kUnknown = std::numeric_limits<uint64_t>::max();
  fs::path folder(path);
  struct statvfs status {};
  while (statvfs(folder.c_str(), &status) != 0) {
    const fs::path above = folder_of(folder);
    if ((errno != ENOENT && errno != ENOTDIR) || above == folder) return kUnknown;
    folder = above;
  }
  if (status.f_blocks == 0) return kUnknown;  // some network and user-space file systems
  const uint64_t blocks = geteuid() == 0 ? status.f_bfree : status.f_bavail;
  return blocks * status.f_frsize;
}

std::string bytes_text(uint64_t bytes) {
  if (bytes < 1000) return concat(bytes, " bytes");
  if (bytes < 1000000) return concat(bytes / 1000, " kB");
  const uint64_t tenths = bytes / 100000;
  return concat(tenths / 10, ".", tenths % 10, " MB");
}

NoSpaceError no_space(const std::string& path, uint64_t needed_bytes) {
  return NoSpaceError(concat(path, ": the disk is full: ", bytes_text(needed_bytes),
                             " are needed, ", bytes_text(free_bytes(path)),
                             " are free; make room and run the same command again"));
}

AppendFile::AppendFile(const std::string& path)
    : path_(path),
      descriptor_(open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666)) {
  if (descriptor_ < 0) throw_write_error(path, "cannot be opened", errno);
}

AppendFile::~AppendFile() { ::close(descriptor_); }

void AppendFile::append(const std::string& bytes) {
  struct stat ours {
  }, there{};
  if (fstat(descriptor_, &ours) != 0) throw_write_error(path_, "cannot be written", errno);
  if (stat(path_.c_str(), &there) != 0 || there.st_dev != ours.st_dev ||
      there.st_ino != ours.st_ino) {
    throw Error(ExitCode::kCheckpoint,
                concat(path_,
                       ": was removed or replaced while it was written; expected that "
                       "nothing else changes the folder of a run"));
  }
  try {
    write_all(descriptor_, bytes.data(), bytes.size(), path_);
  } catch (const Error&) {
    // Half a record would make the file unreadable; that this fails too changes nothing.
    [[maybe_unused]] const int ignored = ftruncate(descriptor_, ours.st_size);
    throw;
  }
}

}  // namespace dsrsq
