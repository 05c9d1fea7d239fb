#include "dsrsq/core/manifest.h"

#include <algorithm>
#include <limits>
#include <set>

#include "dsrsq/core/error.h"
#include "dsrsq/core/json.h"

namespace dsrsq {
namespace {

using nlohmann::json;

constexpr const char* kFormat = "dsrsq-checkpoint";
constexpr int64_t kFormatVersion = 1;
constexpr int kMaximumDepth = 3;
constexpr int64_t kMaximumValues = 4096;  // three a file
constexpr size_t kMaximumNameBytes = 255;
constexpr size_t kShownBytes = 80;  // of a name or value in a message

// Safe to print: control characters and broken UTF-8 of a forged file must not reach the terminal.
std::string shown(const json& value) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
  if (text.size() > kShownBytes) text = text.substr(0, kShownBytes) + "...";
  return text;
}

class Parser {
 public:
  explicit Parser(const std::string& where) : where_(where) {}

  Manifest parse(const std::string& text) const {
    if (text.size() > kMaximumManifestBytes)
      fail(concat("expected at most ", kMaximumManifestBytes, " bytes, got ", text.size()));
    const json value = read(text);
    if (!value.is_object()) fail(concat("expected a JSON object, got ", shown(value)));
    const json& format = member(value, "", "format");
    if (format != kFormat)
      fail(concat("expected the format \"", kFormat, "\" of a checkpoint, got ", shown(format)));
    const json& version = member(value, "", "version");
    if (!version.is_number_integer() || version != kFormatVersion)
      fail(concat("expected version ", kFormatVersion, ", got ", shown(version)));
    require_keys(value, "", {"files", "format", "step", "version"});
    Manifest manifest;
    manifest.step = static_cast<int64_t>(count(value, "", "step"));
    const json& files = member(value, "", "files");
    if (!files.is_object()) fail(concat("files: expected an object, got ", shown(files)));
    if (files.size() > kMaximumManifestFiles)
      fail(concat("files: expected at most ", kMaximumManifestFiles, ", got ", files.size()));
    for (const auto& item : files.items())
      manifest.files.emplace(item.key(), entry(item.key(), item.value()));
    return manifest;
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw CheckpointError(concat(where_, ": ", what));
  }

  json read(const std::string& text) const {
    try {
      return parse_json(text, {kMaximumDepth, kMaximumValues});
    } catch (const JsonError& error) {
      fail(error.what());
    }
  }

  const json& member(const json& object, const std::string& of, const char* key) const {
    const auto found = object.find(key);
    if (found == object.end()) fail(concat(of, "expected the key \"", key, "\", found none"));
    return *found;
  }

  void require_keys(const json& object, const std::string& of,
                    const std::set<std::string>& known) const {
    for (const auto& item : object.items())
      if (known.count(item.key()) == 0) fail(concat(of, "unknown key ", shown(item.key())));
  }

  // A whole number that int64_t holds, not negative.
  uint64_t count(const json& object, const std::string& of, const char* key) const {
    const json& value = member(object, of, key);
    if (!value.is_number_unsigned() ||
        value.get<uint64_t>() > uint64_t{std::numeric_limits<int64_t>::max()})
      fail(concat(of, key, ": expected a count, got ", shown(value)));
    return value.get<uint64_t>();
  }

  void require_plain_name(const std::string& name) const {
    const auto is_plain = [](char c) {
      return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
             c == '.' || c == '_' || c == '-';
    };
    if (name.empty() || name[0] == '.' || name.size() > kMaximumNameBytes ||
        !std::all_of(name.begin(), name.end(), is_plain))
      fail(concat("lists the odd name ", shown(name), ", expected the name of a file beside it"));
  }

  ManifestEntry entry(const std::string& name, const json& value) const {
    require_plain_name(name);
    const std::string of = concat(name, ": ");
    if (!value.is_object())
      fail(concat(of, "expected an object with bytes and sha256, got ", shown(value)));
    require_keys(value, of, {"bytes", "sha256"});
    ManifestEntry entry;
    entry.bytes = count(value, of, "bytes");
    const json& sha256 = member(value, of, "sha256");
    if (sha256.is_string()) entry.sha256 = sha256.get<std::string>();
    const auto is_hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); };
    if (entry.sha256.size() != 64 || !std::all_of(entry.sha256.begin(), entry.sha256.end(), is_hex))
      fail(concat(of, "sha256: expected 64 lower-case hex digits, got ", shown(sha256)));
    return entry;
  }

  const std::string& where_;
};

}  // namespace

Manifest parse_manifest(const std::string& text, const std::string& where) {
  return Parser(where).parse(text);
}

std::string manifest_text(const Manifest& manifest) {
  json files = json::object();
  for (const auto& [name, entry] : manifest.files)
    files[name] = {{"bytes", entry.bytes}, {"sha256", entry.sha256}};
  const json value = {
      {"format", kFormat}, {"version", kFormatVersion}, {"step", manifest.step}, {"files", files}};
  return value.dump(2) + "\n";
}

}  // namespace dsrsq
