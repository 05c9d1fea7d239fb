// YAML text -> ConfigNode; `extends`; `--set`. Reads yaml-cpp's events instead of its nodes: in
// nodes, an alias is already resolved and cannot be told from a value, and 0.7 keeps duplicate keys
// silently.
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/exceptions.h>
#include <yaml-cpp/mark.h>
#include <yaml-cpp/parser.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "config_tree.h"

namespace dsrsq {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaximumBytes = size_t{1} << 20;
constexpr size_t kMaximumDepth = 32;
constexpr size_t kMaximumNodes = 20000;
constexpr size_t kMaximumFiles = 64;

class TreeBuilder : public YAML::EventHandler {
 public:
  TreeBuilder(std::string name, std::string fixed_location)
      : name_(std::move(name)), fixed_location_(std::move(fixed_location)) {}

  ConfigNode take() { return std::move(root_); }

  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}

  void OnAnchor(const YAML::Mark& mark, const std::string&) override { refuse_anchor(mark, 1); }

  void OnNull(const YAML::Mark& mark, YAML::anchor_t anchor) override {
    refuse_anchor(mark, anchor);
    add(mark, ConfigNode::Kind::kNull, "", false);
  }

  void OnAlias(const YAML::Mark& mark, YAML::anchor_t) override {
    throw ConfigError(
        concat(locate(mark), ": aliases (*name) are not allowed; write the value out"));
  }

  void OnScalar(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                const std::string& value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    add(mark, ConfigNode::Kind::kScalar, value, tag == "!");
  }

  void OnSequenceStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                       YAML::EmitterStyle::value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    open(mark, ConfigNode::Kind::kList);
  }
  void OnSequenceEnd() override { close(); }

  void OnMapStart(const YAML::Mark& mark, const std::string& tag, YAML::anchor_t anchor,
                  YAML::EmitterStyle::value) override {
    refuse_anchor(mark, anchor);
    refuse_tag(mark, tag);
    open(mark, ConfigNode::Kind::kMap);
  }
  void OnMapEnd() override { close(); }

 private:
  // An open list or map, and the key that waits for its value. Children are built in place of a
  // stack of copies.
  struct Frame {
    ConfigNode node;
    std::string key;
    std::string key_location;
    bool has_key = false;
  };

  std::string locate(const YAML::Mark& mark) const {
    if (!fixed_location_.empty()) return fixed_location_;
    return concat(name_, ":", mark.line + 1, ":", mark.column + 1);
  }

  void refuse_anchor(const YAML::Mark& mark, YAML::anchor_t anchor) const {
    if (anchor != 0)
      throw ConfigError(
          concat(locate(mark), ": anchors (&name) are not allowed; write the value out"));
  }

  void refuse_tag(const YAML::Mark& mark, const std::string& tag) const {
    if (tag.empty() || tag == "?" || tag == "!") return;
    throw ConfigError(
        concat(locate(mark), ": tags (", quote(tag), ") are not allowed; write the plain value"));
  }

  void count(const YAML::Mark& mark) {
    if (++nodes_ > kMaximumNodes) {
      throw ConfigError(concat(locate(mark), ": more than ", kMaximumNodes,
                               " values; this is not a configuration"));
    }
  }

  bool waits_for_key() const {
    return !frames_.empty() && frames_.back().node.kind == ConfigNode::Kind::kMap &&
           !frames_.back().has_key;
  }

  void take_key(const YAML::Mark& mark, const std::string& key) {
    Frame& frame = frames_.back();
    if (const ConfigEntry* earlier = frame.node.find(key)) {
      throw ConfigError(concat(locate(mark), ": key ", quote(key),
                               " is set twice in this group; first at ", earlier->location,
                               "; remove one"));
    }
    frame.key = key;
    frame.key_location = locate(mark);
    frame.has_key = true;
  }

  void add(const YAML::Mark& mark, ConfigNode::Kind kind, const std::string& text, bool quoted) {
    count(mark);
    if (waits_for_key()) {
      if (kind == ConfigNode::Kind::kNull)
        throw ConfigError(concat(locate(mark), ": a key is missing before ':'"));
      take_key(mark, text);
      return;
    }
    ConfigNode node;
    node.kind = kind;
    node.text = text;
    node.quoted = quoted;
    node.location = locate(mark);
    attach(std::move(node));
  }

  void attach(ConfigNode node) {
    if (frames_.empty()) {
      root_ = std::move(node);
      return;
    }
    Frame& frame = frames_.back();
    if (frame.node.kind == ConfigNode::Kind::kList) {
      frame.node.items.push_back(std::move(node));
      return;
    }
    // yaml-cpp gives an empty value the mark of whatever follows it; the key is where the user must
    // look.
    if (node.kind == ConfigNode::Kind::kNull) node.location = frame.key_location;
    frame.node.entries.push_back({frame.key, frame.key_location, std::move(node)});
    frame.has_key = false;
  }

  void open(const YAML::Mark& mark, ConfigNode::Kind kind) {
    count(mark);
    if (waits_for_key())
      throw ConfigError(concat(locate(mark), ": a key must be a name, not a list or a group"));
    if (frames_.size() >= kMaximumDepth) {
      throw ConfigError(concat(locate(mark), ": nested more than ", kMaximumDepth, " deep"));
    }
    frames_.emplace_back();
    frames_.back().node.kind = kind;
    frames_.back().node.location = locate(mark);
  }

  void close() {
    ConfigNode node = std::move(frames_.back().node);
    frames_.pop_back();
    attach(std::move(node));
  }

  std::string name_;
  std::string fixed_location_;
  std::vector<Frame> frames_;
  ConfigNode root_;
  size_t nodes_ = 0;
};

// yaml-cpp replaces invalid UTF-8 silently and takes 0x04 for the end of the file.
void check_characters(const std::string& text, const std::string& where) {
  if (text.size() > kMaximumBytes) {
    throw ConfigError(concat(where, ": ", text.size(),
                             " bytes or more; a configuration has at most ", kMaximumBytes));
  }
  if (!valid_utf8(text))
    throw ConfigError(concat(where, ": not valid UTF-8 text; save it as UTF-8"));
  int64_t line = 1;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte == '\n') ++line;
    if ((byte < 0x20 && byte != '\n' && byte != '\t' && byte != '\r') || byte == 0x7f) {
      throw ConfigError(concat(where, ":", line, ": a control character (", static_cast<int>(byte),
                               ") is not allowed; in double quotes, write it as an escape"));
    }
  }
}

std::string read_config_file(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored))
    throw ConfigError(concat(path, ": is a folder; a configuration file was expected"));
  std::ifstream in(path, std::ios::binary);
  if (!in) throw ConfigError(concat(path, ": cannot be opened for reading"));
  std::string text(kMaximumBytes + 1, '\0');
  in.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (in.bad()) throw ConfigError(concat(path, ": cannot be read"));
  text.resize(static_cast<size_t>(in.gcount()));
  return text;
}

// First as given (relative to `beside` where that is not empty), then in the search folders.
std::string find_config(const std::string& name, const fs::path& beside,
                        const std::vector<std::string>& folders, const std::string& asked_at) {
  std::error_code ignored;
  std::vector<std::string> tried;
  const auto exists = [&](const fs::path& path) {
    tried.push_back(path.string());
    return fs::exists(path, ignored);
  };
  const fs::path first = beside.empty() ? fs::path(name) : beside / name;
  if (exists(first)) return first.lexically_normal().string();
  std::vector<std::string> names;
  for (const std::string& folder : folders) {
    const fs::path path = fs::path(folder) / name;
    if (fs::path(name).is_relative() && exists(path)) return path.lexically_normal().string();
    for (const auto& entry : fs::directory_iterator(folder, ignored)) {
      if (entry.path().extension() == ".yaml") names.push_back(entry.path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  const std::string near = nearest_name(name, names);
  throw ConfigError(concat(asked_at.empty() ? "" : asked_at + ": ", "no configuration file ",
                           quote(name), "; tried ", join_names(tried),
                           near.empty() ? "" : "; did you mean '" + near + "'?"));
}

// Maps merge key by key; anything else is replaced.
void merge(ConfigNode& base, ConfigNode over) {
  if (base.kind != ConfigNode::Kind::kMap || over.kind != ConfigNode::Kind::kMap) {
    base = std::move(over);
    return;
  }
  base.location = over.location;
  for (ConfigEntry& entry : over.entries) {
    if (ConfigEntry* existing = base.find(entry.key)) {
      existing->location = entry.location;
      merge(existing->value, std::move(entry.value));
    } else {
      base.entries.push_back(std::move(entry));
    }
  }
}

std::vector<ConfigNode> extends_of(const ConfigNode& value) {
  std::vector<ConfigNode> names;
  if (value.kind == ConfigNode::Kind::kList) {
    names = value.items;
  } else {
    names.push_back(value);
  }
  for (const ConfigNode& name : names) {
    if (name.kind != ConfigNode::Kind::kScalar || name.text.empty()) {
      throw ConfigError(concat(name.location,
                               ": extends: expected a file name or a list of file names, got ",
                               describe(name)));
    }
  }
  return names;
}

class FileTree {
 public:
  explicit FileTree(const std::vector<std::string>& folders) : folders_(folders) {}

  ConfigNode read(const std::string& path) {
    std::error_code ignored;
    const fs::path canonical = fs::weakly_canonical(path, ignored);
    if (++files_ > kMaximumFiles)
      throw ConfigError(concat(path, ": extends reads more than ", kMaximumFiles, " files"));
    open_.push_back(canonical);
    ConfigNode own = parse_config_text(read_config_file(path), path);
    ConfigNode merged;
    merged.kind = ConfigNode::Kind::kMap;
    merged.location = own.location;
    if (const ConfigEntry* extends = own.find("extends")) {
      for (const ConfigNode& name : extends_of(extends->value)) {
        fs::path beside = fs::path(path).parent_path();
        if (beside.empty()) beside = ".";
        const std::string base = find_config(name.text, beside, folders_, name.location);
        refuse_cycle(base, name.location);
        merge(merged, read(base));
      }
      own.entries.erase(own.entries.begin() + (extends - own.entries.data()));
    }
    merge(merged, std::move(own));
    open_.pop_back();
    return merged;
  }

 private:
  void refuse_cycle(const std::string& path, const std::string& location) const {
    std::error_code ignored;
    const fs::path canonical = fs::weakly_canonical(path, ignored);
    const auto found = std::find(open_.begin(), open_.end(), canonical);
    if (found == open_.end()) return;
    std::string chain;
    for (auto file = found; file != open_.end(); ++file)
      chain += file->filename().string() + " -> ";
    throw ConfigError(concat(location, ": extends runs in a circle: ", chain,
                             canonical.filename().string(), "; remove one extends"));
  }

  const std::vector<std::string>& folders_;
  std::vector<fs::path> open_;
  size_t files_ = 0;
};

void set_location(ConfigNode& node, const std::string& location) {
  node.location = location;
  for (ConfigNode& item : node.items) set_location(item, location);
  for (ConfigEntry& entry : node.entries) {
    entry.location = location;
    set_location(entry.value, location);
  }
}

ConfigNode& list_element(ConfigNode& list, const std::string& part, const std::string& path,
                         const std::string& location) {
  size_t index = 0;
  const auto [end, error] = std::from_chars(part.data(), part.data() + part.size(), index);
  if (error != std::errc() || end != part.data() + part.size() || index >= list.items.size()) {
    throw ConfigError(
        concat(location, ": ", path, " has ", list.items.size(), " element(s); expected an index ",
               list.items.empty() ? std::string("only after adding elements in a file")
                                  : concat("from 0 to ", list.items.size() - 1),
               ", got ", quote(part)));
  }
  return list.items[index];
}

}  // namespace

ConfigNode parse_config_text(const std::string& text, const std::string& name,
                             const std::string& fixed_location) {
  check_characters(text, name);
  TreeBuilder builder(name, fixed_location);
  const auto locate = [&](const YAML::Mark& mark) {
    return fixed_location.empty() ? concat(name, ":", mark.line + 1, ":", mark.column + 1)
                                  : fixed_location;
  };
  try {
    std::istringstream in(text);
    YAML::Parser parser(in);
    parser.HandleNextDocument(builder);
    TreeBuilder second(name, fixed_location);
    if (parser.HandleNextDocument(second))
      throw ConfigError(concat(name, ": holds several YAML documents; keep one"));
  } catch (const YAML::Exception& error) {
    throw ConfigError(concat(locate(error.mark), ": not valid YAML: ", error.msg));
  }
  ConfigNode root = builder.take();
  if (!fixed_location.empty()) return root;
  if (root.kind == ConfigNode::Kind::kNull)
    root.kind = ConfigNode::Kind::kMap;  // empty, or comments only
  if (root.kind != ConfigNode::Kind::kMap) {
    throw ConfigError(
        concat(root.location, ": expected 'key: value' lines at the top, got ", describe(root)));
  }
  return root;
}

ConfigNode read_config_tree(const std::string& name,
                            const std::vector<std::string>& search_folders) {
  return FileTree(search_folders).read(find_config(name, "", search_folders, ""));
}

void apply_override(ConfigNode& tree, const std::string& override_text,
                    const ConfigNode& defaults) {
  const std::string location = "--set " + override_text.substr(0, 120);
  const size_t equals = override_text.find('=');
  const std::vector<std::string> parts = split_key(override_text.substr(0, equals));
  if (equals == std::string::npos || std::find(parts.begin(), parts.end(), "") != parts.end()) {
    throw ConfigError(concat(location, ": expected key=value, for example --set sqa.clusters=16"));
  }
  ConfigNode value = parse_config_text(override_text.substr(equals + 1), location, location);
  if (value.kind == ConfigNode::Kind::kNull) {
    throw ConfigError(concat(
        location, ": the value is empty; for an empty text write '\"\"' with the double quotes"));
  }
  if (value.kind == ConfigNode::Kind::kMap) {
    throw ConfigError(concat(
        location, ": the value is a group of keys; set each key by itself, or quote the text"));
  }
  set_location(value, location);
  ConfigNode* node = &tree;
  const ConfigNode* fallback = &defaults;  // the struct's own list, where no file gives one
  std::string path;
  for (const std::string& part : parts) {
    if (node->kind == ConfigNode::Kind::kList) {
      node = &list_element(*node, part, path, location);
      fallback = nullptr;
    } else {
      const ConfigEntry* standard = fallback != nullptr ? fallback->find(part) : nullptr;
      fallback = standard != nullptr ? &standard->value : nullptr;
      if (node->kind != ConfigNode::Kind::kMap) {
        *node = ConfigNode();
        node->kind = ConfigNode::Kind::kMap;
        node->location = location;
      }
      if (node->find(part) == nullptr) {
        ConfigNode fresh;
        fresh.location = location;
        if (fallback != nullptr && fallback->kind == ConfigNode::Kind::kList) fresh = *fallback;
        node->entries.push_back({part, location, fresh});
      }
      node = &node->find(part)->value;
    }
    path = join_key(path, part);
  }
  *node = std::move(value);
}

}  // namespace dsrsq
