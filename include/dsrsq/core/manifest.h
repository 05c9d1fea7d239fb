// manifest.json: the files that a folder consists of, with sizes and checksums, written last, so
// that a folder that was cut off or changed is told from a whole one before anything in it is read.
//
//   {"format": "dsrsq-checkpoint", "version": 1, "step": 1000,
//    "files": {"state.json": {"bytes": 812, "sha256": "<64 digits>"}, ...}}
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace dsrsq {

struct Manifest {
  struct File {
    uint64_t bytes = 0;
    std::string sha256;  // 64 lower-case hexadecimal digits
  };
  std::string format;
  int64_t version = 0;
  int64_t step = 0;
  std::map<std::string, File> files;  // by name inside the folder, at most 4096
};

// Throws CheckpointError that begins with `name` on malformed or hostile text: keys that are
// missing or given twice, names that lead out of the folder, anything of another type. Other keys
// are left alone.
Manifest parse_manifest(const std::string& text, const std::string& name);
std::string dump_manifest(const Manifest& manifest);

// Bytes and checksum of `folder`/`name`. Throws DataError where it cannot be read.
Manifest::File describe_file(const std::string& folder, const std::string& name);
// "" where every listed file is there as listed, else what is wrong with the first that is not.
// Links count as missing: a folder is whole by itself.
std::string folder_damage(const std::string& folder, const Manifest& manifest);

}  // namespace dsrsq
