// Structs -> ConfigNode -> YAML.
#include <charconv>
#include <cmath>
#include <cstddef>
#include <cstdio>

#include "config_tree.h"

namespace dsrsq {
namespace {

ConfigNode scalar_node(std::string text, bool quoted) {
  ConfigNode node;
  node.kind = ConfigNode::Kind::kScalar;
  node.text = std::move(text);
  node.quoted = quoted;
  node.location = kDefaultLocation;
  return node;
}

ConfigNode to_node(const std::string&, bool value) {
  return scalar_node(value ? "true" : "false", false);
}
ConfigNode to_node(const std::string&, int64_t value) {
  return scalar_node(std::to_string(value), false);
}
ConfigNode to_node(const std::string& key, double value) {
  if (!std::isfinite(value))
    throw ConfigError(concat(key, ": ", value, " is not finite and cannot be written"));
  return scalar_node(format_double(value), false);
}
ConfigNode to_node(const std::string& key, const std::string& value) {
  if (!valid_utf8(value))
    throw ConfigError(concat(key, ": ", quote(value), " is not UTF-8 and cannot be written"));
  return scalar_node(value, true);
}
template <typename T>
ConfigNode to_node(const std::string& key, const std::vector<T>& values) {
  ConfigNode node;
  node.kind = ConfigNode::Kind::kList;
  node.location = kDefaultLocation;
  for (const T& value : values) node.items.push_back(to_node(key, value));
  return node;
}

class TreeWriter : public ConfigVisitor {
 public:
  TreeWriter() {
    node_.kind = ConfigNode::Kind::kMap;
    node_.location = kDefaultLocation;
  }
  ConfigNode take() { return std::move(node_); }

  void field(const char* name, bool& value, const char*, const FieldRule&) override {
    add(name, to_node(name, value));
  }
  void field(const char* name, int64_t& value, const char*, const FieldRule& rule) override {
    const bool word = !rule.word.empty() && value == rule.word_value;
    add(name, word ? scalar_node(rule.word, false) : to_node(name, value));
  }
  void field(const char* name, double& value, const char*, const FieldRule&) override {
    add(name, to_node(join_key(prefix_, name), value));
  }
  void field(const char* name, std::string& value, const char*, const FieldRule&) override {
    add(name, to_node(join_key(prefix_, name), value));
  }
  void field(const char* name, std::vector<std::string>& value, const char*,
             const FieldRule&) override {
    add(name, to_node(join_key(prefix_, name), value));
  }
  void field(const char* name, std::vector<int64_t>& value, const char*,
             const FieldRule&) override {
    add(name, to_node(name, value));
  }

 protected:
  void visit_group(const char* name, const char*,
                   const std::function<void(ConfigVisitor&)>& visit) override {
    add(name, element(join_key(prefix_, name), visit));
  }
  void visit_list(const char* name, const char*, size_t size, const std::function<void(size_t)>&,
                  const std::function<void(size_t, ConfigVisitor&)>& visit_element) override {
    ConfigNode list;
    list.kind = ConfigNode::Kind::kList;
    list.location = kDefaultLocation;
    for (size_t i = 0; i < size; ++i) {
      list.items.push_back(element(join_key(join_key(prefix_, name), std::to_string(i)),
                                   [&](ConfigVisitor& v) { visit_element(i, v); }));
    }
    add(name, std::move(list));
  }

 private:
  void add(const char* name, ConfigNode node) {
    node_.entries.push_back({name, kDefaultLocation, std::move(node)});
  }

  static ConfigNode element(const std::string& prefix,
                            const std::function<void(ConfigVisitor&)>& visit) {
    TreeWriter inner;
    inner.prefix_ = prefix;
    visit(inner);
    return inner.take();
  }

  std::string prefix_;
  ConfigNode node_;
};

// Text that every YAML reader takes for the same text without quotes: a letter, then letters,
// digits and _ - . /, and not one of the words that YAML 1.1 reads as a boolean or null.
bool is_plain_text(const std::string& text) {
  if (text.empty() || text.size() > 60) return false;
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  if (!letter(text[0])) return false;
  std::string lower;
  for (const char c : text) {
    if (!letter(c) && !(c >= '0' && c <= '9') && c != '_' && c != '-' && c != '.' && c != '/')
      return false;
    lower += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  for (const char* word : {"true", "false", "yes", "no", "on", "off", "y", "n", "null"}) {
    if (lower == word) return false;
  }
  return true;
}

std::string double_quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (byte < 0x20 || byte == 0x7f) {
      char escape[8];
      std::snprintf(escape, sizeof(escape), "\\x%02X", byte);
      out += escape;
    } else {
      out += c;
    }
  }
  return out + '"';
}

std::string scalar_text(const ConfigNode& node) {
  return !node.quoted || is_plain_text(node.text) ? node.text : double_quoted(node.text);
}

bool is_flow(const ConfigNode& node) {
  if (node.kind == ConfigNode::Kind::kMap) return node.entries.empty();
  if (node.kind != ConfigNode::Kind::kList) return true;
  return node.items.empty() || node.items[0].kind == ConfigNode::Kind::kScalar;
}

std::string flow_text(const ConfigNode& node) {
  if (node.kind == ConfigNode::Kind::kMap) return "{}";
  if (node.kind != ConfigNode::Kind::kList) return scalar_text(node);
  std::string out = "[";
  for (const ConfigNode& item : node.items) out += (out.size() > 1 ? ", " : "") + scalar_text(item);
  return out + "]";
}

void write_block(const ConfigNode& map, const std::string& indent, std::string first_indent,
                 std::string& out) {
  for (const ConfigEntry& entry : map.entries) {
    out += first_indent + entry.key + ":";
    first_indent = indent;
    if (is_flow(entry.value)) {
      out += " " + flow_text(entry.value) + "\n";
      continue;
    }
    out += "\n";
    if (entry.value.kind == ConfigNode::Kind::kMap) {
      write_block(entry.value, indent + "  ", indent + "  ", out);
      continue;
    }
    for (const ConfigNode& item : entry.value.items) {
      if (item.entries.empty()) out += indent + "  - {}\n";
      write_block(item, indent + "    ", indent + "  - ", out);
    }
  }
}

}  // namespace

// The shortest digits that read back to the same double: 0.0001 while that is short, else an
// exponent, as "1.0e-07" rather than "1e-07", which YAML 1.1 takes for text.
std::string format_double(double value) {
  char buffer[400];  // the largest double has 309 digits
  char* end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed).ptr;
  constexpr std::ptrdiff_t kShort = 10;
  if (end - buffer > kShort) end = std::to_chars(buffer, buffer + sizeof(buffer), value).ptr;
  std::string text(buffer, end);
  if (text.find('.') != std::string::npos) return text;
  const size_t exponent = text.find('e');
  return exponent == std::string::npos ? text + ".0" : text.insert(exponent, ".0");
}

bool valid_utf8(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t extra = lead < 0x80                   ? 0
                         : lead >= 0xc2 && lead < 0xe0 ? 1
                         : (lead & 0xf0) == 0xe0       ? 2
                                                       : 3;
    if (lead >= 0x80 && (lead < 0xc2 || lead > 0xf4)) return false;
    if (i + extra >= text.size()) return false;
    uint32_t code = extra == 0 ? lead : lead & (0x3fU >> extra);
    for (size_t j = 1; j <= extra; ++j) {
      const auto next = static_cast<unsigned char>(text[i + j]);
      if ((next & 0xc0) != 0x80) return false;
      code = code << 6 | (next & 0x3f);
    }
    const bool overlong = (extra == 2 && code < 0x800) || (extra == 3 && code < 0x10000);
    if (overlong || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
    i += extra + 1;
  }
  return true;
}

ConfigNode config_tree_of(const VisitFields& visit) {
  TreeWriter writer;
  visit(writer);
  return writer.take();
}

std::string dump_config(const VisitFields& visit) {
  std::string out;
  write_block(config_tree_of(visit), "", "", out);
  return out;
}

std::string config_value(const VisitFields& visit, const std::string& key) {
  const ConfigNode tree = config_tree_of(visit);
  const ConfigNode* node = &tree;
  std::string prefix;
  for (const std::string& part : split_key(key)) {
    const ConfigNode* next = nullptr;
    std::vector<std::string> here;
    for (const ConfigEntry& entry : node->entries) {
      here.push_back(entry.key);
      if (entry.key == part) next = &entry.value;
    }
    for (size_t i = 0; i < node->items.size(); ++i) {
      here.push_back(std::to_string(i));
      if (here.back() == part) next = &node->items[i];
    }
    if (next == nullptr) {
      throw ConfigError(concat("unknown key ", quote(key),
                               unknown_key_hint(prefix, part, here, config_keys(visit))));
    }
    prefix = join_key(prefix, part);
    node = next;
  }
  if (node->kind == ConfigNode::Kind::kScalar) return node->text;
  if (node->kind == ConfigNode::Kind::kList && is_flow(*node)) return flow_text(*node);
  throw ConfigError(concat(quote(key), " is a group of keys; name one of its keys"));
}

}  // namespace dsrsq
