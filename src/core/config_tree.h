// Internal to src/core/config_*.cpp: the tree between a YAML text and the visited structs. It keeps
// where every key and value stands, and is merged (`extends`), edited (`--set`), read into structs
// and written out again.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "dsrsq/core/config.h"
#include "dsrsq/core/error.h"

namespace dsrsq {

struct ConfigEntry;

struct ConfigNode {
  enum class Kind { kNull, kScalar, kList, kMap };

  Kind kind = Kind::kNull;
  std::string text;      // of a scalar
  bool quoted = false;   // a quoted scalar is text and nothing else
  std::string location;  // "nq.yaml:12:5", "--set a.b=c" or kDefaultLocation
  std::vector<ConfigNode> items;
  std::vector<ConfigEntry> entries;

  ConfigEntry* find(const std::string& key);
  const ConfigEntry* find(const std::string& key) const;
};

struct ConfigEntry {
  std::string key;
  std::string location;  // of the key
  ConfigNode value;
};

inline constexpr const char* kDefaultLocation = "default";

// What a node is, for messages: "an empty value", "'12'", "a list", "a group of keys".
std::string describe(const ConfigNode& node);
std::string join_key(const std::string& prefix, const std::string& name);
std::string join_names(const std::vector<std::string>& names);
std::vector<std::string> split_key(const std::string& key);

// config_parse.cpp. With `fixed_location` every node is said to stand there (overrides); else at
// name:line:column.
ConfigNode parse_config_text(const std::string& text, const std::string& name,
                             const std::string& fixed_location = "");
// Reads `name` with everything that it extends.
ConfigNode read_config_tree(const std::string& name,
                            const std::vector<std::string>& search_folders);
void apply_override(ConfigNode& tree, const std::string& override_text, const ConfigNode& defaults);

// config_dump.cpp. The tree of the structs' present values, all at kDefaultLocation.
ConfigNode config_tree_of(const VisitFields& visit);
std::string format_double(double value);
bool valid_utf8(const std::string& text);

// config_schema.cpp
std::vector<std::string> config_keys(
    const VisitFields& visit);  // "dsr.budget", "stages.0.steps"; groups are not listed
std::string unknown_key_hint(const std::string& prefix, const std::string& name,
                             const std::vector<std::string>& here,
                             const std::vector<std::string>& all_keys);

}  // namespace dsrsq
