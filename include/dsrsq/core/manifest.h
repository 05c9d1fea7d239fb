// manifest.json of a checkpoint: which files belong to it, with their sizes and checksums.
// Untrusted input: a folder may come from elsewhere, be cut off or be forged.
//
//   {"format": "dsrsq-checkpoint", "version": 1, "step": 1000,
//    "files": {"model.safetensors": {"bytes": 123, "sha256": "<64 lower-case hex digits>"}, ...}}
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>

namespace dsrsq {

struct ManifestEntry {
  uint64_t bytes = 0;
  std::string sha256;
};

struct Manifest {
  int64_t step = 0;
  std::map<std::string, ManifestEntry> files;  // by plain name: never a path
};

inline constexpr size_t kMaximumManifestBytes = size_t{1} << 20;
inline constexpr size_t kMaximumManifestFiles = 256;

// Takes exactly the keys above, each once. Throws CheckpointError "<where>: expected ..., got ..."
// for everything else: other text than JSON, another format or version, a missing, unknown, doubled
// or mis-typed key, a name that is not a plain file name ("..", "/etc/passwd", "a/b", ".hidden"),
// a checksum that is none, nesting over 3, or text and counts over the limits above.
Manifest parse_manifest(const std::string& text, const std::string& where);
// What parse_manifest reads; ends with a newline.
std::string manifest_text(const Manifest& manifest);

}  // namespace dsrsq
