// A file system of a few kilobytes, to be filled: full disks cannot be had otherwise without harm.
#pragma once

#include <sys/mount.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>

namespace dsrsq::testing {

class SmallDisk {
 public:
  // A tmpfs at a fresh folder. Where mounting is not allowed (no root, a container without
  // CAP_SYS_ADMIN) mounted() is false: skip the test, with reason().
  // `files`: how many files and folders it may hold, itself included; 0: any.
  explicit SmallDisk(size_t bytes, size_t files = 0) {
    std::string pattern = (std::filesystem::temp_directory_path() / "dsrsq-disk-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("cannot make " + pattern);
    folder_ = pattern;
    const std::string options =
        "mode=0777,size=" + std::to_string(bytes) + ",nr_inodes=" + std::to_string(files);
    mounted_ = ::mount("dsrsq-test", folder_.c_str(), "tmpfs", 0, options.c_str()) == 0;
    if (!mounted_) reason_ = std::string("cannot mount a tmpfs: ") + std::strerror(errno);
  }
  ~SmallDisk() {
    if (mounted_) ::umount2(folder_.c_str(), MNT_DETACH);
    std::error_code ignored;
    std::filesystem::remove(folder_, ignored);
  }
  SmallDisk(const SmallDisk&) = delete;
  SmallDisk& operator=(const SmallDisk&) = delete;

  bool mounted() const { return mounted_; }
  const std::string& reason() const { return reason_; }
  const std::string& folder() const { return folder_; }
  uint64_t free() const {
    struct statvfs status {};
    if (::statvfs(folder_.c_str(), &status) != 0) throw std::runtime_error("statvfs " + folder_);
    return uint64_t{status.f_bfree} * status.f_frsize;
  }
  // Leaves about `left` bytes free (whole pages), in a file that empty() removes again.
  void fill(uint64_t left) const {
    std::ofstream out(filler(), std::ios::binary | std::ios::app);
    const uint64_t bytes = free() > left ? free() - left : 0;
    out << std::string(bytes, 'x') << std::flush;
  }
  void empty() const { std::filesystem::remove(filler()); }

 private:
  std::string filler() const { return folder_ + "/filler"; }

  std::string folder_;
  std::string reason_;
  bool mounted_ = false;
};

// A folder that becomes read-only, also for root: a bind mount of itself. Needs that no file in it
// is open for writing.
class ReadOnlyFolder {
 public:
  explicit ReadOnlyFolder(const std::string& folder) : folder_(folder) {
    bound_ = ::mount(folder.c_str(), folder.c_str(), nullptr, MS_BIND, nullptr) == 0;
    mounted_ = bound_ && ::mount(nullptr, folder.c_str(), nullptr, MS_REMOUNT | MS_BIND | MS_RDONLY,
                                 nullptr) == 0;
    if (!mounted_) reason_ = std::string("cannot mount read-only: ") + std::strerror(errno);
  }
  ~ReadOnlyFolder() {
    if (bound_) ::umount2(folder_.c_str(), MNT_DETACH);
  }
  ReadOnlyFolder(const ReadOnlyFolder&) = delete;
  ReadOnlyFolder& operator=(const ReadOnlyFolder&) = delete;

  bool mounted() const { return mounted_; }
  const std::string& reason() const { return reason_; }

 private:
  std::string folder_;
  std::string reason_;
  bool bound_ = false;
  bool mounted_ = false;
};

}  // namespace dsrsq::testing
