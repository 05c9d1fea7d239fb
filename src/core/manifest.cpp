#include "dsrsq/core/manifest.h"

#include <algorithm>
#include <filesystem>
#include <limits>

#include "dsrsq/core/error.h"
#include "dsrsq/core/files.h"
#include "dsrsq/core/json.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

constexpr size_t kMaximumFiles = 4096;
constexpr size_t kLongestName = 255;
constexpr size_t kDigits = 64;

class ManifestReader {
 public:
  explicit ManifestReader(const std::string& name) : name_(name) {}

  Manifest read(const std::string& text) const {
    const Json root = parse(text);
    if (!root.is_object()) fail(concat("expected an object, got ", root.type_name()));
    Manifest manifest;
    const Json& format = member(root, "format");
    if (!format.is_string()) fail(concat("format: expected text, got ", format.type_name()));
    manifest.format = format.get<std::string>();
    manifest.version = count(root, "version");
    manifest.step = count(root, "step");
    const Json& files = member(root, "files");
    if (!files.is_object() || files.empty()) fail("files: expected an object of names");
    if (files.size() > kMaximumFiles)
      fail(concat("files: ", files.size(), " names; at most ", kMaximumFiles));
    for (const auto& [file, entry] : files.items()) manifest.files[file] = read_file(file, entry);
    return manifest;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw CheckpointError(concat(name_, ": ", what));
  }

  Json parse(const std::string& text) const {
    constexpr JsonLimits kLimits{/*depth=*/32, /*values=*/16 * kMaximumFiles};
    try {
      return parse_json(text, kLimits);
    } catch (const JsonError& error) {
      fail(error.what());
    }
  }

  const Json& member(const Json& object, const char* key) const {
    const auto found = object.find(key);
    if (found == object.end()) fail(concat("key '", key, "' is missing"));
    return *found;
  }

  int64_t count(const Json& object, const char* key) const {
    const Json& value = member(object, key);
    const bool fits = value.is_number_unsigned() &&
                      value.get<uint64_t>() <= uint64_t{std::numeric_limits<int64_t>::max()};
    if (!fits) fail(concat(key, ": expected a count, got ", quote(value.dump())));
    return value.get<int64_t>();
  }

  Manifest::File read_file(const std::string& file, const Json& entry) const {
    const bool plain = !file.empty() && file != "." && file != ".." &&
                       file.size() <= kLongestName && file.find('/') == std::string::npos &&
                       file.find('\0') == std::string::npos;
    if (!plain) fail(concat("files: ", quote(file), " is not the name of a file in this folder"));
    if (!entry.is_object() || !entry.contains("bytes") || !entry["bytes"].is_number_unsigned() ||
        !entry.contains("sha256") || !entry["sha256"].is_string())
      fail(concat("files: ", quote(file), ": expected bytes and sha256"));
    Manifest::File out{entry["bytes"].get<uint64_t>(), entry["sha256"].get<std::string>()};
    if (out.sha256.size() != kDigits ||
        out.sha256.find_first_not_of("0123456789abcdef") != std::string::npos)
      fail(concat("files: ", quote(file), ": sha256 must be ", kDigits,
                  " lower-case hexadecimal digits, got ", quote(out.sha256)));
    return out;
  }

  const std::string& name_;
};

}  // namespace

Manifest parse_manifest(const std::string& text, const std::string& name) {
  return ManifestReader(name).read(text);
}

std::string dump_manifest(const Manifest& manifest) {
  Json files = Json::object();
  for (const auto& [name, file] : manifest.files)
    files[name] = {{"bytes", file.bytes}, {"sha256", file.sha256}};
  const Json root = {{"format", manifest.format},
                     {"version", manifest.version},
                     {"step", manifest.step},
                     {"files", files}};
  return root.dump(2) + "\n";
}

Manifest::File describe_file(const std::string& folder, const std::string& name) {
  const std::string path = folder + "/" + name;
  std::error_code error;
  const uintmax_t bytes = fs::file_size(path, error);
  if (error) throw DataError(concat(path, ": ", error.message()));
  return {bytes, sha256_file(path)};
}

std::string folder_damage(const std::string& folder, const Manifest& manifest) {
  for (const auto& [name, file] : manifest.files) {
    const fs::path path = fs::path(folder) / name;
    std::error_code error;
    const fs::file_status status = fs::symlink_status(path, error);
    if (status.type() == fs::file_type::not_found) return concat(name, ": is missing");
    if (status.type() != fs::file_type::regular) return concat(name, ": is not a regular file");
    const uintmax_t bytes = fs::file_size(path, error);
    if (error) return concat(name, ": ", error.message());
    if (bytes != file.bytes) return concat(name, ": expected ", file.bytes, " bytes, got ", bytes);
    if (sha256_file(path.string()) != file.sha256)
      return concat(name, ": its SHA-256 is not that of the manifest");
  }
  return "";
}

}  // namespace dsrsq
