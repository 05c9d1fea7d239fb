// The checksum file of a data set and the file that was verified with it. Private to src/data.
//
// libhdf5 has a history of memory errors on forged and damaged files, so that nothing is given to
// it before the bytes are known to be those that were written: `<name>.h5.sha256` beside the data
// set holds one line as coreutils' sha256sum prints it.
#pragma once

#include <sys/stat.h>

#include <string>

#include "hdf5_file.h"

namespace dsrsq {

std::string checksum_path(const std::string& path);
// Writes the checksum file for `path`, atomically.
void write_checksum(const std::string& path, const std::string& sha256);

// A data set whose bytes have been compared with its checksum, and which HDF5 then opened.
class VerifiedFile {
 public:
  // Throws DataError where the file or its checksum file is missing (with the command that makes
  // one), where they disagree, and where HDF5 cannot open it.
  explicit VerifiedFile(const std::string& path);
  const hdf5::Handle& file() const { return file_; }
  // The open file goes on to be read after it was removed or replaced by another of its name: HDF5
  // holds it. Throws DataError where its own bytes were changed.
  void require_unchanged() const;

 private:
  std::string path_;
  struct stat verified_ {};
  hdf5::Handle file_;
  int descriptor_ = -1;  // HDF5's own
};

}  // namespace dsrsq
