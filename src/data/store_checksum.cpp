#include "store_checksum.h"

#include <algorithm>
#include <filesystem>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;

constexpr size_t kDigits = 64;
constexpr size_t kMaximumChecksumBytes = 8192;  // a digest and one file name

std::string file_name(const std::string& path) { return fs::path(path).filename().string(); }

// What a user can do about it. The folder is named for the shell: paths may hold blanks.
std::string command_for(const std::string& path) {
  const std::string folder = fs::path(path).parent_path().string();
  return concat("(cd '", folder.empty() ? "." : folder, "' && sha256sum '", file_name(path),
                "' > '", file_name(path), ".sha256')");
}

// "<64 hex digits>  <name>" or, of a binary read, "<64 hex digits> *<name>". The name is not
// compared: a data set may be renamed together with its checksum file.
std::string read_checksum(const std::string& path) {
  const std::string checksum = checksum_path(path);
  std::error_code error;
  if (!fs::exists(checksum, error))
    throw DataError(
        concat(path, ": has no checksum file ", checksum,
               ", and is not opened without: make it anew, or if you trust the file run ",
               command_for(path)));
  const std::string text = read_file(checksum, kMaximumChecksumBytes);
  const std::string line = text.substr(0, text.find('\n'));
  const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
  const bool one_line = text.size() <= line.size() + 1;
  if (!one_line || line.size() < kDigits + 3 || line[kDigits] != ' ' ||
      (line[kDigits + 1] != ' ' && line[kDigits + 1] != '*') ||
      !std::all_of(line.begin(), line.begin() + kDigits, is_hex))
    throw DataError(concat(checksum,
                           ": expected one line as sha256sum prints it; make it anew with ",
                           command_for(path)));
  return line.substr(0, kDigits);
}

struct stat status_of(const std::string& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0 || !S_ISREG(status.st_mode))
    throw DataError(concat(path, ": no such data set file"));
  return status;
}

bool same_content(const struct stat& a, const struct stat& b) {
  return a.st_dev == b.st_dev && a.st_ino == b.st_ino && a.st_size == b.st_size &&
         a.st_mtim.tv_sec == b.st_mtim.tv_sec && a.st_mtim.tv_nsec == b.st_mtim.tv_nsec;
}

}  // namespace

std::string checksum_path(const std::string& path) { return path + ".sha256"; }

void write_checksum(const std::string& path, const std::string& sha256) {
  write_file_atomic(checksum_path(path), concat(sha256, "  ", file_name(path), "\n"));
}

VerifiedFile::VerifiedFile(const std::string& path) : path_(path), verified_(status_of(path)) {
  const std::string expected = read_checksum(path);
  if (const std::string found = sha256_file(path); found != expected)
    throw DataError(concat(path, ": its SHA-256 is ", found, ", ", checksum_path(path), " says ",
                           expected, ": damaged, cut off or changed; make it anew"));
  hdf5::initialise();
  // The descriptor below is that of this driver, whatever the environment asks for.
  const hdf5::Handle access =
      hdf5::checked(H5Pcreate(H5P_FILE_ACCESS), path, "create a property list");
  hdf5::check(H5Pset_fapl_sec2(access.get()), path, "choose the file driver");
  if (H5Fis_hdf5(path.c_str()) <= 0)
    throw DataError(concat(path, ": not an HDF5 file; make it with dsrsq-data"));
  file_ =
      hdf5::checked(H5Fopen(path.c_str(), H5F_ACC_RDONLY, access.get()), path, "open the data set");
  void* descriptor = nullptr;
  hdf5::check(H5Fget_vfd_handle(file_.get(), access.get(), &descriptor), path,
              "ask for its descriptor");
  descriptor_ = *static_cast<const int*>(descriptor);
  require_unchanged();  // what was opened is what was verified, not another file of its name
}

void VerifiedFile::require_unchanged() const {
  struct stat now {};
  if (::fstat(descriptor_, &now) == 0 && same_content(now, verified_)) return;
  throw DataError(concat(path_, ": was changed while it was in use (", verified_.st_size,
                         " bytes when its checksum was verified, ", now.st_size,
                         " now); put the verified file back and run the same command again"));
}

}  // namespace dsrsq
